r"""The text spelling, ``<|im_start|><think1>\n``: a tag of several tokens, no new vocabulary rows."""

from pathlib import Path

import pytest
import torch

from tests.distributed import reference
from tests.distributed.runs import in_fork, run, tiny
from tests.distributed.test_invariance import TWO_STEPS, compare, layout
from tests.run_files import weights

TEXT = {"tags.spelling": "text"}
LAYOUTS = {
    "one": {},
    "unpacked": {"batch.packing": False},
    "tensor 2 x pipeline 2": layout(4, tensor=2, pipeline=2),
    "sequence": layout(2, tensor=2, sequence_parallel=True),
    "context": layout(2, context=2),
    "data": layout(2),
}
COUNTED = {
    "tag learnt, not matched": {},
    "tag learnt and matched": {"matching.include_tag": True},
    "tag neither learnt nor matched": {"loss.include_tag": False},
    "no tag": {"matching.rule": "none"},
}


@pytest.fixture(scope="module")
def dense(ground, tmp_path_factory):
    return in_fork(reference.train, tiny(ground, tmp_path_factory.mktemp("dense"), TWO_STEPS | TEXT))


@pytest.mark.parametrize("name", LAYOUTS)
def test_text_tags_give_the_dense_result_under_every_layout(name, ground, dense, tmp_path):
    config = tiny(ground, tmp_path / "run", TWO_STEPS | TEXT | LAYOUTS[name])
    compare(config, run(config), *dense)


@pytest.mark.parametrize("name", COUNTED)
def test_the_tags_tokens_count_where_conf_says_so(name, ground, tmp_path):
    config = tiny(ground, tmp_path / "run", TWO_STEPS | TEXT | COUNTED[name])
    ranks = run(config)
    drawn = [step.sigma_QM for step in ranks[0]] if config.matching.rule != "optimal" else None
    compare(config, ranks, *in_fork(reference.train, config, drawn))


def test_text_tags_leave_every_weight_of_the_base_as_it_is(ground, tmp_path):
    still = {"optim.lr": 1e-30, "optim.min_lr": 1e-30, "optim.eps": 1.0}
    config = tiny(ground, tmp_path / "run", TEXT | still)
    run(config)
    base, got = weights(Path(config.model.base)), weights(tmp_path / "run" / "model")
    assert base.keys() == got.keys() and all(torch.equal(got[name], tensor) for name, tensor in base.items())
