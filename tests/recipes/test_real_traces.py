"""Real traces, the real tokenizer and all 152,064 rows through both recipes, on four processes (TP2 x PP2)."""

import math
import sys
from pathlib import Path

import pytest

from tests.command_lines import finish
from tests.run_files import lines

STEPS = 4


@pytest.fixture(scope="module")
def trial(shared_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "run"
    words = [
        "experiment=real_traces_trial",
        f"run.folder={folder}",
        f"data.source=[{shared_data}/traces/multi_trace.jsonl]",
        f"data.tokenizer={shared_data}/tokenizer",
        "data.max_length=1024",
        "data.max_questions=8",
        "batch.tokens=1024",
        "batch.match_tokens=2048",
        "optim.warmup_fraction=0",
        f"trainer.max_steps={STEPS}",
    ]
    for recipe in ("prepare_data", "ssft"):
        finish([sys.executable, f"recipes/{recipe}.py", *words])
    return folder


def test_losses_are_finite_and_fall_from_that_of_a_uniform_guess(trial):
    records = lines(trial / "metrics.jsonl")
    losses = [record["loss"] for record in records]
    assert [record["step"] for record in records] == [*range(1, STEPS + 1)]
    assert losses[0] == pytest.approx(math.log(152064), rel=0.01)
    assert all(math.isfinite(loss) for loss in losses) and losses[-1] < losses[0] - 0.05


def test_assignment_statistics_are_written_every_step(trial):
    records = lines(trial / "metrics.jsonl")
    for record in records:
        assert sum(record["tag_usage"]) == pytest.approx(round(sum(record["tag_usage"])))
        assert record["cost_mean"] > 0 and record["assignment_entropy_bits"] >= 0
        assert record["tokens_scored"] > 0 and record["tokens"] > 0 and record["peak_memory_gib"] > 0


def test_the_exported_model_has_every_row_and_loads_with_its_tags(trial):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trial / "model")
    tokenizer = AutoTokenizer.from_pretrained(trial / "model")
    assert model.get_input_embeddings().weight.shape[0] == 152064
    assert tokenizer.encode("<think1><think6>", add_special_tokens=False) == [151665, 151670]
