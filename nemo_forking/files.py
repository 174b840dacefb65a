"""Files that are seen whole or not at all, and what is in them."""

import errno
import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_forking.errors import UserError
from nemo_forking.storage import storing


def write_aside(path: Path, content: str | bytes) -> None:
    """Write a file under another name, push it to the disk, and rename it over `path`; parents are made.

    Raises UserError where the disk is full, or the folder not to be written.
    """
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.partial")
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        flush(path.parent)


def flush(path: Path) -> None:
    """Push a file, or a folder's list of names, to the disk: a rename outlives a crash of the machine only then."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that know no such thing of folders
            raise
    finally:
        os.close(handle)


def flush_all(folder: Path) -> None:
    """Push all that a folder holds to the disk, before a rename makes it count."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs: of several processes, on all machines that see the file, one is inside.

    The system frees the lock when its holder dies, whatever the file still says.

    Args:
        lock: the file, which says who holds it; parents are made.
        what: what is done inside, for the message: "process 7 on node1 <what>".

    Raises:
        UserError: another process is inside, or the file is not to be written.
    """
    while True:
        with storing(lock.parent):
            lock.parent.mkdir(parents=True, exist_ok=True)
            opened = lock.open("a+")
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read() or "another process"
                raise UserError(f"{who} {what} at this moment; wait for its end, or choose another folder") from None
            except OSError:
                pass  # a file system without locks
            if not _is_at(lock, file.fileno()):
                continue  # its holder took it away after it was opened here
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
