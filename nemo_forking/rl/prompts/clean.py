"""RL prompts without repetitions and without questions of evaluation sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nemo_forking.engines.progress import track
from nemo_forking.evaluation.benchmarks.problem import Problem
from nemo_forking.files import write_aside
from nemo_forking.rl.prompts.overlap import Index
from nemo_forking.rl.prompts.prompt import Prompt
from nemo_forking.rl.prompts.text import answer_key, figures, key, words

SHOWN = 3  # examples of every reason on the console
REPEATED, CONFLICTING = "repeated", "conflicting answers"


@dataclass(frozen=True)
class Removed:
    """A prompt that was removed.

    Attributes:
        id: the prompt's.
        reason: "repeated", "conflicting answers", or how it overlaps an evaluation set, as "math500: shared words".
        other: id of the text it repeats or overlaps.
        cover: share of the other text's words that stand in the prompt.
    """

    id: str
    reason: str
    other: str
    cover: float


@dataclass(frozen=True)
class CleanReport:
    """What was removed from RL prompts, and why.

    Attributes:
        prompts: how many there were.
        kept: how many are left.
        evaluations: evaluation set -> its questions.
        removed: every removed prompt, in the prompts' order.
        counts: reason -> removed prompts.
        found: evaluation set -> how many of its questions stood in some prompt.
    """

    prompts: int
    kept: int
    evaluations: dict[str, int]
    removed: tuple[Removed, ...]
    counts: dict[str, int] = field(init=False)
    found: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", dict(sorted(Counter(each.reason for each in self.removed).items())))
        pairs = {(each.reason.partition(": ")[0], each.other) for each in self.removed}
        found = {name: sum(set_name == name for set_name, _ in pairs) for name in self.evaluations}
        object.__setattr__(self, "found", found)

    def write(self, path: Path) -> None:
        """Write everything as JSON; ids only, since some evaluation sets must not be shown in plain text."""
        write_aside(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    def print(self, console: Console | None = None) -> None:
        """Print counts by reason, with examples."""
        title = Text(f"{self.kept} of {self.prompts} RL prompts kept")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("Removed", no_wrap=True)
        table.add_column("Prompts", justify="right", no_wrap=True)
        table.add_column("Examples: prompt, the text it repeats, words covered", overflow="fold")
        for reason, count in self.counts.items():
            examples = [each for each in self.removed if each.reason == reason][:SHOWN]
            lines = "\n".join(f"{each.id}, {each.other}, {each.cover:.0%}" for each in examples)
            table.add_row(Text(reason), str(count), Text(lines))
        for name, questions in self.evaluations.items():
            if not self.found[name]:
                table.add_row(Text(f"{name}: nothing"), "0", Text(f"{questions} questions"))
        (console or Console()).print(table)


def clean(
    prompts: Sequence[Prompt], evaluations: Mapping[str, Sequence[Problem]], *, progress: str | None = None
) -> tuple[list[Prompt], CleanReport]:
    """Remove what must not be trained on, by the rules of `overlap` for evaluation sets.

    Of prompts with the same normalised text and figure the one of the smallest id is kept, so that the order of the
    files does not matter; where they are math questions with different answers, none is: all but one would be rewarded
    wrongly.

    Args:
        prompts: of one data set, ids all different.
        evaluations: name -> questions of an evaluation set.
        progress: label of the progress bar; None shows none.

    Returns:
        The prompts that are kept, in their order, and what was removed.
    """
    index = Index(evaluations)
    texts = {prompt.id: words(prompt.text) for prompt in prompts}
    groups: dict[tuple[str, str], list[Prompt]] = {}
    for prompt in prompts:  # by figure too: "find the area" with another drawing is another question
        groups.setdefault((key(texts[prompt.id]), figures(prompt.text)), []).append(prompt)
    removed: dict[str, Removed] = {}
    for group in track(groups.values(), len(groups), progress):
        first = min(group, key=lambda prompt: prompt.id)
        if found := index.find(texts[first.id], answer_key(first.gold)):
            reason = f"{found.set}: {found.reason}"
            removed |= {prompt.id: Removed(prompt.id, reason, found.id, found.cover) for prompt in group}
        elif len({answer_key(prompt.gold) for prompt in group}) > 1:
            last = max(group, key=lambda prompt: prompt.id)
            removed |= {prompt.id: Removed(prompt.id, CONFLICTING, first.id, 1.0) for prompt in group}
            removed[first.id] = Removed(first.id, CONFLICTING, last.id, 1.0)
        else:
            removed |= {each.id: Removed(each.id, REPEATED, first.id, 1.0) for each in group if each is not first}
    kept = [prompt for prompt in prompts if prompt.id not in removed]
    told = tuple(removed[prompt.id] for prompt in prompts if prompt.id in removed)
    sizes = {name: len(questions) for name, questions in evaluations.items()}
    return kept, CleanReport(len(prompts), len(kept), sizes, told)
