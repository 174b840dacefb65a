"""Reinforcement learning over servers that fail: the same metrics and weights in the end, and nothing drawn twice."""

import json
from pathlib import Path

import pytest
import torch

from nemo_forking.config import Config
from nemo_forking.errors import UserError
from nemo_forking.training.launch_policy import start_policy
from tests.distributed import policy_runs
from tests.run_files import records, weights
from tests.serving.local_server import LocalServer

ROLLOUTS = 4 * 8  # of a batch: questions times group


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return policy_runs.lay_ground(tmp_path_factory.mktemp("ground"))


def over(ground, folder: Path, *servers: LocalServer) -> Config:
    """Two steps over these servers, or in process where there are none."""
    server = {"urls": tuple(server.url for server in servers), "concurrency": 4, "timeout": 60.0, "retries": 1}
    changes = {"engine.name": "server", "engine.server": server | {"model": None}} if servers else {}
    return policy_runs.tiny_policy(ground, folder, changes)


def trained(ground, folder: Path, *servers: LocalServer):
    """What a run over these servers leaves."""
    policy_runs.run(over(ground, folder, *servers))
    return records(folder), weights(folder / "model")


@pytest.fixture(scope="module")
def undisturbed(ground, tmp_path_factory):
    lines, trained_weights = trained(ground, tmp_path_factory.mktemp("undisturbed") / "run")
    assert len(lines) == 2 and all(line["grad_norm"] > 0 for line in lines)
    base = weights(ground.base)
    assert not all(torch.equal(weight, base[name]) for name, weight in trained_weights.items())
    return lines, trained_weights


def check_equal(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, weight in expected[1].items():
        assert torch.equal(found[1][name], weight), name


def test_a_replica_killed_during_the_first_steps_rollouts_changes_nothing(ground, undisturbed, tmp_path):
    with LocalServer(ground.base) as steady, LocalServer(ground.base) as dying:
        steady.fault(delay=0.02)  # so that the other has its share
        dying.fault(die_after=5)
        check_equal(trained(ground, tmp_path / "run", dying, steady), undisturbed)
        dying.process.join(20)
        assert not dying.process.is_alive() and 2 * ROLLOUTS - 5 <= steady.seen() < 2 * ROLLOUTS


def test_a_step_whose_servers_all_die_goes_on_from_what_they_completed(ground, undisturbed, tmp_path):
    with LocalServer(ground.base) as dying:
        dying.fault(die_after=5)
        with pytest.raises(
            UserError, match=f"no vLLM server is left; .* of {ROLLOUTS} .* kept.*\n  {dying.url}: no con"
        ):
            trained(ground, tmp_path / "run", dying)
    begun = tmp_path / "run" / "rollouts" / "batch_0000001"
    kept = (begun / "samples.jsonl.partial").read_text().count("\n")
    assert 0 < kept <= 5
    fork = json.loads((begun / "fork.json").read_text())
    with LocalServer(ground.base) as fresh:
        check_equal(trained(ground, tmp_path / "run", fresh), undisturbed)
        assert fresh.seen() == 2 * ROLLOUTS - kept
    assert json.loads((begun / "fork.json").read_text()) == fork


def test_a_server_that_would_cut_completions_off_is_refused_before_ranks_start(ground, tmp_path):
    with (
        LocalServer(ground.base, max_length=20) as short,
        pytest.raises(UserError, match="a replica takes 20 tokens.* start it with --max-model-len 26, or lower rollo"),
    ):
        start_policy(over(ground, tmp_path / "run", short))
