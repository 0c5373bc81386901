"""Whether the images of a resolution are what its index says of them: size, checksum, and who may decode them."""

import zlib
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import numpy as np

from fastfashion.errors import InputError, PackedSetError
from fastfashion.images import codec
from fastfashion.shards.reader import open_packed_set
from fastfashion.shards.tables import KIND

MAX_IDS_NAMED = 5


def wrong_images(path: Path, name: str, index: Mapping[str, np.ndarray], damaged: Set[str]) -> Iterator[str]:
    """What is wrong with columns of an index, each with the ids of the rows; tars in `damaged`, by relative name, are not looked at."""
    try:
        images = open_packed_set(path).open(name)
        whole = [entry.number for entry in images.manifest.shards if f"{name}/{entry.number:05d}.tar" not in damaged]
        wrong: dict[str, list[str]] = {"crc32": [], "height and width": [], KIND: []}
        rows = np.flatnonzero(np.isin(images.shard, whole)).tolist()
        for row in rows:
            for column in _wrong_columns(images.encoded(row), {column: int(values[row]) for column, values in index.items()}):
                wrong[column].append(str(images.ids[row]))
    except PackedSetError:  # damaged in another way, which is said of its own file
        return
    for column, ids in wrong.items():
        if ids:
            more = f" and {len(ids) - MAX_IDS_NAMED} more" if len(ids) > MAX_IDS_NAMED else ""
            said = f"its column {column} says" if " " not in column else f"its columns {column} say"
            yield f"{len(ids)} of {len(images.ids)} images are not what {said}: ids {', '.join(ids[:MAX_IDS_NAMED])}{more}"


def _wrong_columns(data: np.ndarray, said: Mapping[str, int]) -> Iterator[str]:
    """A plain image that is called something else (0) only costs time, and where nothing is said readers look themselves."""
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
