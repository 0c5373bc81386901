"""Full disks: which file did not fit, how much it needs, and how much is free."""

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from fastfashion.errors import DiskFullError, FastfashionError
from fastfashion.words import why

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NUMBER = re.compile(r"\(os error (\d+)\)")  # as libraries written in Rust say it, safetensors among them


@contextlib.contextmanager
def room_for(path: Path, num_bytes: int | None = None, written: Path | None = None) -> Iterator[None]:
    """Turn what says that the disk of `path` is full into a DiskFullError; `written`: where its `num_bytes` are written, if elsewhere."""
    try:
        yield
    except Exception as error:
        number = disk_full(error)
        if number is None or isinstance(error, FastfashionError):
            raise
        told = f"{path}: {why(OSError(number, ''))}: {_amounts(path, num_bytes, written)}; {_ADVICE[number]}"
        raise DiskFullError(told, number) from error


def disk_full(error: BaseException | None) -> int | None:
    """The errno of an error, or of its cause, if it means that a disk is full."""
    while error is not None:
        number = getattr(error, "errno", None)
        if number not in FULL and (found := _NUMBER.search(str(error))):
            number = int(found[1])
        if number in FULL:
            return int(number)
        error = error.__cause__
    return None


def _amounts(path: Path, num_bytes: int | None, written: Path | None) -> str:
    try:
        free = f"{_size(shutil.disk_usage(path if path.is_dir() else path.parent).free)} are free"
    except OSError:
        return "the free space is unknown"
    if num_bytes is not None:
        return f"{_size(num_bytes)} are needed, {free}"
    if written is not None and written.is_file():
        return f"more than {_size(written.stat().st_size)} are needed, {free}"
    return free


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


_AGAIN = "and run the same command again, or name another place"
_ADVICE = {
    errno.ENOSPC: f"free some space {_AGAIN}",
    errno.EDQUOT: f"free some of the quota {_AGAIN}",
    errno.EFBIG: f"raise the limit (ulimit -f) {_AGAIN}",
}
