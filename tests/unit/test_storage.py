"""What a file system refuses is told as that, and nothing else is."""

import errno
import os
from pathlib import Path

import pytest
from torch.distributed.checkpoint.api import CheckpointException

from nemo_forking.errors import UserError
from nemo_forking.files import alone
from nemo_forking.storage import storing


def refused(code: int, path: Path | None = None) -> OSError:
    return OSError(code, os.strerror(code), *([str(path)] if path else []))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO])
def test_what_only_a_file_system_says_needs_no_name(code, tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path}: .*remedy"), storing(tmp_path):
        raise refused(code)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_folder_without_permission_is_told_with_what_is_to_be_made_writable(code, tmp_path):
    folder = tmp_path / "runs" / "x"
    for path in (folder / "metrics.jsonl", tmp_path / "runs"):
        with pytest.raises(UserError, match=f"^{path}: cannot be written .*make {tmp_path} writable"), storing(folder):
            raise refused(code, path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_other_things_that_are_forbidden_are_not_taken_for_a_folder_that_is(code, tmp_path):
    for path in (None, Path("/elsewhere/model.safetensors")):  # a socket, a signal; a file to be read
        with pytest.raises(PermissionError), storing(tmp_path):
            raise refused(code, path)


def test_the_reason_is_found_behind_what_libraries_make_of_it(tmp_path):
    full, stack = refused(errno.ENOSPC), ()
    with pytest.raises(UserError, match="no space on the disk"), storing(tmp_path):
        raise CheckpointException("save", {1: (full, stack)})
    with pytest.raises(UserError, match="no space on the disk"), storing(tmp_path):
        raise RuntimeError("pwrite: No space left on device")


def test_a_lock_that_cannot_be_laid_is_told():
    lock = Path("/sys/kernel/.tests.lock")  # where not even root may make a file
    with pytest.raises(UserError, match=f"^{lock}: cannot be written .*remedy"), alone(lock, "tests"):
        pass
