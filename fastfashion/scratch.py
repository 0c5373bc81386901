"""A private folder to work in, removed with its owner: when that ends or, if it was killed, when the next one starts there."""

import contextlib
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fastfashion import locks

PREFIX, LOCK = ".fastfashion-work-", ".lock"  # the lock is held as long as the owner lives
_CLOEXEC, _NONBLOCK, _NOFOLLOW = (getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW"))  # Windows has none
NEW_S = 600.0  # a folder without a lock is one that is being made, or its maker was killed between the two


@contextlib.contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """A new folder in `where`, by default in the folder for temporary files; what killed processes left there is removed first."""
    where = Path(tempfile.gettempdir()) if where is None else where
    sweep(where)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
    lock = -1
    try:
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_EXCL | os.O_RDWR | _CLOEXEC, 0o600)
        locks.lock(lock, wait=True)
        yield folder
    finally:
        remove(folder)
        if lock >= 0:
            os.close(lock)
            remove(folder)  # Windows keeps what is open


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it, also while a thread still writes there."""
    for _ in range(3):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if not path.exists():
            return


def nearest(path: Path) -> Path:
    """The folder at `path`, or the nearest above it that is there: on the disk of what will be made at `path`."""
    return next(place for place in (path, *path.absolute().parents) if place.is_dir())


def sweep(where: Path) -> None:
    """Remove the folders of this user in `where` whose owners have ended."""
    for folder in where.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it goes away meanwhile, or is none of ours
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        return False
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | _NOFOLLOW | _NONBLOCK | _CLOEXEC)
    except FileNotFoundError:
        return time.time() - found.st_mtime > NEW_S
    try:
        return locks.lock(lock, wait=False)
    finally:
        os.close(lock)


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """For commands: what other packages write through `tempfile`, and leave there when they are killed."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """For commands: SIGTERM and SIGHUP end what is running with an exception, as Ctrl-C does, so that nothing is left behind.

    A second one changes nothing, and under nohup SIGHUP stays ignored. Not for other programs: their signal handlers are not ours.
    """

    def stop(number: int, frame: object) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if is_main and hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in wanted if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
