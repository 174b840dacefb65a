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
    return json.dumps({**record, CRC: _crc(record)})


def checked(text: str) -> dict:
    """The object of `with_crc`, without its CRC; one that has none is taken as it is.

    Raises ValueError where this is no JSON object, or not the one that was written.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    told = record.pop(CRC, None)
    if told is not None and told != _crc(record):
        raise ValueError("its checksum differs")
    return record


def _crc(record: Mapping) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def record_problem(path: Path) -> str | None:
    """What is wrong with one file of a sealed folder; None where it is whole, or where nothing was sealed."""
    files = read_sums(path.parent) if (path.parent / SUMS).exists() else {}
    if isinstance(files, str):
        return files
    return difference(path, files[path.name]) if path.name in files else None


def folder_problems(folder: Path, largest: int | None = None) -> list[str]:
    """What of a sealed folder is not as it was written, a line a file; nothing where it was never sealed.

    Reads several files at a time; of those of more than `largest` bytes only the size.
    """
    if not (folder / SUMS).exists():
        return []
    files = read_sums(folder)
    if isinstance(files, str):
        return [files]
    read = [name for name in sorted(files) if largest is None or files[name]["bytes"] <= largest]
    sizes = [f"{name} has another size than was written" for name in wrong_sizes(folder) if name not in read]
    with ThreadPoolExecutor(8) as pool:
        return sizes + [line for line in pool.map(lambda name: difference(folder / name, files[name]), read) if line]


def untold(folder: Path, files: Mapping) -> list[str]:
    """A line for each file that the checksums do not tell of."""
    there = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
    return [f"{SUMS} does not tell of {name}" for name in there if name not in files and name != SUMS]


def wrong_sizes(folder: Path) -> list[str]:
    """Names of a sealed folder's files that have not the size they were written with; reads none of them."""
    files = read_sums(folder)
    if isinstance(files, str):
        return [files]
    sizes = {name: (folder / name).stat().st_size if (folder / name).exists() else None for name in files}
    return [name for name, size in sizes.items() if size != files[name]["bytes"]]


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
            return f"{path.name} has {size} bytes, {facts['bytes']} were written, says {SUMS}"
        if file_hash(path) != facts["sha256"]:
            return f"{path.name} is not what was written (its SHA-256 differs from that in {SUMS})"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None
