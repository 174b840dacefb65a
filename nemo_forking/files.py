"""Files that are seen whole or not at all, and what is in them."""

import hashlib
import os
from pathlib import Path


def write_aside(path: Path, content: str | bytes) -> None:
    """Write a file under another name, push it to the disk, and rename it over `path`; parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
