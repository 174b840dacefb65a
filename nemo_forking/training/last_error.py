"""`last_error.txt` of a run folder: the error that ended a run, for those who look there and not at the logs."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from nemo_forking import pulse
from nemo_forking.errors import UserError

FILE = "last_error.txt"


@contextlib.contextmanager
def kept(folder: Path, rank: int) -> Iterator[None]:
    """Writes what the block raises, of the first rank that raises: the others' errors are mostly of broken connections.

    An end that was asked for (`Stopped`) is no error. Rank 0 removes what an earlier attempt left.
    """
    if rank == 0:
        with contextlib.suppress(OSError):
            (folder / FILE).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else traceback.format_exc()
        with contextlib.suppress(OSError), open(folder / FILE, "x") as file:
            file.write(f"rank {rank}, {pulse.now.phase} of step {pulse.now.step}: {text.rstrip()}\n")
        raise
