"""Whether an index calls only those images plain that are: of others, decoders would show other pixels without a word."""

from collections.abc import Set
from pathlib import Path

import numpy as np

from fastfashion import image
from fastfashion.errors import PackedSetError
from fastfashion.shards.reader import KIND, Resolution, open_packed_set

MAX_IDS_NAMED = 5


def wrong_kinds(path: Path, name: str, damaged: Set[str]) -> str | None:
    """What is wrong with the column `kind` of a resolution, or None; tars and files in `damaged`, by relative name, are not looked at."""
    try:
        pictures = open_packed_set(path).open(name)
        whole = [f"{name}/{entry.number:05d}.tar" not in damaged for entry in pictures.manifest.shards]
        numbers = [entry.number for entry, is_whole in zip(pictures.manifest.shards, whole, strict=True) if is_whole]
        wrong = _wrongly_plain(pictures, np.flatnonzero(np.isin(pictures.shard, numbers)))
    except PackedSetError:  # damaged in another way, which is said of its own file
        return None
    if not wrong:
        return None
    ids = ", ".join(str(pictures.ids[row]) for row in wrong[:MAX_IDS_NAMED])
    more = f" and {len(wrong) - MAX_IDS_NAMED} more" if len(wrong) > MAX_IDS_NAMED else ""
    return f"{len(wrong)} of {len(pictures.kind)} images are not what its column {KIND} says: ids {ids}{more}"


def _wrongly_plain(pictures: Resolution, rows: np.ndarray) -> list[int]:
    """A plain image that is called something else (0) only costs time, and where nothing is said (-1) readers look themselves."""
    said = pictures.kind
    return [row for row in rows[said[rows] > image.Kind.OTHER].tolist() if image.kind(pictures.encoded(row)) != said[row]]
