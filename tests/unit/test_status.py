"""The live status of a run, from folders as runs leave them."""

import json
import os
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from nemo_forking.errors import UserError
from nemo_forking.status import read_run
from nemo_forking.status.__main__ import main
from nemo_forking.status.page import page
from nemo_forking.status.run import stragglers
from nemo_forking.status.svg import ticks
from nemo_forking.status.words import duration, facts, number

STEPS = 40


def line(step: int, slow_rank: int = 0, at: float = 0.0) -> dict:
    """A record of a step that took two seconds."""
    slow = {"rank": slow_rank, "node": f"n{slow_rank}", "seconds": 1.3, "median": 1.0}
    return {
        "step": step,
        "time": at + 2.0 * step,
        "loss": 2.0 / step,
        "cost_mean": 1.0 / step,
        "assignment_entropy_bits": 1.5,
        "tokens_per_s": 1000.0,
        "peak_memory_gib": 1.25,
        "seconds": {"scoring": 0.5, "exchange": 0.1, "training": 1.4},
        "slowest": {"training": slow},
    }


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of 100 steps that has done 40 and has just saved the 30th."""
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"run": {"name": "try"}, "trainer": {"max_steps": 100, "checkpoint_every": 10}})
    )
    began = time.time() - 2 * STEPS
    lines = [line(step, slow_rank=3, at=began) for step in range(1, STEPS + 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    save(tmp_path, "step_0000030")
    return tmp_path


def save(run: Path, name: str) -> None:
    (run / "checkpoints" / name).mkdir(parents=True)
    (run / "checkpoints" / name / "extra.json").write_text("{}")


def pulse(run: Path, rank: int, phase: str, written: float) -> None:
    (run / "ranks").mkdir(exist_ok=True)
    told = {"rank": rank, "node": "n", "step": 41, "phase": phase, "at": written, "written": written, "pid": 1}
    (run / "ranks" / f"rank_{rank:04d}.json").write_text(json.dumps(told))


def test_a_run_under_way_tells_step_speed_and_time_left(run):
    status = read_run(run)
    assert (status.name, status.progress, status.state) == ("try", "step 40 of 100", "running")
    assert status.seconds_per_step == pytest.approx(2.0, abs=1e-6) and status.left == pytest.approx(120.0, abs=1e-3)
    assert status.checkpoint == 30 and status.checkpoint_age < 60
    told = dict((label, words) for label, words, _ in facts(status))
    assert told["speed"] == "2.0 s a step, 1,000 tokens/s, 2 min left"
    assert told["checkpoint"].endswith("10 steps not saved")
    assert told["straggler"] == "rank 3 (n3) in training: +30%, 100% of the last steps"


def test_a_pause_between_two_lives_is_no_speed(run):
    lines = [line(step, at=100_000.0 if step > 20 else 0.0) for step in range(1, STEPS + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert read_run(run).seconds_per_step == pytest.approx(2.0, abs=1e-6)


def test_lines_half_written_or_damaged_are_passed_over(run):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\n[1]\n{"step": "x"}\n{"step": 41, "lo')
    assert read_run(run).step == STEPS


def test_what_ranks_are_at_is_told_together(run):
    for rank in range(4):
        pulse(run, rank, "scoring" if rank == 2 else "exchange", time.time())
    told = [words for label, words, _ in facts(read_run(run)) if label == "now"]
    assert told[0].startswith("3 of 4 ranks: exchange (step 41)") and told[1].startswith("rank 2: scoring (step 41)")


def test_a_run_that_was_told_to_stop_is_stopped_at_once_where_watchdogs_would_tell_of_it(run):
    assert read_run(run).state == "running"  # by its last line: config.yaml names no trainer.hang_minutes
    (run / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 100, "hang_minutes": 60.0}}))
    assert read_run(run).state == "stopped"
    pulse(run, 0, "training", time.time())
    assert read_run(run).state == "running"


def test_states_of_runs_that_are_over(run):
    old = time.time() - 10_000
    os.utime(run / "metrics.jsonl", (old, old))
    assert read_run(run).state == "stopped"
    pulse(run, 0, "training", old)
    assert read_run(run).state == "silent"
    (run / "last_error.txt").write_text("rank 0, training of step 41: Traceback\nValueError: no\n")
    assert read_run(run).state == "failed"
    (run / "last_error.txt").unlink()  # as the next start does
    (run / "hang").mkdir()
    (run / "hang" / "summary.2.txt").write_text("hang: rank 1\n")
    assert read_run(run).state == "hung" and read_run(run).hangs == ["hang: rank 1"]
    os.utime(run / "hang" / "summary.2.txt", (old + 60, old + 60))
    pulse(run, 0, "training", time.time())  # it goes on
    assert read_run(run).state == "running"
    save(run, "damaged_step_0000020")
    assert ("damaged", "damaged_step_0000020 in checkpoints/: put aside, not used", "bad") in facts(read_run(run))
    (run / "ranks" / "rank_0000.json").unlink()
    (run / "model").mkdir()
    (run / "model" / "provenance.json").write_text("{}")
    assert read_run(run).state == "finished" and read_run(run).left is None


def test_a_rank_is_a_straggler_only_when_it_mostly_is():
    assert not stragglers([line(step, slow_rank=step % 4) for step in range(1, 21)])
    (found,) = stragglers([line(step, slow_rank=1 if step % 3 else 2) for step in range(1, 22)])
    assert (found.rank, found.phase) == (1, "training") and found.excess == pytest.approx(0.3)


def test_a_run_that_has_not_begun_and_folders_that_are_none(run, tmp_path):
    (run / "metrics.jsonl").unlink()
    assert (read_run(run).state, read_run(run).progress) == ("not started", "step 0 of 100")
    with pytest.raises(UserError, match="does not exist: give a run's folder"):
        read_run(tmp_path / "gone")
    (tmp_path / "study" / "a").mkdir(parents=True)
    (tmp_path / "study" / "a" / "metrics.jsonl").write_text("{}")
    with pytest.raises(UserError, match=f"is no run's folder: .*; there are {tmp_path}/study/a"):
        read_run(tmp_path / "study")


def test_it_needs_neither_torch_nor_numpy_nor_a_plotting_library(run):
    code = (
        "import sys; from nemo_forking.status.__main__ import main; status = main(sys.argv[1:]);"
        "print(sorted({'torch', 'numpy', 'nemo', 'matplotlib', 'lightning'} & set(sys.modules))); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, str(run), "--once", "--html"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and "step 40 of 100 (40%)" in done.stdout
    assert "step 40 of 100 (40%)" in (run / "status.html").read_text()


class Tags(HTMLParser):
    """Open tags must be closed, and nothing may come from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_self_contained_and_reloads_only_while_the_run_goes_on(run):
    text = page(read_run(run), 5.0)
    tags = Tags()
    tags.feed(text)
    assert not tags.open and not tags.links and tags.seen.count("svg") == 6
    assert '<meta http-equiv="refresh" content="5">' in text and "try: step 40 of 100" in text
    (run / "last_error.txt").write_text("<b>&amp;\n")
    os.utime(run / "metrics.jsonl", (0, 0))
    over = page(read_run(run), 5.0)
    assert "refresh" not in over and "&lt;b&gt;&amp;amp;" in over


def test_a_page_of_one_step_or_of_figures_that_are_not_finite_is_drawn(run):
    (run / "metrics.jsonl").write_text(json.dumps(line(1) | {"loss": float("nan"), "grad_norm": 0.0}) + "\n")
    assert page(read_run(run), 5.0).count("<svg") == 6
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line(2) | {"loss": 1.0}) + "\n" + json.dumps(line(3) | {"loss": float("inf")}) + "\n")
    assert main([str(run), "--once"]) == 0


def test_no_run_is_told_without_a_traceback(tmp_path, capsys):
    assert main([str(tmp_path / "gone"), "--once"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_figures_are_round():
    assert ticks(0.0, 1.7) == [0.0, 0.5, 1.0, 1.5] and ticks(98.0, 103.0) == [98, 99, 100, 101, 102, 103]
    assert [duration(s) for s in (0.02, 1.54, 80, 600, 12_000, 201_600)] == [
        "20 ms", "1.5 s", "80 s", "10 min", "3 h 20 min", "2 d 8 h",
    ]  # fmt: skip
    assert [number(v) for v in (0.0, 12345.6, 0.012345, 1.2e-7)] == ["0", "12,346", "0.01235", "1.2e-07"]
