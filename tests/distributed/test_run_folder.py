"""What runs tell of themselves and of the machine, and docs/run_folder.md, which names all of it."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from nemo_forking.errors import Stopped
from nemo_forking.status import read_run
from nemo_forking.training import passes
from nemo_forking.training.machine import STEPS, Comparison, Slow
from nemo_forking.training.metrics import OF_THE_MACHINE, Metrics, console_line, scalars
from nemo_forking.training.pace import PHASES
from nemo_forking.training.watchdog import Watchdog
from tests.distributed import policy_runs, runs

PAGE = (Path(__file__).parents[2] / "docs" / "run_folder.md").read_text()
VARYING = {"tag_probability_kinds"}  # its keys are the questions' kinds


@pytest.fixture(scope="module")
def ssft(ground, tmp_path_factory):
    """Three steps on two data-parallel ranks; the second one is slow in scoring, and holds a lot of memory."""
    config = runs.tiny(ground, tmp_path_factory.mktemp("ssft") / "run", runs.DATA | {"trainer.max_steps": 3})

    def hinder(record: dict) -> None:
        if os.environ["RANK"] == "1" and record["step"] == 1:
            hinder.held = torch.ones(2**26)  # 256 MiB
            sums = passes._sums
            passes._sums = lambda batch, nll_L: time.sleep(0.3) or sums(batch, nll_L)

    runs.run(config, hinder)
    return config


@pytest.fixture(scope="module")
def policy(policy_ground, tmp_path_factory):
    config = policy_runs.tiny_policy(policy_ground, tmp_path_factory.mktemp("policy") / "run", {"trainer.max_steps": 1})
    policy_runs.run(config)
    return config


def test_the_rank_that_others_wait_for_is_named(ssft):
    before, *after = runs.metrics(ssft)
    for line in after:
        slow = line["slowest"]["scoring"]
        assert slow["rank"] == 1 and slow["seconds"] > 0.3 and slow["node"] == os.uname().nodename
        step = line["time"] - before["time"]  # of all ranks: none begins before the first has its record
        assert slow["median"] < slow["seconds"] <= step - line["seconds"]["training"]  # which waits for all costs
        before = line
        assert set(line["slowest"]) == {"probe", "scoring", "training"} and set(line["slowest"]) <= set(PHASES)


def test_memory_is_that_of_the_worst_rank(ssft):
    before, *after = runs.metrics(ssft)
    for line in after:
        assert line["memory"]["rank"] == 1 and line["memory"]["allocated_gib"] is None
        assert line["peak_memory_gib"] > before["peak_memory_gib"] + 0.2
        assert 0 < line["memory"]["resident_gib"] <= line["peak_memory_gib"] + 0.01
        assert line["gpu_utilisation"] is None


def test_every_key_and_every_file_of_a_run_is_in_the_documentation_and_nothing_else(ssft, policy):
    lines, learnt = runs.metrics(ssft), runs.metrics(policy)
    written = {key for line in (*lines, *learnt) for key in keys(line)}
    tables = PAGE[PAGE.index("## metrics.jsonl") : PAGE.index("## The slowest rank")]
    assert written - set(re.findall(r"`(\w+)`", tables)) == set()
    named = {name for row in re.findall(r"^\| (`.*?) \|", tables, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert named == {key for line in (*lines, *learnt) for key in line}
    assert set(OF_THE_MACHINE) <= named
    files = {
        re.sub(r"\d+", "<n>", path.name) for config in (ssft, policy) for path in Path(config.run.folder).iterdir()
    }
    assert files and all(f"`{name}" in PAGE for name in files)


def keys(block: dict) -> set[str]:
    """Of a record and of its blocks."""
    inner = [value for key, value in block.items() if isinstance(value, dict) and key not in VARYING]
    return set(block).union(*map(keys, inner))


def test_the_status_of_real_runs_can_be_read(ssft, policy):
    for config, steps in ((ssft, 3), (policy, 1)):
        status = read_run(config.run.folder)
        assert (status.step, status.checkpoint, status.state) == (steps, steps, "finished")
        assert status.seconds_per_step > 0


def test_an_error_is_kept_in_the_folder_until_the_next_start(ground, tmp_path):
    config = runs.tiny(ground, tmp_path / "run", runs.DATA | {"trainer.max_steps": 2})

    def fail(record: dict) -> None:
        if os.environ["RANK"] == "1":
            raise OSError("the disk is gone")

    with pytest.raises(Exception, match="the disk is gone"):
        runs.run(config, fail)
    kept = tmp_path / "run" / "last_error.txt"
    assert kept.read_text().startswith("rank 1, training of step 1: Traceback")
    assert kept.read_text().endswith("OSError: the disk is gone\n")
    runs.run(config)
    assert not kept.exists()


def test_ranks_that_are_stopped_all_end_in_order_and_what_the_first_has_to_send_is_sent(ground, tmp_path):
    config = runs.tiny(ground, tmp_path / "run", runs.DATA | {"trainer.max_steps": 9})
    folder = Path(config.run.folder)

    def hear(record: dict) -> None:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            close = Metrics.close
            Metrics.close = lambda metrics: (time.sleep(1.0), close(metrics), (folder / "closed").touch())
            leave = Watchdog.__exit__
            Watchdog.__exit__ = lambda *words: (time.sleep(1.0), leave(*words))

    with pytest.raises(Stopped, match="ended by SIGTERM after step 1"):
        runs.run(config, hear)
    assert (folder / "closed").exists() and not (folder / "ranks").exists()


def test_a_straggler_is_warned_of_once_after_many_steps_on_end():
    comparison = Comparison.__new__(Comparison)
    comparison.slow = {phase: Slow() for phase in PHASES}

    def told(rank: int, seconds: float) -> list[str]:
        return comparison.stragglers({"training": {"rank": rank, "node": "n7", "seconds": seconds, "median": 1.0}})

    for _ in range(STEPS - 1):
        assert not told(3, 1.2)
    assert not told(2, 1.2)  # another one: from the beginning
    for _ in range(STEPS - 1):
        assert not told(3, 1.2)
    (warning,) = told(3, 1.25)
    assert warning.startswith("rank 3 (n7) was the slowest in training for 20 steps on end, now by 25%")
    assert not any(told(3, 1.2) for _ in range(3 * STEPS))
    assert not any(told(3, 1.1) for _ in range(2 * STEPS))


def test_console_and_boards_show_what_is_worth_it(ssft):
    record = runs.metrics(ssft)[-1] | {"imbalance": 0.04, "imbalance_scoring": 0.24}
    line = console_line(record, 3, ["cost 1.0"])
    assert line.startswith("step 3/3  loss ") and "uneven scoring 24%" in line and "uneven training" not in line
    found = scalars(record)
    assert found["seconds/training"] == record["seconds"]["training"] and "slowest/scoring/seconds" in found
    assert not any("rank" in name or "tag_usage" in name for name in found)
