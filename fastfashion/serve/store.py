"""The store: the only folder that a server writes.

    upload ─► add, grow, finish ─► known ─► read           older than 15 minutes, or cut: removed
    start  ─► what dead servers left is removed            end, by a signal too: the whole folder is removed

A file has a folder of its own with a random name, which only the answer to its upload, or the page, contains. That is what
"uploaded by this session" means here, since a page in a notebook's frame has no cookie that a browser would send.
"""

import os
import secrets
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fastfashion.predict.semaphore import BusyError
from fastfashion.scratch import LOCK, remove, scratch

EXAMPLES = "examples"
FREQUENCY_S, AGE_S = 60, 900  # how often old files are removed, and from what age
FILE_BYTES = 8192  # counted for a file besides its own: a folder, and the rest of a block


@dataclass
class Kept:
    """A file of the store; it can be read once it is complete."""

    path: Path
    address: str
    num_bytes: int = 0
    complete: bool = False
    since_s: float = field(default_factory=time.monotonic)


class Store:
    """The files of one server; any thread may ask."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self._max_bytes = folder.resolve(), max_bytes
        self.examples = self.folder / EXAMPLES
        self._kept: dict[str, Kept] = {}  # by the random name of its folder
        self._held = Counter[str]()  # bytes by address; "" has those of all together
        self._lock = threading.Lock()

    def add(self, name: str, address: str = "") -> Kept:
        """A new file of this name, which is no path, counted against the share of `address`. Raises BusyError."""
        kept = Kept(path=self.folder / secrets.token_hex(16) / name, address=address or "the page")
        with self._lock:
            self._kept[kept.path.parent.name] = kept
        try:
            self.grow(kept, FILE_BYTES)
            kept.path.parent.mkdir()
        except BaseException:
            self.remove(kept)
            raise
        return kept

    def put(self, name: str, write: Callable[[Path], object]) -> Path:
        """Keep a small file that `write` makes; nothing stays of it if that fails. Raises BusyError."""
        kept = self.add(name)
        try:
            write(kept.path)
            self.grow(kept, kept.path.stat().st_size)
            return self.finish(kept)
        except BaseException:
            self.remove(kept)
            raise

    def grow(self, kept: Kept, num_bytes: int) -> None:
        """Count bytes before they are written. Raises BusyError if the store, or half of it by one address, would be full."""
        if not self._take(kept, num_bytes):
            self.sweep()
            if not self._take(kept, num_bytes):
                raise BusyError("no room for more uploads: try again in a few minutes")

    def _take(self, kept: Kept, num_bytes: int) -> bool:
        with self._lock:
            room = min(self._max_bytes - self._held[""], self._max_bytes // 2 - self._held[kept.address])
            if num_bytes <= room:
                kept.num_bytes += num_bytes
                self._held.update({"": num_bytes, kept.address: num_bytes})
        return num_bytes <= room

    def finish(self, kept: Kept) -> Path:
        kept.since_s, kept.complete = time.monotonic(), True
        return kept.path

    def remove(self, kept: Kept) -> None:
        with self._lock:
            if self._kept.pop(kept.path.parent.name, None) is not None:
                self._held.subtract({"": kept.num_bytes, kept.address: kept.num_bytes})
                if not self._held[kept.address]:
                    del self._held[kept.address]
        shutil.rmtree(kept.path.parent, ignore_errors=True)

    def known(self, text: str) -> Path | None:
        """The file of this path if the store gave it out and it is complete and regular, with no link on the way to it, else None."""
        path = Path(text)
        if path.parent.parent != self.folder and path.parent != self.examples:
            return None
        with self._lock:
            kept = self._kept.get(path.parent.name)
        if path.parent != self.examples and not (kept and kept.complete and kept.path == path):
            return None
        try:
            regular = stat.S_ISREG(path.lstat().st_mode) and os.path.realpath(path) == str(path)
        except (OSError, ValueError):
            return None
        return path if regular else None

    def sweep(self, age_s: float = AGE_S) -> None:
        """Remove everything that is older; an upload in progress has a deadline of its own."""
        with self._lock:
            kept = list(self._kept.values())
        for one in kept:
            if one.complete and time.monotonic() - one.since_s > age_s:
                self.remove(one)
        ours = {one.path.parent.name for one in kept} | {LOCK, EXAMPLES}
        for path in self.folder.iterdir():
            with suppress(OSError):
                if path.name not in ours and time.time() - path.lstat().st_mtime > age_s:
                    remove(path)


@contextmanager
def open_store(max_bytes: int) -> Iterator[Store]:
    """A store in the folder for temporary files, removed at the end. Also removes what killed servers left there."""
    over = threading.Event()
    with scratch() as folder:
        try:
            store = Store(folder, max_bytes)
            threading.Thread(target=_sweep_until, args=(over, store), name="sweep", daemon=True).start()
            yield store
        finally:
            over.set()


def _sweep_until(over: threading.Event, store: Store) -> None:
    while not over.wait(FREQUENCY_S):
        with suppress(OSError):  # the folder goes when the server ends
            store.sweep()
