"""The status in words and figures, for terminal and page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nemo_forking.status.run import Rank, RunStatus

SAID = {
    "not started": "not started",
    "running": "running",
    "silent": "silent: its processes were killed, or their node is gone; the same command goes on",
    "hung": "hung and ended; the same command goes on",
    "failed": "ended with an error",
    "stopped": "stopped; the same command goes on",
    "finished": "finished",
}
GOOD, FAIR, BAD = "good", "fair", "bad"
TONES = {"running": GOOD, "finished": GOOD, "not started": FAIR, "stopped": FAIR}
METRICS = (  # key, label, unit, scale
    ("loss", "Loss", "", 1),
    ("cost_mean", "Cost of the matching", "nats per token", 1),
    ("reward", "Reward", "%", 100),
    ("assignment_entropy_bits", "Entropy of the assignment", "bits", 1),
    ("tag_entropy", "Entropy of the tags", "nats", 1),
    ("change_rate", "Traces with another tag", "%", 100),
    ("grad_norm", "Gradient norm", "", 1),
    ("tokens_per_s", "Speed", "tokens/s", 1),
    ("peak_memory_gib", "Memory, worst rank", "GiB", 1),
)


def facts(run: RunStatus) -> list[tuple[str, str, str]]:
    """(label, words, tone) of everything there is to say; tone "" is plain."""
    rows = [("state", SAID[run.state], TONES.get(run.state, BAD)), ("progress", _progress(run), "")]
    if run.seconds_per_step:
        rows.append(("speed", _speed(run), ""))
    if run.age is not None:
        slow = run.state == "running" and run.seconds_per_step and run.age > 10 * run.seconds_per_step + 60
        rows.append(("last step", ago(run.age), FAIR if slow else ""))
    rows += [("now", text, "") for text in (_now(run.ranks) if run.state == "running" else ())]
    rows.append(("checkpoint", *_checkpoint(run)))
    if run.damaged:
        rows.append(("damaged", f"{', '.join(run.damaged)} in checkpoints/: put aside, not used", BAD))
    for slow in run.stragglers:
        text = f"rank {slow.rank} ({slow.node}) in {slow.phase}: +{slow.excess:.0%}, {slow.share:.0%} of the last steps"
        rows.append(("straggler", text, FAIR))
    if run.hangs:
        rows.append(("hangs", f"{len(run.hangs)}, the last one:\n{run.hangs[-1]}", BAD))
    if run.error:
        rows.append(("last error", tail(run.error), BAD if run.state == "failed" else FAIR))
    return rows


def measures(run: RunStatus) -> list[tuple[str, str, list[int], list[float]]]:
    """(label, last value with its unit, steps, their values) of what the run records and is finite."""
    found = []
    for key, label, unit, scale in METRICS:
        known = [(line["step"], scale * line[key]) for line in run.lines if _finite(line.get(key))]
        if known:
            steps, values = map(list, zip(*known, strict=True))
            found.append((label, f"{number(values[-1])} {unit}".rstrip(), steps, values))
    return found


def parts(count: int, most: int) -> list[tuple[int, int]]:
    """A sequence of `count` in equal parts, at most so many: where each begins and ends."""
    some = min(count, most)
    edges = [count * place // some for place in range(some + 1)]
    return list(zip(edges, edges[1:], strict=False))


def duration(seconds: float) -> str:
    """20 ms, 1.5 s, 12 s, 5 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 0.995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(seconds: float) -> str:
    """How long something is past."""
    return "just now" if seconds < 2 else f"{duration(seconds)} ago"


def number(value: float) -> str:
    """Four figures or so: 1,234; 12.34; 0.01234; 1.2e-07."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if size >= 0.001 or size == 0 else f"{value:.1e}"


def tail(text: str, lines: int = 12) -> str:
    """The first line and the last ones."""
    all_lines = text.splitlines()
    return text if len(all_lines) <= lines else "\n".join([all_lines[0], "...", *all_lines[-lines + 2 :]])


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _progress(run: RunStatus) -> str:
    share = f" ({run.step / run.steps:.0%})" if run.steps else ""
    return f"{run.progress}{share}"


def _speed(run: RunStatus) -> str:
    parts = [f"{duration(run.seconds_per_step)} a step"]
    if tokens := run.last.get("tokens_per_s"):
        parts.append(f"{number(tokens)} tokens/s")
    if run.left is not None and run.state == "running":
        parts.append(f"{duration(run.left)} left")
    return ", ".join(parts)


def _checkpoint(run: RunStatus) -> tuple[str, str]:
    if run.checkpoint is None:
        return f"none yet; every {run.checkpoint_every} steps" if run.checkpoint_every else "none yet", ""
    age = f", written {ago(run.checkpoint_age)}" if run.checkpoint_age is not None else ""
    lost = run.step - run.checkpoint
    return f"step {run.checkpoint:,}{age}" + (f"; {lost:,} steps not saved" if lost > 0 else ""), ""


def _now(ranks: Sequence[Rank]) -> list[str]:
    """What ranks are at, those of a kind together; a few that are elsewhere by number."""
    groups: dict[tuple[str, int], list[Rank]] = {}
    for rank in ranks:
        groups.setdefault((rank.phase, rank.step), []).append(rank)
    told = []
    for (phase, step), members in groups.items():
        who = "all ranks" if len(members) == len(ranks) else f"{len(members)} of {len(ranks)} ranks"
        if 2 * len(members) < len(ranks) and len(members) <= 4:
            who = f"rank{'s' * (len(members) > 1)} {', '.join(str(rank.rank) for rank in members)}"
        where = f"{phase} (step {step})" if step else phase
        told.append(f"{who}: {where}, last progress {ago(min(rank.progress for rank in members))}")
    return told
