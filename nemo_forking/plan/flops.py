"""Model FLOPs of a step, for the speed a run reports: what the mathematics needs, not what is repeated or padded."""

from collections.abc import Iterable

from nemo_forking.config.schema import ModelConfig
from nemo_forking.data.packing import Row
from nemo_forking.plan.parameters import head_widths, linear_parameters


def step_flops(model: ModelConfig, scored: Iterable[Row], trained: Iterable[Row], spared: Iterable[int] = ()) -> float:
    """One forward over the scored rows; forward and backward (three forwards' worth) over the trained ones.

    `spared` are lengths of shared prompts that scored rows did not read again (Deal.spared).
    """
    forward = sum(forward_flops(model, row) for row in scored) - sum(_layers(model, length) for length in spared)
    return forward + 3 * sum(forward_flops(model, row) for row in trained)


def forward_flops(model: ModelConfig, row: Row) -> float:
    """Multiplications and additions of a row's forward: linears, causal attention, the head at counted tokens."""
    return _layers(model, row.length) + head_flops(model, row)


def head_flops(model: ModelConfig, row: Row) -> float:
    """Of these, the head's."""
    return 2.0 * model.hidden_size * model.vocab_size * row.counted


def crossover(model: ModelConfig) -> float:
    """Length of a row, in tokens, at which causal attention costs as much as the linears of a layer."""
    linears, attention = _layer(model)
    return linears / attention


def _layers(model: ModelConfig, length: int) -> float:
    linears, attention = _layer(model)
    return model.num_layers * length * (linears + attention * length)


def _layer(model: ModelConfig) -> tuple[int, int]:
    """Of one token in one layer: the linears' FLOPs, and attention's for every token of the row."""
    return 2 * linear_parameters(model), 2 * head_widths(model)[0]  # attention: two products over half the square
