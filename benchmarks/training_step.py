"""The training step, forward and backward: tokens and FLOP a second against matrix products alone and Hugging Face's.

    python -m benchmarks.training_step [key=value ...]

Ours at every recompute setting, compiled or not, with float32 gradients, and transformers on the same layers and
weights as its Trainer would run them, in one run and in turn; planned beside measured peak memory. Exits with 1 if
losses or gradients differ. Needs Megatron-Core and transformers, not NeMo; runs on the GPU where there is one.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.settings import WIDTHS_32B, ModelSettings, model_line, run
from nemo_forking.config.fields import key
from nemo_forking.errors import UserError
from nemo_forking.training import quiet

TOLERANCE = {"fp32": (1e-5, 1e-3), "bf16": (1e-2, 2e-1)}  # relative: of the loss, of the worst tensor's gradient
WIDTH = 110  # characters of the table
PLAIN = {
    "plain, keeping all": "transformers, full logits, nothing recomputed",
    "plain": "transformers, full logits, gradient checkpointing",
    "plain, our loss": "transformers, gradient checkpointing, with this project's chunked loss",
}  # the one that needs most memory first

ON_GPU = {
    "layers": 4,
    **WIDTHS_32B,
    "vocabulary": 9504,
    "lengths": (8192, 32768),
    "prompt": 300,
    "compile": (False, True),
    "precision": "bf16",
    "repeats": 5,
}  # few of its layers, and a vocabulary that is as much less


@dataclass(frozen=True)
class Settings(ModelSettings):
    """Model, sequences and ways; lengths are over 8 too."""

    lengths: tuple[int, ...] = key(
        "tokens of the one sequence of a step; each is measured", default=(1024, 4096), at_least=2
    )
    prompt: int = key("of them the prompt, which is not learnt", default=37, at_least=1)
    recompute: tuple[Literal["none", "selective", "full"], ...] = key(
        "ours: what is computed again", default=("none", "selective", "full")
    )
    compile: tuple[bool, ...] = key("ours: element-wise steps fused by torch.compile", default=(False,))
    profile: bool = key("where each way spends its time, by torch's profiler", default=False)


def measure(settings: Settings) -> dict[str, Any]:
    """The record that is printed: speed, memory and agreement of every way at every length.

    Raises UserError where a length has no room for the prompt, or nothing of ours is to be measured.
    """
    s = settings
    if min(s.lengths, default=0) <= s.prompt:
        raise UserError(f"lengths={list(s.lengths)}: each must be more than prompt={s.prompt}, and there must be one")
    if not s.recompute or not s.compile:
        raise UserError(f"recompute={list(s.recompute)} compile={list(s.compile)}: give at least one of each")
    with quiet.imports():
        from benchmarks import meter, models, training_ways

    size = models.Size.of(s, max_length=max(s.lengths))
    with models.one_process() as device, tempfile.TemporaryDirectory(prefix="training-step-") as folder:
        reference = models.write_transformers(size, Path(folder), device, s.seed)
        ours = {
            compiled: training_ways.Ours(models.read_megatron(size, Path(folder), device, s.chunk, compile=compiled))
            for compiled in s.compile
        }
        bench = training_ways.Bench(size, s, ours, training_ways.Plain(reference, s.chunk), device)
        lengths = [_measure(s, bench, tokens) for tokens in s.lengths]
    return {
        "benchmark": "training_step",
        **meter.machine(device),
        "shape": asdict(s),
        "lengths": lengths,
    }


def _measure(s: Settings, bench, tokens: int) -> dict[str, Any]:
    """The record of one length."""
    from benchmarks import meter, split, training_ways

    row = bench.row(tokens)
    every = bench.calls(row)
    first = bench.try_all(row)  # not timed: the meter slows it down, and it warms up
    calls = {name: call for name, call in every.items() if name in first}
    medians, times = meter.in_turn(calls, s.repeats, bench.device)
    products = training_ways.ceiling(bench.size, tokens, s.repeats, bench.device)  # while the device is warm
    ceiling, flops = max(products.values()), bench.model_flops(row)
    ways = {}
    for name, found in first.items():
        speed = flops / medians[name]
        ways[name] = asdict(found) | {
            "seconds": medians[name],
            "all_seconds": times[name],
            "tokens_per_second": row.length / medians[name],
            "flops_per_second": speed,
            "share": speed / ceiling,
            "time_ratio": medians[name] / medians["plain"] if "plain" in medians else None,
        }
    return {
        "tokens": row.length,
        "model_flops": flops,
        "products": products,
        "ceiling": ceiling,
        "ways": ways,
        "no_memory": [name for name in every if name not in first],
        "split": {name: split.shares(call, bench.device, s.vocabulary) for name, call in calls.items() if s.profile},
    }


def show(record: dict[str, Any]) -> None:
    """The record for people."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, WIDTH)
    console.print(f"{model_line(record)}; forward and backward, no optimizer step")
    for name, meaning in PLAIN.items():
        console.print(f"  {name}: {meaning}")
    for length in record["lengths"]:
        _show_length(console, length)


def _show_length(console, length: dict[str, Any]) -> None:
    from rich.table import Table

    console.print(
        f"\na sequence of {length['tokens']:,} tokens; matrix products alone: {length['ceiling'] / 1e12:,.4g} TFLOP/s"
    )
    table = Table("way", "seconds", "tokens/s", "TFLOP/s", "of products", "/ plain", "peak MB", "planned", "gradient")
    table.columns[0].no_wrap = True
    for name, way in length["ways"].items():
        planned = way["planned_bytes"]
        table.add_row(
            name,
            f"{way['seconds']:.3f}",
            f"{way['tokens_per_second']:,.0f}",
            f"{way['flops_per_second'] / 1e12:,.4g}",
            f"{way['share']:.1%}",
            "" if way["time_ratio"] is None else f"{way['time_ratio']:.2f}",
            f"{way['peak_bytes'] / 1e6:,.1f}",
            "" if planned is None else f"{planned / way['peak_bytes'] - 1:+.1%}",
            "" if way["gradient_difference"] is None else f"{way['gradient_difference']:.0e}",
        )
    console.print(table)
    for name in length["no_memory"]:
        console.print(f"{name}: the device's memory does not suffice")
    for name, split in length["split"].items():
        console.print(f"{name}: " + ", ".join(f"{part} {share:.0%}" for part, share in split.items()))


def disagreement(record: dict[str, Any]) -> str | None:
    """What is wrong when a loss or a gradient of ours is not the plain one, beyond rounding."""
    for_loss, for_gradient = TOLERANCE[record["shape"]["precision"]]
    for length in record["lengths"]:
        if not any(name in PLAIN for name in length["ways"]):
            return f"{length['tokens']} tokens: no plain way had the memory, so nothing was compared"
        for name, way in length["ways"].items():
            for what, difference, bound in (
                ("losses", way["loss_difference"], for_loss),
                ("gradients", way["gradient_difference"], for_gradient),
            ):
                if difference is not None and not difference <= bound:  # NaN is wrong too
                    return (
                        f"{length['tokens']} tokens: the {what} of {name} and of the plain model differ by "
                        f"{difference:.1e} relative: one of the two is wrong"
                    )
    return None


def main(words: Sequence[str]) -> int:
    """Run, print the tables and, last, the JSON line; the exit status."""
    return run(__doc__, Settings, words, measure=measure, show=show, problem=disagreement, on_gpu=ON_GPU)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
