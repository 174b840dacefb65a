"""metrics.jsonl of a training run: an object a step, of the matching or of the policy."""

from __future__ import annotations

import json
from pathlib import Path

from nemo_forking.errors import UserError


def load_training(path: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl; none where there is no such file.

    Raises:
        UserError: a line is no JSON object.
    """
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict):
            raise UserError(f"{path}, line {number}: not JSON of a training step; remove that line")
        lines.append(line)
    return lines
