"""What a plan takes from elsewhere: rows of prepared data, the speed of a run that was measured."""

import json
from functools import cache

import numpy as np
import pytest

from nemo_forking.config import load, save_resolved, with_overrides
from nemo_forking.data.token_file import TokenFileWriter
from nemo_forking.errors import UserError
from nemo_forking.plan.plan import make_plan
from nemo_forking.plan.prepared import REAL_STEPS, planned_steps

LENGTHS = [(200, [3000, 9000, 1000, 30000]), (400, [500, 5000]), (150, [12000] * 3)]  # prompt, traces


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with TokenFileWriter(folder) as writer:
        for number, (prompt, traces) in enumerate(LENGTHS):
            ids = [(f"teacher{i}", np.arange(trace)) for i, trace in enumerate(traces)]
            writer.add(f"q{number}", np.arange(prompt), ids)
        writer.finish({})
    return folder


@cache
def loaded(layout, experiment):
    return load([f"experiment={experiment}", f"layout={layout}"])


def config(changes=(), layout="8xb200", experiment="ssft_math_32b"):
    return with_overrides(loaded(layout, experiment), dict(changes))


# ------------------------------------------------------------ prepared data


def test_prepared_data_is_planned_as_it_lies(data):
    one = config({"data.folder": str(data), "batch.questions": 3})  # every step is an epoch
    steps, mean, anew = planned_steps(one)
    assert (len(steps), anew) == (REAL_STEPS, 1.0)
    assert mean.prompt == 250 and "steps 1 to 8 of" in mean.source
    pairs = [prompt + trace for prompt, traces in LENGTHS for trace in traces]
    scored = [prompt + min(trace, 1000) for prompt, traces in LENGTHS for trace in traces for _ in range(6)]
    for rows in steps:
        assert sorted(row.length for row in rows.trained) == sorted(pairs)  # the tag comes, the last token goes
        assert sorted(row.length for row in rows.scored) == sorted(scored)
        assert sum(row.counted for row in rows.trained) == sum(len(t) + sum(t) for _, t in LENGTHS)
    plan = make_plan(one)
    assert plan.training.rows == 9 and plan.training.tokens == sum(pairs)


def test_a_long_trace_makes_data_parallel_ranks_wait(data):
    both = {"data.folder": str(data), "batch.questions": 3}
    even, split = make_plan(config(both)), make_plan(config(both | {"layout.nodes": 2}))  # data 2
    assert even.training.imbalance == 0 and split.training.imbalance > 0
    assert split.seconds > even.seconds / 2


@pytest.mark.parametrize(
    ("every", "steps", "matched"), [(1, 12, 12), (2, 12, 6), (3, 12, 4), (4, 9, 3), (2, 3, 2)]
)  # every step is an epoch
def test_only_every_kth_visit_is_matched(data, every, steps, matched):
    run = {"data.folder": str(data), "batch.questions": 3, "trainer.max_steps": steps, "matching.every": every}
    plan = make_plan(config(run))
    assert plan.batches == pytest.approx(matched)
    scoring, training = plan.scoring.gpu_seconds, plan.training.gpu_seconds
    assert plan.hours * 3600 == pytest.approx(matched * scoring + steps * training)


def test_without_data_the_share_of_visits_is_a_mean():
    plan = make_plan(config({"matching.every": 5}))
    assert plan.batches == 1250 / 5


def test_shared_prompts_are_read_once_for_all_rows_of_a_pack():
    apart, shared = make_plan(config()), make_plan(config({"batch.share_prompts": True}))
    saved = apart.scoring.tokens - shared.scoring.tokens
    # 96 rows of 1,300 tokens in 16 packs of 8,192; of a question's 24, all but the first in each pack share 299
    assert apart.scoring.tokens == 96 * 1300
    assert 96 - 16 - 4 <= saved / 299 <= 96 - 4
    assert shared.scoring.computed_flops < 0.85 * apart.scoring.computed_flops
    assert shared.training == apart.training


# ------------------------------------------------------------ a measured run


def write_run(folder, one, speeds):
    save_resolved(one, folder)
    lines = [json.dumps({"step": i, "loss": 1.0, "model_flops_per_s": s}) for i, s in enumerate(speeds, 1)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "metrics.jsonl"


@pytest.mark.parametrize("layout", ["8xh200", "16xh100"])
def test_a_run_is_planned_as_fast_as_it_was(layout, tmp_path):
    slow = {"plan.efficiency": 0.31}
    run = config(slow, layout)
    plan = make_plan(run)
    speed = plan.flops / (plan.hours * 3600)
    file = write_run(tmp_path, run, [speed / 9] * 5 + [speed, speed * 1.2, speed * 0.7] * 5)  # a slow start is left out
    same = make_plan(config({"plan.measured": str(file)}, layout))
    assert same.efficiency == pytest.approx(0.31)
    assert same.hours == pytest.approx(plan.hours)
    other = make_plan(config({"plan.measured": str(file)}, "32xh100"))  # another pipeline, other recomputation
    assert other.hours == pytest.approx(make_plan(config(slow, "32xh100")).hours)


def test_what_was_not_measured_is_refused(tmp_path):
    run, planned = config((), "8xh200"), {"plan.measured": str(tmp_path / "metrics.jsonl")}
    with pytest.raises(UserError, match="config.yaml does not exist"):
        make_plan(config(planned, "8xh200"))
    save_resolved(run, tmp_path)
    with pytest.raises(UserError, match="does not exist; give a run's metrics.jsonl"):
        make_plan(config(planned, "8xh200"))
    write_run(tmp_path, run, [1e15] * 14)
    with pytest.raises(UserError, match="has 14 steps, and 5 of warm-up with 10 after them"):
        make_plan(config(planned, "8xh200"))
    write_run(tmp_path, run, [1e15] * 15)
    make_plan(config(planned, "8xh200"))
    with pytest.raises(UserError, match=r"layout.peak_tflops=989.0, and 312 are planned"):
        make_plan(config(planned, "64xa100"))
    with pytest.raises(UserError, match="layout.peak_tflops=null: set it to the GPU's peak"):
        make_plan(config(planned | {"layout.peak_tflops": None}, "8xh200"))
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"step": 16, "loss": 1.0}\n')
    with pytest.raises(UserError, match="line 16: not a step's record with model_flops_per_s"):
        make_plan(config(planned, "8xh200"))
    write_run(tmp_path, config((), "8xh200", "gfpo_math_32b"), [1e15] * 15)
    with pytest.raises(UserError, match=r"is no run of recipes/ssft.py"):
        make_plan(config(planned, "8xh200"))
