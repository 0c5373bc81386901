"""Reading packed sets: open, check, and encoded images by row from memory maps."""

import shlex
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.catalog import Vocab, correct
from fastfashion.catalog.columns import Table, values
from fastfashion.catalog.views import NO_VIEW, View
from fastfashion.config import DataConfig
from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.files import is_remote, location
from fastfashion.images import codec
from fastfashion.images.sheets import TILE_HEIGHT_PX, TILE_WIDTH_PX, Tile, fit
from fastfashion.remote import children, is_file, is_folder, list_anew, read_range, size_of
from fastfashion.shards import layout
from fastfashion.shards.layout import CATALOG, FULL, MANIFEST, VOCAB, Manifest, SetFiles
from fastfashion.shards.seek import SeekTables
from fastfashion.shards.tables import KIND, as_pandas, read_catalog, read_index, read_vocab
from fastfashion.untrusted import open_regular

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MAP_TRIES = 5  # another process may remove a file from a cache between two calls here
STATS_AT_ONCE = 16
UNKNOWN = -1  # the kind of an image that no process has examined yet


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The images of a packed set at one resolution. All arrays have an entry for each row.

    It can be sent to another process: that one maps the shards again when it reads them.
    """

    folder: Path
    manifest: Manifest
    ids: "pa.ChunkedArray"  # str, of the catalog; `id_of` gives one
    shard: np.ndarray  # int32, number of the tar, ascending
    offset: np.ndarray  # int64, bytes
    num_bytes: np.ndarray  # int64
    height_px: np.ndarray  # int32
    width_px: np.ndarray  # int32
    crc32: np.ndarray  # uint32, of the encoded image
    kind: (
        np.ndarray
    )  # int8, fastfashion.images.codec.Kind; UNKNOWN if the index does not say and no process has examined it yet: see kinds_of
    seek: SeekTables
    local: Callable[[int], Path] | None = None  # a shard's file on a disk of this machine, by number; None: the set is on one
    _maps: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("_maps", "_looked_at")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _maps={})

    @cached_property
    def _looked_at(self) -> np.ndarray:
        return np.zeros(len(self.shard), dtype=bool)

    @property
    def name(self) -> str:
        return self.manifest.resolution

    def unlike(self, rows: np.ndarray, encoded: Sequence[np.ndarray]) -> dict[int, InputError]:
        """The errors, by place, of rows, int64 (n,), whose checksum is not the index's. Checks each row once."""
        wrong: dict[int, InputError] = {}
        if self._looked_at[rows].all():
            return wrong
        for place in np.flatnonzero(~self._looked_at[rows]).tolist():
            row, data = int(rows[place]), encoded[place]
            if (found := zlib.crc32(data.data)) != self.crc32[row]:
                wrong[place] = InputError(f"its bytes are not those that the index has: expected crc32 {self.crc32[row]}, found {found}")
            else:
                self._looked_at[row] = True
        return wrong

    def kinds_of(self, rows: np.ndarray) -> np.ndarray:
        """codec.Kind of rows, int64 (n,), as int8 (n,); looks once at an image of which the index does not say it. Raises as `encoded`."""
        kinds = self.kind[rows]
        if (kinds == UNKNOWN).any():
            for row in np.unique(rows[kinds == UNKNOWN]).tolist():
                self.kind[row] = codec.kind(self.encoded(row))
            kinds = self.kind[rows]
        return kinds

    @cached_property
    def _tar_bytes(self) -> dict[int, int]:
        return {entry.number: entry.num_bytes for entry in self.manifest.shards}

    def encoded(self, row: int) -> np.ndarray:
        """A row's encoded image: uint8 (bytes,), a view of the mapped shard. Raises PackedSetError if that is gone, cut, or remote."""
        try:
            shard = self.map_shard(int(self.shard[row]))
        except PackedSetError as error:
            raise PackedSetError(f"row {row}, id {self.id_of(row)}: {error}") from error
        start = int(self.offset[row])
        return shard[start : start + int(self.num_bytes[row])]

    def encoded_all(self, rows: np.ndarray) -> list[np.ndarray]:
        """As `encoded`, for rows, int64 (n,)."""
        maps, found = self._maps, []
        places = self.shard[rows].tolist(), self.offset[rows].tolist(), self.num_bytes[rows].tolist()
        for row, number, start, size in zip(rows.tolist(), *places, strict=True):
            shard = maps.get(number)
            found.append(self.encoded(row) if shard is None else shard[start : start + size])
        return found

    def read(self, row: int) -> np.ndarray:
        """The encoded image of a row, also from object storage; each call is a request, so only for a few images."""
        source = self.folder / layout.shard_name(int(self.shard[row]))
        if self.local is not None or not is_remote(source):
            return self.encoded(row)
        start = int(self.offset[row])
        try:
            data = read_range(source, start, int(self.num_bytes[row]))
        except FileNotFoundError as error:
            raise PackedSetError(f"{self.where(row)}: the shard is gone; check the set with fastfashion verify") from error
        return np.frombuffer(data, dtype=np.uint8)

    def tile(self, row: int, lines: Sequence[str] = ()) -> Tile:
        """The image of a row for a contact sheet, its id and `lines` under it. Raises PackedSetError if it does not decode."""
        try:
            pixels = codec.decode_rgb(self.read(row), min_height_px=TILE_HEIGHT_PX, min_width_px=TILE_WIDTH_PX)
        except InputError as error:
            raise PackedSetError(f"{self.where(row)}: {error}; see what is damaged with fastfashion verify {self.folder.parent}") from error
        return Tile(pixels=fit(pixels, TILE_HEIGHT_PX, TILE_WIDTH_PX), lines=(self.id_of(row), *lines))

    def is_mapped(self, number: int) -> bool:
        """Whether a shard is in memory already."""
        return number in self._maps

    def map_shard(self, number: int) -> np.ndarray:
        """Map a shard into memory, and keep it mapped: uint8 (bytes,). Raises PackedSetError as `encoded`."""
        if (shard := self._maps.get(number)) is not None:
            return shard
        source = self.folder / layout.shard_name(number)
        if self.local is None and is_remote(source):
            raise PackedSetError(f"{source}: images are read from disks only; copy the set to a disk first: {self.folder.parent}")
        expected = self._tar_bytes[number]
        for _ in range(MAP_TRIES if self.local else 1):
            path = self.local(number) if self.local else source
            try:
                with open_regular(path) as file:
                    shard = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
            except (OSError, ValueError) as error:
                reason = str(error)
                continue
            if len(shard) == expected:
                self._maps[number] = shard
                return shard
            reason = f"expected {expected} bytes, found {len(shard)}"
        raise PackedSetError(
            f"{source}: cannot be read any more ({reason}); see what is damaged with fastfashion verify {self.folder.parent}"
        )

    def unmap_shard(self, number: int) -> None:
        """Release a shard and its seek table; views that `encoded` returned stay valid."""
        self._maps.pop(number, None)
        self.seek.unmap(number)

    def id_of(self, row: int) -> str:
        """The id of a row."""
        return str(self.ids[row])

    def where(self, row: int) -> str:
        """Id, shard and offset of a row, for messages."""
        return f"id {self.id_of(row)} in {self.folder / layout.shard_name(int(self.shard[row]))} at byte {int(self.offset[row])}"


@dataclass(frozen=True, kw_only=True)
class PackedSet:
    """A catalog, its vocabulary, and the names of the resolutions that are packed.

    A loader does with `columns`, `column` and `ids`: `table` imports pandas when it is first used. Under a view the labels of `columns` and
    `vocab` are those of the view, and `whole` is the set as it is.
    """

    path: Path
    columns: "pa.Table"  # the catalog
    vocab: Vocab
    resolutions: tuple[str, ...]  # ascending, "full" last
    view: View = NO_VIEW
    whole: "PackedSet | None" = None

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def table(self) -> "pd.DataFrame":
        """The catalog as a pandas table; a change to it changes nothing else of the set."""
        return as_pandas(self.columns)

    def viewed(self, view: View, *, strict: bool = True) -> "PackedSet":
        """The same rows with the labels of a view. Raises what `View.applied` raises."""
        if not view:
            return self
        columns, vocab = view.applied(self.columns, self.vocab, strict=strict)
        return replace(self, columns=columns, vocab=vocab, view=view, whole=self)

    def corrected(self, *files: str, of_another_set: bool = False) -> Table:
        """The catalog with the labels of corrections files, each over those before; class names in them are those without the view."""
        named = [file for file in files if file]
        if not named:
            return self.columns
        whole = self.whole or self
        table = whole.table
        for file in named:
            table = correct(table, whole.vocab, Path(file), of_another_set=of_another_set)
        return self.view.relabelled(table, whole.columns, whole.vocab, self.vocab)

    @cached_property
    def ids(self) -> np.ndarray:
        """str (N,), as objects."""
        return self.column("id")

    def column(self, name: str) -> np.ndarray:
        """One column of the catalog, (N,): numbers, truths as bool, texts as objects. Not to be written to."""
        return values(self.columns[name])

    def open(self, name: str, max_pixels: int | None = None) -> Resolution:
        """Open one resolution: check its index against its checksum, and every shard's presence and size against the manifest.

        A tar cut short would kill the process that reads it through a memory map. Raises ConfigError for a resolution that is not packed,
        PackedSetError for a damaged one, and for images of more than `max_pixels`: 100 million, or FASTFASHION_MAX_PIXELS.
        """
        if name not in self.resolutions:
            raise ConfigError(
                f"{self.path}: resolution {name!r} is not packed, there are {', '.join(self.resolutions)}; "
                f"run fastfashion shard --res {name} --out {self.path}"
            )
        folder = self.path / name
        manifest = Manifest.read(folder / MANIFEST)
        columns = read_index(folder, manifest, len(self), max_pixels)
        self._check_shards(folder, manifest)
        return Resolution(
            folder=folder,
            manifest=manifest,
            seek=SeekTables(folder=folder, manifest=manifest),
            ids=self.columns["id"],
            shard=columns["shard"].astype(np.int32),
            offset=columns["offset"],
            num_bytes=columns["size"],
            height_px=columns["height"].astype(np.int32),
            width_px=columns["width"].astype(np.int32),
            crc32=columns["crc32"].astype(np.uint32),
            kind=columns[KIND].astype(np.int8) if KIND in columns else np.full(len(self), UNKNOWN, dtype=np.int8),
        )

    def open_for(self, short_px: int) -> Resolution:
        """Open the smallest resolution of which half the images have such a shorter side, or the largest."""
        opened = [self.open(name) for name in self.resolutions]
        return next((r for r in opened if np.median(np.minimum(r.height_px, r.width_px)) >= short_px), opened[-1])

    def _check_shards(self, folder: Path, manifest: Manifest) -> None:
        there = {path.name: path for path in children(folder)}
        files = [(layout.shard_name(entry.number), entry.num_bytes, "shard") for entry in manifest.shards]
        files += [(layout.seek_name(entry.number), entry.seek.num_bytes, "seek table") for entry in manifest.shards if entry.seek]
        # The listing of object storage holds the sizes; that of a web server does not, and each of its answers takes a while.
        with ThreadPoolExecutor(STATS_AT_ONCE) as pool:
            sizes = list(pool.map(lambda file: _size(there.get(file[0])), files))
        for (name, num_bytes, what), found in zip(files, sizes, strict=True):
            if found != num_bytes:
                state = f"the {what} is missing" if found is None else f"found {found} bytes"
                raise PackedSetError(
                    f"{folder / name}: expected {num_bytes} bytes, {state}; pack the set again, or only "
                    f"what is damaged with fastfashion verify {self.path} --repair --source SOURCE"
                )


def open_viewed(data: DataConfig) -> PackedSet:
    """Open the packed set that settings name, under the view that they name. Raises what `open_packed_set` and `View.of` raise."""
    return open_packed_set(location(data.shards)).viewed(View.of(data))


def open_packed_set(path: Path) -> PackedSet:
    """Open a packed set; raises PackedSetError if there is no whole one. Labels may be corrected: `verify` checks the catalog's hash."""
    how_to_make = f"make one with fastfashion shard --res 224 --out {path}"
    list_anew(path)
    if not is_folder(path):
        raise PackedSetError(f"{path}: no such folder; expected a packed set, {how_to_make}")
    names = [folder.name for folder in children(path) if layout.is_resolution(folder.name) and is_file(folder / MANIFEST)]
    resolutions = tuple(sorted(names, key=lambda name: (name == FULL, len(name), name)))  # ascending, "full" last
    if not resolutions or not is_file(path / CATALOG) or not is_file(path / VOCAB):
        refuse_interrupted(path)
        raise PackedSetError(
            f"{path}: not a packed set: expected {CATALOG}, {VOCAB} and at least one resolution with a {MANIFEST}; {how_to_make}"
        )
    for name in resolutions:
        Manifest.read(path / name / MANIFEST)
    set_files = SetFiles.read(path / layout.SET)
    vocab = read_vocab(path, set_files)
    return PackedSet(path=path, columns=read_catalog(path, vocab, set_files), vocab=vocab, resolutions=resolutions)


@dataclass(frozen=True)
class _StagedPlan:
    source: str
    resolutions: tuple[str, ...]


def refuse_interrupted(path: Path) -> None:
    """Raise PackedSetError, with the command that resumes it, if a packing run into this folder has not finished."""
    try:
        plan = layout.read_json(path / layout.STAGING / layout.STAGED_PLAN, _StagedPlan, layout.MOST_BYTES[layout.STAGED_PLAN])
    except PackedSetError:
        return
    resolutions = " ".join(f"--res {shlex.quote(name)}" for name in plan.resolutions)
    raise PackedSetError(
        f"{path}: packing it was interrupted, or has not finished yet; the same command resumes it:\n"
        f"  fastfashion shard --source {shlex.quote(plan.source)} {resolutions} --out {shlex.quote(str(path))}   (and its other options)"
    )


def _size(path: Path | None) -> int | None:
    try:
        return size_of(path) if path is not None else None
    except FileNotFoundError:  # such as a link to nowhere
        return None
