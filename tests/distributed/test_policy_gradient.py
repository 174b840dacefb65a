"""The policy's gradient: that of its own loss, and for GFPO nothing but the fork's.

The dense reference's gradient is compared with finite differences of its loss, and Megatron's with the reference's
(test_policy_invariance). What GFPO must not touch is compared bit for bit.

Shape letters: Q questions, N tags.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_forking.checksums import with_crc
from nemo_forking.config import Config
from nemo_forking.evaluation.folder import load_lines
from tests.distributed.policy_reference import PolicyReference, Rolled, batch_folders
from tests.distributed.policy_runs import PolicyGround, run, tiny_policy
from tests.distributed.runs import in_fork
from tests.run_files import lines, weights

ONE_STEP = {"trainer.max_steps": 1}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FORKS = slice(98, 102)  # rows of the tags
OBJECTIVES = {
    "drawn tags": {"policy.kl_weight": 0.3, "policy.entropy_floor": 1.2, "policy.entropy_weight": 0.5},
    "drawn tags, vocabulary": {"policy.kl_weight": 0.3, "policy.support": "vocabulary"},
    "every tag": {"policy.kl_weight": 0.3, "rollout.tags": "every", "policy.advantage": "batch"},
    "tokens": {"policy.kl_weight": 0.3, "policy.scope": "all"},
}


@pytest.fixture(scope="module")
def ground(policy_ground) -> PolicyGround:
    return policy_ground


@pytest.fixture(scope="module")
def gfpo(ground, tmp_path_factory) -> Config:
    """One step of GFPO in one process, done."""
    config = tiny_policy(ground, tmp_path_factory.mktemp("gfpo"), ONE_STEP)
    run(config)
    return config


@pytest.fixture(scope="module")
def grpo(ground, tmp_path_factory) -> Config:
    """One step of GRPO on the same rollouts."""
    config = tiny_policy(ground, tmp_path_factory.mktemp("grpo"), ONE_STEP | {"policy.scope": "all"})
    run(config)
    return config


def exported(config: Config) -> dict[str, torch.Tensor]:
    return weights(Path(config.run.folder) / "model")


# ---------------------------------------------------------------- finite differences


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_dense_gradient_is_that_of_finite_differences(name, ground, gfpo, tmp_path):
    config = tiny_policy(ground, Path(gfpo.run.folder), ONE_STEP | OBJECTIVES[name])
    slopes, differences = in_fork(both_ways, config)
    assert np.abs(slopes).max() > 1e-3
    np.testing.assert_allclose(slopes, differences, rtol=1e-5, atol=1e-8)


def both_ways(config: Config, size: float = 1e-5) -> tuple[list[float], list[float]]:
    """Slopes of the loss along random directions in all weights, and of one matrix each: autograd, differences.

    The policy has moved a little from the one that drew, so that ratios differ from 1 and KL from 0.
    """
    reference, generator = PolicyReference(config), torch.Generator().manual_seed(0)
    params = dict(reference.model.named_parameters())
    (folder,) = batch_folders(config)
    rolled = Rolled.load(folder)
    old = reference.logprobs(rolled, reference.model)
    with torch.no_grad():
        for param in params.values():
            param += 0.01 * torch.randn(param.shape, generator=generator, dtype=param.dtype)

    def loss(gradient: bool = False) -> torch.Tensor:
        now = reference.logprobs(rolled, reference.model, gradient)
        return reference.loss(rolled, reference.advantage(rolled, old), now, old)[0]

    loss(gradient=True).backward()
    gradients = {name: param.grad.clone() for name, param in params.items()}
    slopes, differences = [], []
    for names in (list(params), list(params), [HEAD], [EMBEDDING], [name for name in params if "layers.1." in name]):
        direction = {n: torch.randn(params[n].shape, generator=generator, dtype=torch.float64) for n in names}
        slopes.append(sum(float((gradients[n] * direction[n]).sum()) for n in names))
        ends = []
        with torch.no_grad():
            for step in (size, -2 * size):
                for n in names:
                    params[n] += step * direction[n]
                ends.append(float(loss()))
            for n in names:
                params[n] += size * direction[n]
        differences.append((ends[0] - ends[1]) / (2 * size))
    return slopes, differences


# ---------------------------------------------------------------- outside the fork


def test_gfpo_moves_no_row_that_the_fork_does_not_read(ground, gfpo, grpo):
    """Of the embedding, the prompts' tokens alone; of the output layer, the tags alone. GRPO moves others."""
    start, end, other = weights(ground.base), exported(gfpo), exported(grpo)
    (folder,) = batch_folders(gfpo)
    read = taught_ids(gfpo, Rolled.load(folder))
    completed = {id for line in lines(folder / "samples.jsonl") for id in line["ids"]}
    assert completed - set(read)  # tokens of completions alone: the end of the line, and of the text
    assert moved_rows(start[EMBEDDING], end[EMBEDDING]) == read
    assert moved_rows(start[HEAD], end[HEAD]) == list(range(FORKS.start, FORKS.stop))
    assert completed - {96} <= set(moved_rows(start[EMBEDDING], other[EMBEDDING]))  # the last token is never read
    assert completed <= set(moved_rows(start[HEAD], other[HEAD]))


def test_what_follows_the_tag_is_nothing_to_gfpo(ground, gfpo, grpo, tmp_path):
    """Longer completions of the same rewards give the same weights, bit for bit; not so under GRPO."""
    for config, same in ((gfpo, True), (grpo, False)):
        policy = {"policy.scope": config.policy.scope}
        changed = tiny_policy(ground, tmp_path / config.policy.scope, ONE_STEP | policy)
        talk(batch_folders(config)[0], Path(changed.run.folder))
        ((seen,),) = run(changed)
        before = json.loads((batch_folders(config)[0] / "rollouts.json").read_text())
        assert seen.reward_QG.tolist() == before["reward_QG"]
        assert seen.record["completion_tokens"] == np.mean(before["tokens_QG"]) + 2
        unmoved = [name for name, tensor in exported(config).items() if (exported(changed)[name] == tensor).all()]
        assert (len(unmoved) == len(exported(config))) == same


def taught_ids(config: Config, rolled: Rolled) -> list[int]:
    """Ids of the prompts whose rewards are not all alike."""
    prompts, questions = PolicyReference(config).prompts, zip(rolled.questions, rolled.reward_QG, strict=True)
    return sorted({id for question, reward_G in questions if reward_G.std() > 0 for id in prompts[question]})


def moved_rows(start: torch.Tensor, end: torch.Tensor) -> list[int]:
    return (start != end).any(dim=1).nonzero()[:, 0].tolist()


def talk(rolled: Path, home: Path) -> None:
    """Rollouts of another's batch in a run's own folder, each beginning with two more characters, to be graded anew."""
    folder = home / "rollouts" / rolled.name
    shutil.copytree(rolled, folder)
    for file in ("rollouts.json", "verdicts.jsonl", "grading.json"):
        (folder / file).unlink()
    longer = [
        with_crc(line | {"ids": [60, 61, *line["ids"]], "text": "[\\" + line["text"], "tokens": line["tokens"] + 2})
        for line in load_lines(rolled / "samples.jsonl")
    ]
    (folder / "samples.jsonl").write_text("".join(line + "\n" for line in longer))
