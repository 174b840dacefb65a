"""What the headers of a Hugging Face folder's safetensors files tell: which tensors, and whether whole.

A safetensors file is 8 bytes (length of the header, little-endian), the header (JSON: name -> dtype, shape, first and
last byte), and the bytes of the tensors. Nothing but the headers is read, by the standard library alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from nemo_forking.errors import UserError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of a number; what weights may be
BYTES = FLOATS | {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: its file, safetensors dtype, shape, and its bytes from `start` to `end` of the file."""

    file: Path
    dtype: str
    shape: Shape
    start: int
    end: int


def tensor_entries(folder: str | Path) -> dict[str, Entry]:
    """Name -> entry of every tensor of a Hugging Face folder, by its index where it has one.

    Raises:
        UserError: no weights there, a file missing or damaged, or an index that does not say what its files hold.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            raise UserError(
                f"{folder}: no *.safetensors there; export the weights in Hugging Face format ({SINGLE}, or {INDEX} "
                "and the files it names)"
            )
        return read_header(folder / SINGLE)
    files = _index(folder / INDEX)
    entries: dict[str, Entry] = {}
    for name in sorted(set(files.values())):
        if not (folder / name).is_file():
            held = min(tensor for tensor, file in files.items() if file == name)
            raise UserError(f"{folder / INDEX}: names {name}, which is not there (tensor {held}, ...); copy it too")
        entries |= {key: entry for key, entry in read_header(folder / name).items() if files.get(key) == name}
    if missing := sorted(files.keys() - entries.keys()):
        raise UserError(
            f"{folder / files[missing[0]]}: lacks tensor {missing[0]}, which {INDEX} says it holds (as "
            f"{len(missing)} in all); the files are of different exports: copy all of them from one place"
        )
    return entries


def read_header(file: Path) -> dict[str, Entry]:
    """Name -> entry of every tensor in one safetensors file.

    Raises:
        UserError: the file is no safetensors file, is shorter or longer than its header says, or a tensor's bytes are
            not those of its shape; the message names the file and, where it is one tensor, that tensor.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _damaged(file, f"it has {size:,} bytes, but its header would end at byte {length + 8:,}")
        text = stream.read(length)
    entries, end = _parsed(file, text), 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        wanted = math.prod(entry.shape) * BYTES.get(entry.dtype, 0)
        if entry.dtype in BYTES and entry.end - entry.start != wanted or entry.start != end:
            raise _damaged(
                file,
                f"tensor {name}, {entry.dtype} of shape {entry.shape}, is said to lie in bytes {entry.start:,} to "
                f"{entry.end:,}; expected {wanted:,} bytes from {end:,} on",
            )
        if entry.end > size:
            raise _damaged(
                file,
                f"cut off inside tensor {name} of shape {entry.shape}, which ends at byte {entry.end:,}: the file has "
                f"{size:,} bytes",
            )
        end = entry.end
    if size != end:
        raise _damaged(file, f"it has {size:,} bytes, its header tells of {end:,}")
    return entries


def _parsed(file: Path, text: bytes) -> dict[str, Entry]:
    try:
        rows = json.loads(text)
        rows.pop("__metadata__", None)
        entries = {}
        for name, row in rows.items():
            start, end = (8 + len(text) + int(at) for at in row["data_offsets"])
            entries[name] = Entry(file, str(row["dtype"]), tuple(int(size) for size in row["shape"]), start, end)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(file, f"its header is not readable ({error!r})") from None
    return entries


def _damaged(file: Path, why: str) -> UserError:
    return UserError(f"{file}: not a whole safetensors file: {why}; copy or download it again")


def _index(file: Path) -> dict[str, str]:
    """Tensor -> name of its file."""
    try:
        files = dict(json.loads(file.read_text(encoding="utf-8"))["weight_map"])
        if not all(isinstance(name, str) and Path(name).name == name for name in files.values()):
            raise ValueError("a tensor's file is no plain name")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not an index of safetensors files ({error!r}); copy it again") from None
    return files
