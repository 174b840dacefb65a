"""What `checksums.json` of a checkpoint says of its files, and whether they still are so. Needs no torch."""

import json
from pathlib import Path

from nemo_forking.files import file_hash

SUMS = "checksums.json"


def record_problem(path: Path) -> str | None:
    """What is wrong with one file of a sealed folder; None where it is whole, or where nothing was sealed."""
    files = read_sums(path.parent) if (path.parent / SUMS).exists() else {}
    if isinstance(files, str):
        return files
    return difference(path, files[path.name]) if path.name in files else None


def file_facts(path: Path) -> dict:
    """Size and SHA-256 of a file, as `checksums.json` has them."""
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def read_sums(folder: Path) -> dict | str:
    """The checksums, or what is wrong with them."""
    try:
        files = json.loads((folder / SUMS).read_text())
        good = all(facts.keys() == {"bytes", "sha256"} for facts in files.values()) and files
    except FileNotFoundError:
        return f"{SUMS} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"{SUMS} cannot be read ({error})"
    return files if good else f"{SUMS} is damaged"


def difference(path: Path, facts: dict) -> str | None:
    """How a file differs from its facts; None where it does not."""
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            return f"{path.name} has {size} bytes, {facts['bytes']} were written"
        if file_hash(path) != facts["sha256"]:
            return f"{path.name} is not what was written (its SHA-256 differs)"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None
