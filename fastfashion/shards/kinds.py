"""What each image of a resolution is (fastfashion.images.codec.Kind), by row: who may decode it.

Packing writes it into the index. Where an index does not say (format version 2, or somebody else's writer), an image is looked at when
it is first read, and the answer is kept in the user's cache.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastfashion.files import is_remote, publish
from fastfashion.images.jpeg_header import RULES
from fastfashion.shards.layout import Manifest
from fastfashion.untrusted import read_limited

UNKNOWN = -1  # not looked at yet
NUM_KINDS = 3
HEADER_BYTES = 1024  # of the cache's file, at most


class Kinds:
    """Kinds of all rows. `values` are int8 (N,), UNKNOWN where nobody has looked yet; `cache` is the file that keeps them, if any."""

    def __init__(self, values: np.ndarray, cache: Path | None = None) -> None:
        self.values = values
        self.cache = cache
        self._num_kept = int((values != UNKNOWN).sum())

    @classmethod
    def unsaid(cls, num_rows: int, folder: Path, manifest: Manifest) -> "Kinds":
        """Of a resolution whose index does not say: what the user's cache has of it."""
        cache = _cache_file(folder, manifest)
        return cls(_read(cache, num_rows), cache)

    def of(self, rows: np.ndarray, encoded: Callable[[int], np.ndarray]) -> np.ndarray:
        """int8 (n,) of rows, int64 (n,); `encoded` gives the bytes of those that nobody has looked at."""
        found: np.ndarray = self.values[rows]
        if found.size and found.min() == UNKNOWN:
            from fastfashion.images import codec

            for row in np.unique(rows[found == UNKNOWN]).tolist():
                self.values[row] = codec.kind(encoded(row))
            found = self.values[rows]
        return found

    def keep(self) -> None:
        """Keep what has been found out since; a cache that cannot be written is no error, since it only saves time.

        Without a lock, which a fork could keep: of two threads that publish at once one may find its file gone, which is no error either.
        """
        if self.cache is None:
            return
        with contextlib.suppress(OSError):
            num_known = int((self.values != UNKNOWN).sum())
            if num_known == self._num_kept:
                return
            others = _read(self.cache, len(self.values))  # of another process, meanwhile
            np.save(data := io.BytesIO(), np.where(self.values == UNKNOWN, others, self.values), allow_pickle=False)
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            publish(self.cache, lambda beside: beside.write_bytes(data.getvalue()))
            self._num_kept = num_known


def _cache_file(folder: Path, manifest: Manifest) -> Path | None:
    """Named by what the set says of itself and by where it is: a set elsewhere that says the same has a file of its own."""
    place = str(folder) if is_remote(folder) else str(folder.resolve())
    known = "\n".join([str(RULES), place, manifest.index_sha256, *(entry.sha256 for entry in manifest.shards)])
    home = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # a user without a home
        return Path(home or Path.home() / ".cache") / "fastfashion" / "kinds" / f"{hashlib.sha256(known.encode()).hexdigest()}.npy"
    return None


def _read(cache: Path | None, num_rows: int) -> np.ndarray:
    """int8 (N,); all UNKNOWN where there is no cache, or a damaged one."""
    if cache is not None:
        with contextlib.suppress(Exception):  # whatever numpy stumbles over in a damaged file
            found = np.load(io.BytesIO(read_limited(cache, num_rows + HEADER_BYTES)), allow_pickle=False)
            if found.dtype == np.int8 and found.shape == (num_rows,) and ((found >= UNKNOWN) & (found < NUM_KINDS)).all():
                return np.array(found)
    return np.full(num_rows, UNKNOWN, dtype=np.int8)
