"""What ranks know of one another before they have process groups, and whether they have them afterwards."""

import json
import os

import torch
import torch.distributed as dist

from nemo_forking.checksums import SUMS, file_facts
from nemo_forking.config import load
from nemo_forking.processes import first_rank_tells
from nemo_forking.training import identity
from nemo_forking.training.launch import fork_ranks

RANKS = 3


def tell_and_join() -> tuple[int, float]:
    told = first_rank_tells(lambda: int(os.environ["RANK"]) + 7)
    dist.init_process_group("gloo")  # at the same address
    total = torch.ones(())
    dist.all_reduce(total)
    return told, total.item()


def test_all_ranks_are_told_what_the_first_finds_and_come_together_at_the_same_address_afterwards():
    assert fork_ranks(tell_and_join, RANKS) == [(7, RANKS)] * RANKS


def test_without_a_launcher_one_finds_out_for_oneself(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert first_rank_tells(lambda: "found") == "found"


def test_the_weights_of_a_finished_run_are_read_by_one_rank_and_all_hear_of_damage(tmp_path):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step_0000001").mkdir(parents=True)
    (model / "provenance.json").write_text(json.dumps({"identity": {}}))
    (model / "model.safetensors").write_bytes(bytes(100))
    (model / SUMS).write_text(json.dumps({file.name: file_facts(file) for file in model.iterdir()}))
    config = load(["experiment=tiny", f"run.folder={tmp_path / 'run'}"])

    def look() -> tuple[bool, int]:
        read, problems = [], identity.folder_problems
        identity.folder_problems = lambda *words: read.append(1) or problems(*words)
        return identity.finished(config, {}), len(read)

    assert fork_ranks(look, RANKS) == [(True, 1)] + [(True, 0)] * (RANKS - 1)
    (model / "model.safetensors").write_bytes(bytes(99) + b"!")
    assert fork_ranks(look, RANKS) == [(False, 1)] + [(False, 0)] * (RANKS - 1)
