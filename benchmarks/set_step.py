"""One step of set supervised fine-tuning over one plain step on the same traces and weights in one run, and by count.

    python -m benchmarks.set_step [key=value ...]

The set step scores every (tag, trace) and matches before it trains; the plain one trains under fixed tags. Both build
their packs, go forward and backward over them, and step Megatron's Adam. Needs Megatron-Core and transformers, not
NeMo; runs on the GPU where there is one.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import WIDTHS_32B, ModelSettings, model_line, run
from nemo_forking.config.fields import key
from nemo_forking.errors import UserError
from nemo_forking.training import quiet

GOAL = 0.05  # largest relative difference of what is measured from what is counted

ON_GPU = {
    "layers": 4,
    **WIDTHS_32B,
    "vocabulary": 9504,
    "prompt": 300,
    "prefix": 1000,
    "trace": 8000,
    "pack": 8448,
    "match_pack": 32768,
    "chunk": 1024,
    "precision": "bf16",
    "repeats": 5,
}  # few of its layers, and a vocabulary that is as much less


@dataclass(frozen=True)
class Settings(ModelSettings):
    """Model, questions and packs; lengths are over 8 too."""

    questions: int = key("questions Q of the step", default=1, at_least=1)
    tags: int = key("tags N", default=6, at_least=1)
    traces: int = key("traces M of every question, at most N", default=4, at_least=1)
    prompt: int = key("tokens of a prompt", default=37, at_least=2)
    prefix: int = key("tokens T_r of a trace that are scored", default=125, at_least=1)
    trace: int = key("tokens of a trace", default=1000, at_least=1)
    pack: int = key("tokens of a packed training micro-batch", default=1056, at_least=1)
    match_pack: int = key("tokens of a packed micro-batch of the matching pass", default=1056, at_least=1)


def measure(settings: Settings) -> dict[str, Any]:
    """The record that is printed: seconds of both steps with and without recompute, their ratio, and the counted one.

    Raises UserError where a row does not fit its micro-batch, or a question has more traces than there are tags.
    """
    s = settings
    _check(s)
    with quiet.imports():
        from benchmarks import meter, models, set_steps

    size = models.Size.of(s, max_length=s.pack)
    with models.one_process() as device, tempfile.TemporaryDirectory(prefix="set-step-") as folder:
        models.write_transformers(size, Path(folder), device, s.seed)
        batch = set_steps.random_batch(s)
        steps = set_steps.Steps(models.read_megatron(size, Path(folder), device, s.chunk), batch, s)
        calls: dict[str, Callable[[], Any]] = {}
        for recompute in set_steps.FORWARDS:
            calls[f"plain, {recompute}"] = partial(steps.plain, recompute)
            calls[f"set, {recompute}"] = partial(steps.set, recompute)
        losses = {name: call() for name, call in calls.items()}  # not timed: it warms up
        parts = {"matching": steps.match, "optimizer": steps.update}
        medians, times = meter.in_turn({**calls, **parts}, s.repeats, device)
    work = set_steps.count(size.model_config(), batch)
    ratios = {}
    for recompute, forwards in set_steps.FORWARDS.items():
        measured = medians[f"set, {recompute}"] / medians[f"plain, {recompute}"]
        counted = 1 + work.matching / work.training[recompute]
        ratios[recompute] = {
            "measured": measured,
            "flops": counted,
            "model_flops": 1 + work.matching / work.model,
            "tokens": 1 + work.tokens_scored / work.tokens_trained / forwards,
            "difference": measured / counted - 1,
            "in_turn": [a / b for a, b in zip(times[f"set, {recompute}"], times[f"plain, {recompute}"], strict=True)],
        }
    return {
        "benchmark": "set_step",
        **meter.machine(device),
        "shape": asdict(s),
        "seconds": medians,
        "all_seconds": times,
        "losses": losses,
        "work": asdict(work),
        "ratio": ratios,
    }


def _check(s: Settings) -> None:
    if s.traces > s.tags:
        raise UserError(f"traces={s.traces} is more than tags={s.tags}: every trace is to have a tag of its own")
    for name, room, tokens in (("pack", s.pack, s.trace), ("match_pack", s.match_pack, min(s.prefix, s.trace))):
        if (needed := s.prompt + tokens) > room:  # the tag is read too, the last token is not
            raise UserError(f"{name}={room} is less than a row's {needed} tokens: raise it")


def show(record: dict[str, Any]) -> None:
    """The record for people."""
    from rich.console import Console
    from rich.table import Table

    s, seconds, work = record["shape"], record["seconds"], record["work"]
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{s['questions']} questions x {s['traces']} traces of {s['trace']:,} tokens, prompts of {s['prompt']}; "
        f"{s['tags']} tags, T_r = {s['prefix']}"
    )
    console.print(model_line(record))
    table = Table("recompute", "plain s", "set s", "set / plain", "by FLOPs", "by tokens", "difference")
    for recompute, ratio in record["ratio"].items():
        table.add_row(
            recompute,
            f"{seconds[f'plain, {recompute}']:.3f}",
            f"{seconds[f'set, {recompute}']:.3f}",
            f"{ratio['measured']:.3f}",
            f"{ratio['flops']:.3f}",
            f"{ratio['tokens']:.3f}",
            f"{ratio['difference']:+.1%}",
        )
    console.print(table)
    for name, operations in work["training"].items():
        console.print(f"training, {name}: {_rate(operations, seconds[f'plain, {name}'] - seconds['optimizer'])}")
    console.print(f"matching: {_rate(work['matching'], seconds['matching'])}")
    worst = max(abs(ratio["difference"]) for ratio in record["ratio"].values())
    console.print(
        f"optimizer: {seconds['optimizer']:.3f} s, part of both steps, of neither count\n"
        f"measured and counted differ by at most {worst:.1%} (goal: {GOAL:.0%})"
    )


def _rate(operations: float, seconds: float) -> str:
    return f"{operations / 1e9:,.1f} GFLOP in {seconds:.3f} s, {operations / seconds / 1e9:,.1f} GFLOP/s"


def problem(record: dict[str, Any]) -> str | None:
    """What is wrong with the steps that were timed, whatever their time."""
    for name, loss in record["losses"].items():
        if not math.isfinite(loss):
            return f"{name}: the loss is {loss}"
    for kind in ("plain", "set"):
        kept, again = (record["losses"][f"{kind}, {recompute}"] for recompute in ("none", "full"))
        if not np.isclose(kept, again, rtol=1e-3 if record["shape"]["precision"] == "bf16" else 1e-6):
            return f"{kind}: the loss is {kept} without recompute and {again} with it"
    return None


def main(words: Sequence[str]) -> int:
    """Run, print the table and, last, the JSON line; the exit status."""
    return run(__doc__, Settings, words, measure=measure, show=show, problem=problem, on_gpu=ON_GPU)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
