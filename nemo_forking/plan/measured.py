"""The efficiency of a run that was measured: how its metrics.jsonl compares with its own plan."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

from nemo_forking.config import Config
from nemo_forking.config.record import read_resolved
from nemo_forking.errors import UserError

WARM_UP = 5  # steps left out: kernels are chosen, memory is taken
LEAST = 10  # steps after them


def measured_speed(file: Path) -> float:
    """Model FLOP/s over all GPUs: the median of the steps after warm-up.

    Raises:
        UserError: the file is absent, damaged or too short, or its steps have no model_flops_per_s.
    """
    if not file.is_file():
        raise UserError(f"plan.measured={file} does not exist; give a run's metrics.jsonl, or null")
    speeds = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            speeds.append(float(json.loads(line)["model_flops_per_s"]))
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{file}, line {number}: not a step's record with model_flops_per_s; give a run's metrics.jsonl"
            ) from None
    if len(speeds) < WARM_UP + LEAST:
        raise UserError(
            f"{file} has {len(speeds)} steps, and {WARM_UP} of warm-up with {LEAST} after them are needed; let the run "
            "go on, or set plan.measured=null"
        )
    return median(speeds[WARM_UP:])


def measured_run(config: Config) -> Config:
    """The configuration of the run that plan.measured is of, as it lies beside it.

    Raises:
        UserError: it is not there, of other GPUs or of unknown ones, or a policy's, whose steps are mostly generation.
    """
    file, peak = Path(config.plan.measured), config.layout.peak_tflops
    if peak is None:
        raise UserError(f"plan.measured={file} is a speed, and layout.peak_tflops=null: set it to the GPU's peak")
    run = read_resolved(file.parent)
    if run.layout.peak_tflops != peak:
        raise UserError(
            f"plan.measured={file} is of GPUs with layout.peak_tflops={run.layout.peak_tflops}, and {peak:g} are "
            "planned: take a run on the same GPUs, or set plan.efficiency"
        )
    if run.plan is None or run.plan.recipe != "ssft":
        raise UserError(f"plan.measured={file} is no run of recipes/ssft.py: take one, or set plan.efficiency")
    return replace(run, plan=replace(run.plan, efficiency=1.0, measured=None))
