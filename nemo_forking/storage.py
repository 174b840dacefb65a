"""Full disks, quotas, read-only folders: told as what they are, whoever met them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_forking.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
BROKEN = (errno.EFBIG, errno.EIO)
NAMED = (errno.EACCES, errno.EPERM)  # which reading, sockets and signals meet too: told where they name what is written
TEXTS = {os.strerror(code): code for code in (*FULL, errno.EROFS, errno.EFBIG, errno.EIO)}
WRITING = (
    "PytorchStreamWriter",
    "file write failed",
    "iostream",
)  # libraries that keep the system's reason to themselves
LITTLE = 2**20  # bytes; with less left, such a failure was for want of room


@contextmanager
def storing(folder: Path | str) -> Iterator[None]:
    """Inside, something is written to `folder`; what the file system refuses becomes a UserError that says so."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # torch's CheckpointException is none of Exception's
        if told := storage_error(error, Path(folder)):
            raise told from error
        raise


def storage_error(error: BaseException, folder: Path) -> UserError | None:
    """The error for users where a file system's refusal is behind `error`; None where it is not."""
    for reason in _reasons(error):
        code = reason.errno if isinstance(reason, OSError) else _code_in(reason, folder)
        named = getattr(reason, "filename", None)
        where = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None
        if code in NAMED and not (where and _on_one_path(where.absolute(), folder.absolute())):
            continue
        if code in (*FULL, *REFUSED, *BROKEN):
            return UserError(_message(code, where or folder, folder))
    return None


def _on_one_path(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _message(code: int, where: Path, folder: Path) -> str:
    there = _existing(where if where.is_absolute() else folder)
    goes_on = "then start the same command again: it goes on from what is complete"
    if code in FULL:
        left = shutil.disk_usage(there).free / 2**20
        room = f"{left:,.1f} MiB left" if code == errno.ENOSPC else "quota used up"
        return f"{where}: no space on the disk ({room}); nothing complete was lost. remedy: make room there, {goes_on}"
    if code in REFUSED:
        return (
            f"{where}: cannot be written ({os.strerror(code)}); nothing was lost. remedy: make {there} writable (its "
            f"file system may be mounted read-only), {goes_on}; or choose another folder"
        )
    return f"{where}: cannot be written ({os.strerror(code)}). remedy: have the disk or its limits looked at, {goes_on}"


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _reasons(error: BaseException, seen: set[int] | None = None) -> Iterator[BaseException]:
    """An error and all that stand behind it."""
    seen = set() if seen is None else seen
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    behind = [error.__cause__, error.__context__, *error.args]
    failures = getattr(error, "failures", None)  # of torch's CheckpointException: rank -> (error, traceback)
    if isinstance(failures, dict):
        behind += [part for failure in failures.values() for part in failure]
    for reason in behind:
        if isinstance(reason, BaseException):
            yield from _reasons(reason, seen)


def _code_in(error: BaseException, folder: Path) -> int | None:
    """The system's error in the text of another library's."""
    text = str(error)
    found = [code for words, code in TEXTS.items() if words in text]
    if not found and isinstance(error, RuntimeError) and any(name in text for name in WRITING):
        found = [errno.ENOSPC] if shutil.disk_usage(_existing(folder)).free < LITTLE else []
    return found[0] if found else None
