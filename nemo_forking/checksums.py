"""What `checksums.json` of a checkpoint or model says of its files, and whether they still are so. Needs no torch."""

import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nemo_forking.files import file_hash

SUMS, CRC = "checksums.json", "crc32"


def with_crc(record: Mapping) -> str:
    """A JSON object on one line, which ends in the CRC-32 of all before: see `checked`."""
    text = json.dumps(record)
    return f'{text[:-1]}, "{CRC}": "{_crc(text)}"}}'


def checked(text: str) -> dict:
    """The object of `with_crc`, without its CRC; one that has none is taken as it is.

    Raises ValueError where this is no JSON object, or not the one that was written.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    told = record.pop(CRC, None)
    if told is not None and told != _crc(json.dumps(record)):
        raise ValueError("its checksum differs")
    return record


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def record_problem(path: Path) -> str | None:
    """What is wrong with one file of a sealed folder; None where it is whole, or where nothing was sealed."""
    files = sums_where_sealed(path.parent)
    if isinstance(files, str):
        return files
    return difference(path, files[path.name]) if path.name in files else None


def folder_problems(folder: Path, largest: int | None = None) -> list[str]:
    """What of a sealed folder is not as it was written, a line a file; nothing where it was never sealed.

    Reads several files at a time; of those of more than `largest` bytes only the size.
    """
    files = sums_where_sealed(folder)
    if isinstance(files, str):
        return [files]

    def problem(name: str) -> str | None:
        facts = files[name]
        return difference(folder / name, facts, hashed=largest is None or facts["bytes"] <= largest)

    with ThreadPoolExecutor(8) as pool:
        return [line for line in pool.map(problem, sorted(files)) if line]


def untold(folder: Path, files: Mapping) -> list[str]:
    """A line for each file that the checksums do not tell of."""
    there = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
    return [f"{SUMS} does not tell of {name}" for name in there if name not in files and name != SUMS]


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


def sums_where_sealed(folder: Path) -> dict | str:
    """As `read_sums`; nothing of a folder that has none."""
    return read_sums(folder) if (folder / SUMS).exists() else {}


def difference(path: Path, facts: dict, hashed: bool = True) -> str | None:
    """How a file differs from its facts, or only from its size unless `hashed`; None where it does not."""
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            return f"{path.name} has {size} bytes, {facts['bytes']} were written, says {SUMS}"
        if hashed and file_hash(path) != facts["sha256"]:
            return f"{path.name} is not what was written (its SHA-256 differs from that in {SUMS})"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None
