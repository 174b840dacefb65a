"""The matching pass against a plain Hugging Face loop, on the same weights in one run: time and peak memory.

    python -m benchmarks.matching [key=value ...]

Three ways to the same costs (benchmarks/ways.py): ours, one padded forward a pair, and batches of pairs. Exits with 1
if their costs differ. Needs Megatron-Core and transformers, not NeMo; runs on the GPU where there is one.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import WIDTHS_32B, ModelSettings, model_line, run
from nemo_forking.config.fields import key
from nemo_forking.errors import UserError
from nemo_forking.training import quiet

TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}  # relative; bf16 rounds hidden states to 3 digits

ON_CPU = {"layers": 4, "hidden": 128, "ffn": 384, "heads": 4, "groups": 2, "vocabulary": 152064, "chunk": 128}
ON_GPU = {
    "layers": 4,
    **WIDTHS_32B,
    "vocabulary": 152064,
    "questions": 4,
    "prompt": 300,
    "prefix": 1000,
    "pack": 1408,
    "chunk": 256,
    "rows": 8,
    "precision": "bf16",
    "repeats": 5,
}  # few of its layers; a pack of one row, so that the peak shows what the loop's logits take


@dataclass(frozen=True)
class Settings(ModelSettings):
    """Model, rows and packs."""

    questions: int = key("questions Q of the step", default=1, at_least=1)
    tags: int = key("tags N", default=6, at_least=1)
    traces: int = key("traces M of every question", default=4, at_least=1)
    prompt: int = key("tokens of a prompt, on average; they vary by 30 %", default=60, at_least=2)
    prefix: int = key("tokens T_r of a trace that count; traces are 0.5 to 1.5 times as long", default=200, at_least=2)
    pack: int = key("ours: tokens of a packed micro-batch", default=4096, at_least=1)
    rows: int = key("batched: pairs of one forward", default=4, at_least=1)


def measure(settings: Settings) -> dict[str, Any]:
    """The record that is printed: seconds, peak bytes and costs of every way at this shape.

    Raises UserError where a row does not fit a packed micro-batch.
    """
    with quiet.imports():
        from benchmarks import meter, models, ways

    s, rows = settings, random_rows(settings)
    longest = max(len(row.ids) for row in rows)
    if longest > s.pack:
        raise UserError(f"pack={s.pack} is less than the longest row's {longest} tokens: raise it, or lower prefix")
    size = models.Size.of(s, max_length=s.pack)
    with models.one_process() as device, tempfile.TemporaryDirectory(prefix="matching-") as folder:
        reference = models.write_transformers(size, Path(folder), device, s.seed)
        model = models.read_megatron(size, Path(folder), device, s.chunk)
        calls: dict[str, Callable[[], Any]] = {
            "ours": lambda: ways.ours(model, rows, s.pack),
            "plain": lambda: ways.plain(reference, rows),
            "batched": lambda: ways.batched(reference, rows, s.rows),
        }
        peaks, costs = {}, {}
        for name, call in calls.items():  # not timed: the meter slows it down, and it warms up
            peaks[name], cost_R = meter.peak_bytes(call, device)
            costs[name] = cost_R.cpu().numpy()
        medians, times = meter.in_turn(calls, s.repeats, device)
    done = ways.work(rows, s.pack, s.rows)
    others = [name for name in calls if name != "ours"]
    cost_NR = costs["ours"].reshape(s.questions, s.tags, s.traces)
    return {
        "benchmark": "matching",
        **meter.machine(device),
        "shape": asdict(s),
        "pairs": len(rows),
        "ways": {n: {"seconds": medians[n], "all_seconds": times[n], "peak_bytes": peaks[n], **done[n]} for n in calls},
        "time_ratio": {name: medians["ours"] / medians[name] for name in others},
        "memory_ratio": {name: peaks["ours"] / peaks[name] for name in others},
        "cost_difference": {name: float(np.abs(costs["ours"] / costs[name] - 1).max()) for name in others},
        "cost_spread": float((cost_NR.max(1) - cost_NR.min(1)).max() / cost_NR.mean()),
    }


def random_rows(settings: Settings) -> list:
    """All Q x N x M rows of random tokens, cut as the set step cuts them."""
    from benchmarks.steps import last_tags
    from nemo_forking.data.token_file import Question, Trace
    from nemo_forking.training.step import matching_rows

    s, random = settings, np.random.default_rng(settings.seed)
    tags = last_tags(s.vocabulary, s.tags)

    def tokens(low: float, high: float) -> np.ndarray:
        return random.integers(0, min(tags.fork_ids), random.integers(max(1, int(low)), int(high) + 1))

    questions = []
    for q in range(s.questions):
        traces = tuple(Trace(ids=tokens(0.5 * s.prefix, 1.5 * s.prefix), teacher=m) for m in range(s.traces))
        questions.append(Question(q, f"q{q}", tokens(0.7 * s.prompt, 1.3 * s.prompt), traces))
    return matching_rows(questions, tags, s.prefix, include_tag=False)


def show(record: dict[str, Any]) -> None:
    """The record for people."""
    from rich.console import Console
    from rich.table import Table

    s = record["shape"]
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{record['pairs']} pairs = {s['questions']} questions x {s['tags']} tags x {s['traces']} traces; "
        f"prompts of about {s['prompt']} tokens, T_r = {s['prefix']}"
    )
    console.print(model_line(record))
    table = Table("way", "tokens", "in the head", "seconds", "peak MB", "ours is faster", "in memory")
    for name, way in record["ways"].items():
        cells = [
            f"{way['tokens']:,}",
            f"{way['head_tokens']:,}",
            f"{way['seconds']:.3f}",
            f"{way['peak_bytes'] / 1e6:,.1f}",
        ]
        if name in record["time_ratio"]:
            times, memory = record["time_ratio"][name], record["memory_ratio"][name]
            cells += [f"{1 / times:.2f}x", f"1/{1 / memory:.1f}" if memory < 1 else f"{memory:.1f}x"]
        table.add_row(name, *cells)
    console.print(table)
    console.print(
        f"costs agree to {max(record['cost_difference'].values()):.1e}; between the tags of a trace they differ by up "
        f"to {record['cost_spread']:.1e} (both relative); the peak is above the weights"
    )


def disagreement(record: dict[str, Any]) -> str | None:
    """What is wrong when a way's costs are not ours, beyond rounding."""
    for name, difference in record["cost_difference"].items():
        if not difference <= TOLERANCE[record["shape"]["precision"]]:  # NaN is wrong too
            return f"the costs of {name} and ours differ by {difference:.1e} relative: one of the two is wrong"
    return None


def main(words: Sequence[str]) -> int:
    """Run, print the table and, last, the JSON line; the exit status."""
    return run(__doc__, Settings, words, measure=measure, show=show, problem=disagreement, on_cpu=ON_CPU, on_gpu=ON_GPU)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
