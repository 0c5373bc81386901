"""Seek tables: for the images of a shard, where a decoder can start inside of each. shards/FORMAT.md specifies the file NNNNN.seek.

    encoded images ─► make_entries ─► join ─► NNNNN.seek ─► SeekTables.marks_of(rows) ─► the native decoder

`_native` makes entries and reads them (images/native/seek.c), and without it nobody needs them.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from fastfashion.errors import PackedSetError
from fastfashion.files import is_remote
from fastfashion.images.codec import Kind
from fastfashion.images.compiled import native as _native
from fastfashion.shards import layout
from fastfashion.shards.layout import Manifest, ShardEntry
from fastfashion.untrusted import open_regular
from fastfashion.words import why

MAGIC = b"FFSEEK1\n"
SHARE = 0.015  # of an image's bytes that its entry may have, the number that says where it ends included
END_BYTES = 4
LEAST_WIDTH_PX = 505  # a narrower image has less than 64 MCUs across, whatever its sampling, and no entry

Marks = tuple[np.ndarray, np.ndarray]


def can_read() -> bool:
    """Whether entries can be made and read here."""
    return _native is not None


def make_entries(images: Sequence[bytes | np.ndarray]) -> list[bytes]:
    """The entries of encoded images; empty for those that have none: not plain, with restart markers, or too small."""
    if _native is None:
        return [b""] * len(images)
    return _native.make_seek_entries(list(images), SHARE)


def make_entry(image: bytes | np.ndarray, width_px: int, kind: int) -> bytes:
    """The entry of one image of which width and codec.Kind are known."""
    return b"" if width_px < LEAST_WIDTH_PX or kind == Kind.OTHER else make_entries([image])[0]


def join(entries: Sequence[bytes]) -> bytes:
    """The table of a shard from the entries of its images; empty if all of them are."""
    if not any(entries):
        return b""
    ends = np.cumsum([len(entry) for entry in entries]).astype("<u4")
    return b"".join((MAGIC, struct.pack("<I", len(entries)), ends.tobytes(), *entries))


def wrong_table(table: np.ndarray, num_rows: int) -> str | None:
    """What is wrong with the head of a table, uint8 (bytes,), or None; `_native` checks the entries when it reads them."""
    head = len(MAGIC) + 4
    if len(table) < head or table[: len(MAGIC)].tobytes() != MAGIC:
        return "it is not a seek table"
    (count,) = struct.unpack("<I", table[len(MAGIC) : head].tobytes())
    if count != num_rows or len(table) < head + END_BYTES * count:
        return f"expected {num_rows} rows, found {count} in {len(table)} bytes"
    ends = table[head : head + END_BYTES * count].view("<u4").astype(np.int64)
    if (np.diff(ends, prepend=0) < 0).any() or head + END_BYTES * count + ends[-1] != len(table):
        return f"its entries end at {ends[-1]}, in {len(table)} bytes"
    return None


def are_true(table: np.ndarray, place: int, image: np.ndarray) -> bool:
    """Whether the marks of an image, by its place in its shard, are those of its MCUs."""
    marks, _ = _native.read_marks([table], np.array([place], dtype=np.int64))
    if not marks:
        return True
    said, found = np.frombuffer(marks, dtype=np.int32).reshape(-1, 5), _native.find_marks(image)
    if found is None:
        return False
    true = np.frombuffer(found, dtype=np.int32).reshape(-1, 5)  # from MCU 1 on
    return int(said[-1, 0]) <= len(true) and bool((true[said[:, 0] - 1] == said).all())


def choose(marks: Marks, images: np.ndarray) -> Marks:
    """The marks of some of the images, int64 (n,)."""
    all_marks, first = marks
    counts = np.diff(first)[images]
    ends = np.cumsum(counts)
    places = np.arange(counts.sum()) + np.repeat(first[images] - ends + counts, counts)
    return all_marks[places], np.concatenate([[0], ends]).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class SeekTables:
    """The seek tables of a resolution, each mapped into memory when its shard is first asked for.

    It can be sent to another process, which maps them again.
    """

    folder: Path
    manifest: Manifest
    local: Callable[[int], Path] | None = None  # the file of a table on a disk of this machine, by shard; None: the set is on one
    made: Callable[[int], np.ndarray | None] | None = None  # of a set packed without tables: one made here, None while there is none
    _tables: dict[int, np.ndarray | None] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("folder", "manifest", "local", "made")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _tables={})

    @cached_property
    def _by_number(self) -> dict[int, ShardEntry]:
        return {entry.number: entry for entry in self.manifest.shards}

    @cached_property
    def _starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the shards, ascending, and the first row of each: int64 (n,)."""
        entries = sorted(self.manifest.shards, key=lambda entry: entry.number)
        starts = np.cumsum([0, *(entry.num_rows for entry in entries[:-1])], dtype=np.int64)
        return np.array([entry.number for entry in entries], dtype=np.int64), starts

    @cached_property
    def exist(self) -> bool:
        """Whether there are any, or may be."""
        return _native is not None and (self.made is not None or any(entry.seek for entry in self.manifest.shards))

    def marks_of(self, rows: np.ndarray) -> Marks | None:
        """Where a decoder can start in images: int32 (m, 5), MCU, bit and three DC predictors, and int64 (n + 1,), whose marks are whose.

        None if none of rows, int64 (n,), has any. Raises PackedSetError if a table of the set is damaged or gone.
        """
        if not self.exist:
            return None
        numbers, starts = self._starts
        shards = np.searchsorted(starts, rows, side="right") - 1
        known = self._tables
        tables = [known[number] if number in known else self.table(number) for number in numbers[shards].tolist()]
        if all(table is None for table in tables):
            return None
        marks, first = _native.read_marks(tables, rows - starts[shards])
        if not marks:
            return None
        return np.frombuffer(marks, dtype=np.int32).reshape(-1, 5), np.frombuffer(first, dtype=np.int64)

    def table(self, number: int) -> np.ndarray | None:
        """The table of a shard, uint8 (bytes,); None if it has none, or none yet."""
        if number in self._tables:
            return self._tables[number]
        entry = self._by_number[number]
        if entry.seek is not None:
            self._tables[number] = self._map(entry)
        elif self.made is None:
            self._tables[number] = None
        elif (table := self.made(number)) is not None:
            self._tables[number] = table
        return self._tables.get(number)

    def unmap(self, number: int) -> None:
        """Release the table of a shard."""
        self._tables.pop(number, None)

    def _map(self, entry: ShardEntry) -> np.ndarray | None:
        source = self.folder / layout.seek_name(entry.number)
        if self.local is None and is_remote(source):
            return None  # images are read from disks only, and that error is raised there
        assert entry.seek is not None
        path = self.local(entry.number) if self.local else source
        try:
            table = map_file(path)
        except (OSError, ValueError) as error:
            reason = why(error) if isinstance(error, OSError) else str(error)
        else:
            found = hashlib.sha256(table.data).hexdigest()
            reason = f"expected sha256 {entry.seek.sha256[:12]}…, found {found[:12]}…" if found != entry.seek.sha256 else ""
            reason = reason or wrong_table(table, entry.num_rows) or ""
            if not reason:
                return table
        raise PackedSetError(
            f"{source}: damaged ({reason}); repair it with fastfashion verify {self.folder.parent} --repair --source SOURCE"
        )


def map_file(path: Path) -> np.ndarray:
    """A file in memory, uint8 (bytes,), read-only. Raises OSError, and ValueError if it is empty."""
    with open_regular(path) as file:
        return np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
