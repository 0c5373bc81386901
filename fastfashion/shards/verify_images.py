"""Whether the images of a resolution are what its index says of them: size, checksum, and what may decode them."""

import contextlib
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import pandas as pd

from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote
from fastfashion.images import codec
from fastfashion.remote import read_range
from fastfashion.shards import seek
from fastfashion.shards.layout import MANIFEST, Manifest, SetFiles, ShardEntry, seek_name, shard_name
from fastfashion.shards.reader import open_packed_set
from fastfashion.shards.tables import KIND, as_pandas, read_catalog, read_index, read_vocab
from fastfashion.untrusted import open_regular
from fastfashion.words import why

MAX_IDS_NAMED = 5


def wrong_images(path: Path, name: str, index: Mapping[str, np.ndarray], damaged: Set[str]) -> Iterator[str]:
    """What is wrong with columns of an index, each with the ids of the rows; tars in `damaged`, by relative name, are left out."""
    try:
        images = open_packed_set(path).open(name)
        whole = [entry.number for entry in images.manifest.shards if f"{name}/{shard_name(entry.number)}" not in damaged]
        wrong: dict[str, list[str]] = {"crc32": [], "height and width": [], KIND: []}
        for row in np.flatnonzero(np.isin(images.shard, whole)).tolist():
            for column in _wrong_columns(images.encoded(row), {column: int(values[row]) for column, values in index.items()}):
                wrong[column].append(images.id_of(row))
    except PackedSetError:  # damaged in another way, which is reported of its own file
        return
    for column, ids in wrong.items():
        if ids:
            says = f"its column {column} says" if " " not in column else f"its columns {column} say"
            yield f"{len(ids)} of {len(images.shard)} images are not what {says}: {_ids_text(ids)}"


def _wrong_columns(data: np.ndarray, said: Mapping[str, int]) -> Iterator[str]:
    """The columns of an index that an image contradicts.

    A plain image that the index calls something else (0) only costs time, and if it says nothing readers look themselves.
    """
    if zlib.crc32(data.data) != said["crc32"]:
        yield "crc32"
    try:
        info = codec.probe(data, max_pixels=said["height"] * said["width"])
    except InputError:
        yield "height and width"
        return
    if (info.height_px, info.width_px) != (said["height"], said["width"]):
        yield "height and width"
    if said.get(KIND, 0) > codec.Kind.OTHER and info.kind != said[KIND]:
        yield KIND


def wrong_table(folder: Path, entry: ShardEntry, offset: np.ndarray, size: np.ndarray) -> str | None:
    """What is wrong with the seek table of a shard whose images are at `offset`, of `size` bytes, int64 (n,); the shard must be whole."""
    table = seek.map_file(folder / seek_name(entry.number))
    if (reason := seek.wrong_table(table, entry.num_rows)) or not seek.can_read():
        return reason
    with open_regular(folder / shard_name(entry.number)) as file:
        for place, (at, length) in enumerate(zip(offset.tolist(), size.tolist(), strict=True)):
            file.seek(at)
            if not seek.are_true(table, place, np.frombuffer(file.read(length), dtype=np.uint8)):
                return f"its marks of image {place} of the shard are not where MCUs begin"
    return None


def image_places(path: Path, resolution: str, set_files: SetFiles) -> pd.DataFrame | None:
    """The index of a resolution with the images' ids; None if index or catalog are not as the format asks."""
    try:
        index = read_index(path / resolution, Manifest.read(path / resolution / MANIFEST), set_files.num_rows)
        return pd.DataFrame(index).assign(id=as_pandas(read_catalog(path, read_vocab(path, set_files), set_files))["id"])
    except PackedSetError:
        return None


def images_hit(tar: Path, images: pd.DataFrame) -> str:
    """Which images of a damaged tar have another CRC than the index says."""
    hit = []
    try:
        with contextlib.nullcontext() if is_remote(tar) else open_regular(tar) as file:
            for identity, offset, size, crc32 in images[["id", "offset", "size", "crc32"]].itertuples(index=False):
                if file is not None:
                    file.seek(offset)
                if zlib.crc32(read_range(tar, offset, size) if file is None else file.read(size)) != crc32:
                    hit.append((str(identity), offset))
    except (OSError, ValueError) as error:
        return f"its images cannot be read ({why(error)})"
    if not hit:
        return "its images are whole: labels, headers or padding between them differ"
    return f"{len(hit)} of {len(images)} images differ, from byte {hit[0][1]} on: {_ids_text([identity for identity, _ in hit])}"


def _ids_text(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MAX_IDS_NAMED} more" if len(ids) > MAX_IDS_NAMED else ""
    return f"ids {', '.join(ids[:MAX_IDS_NAMED])}{more}"
