"""The plan of a run, and its refusal where the memory does not suffice."""

from dataclasses import dataclass

from nemo_forking.config import Config
from nemo_forking.errors import UserError
from nemo_forking.plan.disk import checkpoint_bytes, export_bytes, run_bytes
from nemo_forking.plan.memory import GIB, StageMemory, room, stage_memory
from nemo_forking.plan.nearest import nearest
from nemo_forking.plan.parameters import model_parameters
from nemo_forking.plan.rows import Lengths, lengths, step_rows
from nemo_forking.plan.work import PassWork, pass_work


@dataclass(frozen=True)
class Plan:
    """What a run will need.

    Attributes:
        parameters: of the whole model.
        stages: memory of a rank of each pipeline stage.
        room: bytes a GPU offers; None where unknown.
        lengths: what the costs rest on.
        scoring: the pass without a gradient (matching, or the fork); None where there is none.
        training: the update.
        steps: optimizer steps of the run.
        batches: of them, those that begin with the pass without a gradient.
        checkpoint, export, disk: bytes of one checkpoint, of the exported model, of the whole run folder.
    """

    parameters: int
    stages: list[StageMemory]
    room: float | None
    lengths: Lengths
    scoring: PassWork | None
    training: PassWork
    steps: int
    batches: int
    checkpoint: int
    export: int
    disk: int

    @property
    def seconds(self) -> float | None:
        """Of a step that begins with scoring."""
        passes = [part.gpu_seconds for part in (self.scoring, self.training) if part]
        return None if None in passes else sum(passes)

    @property
    def hours(self) -> float | None:
        """Of the whole run, generation and grading, loading and saving left out."""
        if self.training.gpu_seconds is None:
            return None
        scoring = self.batches * self.scoring.gpu_seconds if self.scoring else 0.0
        return (scoring + self.steps * self.training.gpu_seconds) / 3600


def make_plan(config: Config) -> Plan:
    """The plan of a configuration.

    Raises:
        UserError: a row is longer than a packed micro-batch.
    """
    mean, steps = lengths(config), config.trainer.max_steps
    rows = step_rows(config, mean)
    return Plan(
        parameters=model_parameters(config.model),
        stages=stage_memory(config),
        room=room(config),
        lengths=mean,
        scoring=pass_work(config, rows.scored, without_gradient=True),
        training=pass_work(config, rows.trained, without_gradient=False),
        steps=steps,
        batches=steps // config.policy.updates if config.plan.recipe == "gfpo" else steps,
        checkpoint=checkpoint_bytes(config),
        export=export_bytes(config),
        disk=run_bytes(config),
    )


def refuse_what_cannot_fit(config: Config, plan: Plan) -> None:
    """Raises UserError with the nearest layout that fits, where this one does not."""
    peaks = [stage.peak for stage in plan.stages]
    if plan.room is None or max(peaks) <= plan.room:
        return
    changes = nearest(config)
    words = {None: "null", True: "true", False: "false"}
    remedy = "no layout was found that fits: lower batch.tokens or data.max_length, or take a smaller model"
    if changes:
        settings = " ".join(f"layout.{key}={words.get(value, value)}" for key, value in changes.items())
        remedy = f"nearest that fits: {settings}"
    raise UserError(
        f"pipeline stage {peaks.index(max(peaks))} needs {max(peaks) / GIB:.1f} GiB of {plan.room / GIB:.1f} "
        f"(layout.memory_gib={config.layout.memory_gib:g} less plan.reserve_gib={config.plan.reserve_gib:g}); {remedy}"
    )
