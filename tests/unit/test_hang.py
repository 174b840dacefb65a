"""What is made of the files that ranks write when a run hangs."""

from dataclasses import replace
from pathlib import Path

from nemo_forking.errors import AGAIN, GIVE_UP
from nemo_forking.training.hang import Report, attempts, exit_status, read_reports, summary

HERE = Report(
    rank=0, node="n0", pid=7, job="42", step=5, phase="exchange", entered=2, idle=3660.0, place="exchange.py:87 gather"
)


def write(home: Path, attempt: int, *reports: Report) -> None:
    home.mkdir(exist_ok=True)
    for report in reports:
        (home / f"rank_{report.rank}.{attempt}.txt").write_text(report.header(8) + "\n\nThread 1:\n")


def test_ranks_at_one_place_are_told_together_and_the_one_behind_first(tmp_path):
    late = replace(HERE, rank=3, phase="scoring", entered=1, place="passes.py:113 forward_only")
    others = [replace(HERE, rank=rank) for rank in (0, 1, 2, 4, 6)] + [replace(HERE, rank=7, node="n1")]
    write(tmp_path, 1, late, *others)
    told = {"phase": "training", "step": 4, "node": "n2"}
    text = summary(read_reports(tmp_path, 1), {5: told}, 60.0, tmp_path, 1).splitlines()
    assert text[0] == "hang: no rank has got anything done for 60.0 minutes (trainer.hang_minutes=60)"
    assert text[1] == "  rank 5: silent (stopped, dead or cut off), last heard in training (step 4) on n2  <- look here"
    assert text[2] == "  rank 3 on n0: scoring (step 5) at passes.py:113 forward_only"
    assert text[3] == "  ranks 0-2, 4, 6 on n0: exchange (step 5) at exchange.py:87 gather"
    assert text[4] == "  rank 7 on n1: exchange (step 5) at exchange.py:87 gather"
    assert text[6].endswith("(exit status 75)")
    without_silent = summary(read_reports(tmp_path, 1), {}, 60.0, tmp_path, 1).splitlines()
    assert without_silent[1].endswith("forward_only  <- behind the others")


def test_nobody_is_behind_where_all_have_come_as_far(tmp_path):
    write(tmp_path, 1, HERE, replace(HERE, rank=1, place="backward"))
    assert "<-" not in summary(read_reports(tmp_path, 1), {}, 1.0, tmp_path, 1)


def test_a_run_that_hangs_again_without_having_come_further_is_given_up(tmp_path):
    assert attempts(tmp_path / "none") == 0
    for attempt, (step, status) in enumerate([(5, AGAIN), (7, AGAIN), (7, GIVE_UP), (6, GIVE_UP), (8, AGAIN)], 1):
        write(tmp_path, attempt, replace(HERE, step=step), replace(HERE, rank=1, step=step - 1))
        assert attempts(tmp_path) == attempt
        assert exit_status(tmp_path, attempt) == status
    assert "not to be started again" in summary(read_reports(tmp_path, 4), {}, 1.0, tmp_path, 4)


def test_a_first_hang_whose_reports_could_not_be_written_is_started_again(tmp_path):
    assert exit_status(tmp_path / "full", 1) == AGAIN


def test_damaged_files_are_passed_over(tmp_path):
    write(tmp_path, 1, HERE)
    (tmp_path / "rank_1.1.txt").write_text("half a line")
    (tmp_path / "rank_2.1.txt").write_text("rank 2\n[1]\n")
    (tmp_path / "notes.txt").write_text("mine")
    assert list(read_reports(tmp_path, 1)) == [0] and attempts(tmp_path) == 1
