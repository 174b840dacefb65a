"""The memory of one rank at its fullest moment, for every pipeline stage."""

from dataclasses import dataclass

from nemo_forking.config import Config
from nemo_forking.plan.activations import held_micro_batches, micro_batch_bytes, working_bytes
from nemo_forking.plan.head import backward_bytes, logit_bytes
from nemo_forking.plan.parameters import rank_parameters
from nemo_forking.plan.rows import fullest
from nemo_forking.plan.state import State, number_bytes, rank_state

GIB = 2**30


@dataclass(frozen=True)
class StageMemory:
    """Bytes on a rank of one pipeline stage.

    Attributes:
        parameters: their number.
        state: weights, gradients, optimizer.
        activations: kept for the backward pass, of all micro-batches held at once.
        held: how many those are; fractions where the pipeline is interleaved.
        working: what comes and goes inside a layer.
        logits: one chunk of them and the head's gradients; 0 but on the last stage.
        matching: the pass without a gradient: layer, hidden states of its labels, logits.
    """

    parameters: int
    state: State
    activations: float
    held: float
    working: float
    logits: float
    matching: float

    @property
    def peak(self) -> float:
        """State, and the larger of training and matching, which do not overlap."""
        training = self.activations + self.working + self.logits
        return self.state.weights + self.state.gradients + self.state.optimizer + max(training, self.matching)


def stage_memory(config: Config) -> list[StageMemory]:
    """Every stage's memory on micro-batches as full as the settings allow."""
    model, layout = config.model, config.layout
    sheet, micro_batches = fullest(config, without_gradient=False)
    scored, _ = fullest(config, without_gradient=True)
    stages = []
    for stage in range(layout.pipeline):
        last = stage == layout.pipeline - 1
        held, logits, matching = held_micro_batches(layout, stage, micro_batches), 0.0, 0.0
        if last:
            labels = sheet.labels / layout.context
            logits = logit_bytes(model, layout, config.loss, labels) + backward_bytes(model, layout, labels)
        if has_scoring(config):
            matching = working_bytes(model, layout, scored, backward=False)
            if last:
                labels = scored.labels / layout.context
                matching += logit_bytes(model, layout, config.loss, labels)
                matching += labels * model.hidden_size * number_bytes(model)
        stages.append(
            StageMemory(
                parameters=rank_parameters(model, layout, stage),
                state=rank_state(model, layout, stage),
                activations=held * micro_batch_bytes(model, layout, sheet, stage),
                held=held,
                working=working_bytes(model, layout, sheet, backward=True),
                logits=logits,
                matching=matching,
            )
        )
    return stages


def has_scoring(config: Config) -> bool:
    """Whether a step begins with a pass without a gradient."""
    return config.plan.recipe == "gfpo" or config.matching.rule == "optimal"


def room(config: Config) -> float | None:
    """Bytes a GPU offers; None where the layout does not say."""
    layout = config.layout
    return None if layout.memory_gib is None else (layout.memory_gib - config.plan.reserve_gib) * GIB


def fits(config: Config) -> bool:
    """Whether every stage has room; a layout of unknown memory is taken at its word."""
    offered = room(config)
    return offered is None or max(stage.peak for stage in stage_memory(config)) <= offered
