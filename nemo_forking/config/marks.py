"""Where every value comes from: the file and line that set it, and the mark at the end of that line.

    tokens: 1000   # paper
    questions: 4   # unpublished: 16 sequences a step in comments of the released code
    chunk: 1024    # ours

`paper`: published by the authors (paper, project page, README, released code). `ours`: our own choice.
`unpublished`: a guess at what the authors did, and what it is guessed from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

MARK = re.compile(r"#\s*(paper|ours|unpublished)\b\s*(?::\s*(.*?))?\s*$")
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Mark:
    """The origin of one value.

    Attributes:
        kind: paper, ours, unpublished, command line, or empty where the line has no mark.
        note: what follows the colon of the mark.
        file: path from the folder that holds conf/, empty for the command line.
        line: 1-based line of the key.
    """

    kind: str
    note: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.kind}: {self.note}" if self.note else self.kind

    @property
    def place(self) -> str:
        """File and line, or "command line"."""
        return f"{self.file}:{self.line}" if self.file else self.kind


def marks_in(path: Path, prefix: str, shown_as: str) -> dict[str, Mark]:
    """Dotted key -> mark of every leaf in one YAML file.

    Args:
        path: the file.
        prefix: dotted key under which Hydra puts the file's content, empty for the top.
        shown_as: how messages name the file.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    tree = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(tree, yaml.MappingNode):
        return {}
    marks = {}
    for keys, name, value in _leaves(tree, ()):
        if keys[0] == "defaults":
            continue
        block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        end = name.end_mark if block else value.end_mark
        found = MARK.search(lines[end.line][end.column :]) if end.line < len(lines) else None
        kind, note = (found[1], found[2] or "") if found else ("", "")
        dotted = ".".join((prefix, *keys) if prefix else keys)
        marks[dotted] = Mark(kind, note, shown_as, name.start_mark.line + 1)
    return marks


def _leaves(node: yaml.MappingNode, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], yaml.Node, yaml.Node]]:
    for name, value in node.value:
        keys = (*above, str(name.value))
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, keys)
        else:
            yield keys, name, value
