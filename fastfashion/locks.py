"""Locks on open files, which end with the process that holds them: flock, or on Windows the lock of one byte."""

import os
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL_S = 0.02
_BYTE = 1 << 30  # far behind what a lock file holds: on Windows, others cannot read a byte that is locked


def lock(file: int, *, wait: bool) -> bool:
    """Lock an open file for this process alone, by its descriptor; False if another has it and this is not to `wait`."""
    if fcntl is None:
        return _lock_byte(file, wait)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def unlock(file: int) -> None:
    """Release a lock. Closing is not enough, if a child of this process may have the file open, too."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_UN)
        return
    import msvcrt  # type: ignore[import-not-found, unused-ignore]

    _at_byte(file, msvcrt.LK_UNLCK)  # type: ignore[attr-defined, unused-ignore]


def _lock_byte(file: int, wait: bool) -> bool:
    import msvcrt  # type: ignore[import-not-found, unused-ignore]

    while True:
        try:
            _at_byte(file, msvcrt.LK_NBLCK)  # type: ignore[attr-defined, unused-ignore]
            return True
        except OSError:
            if not wait:
                return False
            time.sleep(POLL_S)


def _at_byte(file: int, mode: int) -> None:
    """msvcrt locks at the place where the file stands, which others of this process may be using."""
    import msvcrt  # type: ignore[import-not-found, unused-ignore]

    place = os.lseek(file, 0, os.SEEK_CUR)
    try:
        os.lseek(file, _BYTE, os.SEEK_SET)
        msvcrt.locking(file, mode, 1)  # type: ignore[attr-defined, unused-ignore]
    finally:
        os.lseek(file, place, os.SEEK_SET)
