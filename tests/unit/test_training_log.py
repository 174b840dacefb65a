"""Reading a training run's metrics.jsonl."""

import pytest

from nemo_forking.errors import UserError
from nemo_forking.evaluation.training_log import load_training


def test_lines_come_as_they_are_and_no_file_has_none(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert load_training(file) == []
    file.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "reward": null}\n')
    assert load_training(file) == [{"step": 1, "loss": 0.5}, {"step": 2, "reward": None}]


@pytest.mark.parametrize("line", ['{"step"', "[1]", "", "3", "[" * 100_000])
def test_a_line_that_is_no_step_is_named(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(UserError, match="metrics.jsonl, line 2: not JSON of a training step; remove that line"):
        load_training(file)
