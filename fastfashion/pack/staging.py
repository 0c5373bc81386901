"""Unfinished work: who is at it, what is done of it, and whether the next run may go on with it.

On a disk, shards wait in OUT/.staging/<res> until a resolution is complete. On object storage, which has no rename, they lie under
their final names at once, and only the manifest makes a resolution of them.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from fastfashion.errors import PackedSetError
from fastfashion.files import hold, is_remote, publish_json
from fastfashion.pack.block import record_path
from fastfashion.remote import is_file, list_anew, size_of
from fastfashion.shards.layout import MANIFEST, MOST_BYTES, PACK_AGAIN, STAGED_PLAN, STAGING, ShardEntry, read_file, shard_name
from fastfashion.untrusted import Count, parse_json

LOCK = ".packing.lock"
MAX_RECORD_BYTES = 1 << 28


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold OUT for one packer; raises PackedSetError with the other's name where it is held. Freed when this process ends, however.

    Object storage has no such lock; two packers with the same input write the same bytes there.
    """
    if is_remote(out):
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    try:
        with hold(out / LOCK, "packer", PackedSetError):
            yield
    finally:
        with contextlib.suppress(OSError):
            out.rmdir()  # a run that made nothing leaves nothing


@dataclass(frozen=True, kw_only=True)
class Record:
    """A packed block, as its record says: columns rather than objects, since there are as many rows as images."""

    number: int
    kept: pa.Table
    images: dict[str, pa.Table]  # resolution -> offset, size, height, width, crc32, kind
    rejected: Sequence[dict[str, str]]
    shards: dict[str, ShardEntry | None]

    @property
    def num_rows(self) -> int:
        return len(self.kept) + len(self.rejected)

    @property
    def num_bytes(self) -> int:
        return sum(sum(table["size"].to_pylist()) for table in self.images.values())


class _Kept(msgspec.Struct):
    id: list[str]
    height: list[Count]
    width: list[Count]
    fingerprint: list[str]


class _Places(msgspec.Struct):
    offset: list[Count]
    size: list[Count]
    height: list[Count]
    width: list[Count]
    crc32: list[Count]
    kind: list[Count]


class _Written(msgspec.Struct):
    """A record's file."""

    kept: _Kept
    images: dict[str, _Places]
    rejected: list[dict[str, str]]
    shards: dict[str, ShardEntry | None]

    def __post_init__(self) -> None:
        columns = [column for table in (self.kept, *self.images.values()) for column in msgspec.structs.astuple(table)]
        if len({len(column) for column in columns}) > 1 or set(self.images) != set(self.shards):
            raise ValueError("columns of different lengths, or of different resolutions")


class Staging:
    """The folder of a run's unfinished work."""

    def __init__(self, out: Path, resolutions: Sequence[str]) -> None:
        self.root = out / STAGING
        self.records = self.root / "blocks"
        self.folders = {name: (out if is_remote(out) else self.root) / name for name in resolutions}
        self._out = out

    def prepare(self, plan: dict[str, Any]) -> None:
        """Keep what is staged if it is of the same plan, throw it away otherwise."""
        if self._plan() != plan:
            self.remove()
            if is_remote(self._out):  # what another plan left there without a manifest
                for folder in self.folders.values():
                    remove_tree(folder)
            for folder in (self.records, *self.folders.values()):
                folder.mkdir(parents=True, exist_ok=True)
            publish_json(self.root / STAGED_PLAN, plan)
        self.remove_partials()

    def _plan(self) -> dict[str, Any] | None:
        with contextlib.suppress(PackedSetError):
            path = self.root / STAGED_PLAN
            return parse_json(read_file(path, MOST_BYTES[STAGED_PLAN]), dict[str, Any], str(path), PackedSetError, PACK_AGAIN)
        return None

    def would_resume(self, plan: dict[str, Any]) -> bool:
        return self._plan() == plan

    def finished(self) -> Iterator[Record]:
        """Blocks that an earlier run packed, of which record and shards are whole."""
        list_anew(self._out)
        paths = sorted(self.records.iterdir()) if self.records.is_dir() else []
        for path in paths:
            if path.suffix == ".json" and path.stem.isdecimal():
                with contextlib.suppress(PackedSetError):  # cut short, by a disk that lost power
                    if self._whole(record := self.read(int(path.stem))):
                        yield record

    def read(self, number: int) -> Record:
        """The record of a finished block."""
        path = record_path(self.records, number)
        values = parse_json(read_file(path, MAX_RECORD_BYTES), _Written, str(path), PackedSetError, PACK_AGAIN)
        return Record(
            number=number,
            kept=pa.table(msgspec.to_builtins(values.kept), schema=KEPT),
            images={name: pa.table(msgspec.to_builtins(columns), schema=IMAGES) for name, columns in values.images.items()},
            rejected=values.rejected,
            shards=values.shards,
        )

    def _whole(self, record: Record) -> bool:
        """Whether the shards that a record speaks of are there, at the size that it says."""
        for name, entry in record.shards.items():
            if entry is not None:
                shard = self.folders[name] / shard_name(record.number)
                if not is_file(shard) or size_of(shard) != entry.num_bytes or not is_file(shard.with_suffix(".idx")):
                    return False
        return True

    def remove_partials(self) -> None:
        """What processes that were killed in mid-file have left."""
        if not is_remote(self._out):
            for path in self.root.rglob(".*.partial"):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        remove_tree(self.root)


def remove_tree(folder: Path) -> None:
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    remote: Any = folder
    with contextlib.suppress(FileNotFoundError):
        remote.fs.rm(remote.path, recursive=True)


def has_manifest(folder: Path) -> bool:
    return is_file(folder / MANIFEST)


KEPT = pa.schema([("id", pa.string()), ("height", pa.int64()), ("width", pa.int64()), ("fingerprint", pa.string())])
IMAGES = pa.schema([(name, pa.int64()) for name in ("offset", "size", "height", "width", "crc32", "kind")])
