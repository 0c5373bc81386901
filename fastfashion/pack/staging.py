"""Unfinished work: which process holds it, what is done, and whether the next run may resume it.

On a disk, shards wait in OUT/.staging/<res> until a resolution is complete. On object storage, which has no rename, they get their
final names at once, and only the manifest makes a resolution of them.
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
from fastfashion.pack.block import RecordFile, record_path
from fastfashion.remote import is_file, list_anew, size_of
from fastfashion.shards.layout import MOST_BYTES, STAGED_PLAN, STAGING, ShardEntry, read_json, shard_name

LOCK = ".packing.lock"
MAX_RECORD_BYTES = 1 << 28
KEPT = pa.schema([("id", pa.string()), ("height", pa.int64()), ("width", pa.int64()), ("fingerprint", pa.string())])
IMAGES = pa.schema([(name, pa.int64()) for name in ("offset", "size", "height", "width", "crc32", "kind")])


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold OUT for one packer; raises PackedSetError with the other's name. On object storage two of one input write the same bytes."""
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
class BlockRecord:
    """A packed block, as its RecordFile says; in Arrow's columns, since all records of a set are in memory at its end."""

    number: int
    kept: pa.Table
    images: dict[str, pa.Table]  # by resolution
    rejected: Sequence[dict[str, str]]
    shards: dict[str, ShardEntry | None]

    @property
    def num_rows(self) -> int:
        return len(self.kept) + len(self.rejected)

    @property
    def num_bytes(self) -> int:
        return sum(sum(table["size"].to_pylist()) for table in self.images.values())


class Staging:
    """The folder of a run's unfinished work."""

    def __init__(self, out: Path, resolutions: Sequence[str]) -> None:
        self.root = out / STAGING
        self.records = self.root / "blocks"
        self.folders = {name: (out if is_remote(out) else self.root) / name for name in resolutions}
        self._out = out

    def prepare(self, plan: dict[str, Any]) -> None:
        """Keep the staged work if it belongs to the same plan, and remove it otherwise."""
        if not self.would_resume(plan):
            self.remove()
            if is_remote(self._out):  # what another plan left there without a manifest
                for folder in self.folders.values():
                    _remove_tree(folder)
            for folder in (self.records, *self.folders.values()):
                folder.mkdir(parents=True, exist_ok=True)
            publish_json(self.root / STAGED_PLAN, plan)
        self.remove_partials()

    def would_resume(self, plan: dict[str, Any]) -> bool:
        """Whether the staged work belongs to the same plan."""
        with contextlib.suppress(PackedSetError):
            return plan == read_json(self.root / STAGED_PLAN, dict[str, Any], MOST_BYTES[STAGED_PLAN])
        return False

    def finished(self) -> Iterator[BlockRecord]:
        """The blocks that an earlier run packed, of which record and shards are whole."""
        list_anew(self._out)
        for path in sorted(self.records.iterdir()) if self.records.is_dir() else []:
            if path.suffix == ".json" and path.stem.isdecimal():
                with contextlib.suppress(PackedSetError):  # cut short when a disk lost power
                    if self._is_whole(record := self.read(int(path.stem))):
                        yield record

    def read(self, number: int) -> BlockRecord:
        """The record of a finished block."""
        record = read_json(record_path(self.records, number), RecordFile, MAX_RECORD_BYTES)
        return BlockRecord(
            number=number,
            kept=pa.table(msgspec.structs.asdict(record.kept), schema=KEPT),
            images={name: pa.table(msgspec.structs.asdict(columns), schema=IMAGES) for name, columns in record.images.items()},
            rejected=record.rejected,
            shards=record.shards,
        )

    def _is_whole(self, record: BlockRecord) -> bool:
        """Whether the shards that a record names are there, with the size that it says."""
        for name, entry in record.shards.items():
            if entry is not None:
                shard = self.folders[name] / shard_name(record.number)
                if not is_file(shard) or size_of(shard) != entry.num_bytes or not is_file(shard.with_suffix(".idx")):
                    return False
                table = shard.with_suffix(".seek")
                if entry.seek and (not is_file(table) or size_of(table) != entry.seek.num_bytes):
                    return False
        return True

    def remove_partials(self) -> None:
        """Remove the files that killed processes were writing."""
        if not is_remote(self._out):
            for path in self.root.rglob(".*.partial"):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        _remove_tree(self.root)


def _remove_tree(folder: Path) -> None:
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    remote: Any = folder
    with contextlib.suppress(FileNotFoundError):
        remote.fs.rm(remote.path, recursive=True)
