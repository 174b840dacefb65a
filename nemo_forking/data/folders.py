"""A folder that is either complete or not there: written aside, then renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_forking.errors import UserError
from nemo_forking.files import flush, flush_all
from nemo_forking.storage import storing


@contextmanager
def written_aside(folder: Path, mark: str, key: str = "data.folder") -> Iterator[Path]:
    """Give an empty folder to write in, which becomes `folder` when the block ends without an error.

    What a killed run left behind is cleared by the next one. A folder that is there already is replaced, if it is one
    of ours. A second process that prepares the same folder at the same time is refused.

    Args:
        folder: final place; parents are made.
        mark: name of a file that every complete folder of this kind holds; a folder without it is never replaced.
        key: of the configuration, which names the folder; for messages.

    Raises:
        UserError: `folder` holds something else, another process is at work on it, or the disk is full or read-only.
    """
    if folder.exists() and not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is no prepared data (it lacks {mark}); remove it or set {key}")
    with storing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = folder.with_name(f".{folder.name}.partial")
        aside.mkdir(exist_ok=True)
        lock = os.open(aside, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the system when the process dies
            except BlockingIOError:
                raise UserError(f"another process is preparing {folder}; wait for it, or set {key}") from None
            try:
                _clear(aside)
                yield aside
                flush_all(aside)
                _replace(folder, aside)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
        finally:
            os.close(lock)


def _replace(folder: Path, aside: Path) -> None:
    """Rename `aside` to `folder`; two renames where a folder is there, since a full one cannot be renamed over."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if folder.exists():
        os.rename(folder, old)
    os.rename(aside, folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
