"""batch.share_prompts: a question's prompt, read once in a pack, gives the costs it gives when every row reads it.

Held against the pass that shares nothing, under the same layout and weights, and against the dense float64 reference.
Packs are so small that most questions are cut by an edge; some prompts are too short to share.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nemo_forking.config import Config
from nemo_forking.data.folders import written_aside
from nemo_forking.data.sharing import deal_rows, shared
from nemo_forking.data.token_file import MANIFEST, TokenFileWriter
from nemo_forking.training import step, trainer
from nemo_forking.training.launch import fork_ranks
from tests.distributed import reference
from tests.distributed.runs import Ground, in_fork, tiny, write_base
from tests.distributed.test_invariance import INTERLEAVED, layout
from tests.unit.sources import character_tokenizer

PROMPTS, TRACES = (1, 21, 2, 14, 9, 5, 17, 3), (3, 1, 2, 4)  # of eight questions; ids, and how many
SMALL = {"batch.match_tokens": 56}
TAG_COUNTS = {"matching.include_tag": True}
TEXT = {"tags.spelling": "text", **TAG_COUNTS}
CASES = {
    "one pack": {"batch.match_tokens": 4000},
    "small packs, the tag counts": SMALL | TAG_COUNTS,
    "text tags that do not count": SMALL | {"tags.spelling": "text"},
    "tensor 2": SMALL | layout(2, tensor=2),
    "sequence, text tags that count": SMALL | TEXT | layout(2, tensor=2, sequence_parallel=True),
    "pipeline 2": SMALL | layout(2, pipeline=2),
    "interleaved pipeline": SMALL | INTERLEAVED | TAG_COUNTS,
    "context 2": SMALL | layout(2, context=2) | TAG_COUNTS,
    "data 2": SMALL | layout(2),
    "sequence x context 2": SMALL | layout(4, tensor=2, context=2, sequence_parallel=True),
    "interleaved pipeline x data 2": {"batch.match_tokens": 120} | layout(4, pipeline=2, virtual_pipeline=2),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    character_tokenizer().save_pretrained(folder / "tokenizer")
    base = write_base(folder / "base", tied=False)
    return Ground(prompts_of_many_lengths(folder / "data"), folder / "tokenizer", base, base)


def prompts_of_many_lengths(folder: Path) -> Path:
    random = np.random.default_rng(11)
    with written_aside(folder, MANIFEST) as aside, TokenFileWriter(aside) as writer:
        for number, prompt in enumerate(PROMPTS):
            traces = [("ann", random.integers(0, 95, random.integers(3, 16))) for _ in range(TRACES[number % 4])]
            writer.add(f"q{number}", random.integers(0, 95, prompt), traces)
        writer.finish({"sources": "random"})
    return folder


@pytest.fixture(scope="module")
def dense(ground, tmp_path_factory):
    """The reference's first step by what it depends on, each taken once."""
    known = {}

    def first_step(config: Config) -> reference.DenseStep:
        key = (config.tags.spelling, config.matching.include_tag)
        if key not in known:
            known[key] = in_fork(reference.train, config)[0][0]
        return known[key]

    return first_step


@pytest.mark.parametrize("case", CASES)
def test_costs_and_assignments_are_those_of_prompts_read_for_every_row(case, ground, dense, tmp_path):
    changes = {"batch.share_prompts": True, "batch.questions": len(PROMPTS), "matching.tokens": 9}
    config = tiny(ground, tmp_path / "run", changes | CASES[case])
    ranks = fork_ranks(both_ways, config.layout.processes, config)
    apart, together = (sum((Counter(costs[way]) for costs, *_ in ranks), Counter()) for way in (False, True))
    assert apart.keys() == together.keys() == set(range(4 * 2 * sum(TRACES)))
    np.testing.assert_allclose([together[r] for r in apart], list(apart.values()), rtol=1e-6)

    (_, packs, cost_QNM, _), wanted = ranks[0], dense(config)
    np.testing.assert_allclose(cost_QNM, wanted.cost_QNM, rtol=1e-5)
    for _, _, _, assigned in ranks:
        np.testing.assert_array_equal(assigned, wanted.sigma_QM)
    shares = Counter(group for pack in packs for group, branches in pack if branches > 1)
    assert len(shares) >= 4 and (config.batch.match_tokens > 1000 or max(shares.values()) > 1)  # some are cut


def both_ways(config: Config):
    """In a rank: {row: NLL} it scored without and with sharing, the packs' (question, branches), cost_QNM, sigma_QM."""
    costs, packs, seen, original = {}, [], [], step.score

    def score(chunks, rows, form):
        for share in (False, True):
            losses = original(chunks, rows, replace(form, share=share))
            costs[share] = dict(zip(losses.row_R.tolist(), losses.sum_R.tolist(), strict=True))
        for pack in (pack for rank in deal_rows(rows, form).micro_batches for pack in rank):
            parts = shared([rows[i] for i in pack], form)
            packs.append([(members[0].group, len(document.branches)) for members, document in parts])
        return losses

    step.score = score  # in this forked rank only
    trainer.train(config, lambda record: seen.append(record["matched"]))
    return costs, packs, seen[0].cost_QNM, seen[0].sigma_QM
