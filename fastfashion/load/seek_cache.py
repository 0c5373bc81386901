"""Seek tables of a set that was packed without: made here while it is read, and kept in the user's cache.

a batch wants a shard's table ─► thread of lower priority: made before? else find the marks of each image ─► <set>/NNNNN.seek
                                                                                                     └► the batches after it

<set>                  a folder for a resolution: the SHA-256 of its manifest and of where it is. A manifest alone could be that of
                       another set with other images.
<set>/NNNNN.seek       the table of a shard, and the SHA-256 of all that precedes it
<set>/NNNNN.partial    a table that is being made, locked by its maker; or left by one that was killed, and not locked
"""

import errno
import hashlib
import os
import shutil
import sys
import threading
import warnings
import zlib
from collections import deque
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from fastfashion import locks
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote
from fastfashion.load.cache import cache_path
from fastfashion.shards import Resolution, seek
from fastfashion.shards.layout import seek_name
from fastfashion.words import why

FOLDER = "seek"  # of a cache folder
LIMIT_BYTES = 2 * 10**9  # for all sets together
RETRY_S = 0.5  # after a table that another process is making
DIGEST_BYTES = 32
_FORESEEN = (errno.EACCES, errno.EPERM, errno.EROFS)  # `note` names these before
NICER = 5  # a quarter of what another thread gets on a busy core: with 19, a large set's tables would take hundreds of epochs


def note(cache_dir: str) -> str:
    """That the tables cannot be kept; "" if they can."""
    folder = seek_folder(cache_dir)
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if os.access(there, os.W_OK | os.X_OK):
        return ""
    return (
        f"{folder}: cannot be written, so seek tables, which make crops faster, are made again by each process; name another data.cache_dir"
    )


def seek_folder(cache_dir: str) -> Path:
    """Where the tables of all sets are."""
    return cache_path(cache_dir) / FOLDER


class MadeTables:
    """The tables of a resolution, by shard; `failed` says why they are not kept, "" if they are."""

    def __init__(self, images: Resolution, root: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._images, self._root, self._limit_bytes = images, root, limit_bytes
        place = str(images.folder) if is_remote(images.folder) else str(images.folder.resolve())
        key = hashlib.sha256(msgspec.json.encode(images.manifest) + os.fsencode(place)).hexdigest()
        self._folder = root / key
        self._entries = {entry.number: entry for entry in images.manifest.shards}
        self._used: int | None = None  # bytes of the root, counted before the first table is kept
        self.failed = ""
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()  # guards what follows
        self._wanted: deque[int] = deque()
        self._seen: set[int] = set()  # wanted or ready
        self._ready: dict[int, np.ndarray] = {}
        self._closed = False

    def table(self, number: int) -> np.ndarray | None:
        """A shard's table, as soon as there is one; the first call for a shard asks the thread for it."""
        if (table := self._ready.get(number)) is not None or number in self._seen:
            return table
        with self._changed:
            if number not in self._seen and not self._closed:
                self._seen.add(number)
                self._wanted.append(number)
                if self._thread is None:  # a daemon: no exit waits for it
                    self._thread = threading.Thread(target=self._work, name="seek-tables", daemon=True)
                    self._thread.start()
        return None

    def close(self) -> None:
        """End the thread, in the middle of a table, too."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        """Make what is wanted; the thread ends when that is done, and the next shard that is wanted starts another."""
        if sys.platform == "linux":  # there a priority is a thread's
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICER)
        with suppress(OSError):  # it may not exist yet
            os.utime(self._folder)
        while True:
            with self._changed:
                if self._closed or not self._wanted:
                    self._thread = None
                    return
                number = self._wanted.popleft()
            try:
                table = self._find(number)
            except BaseException:  # nobody foresaw it: Python's own report says what, and the next shard starts another thread
                with self._changed:
                    self._thread = None
                raise
            with self._changed:
                if table is not None:
                    self._ready[number] = table
                else:  # another process is making it, or its shard is not in memory any more: the next batch asks again
                    self._changed.wait_for(lambda: self._closed, RETRY_S)
                    self._seen.discard(number)

    def _find(self, number: int) -> np.ndarray | None:
        if self.failed:
            return self._make(number)
        try:
            table = self._kept(number)
            return table if table is not None else self._make_and_keep(number)
        except OSError as error:
            self.failed = f"{self._folder}: {why(error)}"
            if error.errno not in _FORESEEN:
                warnings.warn(f"{self.failed}; seek tables are made again by each process; name another data.cache_dir", stacklevel=1)
            return self._make(number)

    def _kept(self, number: int) -> np.ndarray | None:
        """The table that was made before, by whichever process; one that is damaged is removed."""
        path = self._folder / seek_name(number)
        with suppress(FileNotFoundError, ValueError, InputError):
            found = seek.map_file(path)
            table, digest = found[:-DIGEST_BYTES], found[-DIGEST_BYTES:]
            sound = hashlib.sha256(table.data).digest() == digest.tobytes()
            if sound and (not len(table) or seek.wrong_table(table, self._entries[number].num_rows) is None):
                return table
        path.unlink(missing_ok=True)
        return None

    def _make_and_keep(self, number: int) -> np.ndarray | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / seek_name(number)
        partial = path.with_suffix(".partial")
        with partial.open("ab") as file:
            if not locks.lock(file.fileno(), wait=False):
                return None
            try:
                if not _is_at(file.fileno(), partial):  # another process has just kept or removed it
                    return None
                table = self._make(number)
                if table is None or not self._has_room(len(table) + DIGEST_BYTES):
                    partial.unlink()
                    return table
                file.truncate(0)
                file.write(table.tobytes() + hashlib.sha256(table.data).digest())
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
                return table
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            finally:
                locks.unlock(file.fileno())

    def _make(self, number: int) -> np.ndarray | None:
        """None if the shard cannot be read at present, or the thread must end. An image that has not its row's checksum has no entry."""
        images = self._images
        if not images.is_mapped(number) and images.local is not None:
            return None  # of a remote set: batches that need it bring it
        try:
            shard = images.map_shard(number)
        except PackedSetError:  # raised where a batch needs it
            return None
        made: list[bytes] = []
        rows = range(*np.searchsorted(images.shard, [number, number + 1]).tolist())
        for row in rows:
            start = int(images.offset[row])
            data = shard[start : start + int(images.num_bytes[row])]
            entry = seek.make_entry(data, int(images.width_px[row]), int(images.kind[row]))
            made.append(entry if entry and zlib.crc32(data.data) == images.crc32[row] else b"")
            if self._closed:
                return None
        return np.frombuffer(seek.join(made), dtype=np.uint8)

    def _has_room(self, num_bytes: int) -> bool:
        """Remove the tables of other sets, those opened longest ago first, until the limit is kept; False if that is not enough."""
        if self._used is None:
            self._used = _num_bytes(self._root)
        if self._used + num_bytes > self._limit_bytes:
            folders = [Path(entry.path) for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False)]
            for folder in sorted(folders, key=_opened_ns):
                if folder != self._folder and self._used + num_bytes > self._limit_bytes:
                    shutil.rmtree(folder, ignore_errors=True)
                    self._used = _num_bytes(self._root)
        self._used += num_bytes
        return self._used <= self._limit_bytes


def _opened_ns(folder: Path) -> int:
    """When a set's tables were last opened; 0 if another process has just removed them."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _num_bytes(root: Path) -> int:
    """Of all tables that are there, whatever other processes remove meanwhile."""
    total = 0
    for path in root.glob("*/*.seek"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
