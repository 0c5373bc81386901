"""A folder of whole, checked shards with a limit to its size, shared by all processes of a machine.

    <sha256>.tar              a shard; any set that holds it reads this file
    <sha256>.<bytes>.partial  one that is being fetched, locked by its fetcher; or left by a fetcher that was killed, and then not locked
    .lock                     held, for moments, by whoever changes a name

Files count towards the limit with their size, those being fetched with the size that they will have. The one that was used longest ago,
by its time of modification, gives way first.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from fastfashion.errors import ConfigError
from fastfashion.shards.layout import ShardEntry
from fastfashion.words import why

_SHARD = re.compile(r"([0-9a-f]{64})\.tar")
_PARTIAL = re.compile(r"[0-9a-f]{64}\.(\d+)\.partial")


def cache_path(cache_dir: str) -> Path:
    """The folder that a setting names; where it is empty, one in the user's own cache."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastfashion" / "shards"


class CacheFolder:
    """Raises ConfigError where the folder cannot be made or written to."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path, self._limit_bytes = path, limit_bytes
        with self._errors_explained():
            path.mkdir(parents=True, exist_ok=True)

    def use(self, entry: ShardEntry) -> None:
        """Note that a shard is in use, if it is here."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._shard(entry))

    def bring(self, entry: ShardEntry, fill: Callable[[Path], object], spared: Set[str], *, urgent: bool) -> Path | None:
        """A shard's file, which `fill` fetches where it is not here; it appears under its name whole or not at all.

        None while another thread or process fetches it, or where there is no room at present: others, by their sha256 in `spared`, give
        way only to what is urgent. What `fill` raises is raised, save for an OSError: that is the disk's, and becomes a ConfigError.
        """
        shard, partial = self._shard(entry), self._path / f"{entry.sha256}.{entry.num_bytes}.partial"
        with self._errors_explained():
            with self._names():
                if _size(shard) == entry.num_bytes:
                    os.utime(shard)
                    return shard
                shard.unlink(missing_ok=True)
                held = _hold(partial)
                if held is None:
                    return None
                if not self._make_room(partial, spared, urgent):
                    partial.unlink()
                    _let_go(held)
                    return None
            whole = False
            try:
                fill(partial)
                os.fsync(held)
                whole = True
            finally:
                with self._names():
                    if whole:
                        partial.replace(shard)
                    else:
                        partial.unlink(missing_ok=True)
                    _let_go(held)
        return shard

    def _shard(self, entry: ShardEntry) -> Path:
        return self._path / f"{entry.sha256}.tar"

    def _make_room(self, mine: Path, spared: Set[str], urgent: bool) -> bool:
        """Take shards away until the folder keeps to its limit with `mine`; false, and nothing is taken, where that cannot be."""
        used, can_go = 0, []
        for file in list(os.scandir(self._path)):
            if shard := _SHARD.fullmatch(file.name):
                status = file.stat()
                used += status.st_size
                if urgent or shard[1] not in spared:
                    can_go.append((shard[1] in spared, status.st_mtime_ns, status.st_size, file.path))
            elif (partial := _PARTIAL.fullmatch(file.name)) and (file.name == mine.name or not _remove_if_left(Path(file.path))):
                used += int(partial[1])
        if used - sum(size for _, _, size, _ in can_go) > self._limit_bytes:
            return False
        for _, _, size, path in sorted(can_go):
            if used <= self._limit_bytes:
                break
            Path(path).unlink()
            used -= size
        return True

    @contextlib.contextmanager
    def _names(self) -> Iterator[None]:
        """Hold the folder's names, against the other threads and processes of this machine."""
        lock = os.open(self._path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            _let_go(lock)

    @contextlib.contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"{self._path}: cannot hold shards of remote sets ({why(error)}); lower data.cache_gb or name another data.cache_dir"
            ) from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _hold(path: Path) -> int | None:
    """A file, made where it is not there, locked for this thread alone until `_let_go` or this process's end; None where it is held."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _let_go(file: int) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough: a child of this process may have the file open too
    os.close(file)


def _remove_if_left(path: Path) -> bool:
    """Remove what a process that was killed has left; false where one is at work on it."""
    held = _hold(path)
    if held is None:
        return False
    path.unlink()
    _let_go(held)
    return True
