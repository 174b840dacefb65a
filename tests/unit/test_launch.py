"""What is refused before any rank starts: a missing or another launcher, a missing GPU, another run's folder."""

import json
import os
from pathlib import Path

import pytest

from nemo_forking.cli import recipe
from nemo_forking.config import load
from nemo_forking.data.token_file import TokenFile, TokenFileWriter
from nemo_forking.errors import GIVE_UP, UserError
from nemo_forking.training.identity import finished, set_identity
from nemo_forking.training.launch import check_launch, fork_ranks, run_ranks


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def test_a_cpu_layout_starts_its_own_ranks():
    assert check_launch(load(["experiment=tiny"])) is False


@pytest.mark.parametrize("devices", [1, 8])
def test_gpus_need_a_launcher(devices):
    config = load(["layout=cpu1", "layout.accelerator=gpu", f"layout.devices={devices}"])
    with pytest.raises(UserError, match=f"no launcher started this one: use `torchrun --nproc-per-node {devices} "):
        check_launch(config)


def test_several_machines_need_a_launcher():
    with pytest.raises(UserError, match=r"4 CPU processes \(nodes x devices = 2 x 2\), but no launcher"):
        check_launch(load(["experiment=tiny", "layout.nodes=2"]))


@pytest.mark.parametrize("count", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_as_many_processes_are_launched_as_the_layout_has(count, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(count, "2")
    assert check_launch(load(["experiment=tiny"])) is True
    monkeypatch.setenv(count, "3")
    with pytest.raises(UserError, match="the launcher started 3 processes, but layout.nodes x devices = 1 x 2 = 2"):
        check_launch(load(["experiment=tiny"]))


def test_a_gpu_layout_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(UserError, match="torch sees no GPU here: choose a CPU layout"):
        check_launch(load(["layout=8xb200"]))


def test_a_run_that_has_hung_twice_exits_with_the_status_that_its_ranks_had(capsys):
    command = recipe(experiment="tiny")(lambda config: fork_ranks(lambda: os._exit(GIVE_UP), 2))
    assert command([]) == GIVE_UP
    assert "error: the ranks have hung again without having come further: see hang/" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["checkpoints/step_0000002/extra.json", "model/provenance.json"])
def test_the_folder_of_another_run_is_refused_before_it_is_touched(record, tmp_path):
    with TokenFileWriter(tmp_path) as writer:
        writer.add("q", [1, 2], [("ann", [3, 4])])
        writer.finish({})
    file = TokenFile(tmp_path)
    mine, other = (
        load(["experiment=tiny", f"run.folder={tmp_path / 'run'}", f"matching.tokens={tokens}"]) for tokens in (6, 7)
    )
    written = Path(mine.run.folder) / record
    written.parent.mkdir(parents=True)
    written.write_text(json.dumps({"identity": set_identity(mine, file)}))
    assert finished(mine, set_identity(mine, file)) is (written.name == "provenance.json")
    with pytest.raises(UserError, match="belongs to another run:\n  matching.tokens: there 6, here 7"):
        finished(other, set_identity(other, file))


def test_a_damaged_base_is_refused_before_ranks_start(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    config = load(["experiment=tiny", f"model.base={base}", f"run.folder={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=f"model.base={base}/model.safetensors: not a whole safetensors file"):
        run_ranks("no.such.module", "train", config)
    assert not (tmp_path / "run").exists()
