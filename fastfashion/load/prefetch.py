"""Training directly from a set on object storage or a web server: its shards are fetched ahead into a cache on a local disk.

plan ─► look ahead ─► shards wanted ─► threads: fetch, retry, check ─► cache folder ─► map into memory ─► the steps
"""

import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastfashion.errors import ConfigError
from fastfashion.load.cache import POLL_S, CacheFolder, Closed, ShardSource, cache_path
from fastfashion.load.plan import Part, Step
from fastfashion.retry import PATIENCE_S
from fastfashion.shards import Resolution
from fastfashion.shards.layout import seek_name, shard_name

THREADS = 3  # that fetch ahead
STEPS_AT_ONCE = 8  # to look ahead for each step that is yielded, so that the first need not wait for the whole look-ahead
MAX_ROWS_AHEAD = 1 << 18  # of the plan, kept in memory


def open_cached(
    images: Resolution, cache_dir: str, limit_bytes: int, *, seeks: bool = False, patience_s: float = PATIENCE_S
) -> "tuple[Resolution, ShardCache]":
    """The images of a remote set, read through a cache, and the cache; with their seek tables if it `seeks`.

    Raises ConfigError if the limit is smaller than a shard.
    """
    largest = max((entry.num_bytes for entry in images.manifest.shards), default=0)
    if largest > limit_bytes:
        raise ConfigError(
            f"data.cache_gb {limit_bytes / 1e9:g}: expected at least {largest / 1e9:.3g}, the size of a shard of {images.folder}"
        )
    cache = ShardCache(images, CacheFolder(cache_path(cache_dir), limit_bytes), limit_bytes, patience_s, seeks=seeks)
    return cache.images, cache


def thrashing_note(images: Resolution, limit_bytes: int) -> str:
    """That one permutation over a set larger than the cache fetches shards several times; "" if it is not larger."""
    total = sum(entry.num_bytes for entry in images.manifest.shards)
    if total <= limit_bytes:
        return ""
    return (
        f"{images.folder}: {total / 1e9:.3g} GB in one permutation through a cache of {limit_bytes / 1e9:g} GB: most shards "
        "will be fetched several times; use --set data.shuffle=window, or a larger data.cache_gb"
    )


class ShardCache:
    """Yields the steps of a plan, each once its shards are here; those wanted soon stay mapped, even if they are evicted."""

    def __init__(
        self, images: Resolution, folder: CacheFolder, limit_bytes: int, patience_s: float = PATIENCE_S, *, seeks: bool = False
    ) -> None:
        self._seeks = seeks
        self.images = replace(images, local=self.local, _maps={}, seek=replace(images.seek, local=self.local_table, _tables={}))
        self._entries = {entry.number: entry for entry in images.manifest.shards}
        self._folder, self._limit_bytes = folder, limit_bytes
        self._source = ShardSource(images.folder, patience_s)
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()  # guards what follows
        self._wanted: Counter[int] = Counter()  # by shard: how many of the steps in sight need it
        self._wanted_bytes = 0
        self._todo: deque[int] = deque()  # wanted, and no thread has started on it
        self._put_off: list[int] = []  # wanted, but there was no room, or another process is fetching it
        self._failed: dict[int, Exception] = {}  # of threads that fetch ahead, to be raised when the shard is needed

    def ahead(self, parts: Iterator[tuple[Step, Part]], in_use: int = 5) -> Iterator[tuple[Step, Part]]:
        """The same steps, of which the consumer may still be using the last `in_use`; meanwhile the shards of later ones are fetched.

        Raises ConfigError if one step needs more than the limit, PackedSetError if its shard cannot be fetched, Closed after `close`.
        """
        coming: deque[tuple[Step, Part, list[int]]] = deque()
        taken: deque[list[int]] = deque()
        while len(self._threads) < THREADS:
            # Daemons: an interpreter that exits without `close` need not wait for a server.
            self._threads.append(threading.Thread(target=self._work, name=f"shards-{len(self._threads)}", daemon=True))
            self._threads[-1].start()
        try:
            while self._look_ahead(parts, coming):
                step, part, numbers = coming[0]
                for number in numbers:
                    self._map(number)
                    self._folder.use(self._entries[number])
                taken.append(coming.popleft()[2])
                self._release(taken.popleft() if len(taken) > in_use else [])
                yield step, part
        finally:
            for numbers in (*taken, *(numbers for *_, numbers in coming)):
                self._release(numbers)

    def local(self, number: int) -> Path:
        """A shard's file; this thread fetches it if it is not here and nobody else is fetching it."""
        while (path := self._bring(number, urgent=True)) is None:
            self._source.pause(POLL_S)
        return path

    def local_table(self, number: int) -> Path:
        """The file of a shard's seek table; this thread fetches it, unless another one does."""
        entry = self._entries[number].seek
        assert entry is not None, f"shard {number} has no seek table"

        def fetch(to: Path) -> None:
            self._source.fetch(entry, seek_name(number), to)

        while (path := self._folder.bring(entry, fetch, self._spared(), urgent=True, on_bytes=self._look)) is None:
            self._source.pause(POLL_S)
        return path

    def _map(self, number: int) -> None:
        self.images.map_shard(number)
        if self._seeks:
            self.images.seek.table(number)

    def _look(self, num_bytes: int) -> None:
        """Raise Closed after `close`; called with each piece that is hashed."""
        self._source.pause(0)

    def _spared(self) -> set[str]:
        with self._changed:
            return {self._entries[wanted].sha256 for wanted in self._wanted}

    def close(self) -> None:
        """End the threads at once, half-way through a shard too; a thread that waits for a shard gets Closed."""
        self._source.closed.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for number in self._entries:
            self.images.unmap_shard(number)

    def _look_ahead(self, parts: Iterator[tuple[Step, Part]], coming: deque[tuple[Step, Part, list[int]]]) -> bool:
        """Take more steps from the plan, as long as that is useful; False once there is none left to yield."""
        for _ in range(STEPS_AT_ONCE):
            if coming and self._sees_enough(len(coming) * len(coming[0][0].rows)):
                break
            found = next(parts, None)
            if found is None:
                break
            numbers: list[int] = np.unique(self.images.shard[found[1].fetch]).tolist()
            num_bytes = sum(self._entries[number].num_bytes for number in numbers)
            if num_bytes > self._limit_bytes:
                raise ConfigError(
                    f"data.cache_gb {self._limit_bytes / 1e9:g}: expected at least {num_bytes / 1e9:.3g}, as a step needs {len(numbers)} "
                    f"shards of {self.images.folder}; raise it, or use --set data.shuffle=window and fewer data.window_shards"
                )
            self._want(numbers)
            coming.append((*found, numbers))
        return bool(coming)

    def _sees_enough(self, num_rows: int) -> bool:
        with self._changed:
            busy = len(self._todo) + len(self._put_off) >= 2 * THREADS or self._wanted_bytes >= self._limit_bytes
            return busy or num_rows >= MAX_ROWS_AHEAD or len(self._wanted) == len(self._entries)

    def _want(self, numbers: list[int]) -> None:
        with self._changed:
            for number in numbers:
                if number not in self._wanted:
                    self._failed.pop(number, None)
                    self._todo.append(number)
                    self._wanted_bytes += self._entries[number].num_bytes
                self._wanted[number] += 1
            self._changed.notify_all()

    def _release(self, numbers: list[int]) -> None:
        """Release a step's shards, and retry those that were put off: there may be room now."""
        with self._changed:
            for number in numbers:
                self._wanted[number] -= 1
                if self._wanted[number] == 0:
                    del self._wanted[number]
                    self._wanted_bytes -= self._entries[number].num_bytes
                    self.images.unmap_shard(number)
            self._todo.extendleft(reversed(self._put_off))
            self._put_off.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._todo or self._source.closed.is_set())
                if self._source.closed.is_set():
                    return
                number = self._todo.popleft()
                if number not in self._wanted:
                    continue
            try:
                here = self._bring(number, urgent=False) is not None
                if here:
                    self._map(number)
            except Closed:
                return
            except Exception:  # kept in `_failed`, or raised again when the shard is needed
                continue
            with self._changed:
                if number not in self._wanted:
                    self.images.unmap_shard(number)
                elif not here:
                    self._put_off.append(number)

    def _bring(self, number: int, *, urgent: bool) -> Path | None:
        def fetch(to: Path) -> None:
            if urgent and (failed := self._failed.pop(number, None)) is not None:
                raise failed
            try:
                self._source.fetch(self._entries[number], shard_name(number), to)
            except Exception as error:
                if not urgent:
                    self._failed[number] = error  # while it is still locked, so that a thread that waits for it does not fetch it again
                raise

        return self._folder.bring(self._entries[number], fetch, self._spared(), urgent=urgent, on_bytes=self._look)
