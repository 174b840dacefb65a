"""`matching.every`: between two matchings a question trains under the tags it has, whatever the layout and its deaths.

Eight questions, three a step: visits change in the middle of a batch, so that some steps match a part of theirs.
"""

import numpy as np
import pytest

from nemo_forking.config import Config
from tests.distributed import reference
from tests.distributed.resuming import ADAM, assert_same, finish, kill, trained
from tests.distributed.runs import in_fork, metrics, run, tiny
from tests.distributed.test_invariance import LAYOUTS, compare

EVERY_SECOND = {"matching.every": 2, "batch.questions": 3}
STEPS = {"trainer.max_steps": 8, "optim.lr": 30.0, "optim.min_lr": 30.0}


@pytest.fixture(scope="module")
def dense(ground, tmp_path_factory):
    return in_fork(every_second_visit, tiny(ground, tmp_path_factory.mktemp("dense"), EVERY_SECOND | STEPS))


def every_second_visit(config: Config) -> tuple[list[reference.DenseStep], dict[str, np.ndarray]]:
    """The plain reference, told on a question's second, fourth ... visit what its last matching gave it."""
    dense, steps, seen, last = reference.Reference(config), [], {}, {}
    for number in range(config.trainer.max_steps):
        questions = dense.batch(number)
        costs_QNM, sigma_QM = dense.costs(questions), []
        for question, cost_NM in zip(questions, costs_QNM, strict=True):
            if seen.get(question.id, 0) % 2 == 0:
                last[question.id] = reference.best_injection(cost_NM)[: len(question.traces)]
            seen[question.id] = seen.get(question.id, 0) + 1
            padding = np.full(cost_NM.shape[1] - len(question.traces), -1)
            sigma_QM.append(np.concatenate([last[question.id], padding]))
        steps.append(dense.step(number, np.array(sigma_QM)))
    return steps, {name: param.detach().numpy() for name, param in dense.model.named_parameters()}


@pytest.mark.parametrize("name", ["one process", "tensor 2", "pipeline 2", "data 2 unpacked, plain optimizer"])
def test_kept_tags_train_as_in_the_dense_reference(name, ground, dense, tmp_path):
    config = tiny(ground, tmp_path, EVERY_SECOND | STEPS | LAYOUTS[name])
    ranks = run(config)
    compare(config, ranks, *dense)
    for seen in ranks[0]:
        items = range(3 * (seen.step - 1), 3 * seen.step)
        scored_Q = [item // 8 % 2 == 0 for item in items]
        found_Q = [False] * 3 if seen.cost_QNM is None else list(~np.isnan(seen.cost_QNM[:, 0, 0]))
        assert found_Q == scored_Q
    tokens = [line["tokens_scored"] for line in metrics(config)]
    assert tokens[3] == tokens[4] == 0 and min(tokens[:3] + tokens[5:]) > 0  # items 9 to 14 keep their tags


def test_a_killed_run_keeps_the_same_tags(ground, tmp_path):
    changes = ADAM | {"matching.every": 3}
    whole, killed = tiny(ground, tmp_path / "whole", changes), tiny(ground, tmp_path / "killed", changes)
    finish(whole)
    for step in (2, 3, 5):
        kill(killed, after=step)
    finish(killed)
    assert trained(killed) == trained(whole)
    assert_same(killed, whole)
