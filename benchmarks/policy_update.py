"""GFPO's update against GRPO's on the same rollouts and weights in one run: time and peak memory.

    python -m benchmarks.policy_update [key=value ...]

An update is forward and backward (benchmarks/updates.py): GFPO's over prompts up to the fork, GRPO's over all tokens,
each as the project does it and on a Hugging Face model. Exits with 1 if their gradients differ. Needs Megatron-Core
and transformers, not NeMo; runs on the GPU where there is one.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.settings import WIDTHS_32B, ModelSettings, model_line, run
from nemo_forking.config.fields import key
from nemo_forking.errors import UserError
from nemo_forking.training import quiet

TOLERANCE = {"fp32": 1e-3, "bf16": 2e-1}  # relative, of the worst tensor; bf16 rounds sums over micro-batches too
GOAL = 20  # times faster than GRPO at completions of 4096 tokens
PLAIN = {"gfpo": "plain_gfpo", "gfpo_every": "plain_gfpo_every", "grpo": "plain_grpo", "grpo_recompute": "plain_grpo"}
TITLES = {
    "gfpo": "GFPO, drawn tags",
    "gfpo_every": "GFPO, every tag",
    "grpo": "GRPO",
    "grpo_recompute": "GRPO, recomputing",
    "plain_gfpo": "plain GFPO, drawn",
    "plain_gfpo_every": "plain GFPO, every",
    "plain_grpo": "plain GRPO",
}  # in the table's order

ON_CPU = {"hidden": 128, "ffn": 692, "heads": 4, "vocabulary": 3802, "chunk": 128}  # Qwen2.5-32B's widths over 40
ON_GPU = {
    "layers": 4,
    **WIDTHS_32B,
    "vocabulary": 152064,
    "questions": 4,
    "tags": 6,
    "rollouts": 6,
    "fork_pack": 1024,
    "chunk": 1024,
    "precision": "bf16",
    "repeats": 5,
}  # few of its layers


@dataclass(frozen=True)
class Settings(ModelSettings):
    """Model, rollouts and packs."""

    questions: int = key("questions Q of the batch", default=2, at_least=1)
    tags: int = key("tags N", default=4, at_least=1)
    rollouts: int = key("rollouts G of a question, each tag as often: a multiple of tags", default=4, at_least=2)
    prompt: int = key("tokens of a prompt, on average; they vary by 30 %", default=150, at_least=2)
    completions: tuple[int, ...] = key(
        "tokens of a completion; each length is measured", default=(512, 4096), at_least=1
    )
    pack: int | None = key("GRPO: tokens of a packed micro-batch; null for its longest row's", default=None, at_least=1)
    fork_pack: int | None = key(
        "GFPO: tokens of a packed micro-batch; null for its longest row's", default=None, at_least=1
    )
    rows: int = key("plain GRPO: rollouts of one forward, whose logits are all held", default=2, at_least=1)
    precision: Literal["fp32", "bf16"] = key("type of weights, activations and gradients", default="fp32")


def measure(settings: Settings) -> dict[str, Any]:
    """The record that is printed: seconds, peak bytes and gradients' agreement of every way, at every length.

    Raises UserError where a row does not fit its micro-batch, or tags cannot be tried equally often.
    """
    s = settings
    longest = _check(s)
    with quiet.imports():
        import torch

        from benchmarks import meter, models

    size = models.Size.of(s, max_length=longest)
    with models.one_process() as device, tempfile.TemporaryDirectory(prefix="policy-update-") as folder:
        reference = models.write_transformers(size, Path(folder), device, s.seed)
        model = models.read_megatron(size, Path(folder), device, s.chunk)
        for param in (*model.parameters(), *reference.parameters()):
            param.grad = torch.zeros_like(param)  # there before an update, as in training, and so not in its peak
        lengths = [_measure(s, tokens, size, model, reference, device) for tokens in s.completions]
    return {
        "benchmark": "policy_update",
        **meter.machine(device),
        "shape": asdict(s),
        "lengths": lengths,
    }


def _check(s: Settings) -> int:
    """The tokens of the longest row."""
    if s.rollouts % s.tags:
        raise UserError(f"rollouts={s.rollouts} is no multiple of tags={s.tags}: each tag is to be tried equally often")
    if not s.completions:
        raise UserError("completions=[] is empty: give at least one length, as in completions=[512,4096]")
    fork = max(map(len, random_prompts(s)))
    longest = fork + max(s.completions)  # the tag is read too, the last token is not
    for name, room, needed in (("fork_pack", s.fork_pack, fork), ("pack", s.pack, longest)):
        if room is not None and needed > room:
            raise UserError(f"{name}={room} is less than the longest row's {needed} tokens: raise it")
    return longest


def random_prompts(settings: Settings) -> list[np.ndarray]:
    """Prompts of random tokens; the last rows of the vocabulary are the tags'."""
    s, random = settings, np.random.default_rng(settings.seed)
    low, high = max(1, int(0.7 * s.prompt)), int(1.3 * s.prompt)
    return [random.integers(0, s.vocabulary - s.tags, random.integers(low, high + 1)) for _ in range(s.questions)]


def _measure(s: Settings, tokens: int, size, model, reference, device) -> dict[str, Any]:
    """The record of one length of completions."""
    from benchmarks import meter, steps, updates

    tags = steps.last_tags(s.vocabulary, s.tags)
    given = updates.random_rollouts(model, random_prompts(s), tags, s.rollouts, tokens, s.seed)
    fork, every, whole = updates.gfpo(given, every=False), updates.gfpo(given, every=True), updates.grpo(given)
    calls: dict[str, Callable[[], None]] = {  # the plain one first, so that its gradients are there to compare with
        "plain_gfpo": partial(updates.plain_gfpo, reference, given, every=False),
        "gfpo": partial(updates.ours, model, fork, s.fork_pack),
        "plain_gfpo_every": partial(updates.plain_gfpo, reference, given, every=True),
        "gfpo_every": partial(updates.ours, model, every, s.fork_pack),
        "plain_grpo": partial(updates.plain_grpo, reference, given, s.rows),
        "grpo": partial(updates.ours, model, whole, s.pack),
        "grpo_recompute": partial(updates.ours, model, whole, s.pack, recompute="full"),
    }
    peaks, difference = {}, {}
    for name, call in calls.items():  # not timed: the meter slows it down, and it warms up
        peaks[name], _ = meter.peak_bytes(call, device)
        if name in PLAIN:
            difference[name] = steps.gradient_difference(model, reference)
    medians, times = meter.in_turn(calls, s.repeats, device)
    done = updates.work(given, fork, whole, (s.fork_pack, s.pack), s.rows)
    return {
        "completion": tokens,
        "ways": {
            n: {"seconds": medians[n], "all_seconds": times[n], "peak_bytes": peaks[n], **done[n]} for n in TITLES
        },
        "time_ratio": {name: medians[name] / medians["gfpo"] for name in TITLES},
        "memory_ratio": {name: peaks[name] / peaks["gfpo"] for name in TITLES},
        "arithmetic": updates.arithmetic(size, fork, whole),
        "gradient_difference": difference,
    }


def show(record: dict[str, Any]) -> None:
    """The record for people."""
    from rich.console import Console

    s = record["shape"]
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{s['questions']} questions, each {s['rollouts']} rollouts; prompts of about {s['prompt']} tokens")
    console.print(f"{model_line(record)}; forward and backward, no optimizer step")
    for length in record["lengths"]:
        _show_length(console, length)


def _show_length(console, length: dict[str, Any]) -> None:
    from rich.table import Table

    console.print(f"\ncompletions of {length['completion']:,} tokens")
    table = Table("way", "tokens", "at once", "seconds", "peak MB", "x time", "x memory")  # x: times GFPO's
    table.columns[0].no_wrap = True
    for name, way in length["ways"].items():
        table.add_row(
            TITLES[name],
            f"{way['tokens']:,}",
            f"{way['at_once']:,}",
            f"{way['seconds']:.3f}",
            f"{way['peak_bytes'] / 1e6:,.1f}",
            f"{length['time_ratio'][name]:.1f}",
            f"{length['memory_ratio'][name]:.1f}",
        )
    console.print(table)
    expected, time, memory = length["arithmetic"], length["time_ratio"]["grpo"], length["memory_ratio"]["grpo"]
    console.print(
        f"by count GRPO reads {expected['tokens']:.0f} times GFPO's tokens and multiplies {expected['operations']:.0f} "
        f"times as often\nmeasured: {time:.1f} times its time (goal at 4,096 tokens: {GOAL}), {memory:.1f} times its "
        "peak above weights and gradients\ngradients agree with the plain ones in every tensor to "
        f"{max(length['gradient_difference'].values()):.1e} relative"
    )


def disagreement(record: dict[str, Any]) -> str | None:
    """What is wrong when a gradient of ours is not the plain one, beyond rounding."""
    for length in record["lengths"]:
        for name, difference in length["gradient_difference"].items():
            if not difference <= TOLERANCE[record["shape"]["precision"]]:  # NaN is wrong too
                return (
                    f"completions of {length['completion']} tokens: the gradients of {TITLES[name]} and of "
                    f"{TITLES[PLAIN[name]]} differ by {difference:.1e} relative: one of the two is wrong"
                )
    return None


def main(words: Sequence[str]) -> int:
    """Run, print the tables and, last, the JSON line; the exit status."""
    return run(__doc__, Settings, words, measure=measure, show=show, problem=disagreement, on_cpu=ON_CPU, on_gpu=ON_GPU)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
