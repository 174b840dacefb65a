"""The plan of a run, and its refusal where the memory does not suffice."""

from dataclasses import dataclass, replace
from pathlib import Path

from nemo_forking.config import Config
from nemo_forking.errors import UserError
from nemo_forking.plan.disk import checkpoint_bytes, export_bytes, run_bytes
from nemo_forking.plan.measured import measured_run, measured_speed
from nemo_forking.plan.memory import GIB, StageMemory, room, stage_memory
from nemo_forking.plan.nearest import nearest
from nemo_forking.plan.parameters import model_parameters
from nemo_forking.plan.prepared import planned_steps
from nemo_forking.plan.rows import Lengths
from nemo_forking.plan.work import PassWork, mean_work, pass_work


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
        efficiency: share of layout.peak_tflops at which a busy GPU computes: assumed, or measured.
        steps: optimizer steps of the run.
        batches: of them, those that begin with the pass without a gradient; a mean under matching.every.
        checkpoint, export, disk: bytes of one checkpoint, of the exported model, of the whole run folder.
    """

    parameters: int
    stages: list[StageMemory]
    room: float | None
    lengths: Lengths
    scoring: PassWork | None
    training: PassWork
    efficiency: float
    steps: int
    batches: float
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
        return None if self.training.gpu_seconds is None else self._over_the_run("gpu_seconds") / 3600

    @property
    def flops(self) -> float:
        """Model FLOPs of the whole run."""
        return self._over_the_run("model_flops")

    def _over_the_run(self, name: str) -> float:
        scoring = self.batches * getattr(self.scoring, name) if self.scoring else 0.0
        return scoring + self.steps * getattr(self.training, name)


def make_plan(config: Config) -> Plan:
    """The plan of a configuration.

    Raises:
        UserError: a row is longer than a packed micro-batch, prepared data is damaged, or plan.measured is of no use.
    """
    if config.plan.measured:
        config = replace(config, plan=replace(config.plan, efficiency=measured_efficiency(config), measured=None))
    rows, mean, anew = planned_steps(config)
    steps = config.trainer.max_steps
    return Plan(
        parameters=model_parameters(config.model),
        stages=stage_memory(config),
        room=room(config),
        lengths=mean,
        scoring=mean_work([pass_work(config, one.scored, without_gradient=True) for one in rows]),
        training=mean_work([pass_work(config, one.trained, without_gradient=False) for one in rows]),
        efficiency=config.plan.efficiency,
        steps=steps,
        batches=steps // config.policy.updates if config.plan.recipe == "gfpo" else steps * anew,
        checkpoint=checkpoint_bytes(config),
        export=export_bytes(config),
        disk=run_bytes(config),
    )


def measured_efficiency(config: Config) -> float:
    """The share of its GPUs' peak that the run of plan.measured reached: its speed over that of a perfect one.

    A perfect run is planned with its own layout, so that its recomputation, padding and bubble are not counted twice.
    """
    perfect = make_plan(measured_run(config))
    return measured_speed(Path(config.plan.measured)) / (perfect.flops / (perfect.hours * 3600))


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
