"""Whole, checked shards of a remote set: fetched by ShardSource, stored in a CacheFolder that all processes of a machine share.

    <sha256>.tar              a shard; every set that has it reads this file
    <sha256>.seek             the seek table of a shard, treated as a shard of its own
    <sha256>.<bytes>.partial  a shard that is being fetched, locked by its fetcher; or left by a fetcher that was killed, and not locked
    .lock                     locked, for moments, while names change

A file counts towards the folder's limit with its size, one that is being fetched with its final size. The shard with the oldest time of
access is evicted first. A process hashes each file before its first use, and again if it has changed.
"""

import asyncio
import contextlib
import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Set
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from fastfashion import locks
from fastfashion.disk import room_for
from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.remote import at_most, is_web
from fastfashion.retry import PATIENCE_S, LeastRate, Patience, UnexpectedBodyError, describe, is_missing, passes, retrying, say_waiting
from fastfashion.shards.layout import FileEntry, ShardEntry, hash_file
from fastfashion.words import why

POLL_S = 0.02
_LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE}  # errors of the local disk
_SHARD = re.compile(r"([0-9a-f]{64})\.(?:tar|seek)")
_PARTIAL = re.compile(r"[0-9a-f]{64}\.(\d+)\.partial")

Entry = ShardEntry | FileEntry  # of a shard, or of its seek table
Version = tuple[int, int, int, int]  # of a file: device, inode, size, time of modification


def cache_path(cache_dir: str) -> Path:
    """The folder that a setting names; by default one in the user's own cache."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastfashion" / "shards"


class CacheFolder:
    """Raises ConfigError if the folder cannot be created or written to."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path, self._limit_bytes = path, limit_bytes
        self._hashed: dict[str, Version | None] = {}  # by sha256: the file that had it when this process looked
        with self._errors_explained():
            path.mkdir(parents=True, exist_ok=True)

    def use(self, entry: Entry) -> None:
        """Record that a shard is in use, if it is here."""
        with contextlib.suppress(FileNotFoundError):
            _touch(self._shard(entry))

    def bring(
        self,
        entry: Entry,
        fill: Callable[[Path], object],
        spared: Set[str],
        *,
        urgent: bool,
        on_bytes: Callable[[int], None],
    ) -> Path | None:
        """A shard's file, which `fill` fetches if it is not here; one that is here is hashed first, with calls of `on_bytes`.

        None while another thread or process fetches it, or if there is no room at present: the shards in `spared`, by sha256, are evicted
        only for an urgent one. Raises what `fill` raises, but ConfigError for an OSError: that is the disk's.
        """
        shard = self._shard(entry)
        partial = self._path / f"{shard.stem}.{entry.num_bytes}.partial"
        with self._errors_explained():
            version = _version(shard)
            if version is not None and self._has_hash(shard, version, entry, on_bytes):
                with contextlib.suppress(FileNotFoundError):  # it has just been evicted
                    _touch(shard)
                    return shard
            with self._names_locked():
                if _version(shard) != version:  # another process has just brought another: look again
                    return None
                shard.unlink(missing_ok=True)
                lock = _lock(partial)
                if lock is None:
                    return None
                if not self._make_room(partial, spared, urgent):
                    partial.unlink()
                    _unlock(lock)
                    return None
            complete = False
            try:
                with room_for(shard, entry.num_bytes):
                    fill(partial)
                    os.fsync(lock)
                complete = True
            finally:
                with self._names_locked():
                    if complete:
                        partial.replace(shard)
                        self._hashed[entry.sha256] = _version(shard)  # `fill` has checked it
                    else:
                        partial.unlink(missing_ok=True)
                    _unlock(lock)
        return shard

    def _shard(self, entry: Entry) -> Path:
        """The path of a shard; its name comes from 32 bytes, so that nothing in a manifest can be a path."""
        return self._path / f"{bytes.fromhex(entry.sha256).hex()}.{'tar' if isinstance(entry, ShardEntry) else 'seek'}"

    def _has_hash(self, shard: Path, version: Version, entry: Entry, on_bytes: Callable[[int], None]) -> bool:
        if version[2] != entry.num_bytes:
            return False
        if self._hashed.get(entry.sha256) == version:
            return True
        with contextlib.suppress(FileNotFoundError, InputError):  # it has just been evicted, or is not a regular file
            if hash_file(shard, on_bytes, entry.num_bytes)[1] == entry.sha256 and _version(shard) == version:
                self._hashed[entry.sha256] = version
                return True
        return False

    def _make_room(self, mine: Path, spared: Set[str], urgent: bool) -> bool:
        """Evict shards until the folder keeps to its limit with `mine`; if that is impossible, evict nothing and return False."""
        used, evictable = 0, []
        for file in list(os.scandir(self._path)):
            if shard := _SHARD.fullmatch(file.name):
                status = file.stat()
                used += status.st_size
                if urgent or shard[1] not in spared:
                    evictable.append((shard[1] in spared, status.st_atime_ns, status.st_size, file.path))
            elif partial := _PARTIAL.fullmatch(file.name):
                if file.name == mine.name or (left := _lock(Path(file.path))) is None:
                    used += int(partial[1])
                else:  # of a process that was killed
                    Path(file.path).unlink()
                    _unlock(left)
        if used - sum(size for _, _, size, _ in evictable) > self._limit_bytes:
            return False
        for _, _, size, path in sorted(evictable):
            if used <= self._limit_bytes:
                break
            Path(path).unlink()
            used -= size
        return True

    @contextlib.contextmanager
    def _names_locked(self) -> Iterator[None]:
        """Keep the other threads and processes of this machine from changing names in the folder."""
        lock = os.open(self._path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            locks.lock(lock, wait=True)
            yield
        finally:
            _unlock(lock)

    @contextlib.contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"{self._path}: cannot hold shards of remote sets ({why(error)}); lower data.cache_gb or name another data.cache_dir"
            ) from error


def _version(path: Path) -> Version | None:
    """What identifies a file with its content; None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _touch(path: Path) -> None:
    """Set the time of access, and keep that of modification, which is part of the version that was hashed."""
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _lock(path: Path) -> int | None:
    """Lock a file, made if there is none, until `_unlock` or the end of the process; None if it is locked."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    if locks.lock(file, wait=False):
        return file
    os.close(file)
    return None


def _unlock(file: int) -> None:
    locks.unlock(file)
    os.close(file)


class Closed(RuntimeError):
    """The cache was closed while a thread waited for a shard."""


class ShardSource:
    """The shards of one remote folder. Setting `closed` ends all fetching at once."""

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self.closed = threading.Event()
        self._folder, self._patience_s = folder, patience_s
        self._reported = False  # that the storage does not answer
        self._check = f"check the set with fastfashion verify {folder.parent}"

    def fetch(self, entry: Entry, name: str, to: Path) -> None:
        """Write a shard, or a seek table, of this name to a file. Raises OSError if that cannot be written, PackedSetError, and Closed.

        PackedSetError: it is gone, unavailable for `patience_s`, or, when fetched for the second time, still not what was packed.
        """
        address: Any = self._folder / name
        found: list[str] = []
        for _ in range(2):
            try:
                self._transfer_patiently(address, to, entry.num_bytes)
            except UnexpectedBodyError as error:
                found.append(str(error))
                continue
            num_bytes, sha256 = hash_file(to, on_bytes=lambda num_bytes: self.pause(0))
            if sha256 == entry.sha256:
                return
            found.append(f"{sha256} ({num_bytes} bytes)")
        raise PackedSetError(
            f"{address}: expected sha256 {entry.sha256} ({entry.num_bytes} bytes), found {' and then '.join(found)}; {self._check}"
        )

    def pause(self, seconds: float) -> None:
        """Wait; raises Closed as soon as the source is closed."""
        if self.closed.wait(seconds):
            raise Closed(f"{self._folder}: no more shards are fetched, the cache was closed")

    def _transfer_patiently(self, address: Any, to: Path, num_bytes: int) -> None:
        """Retry storage that does not answer, after longer and longer waits of `patience_s` in all."""
        patience = Patience(self._patience_s)

        def is_ours(error: Exception) -> bool:
            return isinstance(error, Closed | UnexpectedBodyError) or getattr(error, "errno", None) in _LOCAL

        def retry(error: Exception) -> bool:
            return passes(error) and not is_missing(error) and not is_ours(error)

        def on_wait(error: Exception) -> None:
            if not self._reported:
                self._reported = True
                say_waiting(address, error, patience)

        try:
            retrying(lambda: self._transfer(address, to, num_bytes), patience, retry, on_wait=on_wait, pause=self.pause)
        except Exception as error:
            if is_ours(error):
                raise
            if is_missing(error):
                raise PackedSetError(f"{address}: the shard is gone; {self._check}") from error
            tried = f", tried for {patience.waited_s:.0f} s" if retry(error) else ""
            raise PackedSetError(f"{address}: cannot be fetched{tried} ({describe(error)}); {self._check}") from error
        self._reported = False

    def _transfer(self, address: Any, to: Path, num_bytes: int) -> None:
        """Copy a file here, of at most `num_bytes`; with fsspec's asynchronous storages, closing the source ends it half-way."""
        storage, counted = address.fs, _counted(address, num_bytes)
        if not storage.async_impl:
            storage.get_file(address.path, str(to), callback=counted)
            return
        ended = threading.Event()

        async def copy() -> None:
            try:
                await storage._get_file(address.path, str(to), callback=counted)
            finally:
                ended.set()

        with at_most(num_bytes):
            task = asyncio.run_coroutine_threadsafe(copy(), storage.loop)
        try:
            while not wait([task], timeout=POLL_S).done:
                self.pause(0)
        except BaseException:
            task.cancel()
            ended.wait(1)  # then nothing more is written
            raise
        task.result()


def _counted(address: Path, num_bytes: int) -> Any:
    """An fsspec callback that ends a transfer which is too slow, or of a file that is too long; a web server may send an error page."""
    from fsspec.callbacks import Callback  # type: ignore[import-untyped]

    rate = LeastRate()

    class Counted(Callback):  # type: ignore[misc, unused-ignore]
        def set_size(self, size: int | None) -> None:
            if size is not None and size > num_bytes and not is_web(address):
                raise UnexpectedBodyError(f"{size} bytes")

        def relative_update(self, inc: int = 1) -> None:
            if inc:
                rate.add(inc)

    return Counted()
