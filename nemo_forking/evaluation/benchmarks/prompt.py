"""Prompt templates: named fields in braces, everything else as it stands, so that LaTeX needs no escaping.

In the template of code problems a paragraph (blank lines around it) that begins with {stdin} or {functional} is there
for problems of that kind only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from nemo_forking.errors import UserError

LETTERS = "ABCD"
FIELDS = {
    "math": ("problem",),
    "many_ways": ("problem",),
    "choice": ("problem", *LETTERS),
    "code": ("problem", "starter_code"),
}
CODE_KINDS = ("stdin", "functional")


class PromptTemplate:
    """A template, checked.

    Args:
        text: the template.
        answer: kind of answer, which decides the fields.
        key: of the configuration, where it stands; for messages.

    Raises:
        UserError: a field does not occur in it.
    """

    def __init__(self, text: str, answer: str, key: str) -> None:
        self._text = text
        fields = FIELDS[answer]
        missing = [f"{{{field}}}" for field in fields if f"{{{field}}}" not in self._text]
        if missing:
            raise UserError(
                f"{key}: {', '.join(missing)} does not occur in it; the template of {answer} questions needs "
                f"{', '.join(f'{{{field}}}' for field in fields)}"
            )
        self._fields = re.compile("|".join(rf"\{{{field}\}}" for field in fields))

    def fill(self, values: Mapping[str, str], kind: str | None = None) -> str:
        """The prompt of one question; what stands in a value is never taken for a field.

        Args:
            values: field -> text.
            kind: of a code problem, chooses the paragraphs for it alone.
        """
        text = self._text if kind is None else _paragraphs(self._text, kind)
        return self._fields.sub(lambda field: values[field[0][1:-1]], text)


def template_hash(template: str) -> str:
    """SHA-256 of a template."""
    return hashlib.sha256(template.encode()).hexdigest()


def _paragraphs(template: str, kind: str) -> str:
    others = tuple(f"{{{other}}}" for other in CODE_KINDS if other != kind)
    kept = [paragraph for paragraph in template.split("\n\n") if not paragraph.startswith(others)]
    return "\n\n".join(paragraph.removeprefix(f"{{{kind}}}") for paragraph in kept)
