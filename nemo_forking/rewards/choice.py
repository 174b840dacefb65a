"""Multiple choice: the letter a completion ends up stating.

The prompt asks for a last line `Answer: $LETTER` (paper section 3), and models dress that up: bold, boxed, in brackets,
in a sentence. A letter counts only where the text says that it is the answer, and the last such statement wins.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from nemo_forking.errors import UserError
from nemo_forking.rewards.boxes import boxes
from nemo_forking.rewards.verdict import Graded, Grader, Item, compared

_STYLE = re.compile(r"\\(?:text|math|operatorname)(?:bf|rm|it|sf|tt|normal)?\s?\{([^{}]{0,500})\}")
_MARKS = re.compile(r"\*\*|__|[`$]|\\[()\[\],;!]|\\q?quad\b|\\ ")


class ChoiceGrader(Grader):
    """Compares the stated letter with the gold's, in this process."""

    def __init__(self, letters: str = "ABCD") -> None:
        self.letters = letters
        self._patterns = _patterns(letters)
        self._boxed = re.compile(
            rf"(?:answer|option|choice)?:? ?[(\[]?([{letters}])[)\]]?(?:[.:)]?\s.*)?\.?", re.I | re.S
        )

    def stream(self, items: Sequence[Item]) -> Iterator[tuple[str, Graded]]:
        for item in items:
            if item.gold not in tuple(self.letters):
                raise UserError(f"item {item.id}: gold is {item.gold!r}, which is none of the letters {self.letters}")
            yield item.id, compared(self.extract(item.completion), item.gold)

    def describe(self) -> dict[str, Any]:
        return {"name": "choice", "letters": self.letters}

    def extract(self, completion: str) -> str | None:
        """The letter of the last statement; None where nothing is stated."""
        text = plain(completion)
        stated = [(found.start(), found[found.lastgroup]) for p in self._patterns for found in p.finditer(text)]
        stated += [(start, found[1]) for start, _, box in boxes(text) if (found := self._boxed.fullmatch(box))]
        return max(stated)[1].upper() if stated else None


def plain(completion: str) -> str:
    """The completion without Markdown, dollar signs and font commands, and with single spaces and line breaks."""
    text = unicodedata.normalize("NFKC", completion)
    text = "".join(mark for mark in text if mark == "\n" or unicodedata.category(mark) not in ("Cc", "Cf"))
    for _ in range(3):  # fonts inside fonts
        text = _STYLE.sub(r"\1", text)
    text = _MARKS.sub("", text)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def _patterns(letters: str) -> list[re.Pattern[str]]:
    """The ways to state an answer, over plain text."""
    upper, either = f"[{letters}]", f"[{letters}{letters.lower()}]"
    alone = r"(?![\w=+\-'’^])"  # not D-glucose, C=O, B12
    not_a = "" if "A" not in letters else r"(?!(?<=A) (?!because|since|as |is |and |with )[a-z])"  # not: A decrease
    one = rf"(?! ?(?:,|/|&|and\b|or\b) ?[(\[]?{upper}\b)"  # not: B or C
    statement = (
        rf"(?P<upper>{upper}){alone}{not_a}{one}",
        rf"[(\[](?P<bracketed>{either})[)\]]{one}",
        rf"(?P<line>{either})[.)]?$",
    )
    stated = f"(?:{'|'.join(statement)})"
    kind = r"(?i:(?:the )?(?:correct )?(?:option|choice|letter)[ :]{0,2})?"
    answer = r"\b(?i:answer|(?:correct|right|best) (?:option|choice|one))\b"
    praise = r" (?i:is (?:the )?(?:correct|right|best)\b|is the answer\b)"
    patterns = [
        rf"{answer}[^.:=\n]{{0,60}}?(?:\b(?i:is|be)\b:?|[:=])\s?{kind}{stated}",
        rf"\b(?i:final answer)\n{kind}{stated}",
        rf"(?:(?<![\w(\[])(?P<upper>{upper})|[(\[](?P<bracketed>{either})[)\]]){praise}",
        rf"^[(\[]?(?P<upper>{upper})[)\]]?\.?\Z",  # the last line is the letter and nothing else
    ]
    return [re.compile(pattern, re.MULTILINE) for pattern in patterns]
