"""A folder of whole, checked shards with a limit to its size, shared by all processes of a machine.

    <sha256>.tar              a shard; any set that holds it reads this file
    <sha256>.<bytes>.partial  one that is being fetched, locked by its fetcher; or left by a fetcher that was killed, and then not locked
    .lock                     held, for moments, by whoever changes a name

Files count towards the limit with their size, those being fetched with the size that they will have. The one that was used longest ago,
by its time of access, gives way first. A process hashes each file before it uses it for the first time, and again where it has changed.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from fastfashion.disk import room_for
from fastfashion.errors import ConfigError, InputError
from fastfashion.shards.layout import ShardEntry, hash_file
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
        self._hashed: dict[str, tuple[int, ...]] = {}  # sha256 -> which file had it when this process looked
        with self._errors_explained():
            path.mkdir(parents=True, exist_ok=True)

    def use(self, entry: ShardEntry) -> None:
        """Note that a shard is in use, if it is here."""
        with contextlib.suppress(FileNotFoundError):
            _touch(self._shard(entry))

    def bring(
        self, entry: ShardEntry, fill: Callable[[Path], object], spared: Set[str], *, urgent: bool, on_bytes: Callable[[int], None]
    ) -> Path | None:
        """A shard's file, which `fill` fetches where it is not here; it appears under its name whole or not at all.

        One that is here is hashed first, `on_bytes` being told of it, and replaced where it is another. None while another thread or
        process fetches it, or where there is no room at present: others, by their sha256 in `spared`, give way only to what is urgent.
        What `fill` raises is raised, save for an OSError: that is the disk's, and becomes a ConfigError.
        """
        shard = self._shard(entry)
        partial = self._path / f"{shard.stem}.{entry.num_bytes}.partial"
        with self._errors_explained():
            which = _which(shard)
            if which is not None and self._has_hash(shard, which, entry, on_bytes):
                with contextlib.suppress(FileNotFoundError):  # it has just given way
                    _touch(shard)
                    return shard
            with self._names():
                if _which(shard) != which:  # somebody else has just brought another: look again
                    return None
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
                with room_for(shard, entry.num_bytes):
                    fill(partial)
                    os.fsync(held)
                whole = True
            finally:
                with self._names():
                    if whole:
                        partial.replace(shard)
                        self._hashed[entry.sha256] = _which(shard) or ()  # `fill` has looked
                    else:
                        partial.unlink(missing_ok=True)
                    _let_go(held)
        return shard

    def _shard(self, entry: ShardEntry) -> Path:
        """The name is written anew from 32 bytes: whatever a manifest says, it is no path."""
        return self._path / f"{bytes.fromhex(entry.sha256).hex()}.tar"

    def _has_hash(self, shard: Path, which: tuple[int, ...], entry: ShardEntry, on_bytes: Callable[[int], None]) -> bool:
        if which[2] != entry.num_bytes:
            return False
        if self._hashed.get(entry.sha256) != which:
            try:
                if hash_file(shard, on_bytes, entry.num_bytes)[1] != entry.sha256 or _which(shard) != which:
                    return False
            except (FileNotFoundError, InputError):  # it has just given way, or is no file
                return False
            self._hashed[entry.sha256] = which
        return True

    def _make_room(self, mine: Path, spared: Set[str], urgent: bool) -> bool:
        """Take shards away until the folder keeps to its limit with `mine`; false, and nothing is taken, where that cannot be."""
        used, can_go = 0, []
        for file in list(os.scandir(self._path)):
            if shard := _SHARD.fullmatch(file.name):
                status = file.stat()
                used += status.st_size
                if urgent or shard[1] not in spared:
                    can_go.append((shard[1] in spared, status.st_atime_ns, status.st_size, file.path))
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


def _which(path: Path) -> tuple[int, ...] | None:
    """Tells one file, with this content, from others; its size is the third number. None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _touch(path: Path) -> None:
    """Set the time of access, and leave that of modification, which tells whether the content is the one that was hashed."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


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
