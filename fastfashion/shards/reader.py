"""Reading packed sets: open, check, encoded bytes by row over memory maps."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fastfashion.catalog import Vocab
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.shards.layout import CATALOG, FULL, INDEX, MANIFEST, VOCAB, Manifest, shard_name

CATALOG_COLUMNS = ("id", "recovered", "duplicate_group")  # and those of the vocabulary
INDEX_COLUMNS = ("shard", "offset", "size", "height", "width")


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The pictures of a packed set at one resolution. All arrays have one entry a row."""

    folder: Path
    manifest: Manifest
    shard: np.ndarray  # int64, number of the tar
    offset: np.ndarray  # int64, bytes
    num_bytes: np.ndarray  # int64
    height_px: np.ndarray  # int64
    width_px: np.ndarray  # int64
    _maps: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.manifest.resolution

    def encoded(self, row: int) -> np.ndarray:
        """The encoded picture of a row: uint8 (bytes,), a view of the memory-mapped shard."""
        number = int(self.shard[row])
        shard = self._maps.get(number)
        if shard is None:
            path = self.folder / shard_name(number)
            try:
                shard = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
            except (OSError, ValueError) as error:
                raise PackedSetError(f"{path}: cannot be read any more ({error}); pack the set again") from error
            self._maps[number] = shard
        start = int(self.offset[row])
        return shard[start : start + int(self.num_bytes[row])]

    def where(self, row: int) -> str:
        """Shard and offset of a row, for messages."""
        return f"{self.folder / shard_name(int(self.shard[row]))} at byte {int(self.offset[row])}"


@dataclass(frozen=True, kw_only=True)
class PackedSet:
    """A catalog, its vocabulary, and the names of the resolutions that are packed."""

    path: Path
    table: pd.DataFrame
    vocab: Vocab
    resolutions: tuple[str, ...]  # ascending, "full" last

    def __len__(self) -> int:
        return len(self.table)

    def open(self, name: str) -> Resolution:
        """Open one resolution; every shard's presence and size is checked against the manifest.

        A tar cut short would otherwise kill the process that reads it through a memory map. Raises ConfigError for a resolution
        that is not packed, PackedSetError for a damaged one.
        """
        if name not in self.resolutions:
            raise ConfigError(
                f"{self.path}: resolution {name!r} is not packed, there are {', '.join(self.resolutions)}; "
                f"run fastfashion shard --res {name} --out {self.path}"
            )
        folder = self.path / name
        manifest = Manifest.read(folder / MANIFEST)
        for entry in manifest.shards:
            shard = folder / shard_name(entry.number)
            found = shard.stat().st_size if shard.is_file() else None
            if found != entry.num_bytes:
                state = "the shard is missing" if found is None else f"found {found} bytes"
                raise PackedSetError(f"{shard}: expected {entry.num_bytes} bytes, {state}; pack the set again")
        index = _read_parquet(folder / INDEX, INDEX_COLUMNS)
        if len(index) != len(self.table) or manifest.num_rows != len(self.table):
            raise PackedSetError(
                f"{folder}: expected {len(self.table)} rows as in {CATALOG}, found {len(index)} in {INDEX} and "
                f"{manifest.num_rows} in {MANIFEST}; pack the set again"
            )
        columns = {name: index[name].to_numpy(np.int64) for name in INDEX_COLUMNS}
        return Resolution(
            folder=folder,
            manifest=manifest,
            shard=columns["shard"],
            offset=columns["offset"],
            num_bytes=columns["size"],
            height_px=columns["height"],
            width_px=columns["width"],
        )


def open_packed_set(path: Path) -> PackedSet:
    """Open a packed set; raises PackedSetError where there is none or it is incomplete."""
    if not path.is_dir():
        raise PackedSetError(f"{path}: no such folder; expected a packed set, make one with fastfashion shard --res 224 --out {path}")
    names = [folder.name for folder in path.iterdir() if (folder / MANIFEST).is_file()]
    resolutions = tuple(sorted(names, key=lambda name: (name == FULL, len(name), name)))
    if not resolutions or not (path / CATALOG).is_file() or not (path / VOCAB).is_file():
        raise PackedSetError(
            f"{path}: not a packed set: expected {CATALOG}, {VOCAB} and at least one resolution with a {MANIFEST}; "
            f"make one with fastfashion shard --res 224 --out {path}"
        )
    for name in resolutions:
        Manifest.read(path / name / MANIFEST)
    try:
        classes = json.loads((path / VOCAB).read_text(encoding="utf-8"))
        vocab = Vocab({task: tuple(names) for task, names in classes.items()})
    except (ValueError, AttributeError, TypeError) as error:
        raise PackedSetError(f"{path / VOCAB}: not readable ({error}); pack the set again") from error
    table = _read_parquet(path / CATALOG, (*CATALOG_COLUMNS, *vocab.classes))
    return PackedSet(path=path, table=table, vocab=vocab, resolutions=resolutions)


def _read_parquet(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise PackedSetError(f"{path}: not readable ({error}); pack the set again") from error
    if missing := [name for name in columns if name not in table]:
        raise PackedSetError(f"{path}: expected columns {', '.join(missing)}, found {', '.join(map(str, table))}; pack the set again")
    return table
