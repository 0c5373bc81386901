"""catalog.parquet, vocab.json, index.parquet and rejected.csv of a packed set, read as untrusted data: the footer first.

    footer ─► rows as expected, columns and types as in FORMAT.md ─► read, texts bounded ─► values in range

Opening and `verify` share all of it but `wrong_in_catalog`, which looks at each text.
"""

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.catalog import Vocab
from fastfashion.catalog.columns import values
from fastfashion.catalog.ids import MAX_ID_BYTES
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.images.codec import MAX_PIXELS
from fastfashion.shards import layout
from fastfashion.shards.layout import CATALOG, INDEX, MANIFEST, PACK_AGAIN, REJECTED, VOCAB, Manifest, SetFiles, ShardEntry, read_file
from fastfashion.shards.parquet import FINGERPRINT, NUMBER, TEXT, TRUTH, WHOLE, UnfitError, parse_table
from fastfashion.words import why

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

KIND, NUM_KINDS = "kind", 3  # a column of the index since version 3: fastfashion.images.codec.Kind
INDEX_COLUMNS = dict.fromkeys(("row", "shard", "offset", "size", "height", "width", "crc32"), WHOLE)
CATALOG_COLUMNS = {"id": TEXT, "recovered": TRUTH, "height": WHOLE, "width": WHOLE, "duplicate_group": WHOLE}
MORE_COLUMNS = {"row": WHOLE, "line": WHOLE, "path": TEXT, "year": NUMBER, "productDisplayName": TEXT}  # optional
_SHOWN = (*INDEX_COLUMNS, KIND, "duplicate_group")  # in errors about a row
MAX_SIDE_PX = 2**31 - 1
_IDX_LINE = re.compile(r"jpg ([0-9]{1,18}) ([0-9]{1,18}) [^ ]+ json ([0-9]{1,18}) ([0-9]{1,18}) [^ ]+")
MAX_PIXELS_VARIABLE = "FASTFASHION_MAX_PIXELS"


def read_vocab(path: Path, set_files: SetFiles) -> Vocab:
    """The vocabulary of a set; raises PackedSetError if it is not as FORMAT.md asks."""
    vocab = Vocab.of_json(read_file(path / VOCAB, layout.MOST_BYTES[VOCAB]), str(path / VOCAB))
    for task, names in vocab.classes.items():
        if len(names) > set_files.num_rows:
            raise PackedSetError(f"{path / VOCAB}: {len(names)} classes of {task} in {set_files.num_rows} rows; {PACK_AGAIN}")
    return vocab


def read_catalog(path: Path, vocab: Vocab, set_files: SetFiles) -> "pa.Table":
    """The catalog, without fingerprints; raises PackedSetError if it is not as FORMAT.md asks. Texts are left to `wrong_in_catalog`."""
    file, num_rows = path / CATALOG, set_files.num_rows
    data = read_file(file, layout.most_catalog_bytes(set_files.files[CATALOG].num_bytes))
    needed = CATALOG_COLUMNS | dict.fromkeys(vocab.classes, TEXT)
    table = _parse(file, data, needed, num_rows=num_rows, counted_in=layout.SET, more=MORE_COLUMNS, unread={FINGERPRINT: TEXT})
    images = {name: values(table[name]) for name in table.column_names if name in _SHOWN}
    groups = images["duplicate_group"]
    _refuse_first(file, (groups < 0) | (groups > np.arange(num_rows)), "duplicate_group is neither the row nor one before it", images)
    for side in ("height", "width"):
        _refuse_first(file, (images[side] < 1) | (images[side] > MAX_SIDE_PX), "an image without pixels", images)
    return table


def as_pandas(catalog: "pa.Table") -> "pd.DataFrame":
    """The catalog as a pandas table."""
    return catalog.to_pandas(use_threads=False)


def wrong_in_catalog(path: Path, vocab: Vocab, set_files: SetFiles) -> str | None:
    """What FORMAT.md does not allow among ids, fingerprints and row numbers, or None. For `verify`: it reads the catalog again."""
    import pyarrow.compute as pc

    num_rows = set_files.num_rows
    data = read_file(path / CATALOG, layout.most_catalog_bytes(set_files.files[CATALOG].num_bytes))
    needed = CATALOG_COLUMNS | dict.fromkeys((*vocab.classes, FINGERPRINT), TEXT)
    table = _parse(path / CATALOG, data, needed, num_rows=num_rows, counted_in=layout.SET, more=MORE_COLUMNS)
    ids, fingerprints = table["id"], table[FINGERPRINT]
    id_lengths, lengths = pc.binary_length(ids), pc.binary_length(fingerprints)
    groups = values(table["duplicate_group"])
    checks = {
        f"expected an id of 1 to {MAX_ID_BYTES} bytes": pc.or_(pc.equal(id_lengths, 0), pc.greater(id_lengths, MAX_ID_BYTES)),
        "expected a fingerprint in lower-case hex": pc.invert(pc.match_substring_regex(fingerprints, "^[0-9a-f]*$")),
        "expected fingerprints of one length": pc.not_equal(lengths, lengths[0]),
        "expected duplicate_group to be the first row of a group": groups[groups] != groups,
    }
    if set_files.version > 2:
        checks["expected an id without . / \\ or control characters"] = pc.match_substring_regex(ids, r"[./\\\x00-\x1f\x7f]")
    if "row" in table.column_names:
        checks["expected rows 0, 1, 2, …"] = values(table["row"]) != np.arange(num_rows)
    for reason, wrong in checks.items():
        if (found := np.asarray(wrong)).any():
            return f"line {int(np.argmax(found))}: {reason}"
    if (times := Counter(ids.to_pylist()).most_common(1)[0])[1] > 1:
        return f"the id {times[0]} occurs {times[1]} times"
    return None


def read_index(folder: Path, manifest: Manifest, num_rows: int | None = None, max_pixels: int | None = None) -> dict[str, np.ndarray]:
    """The columns of a resolution's index, int64 (N,) each, `kind` only if it has that. Training and `verify` refuse the same.

    Raises PackedSetError if the manifest is not that of this folder in a set of `num_rows`, or the index is not as FORMAT.md
    asks, has another checksum, or an image of more than `max_pixels`.
    """
    if reason := manifest.contradiction(folder.name, num_rows):
        raise PackedSetError(f"{folder / MANIFEST}: {reason}; {PACK_AGAIN}")
    path = folder / INDEX
    data = read_file(path, layout.most_index_bytes(manifest.num_rows))
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise PackedSetError(f"{path}: damaged: its checksum is not the one in {MANIFEST}; {PACK_AGAIN}")
    table = _parse(path, data, INDEX_COLUMNS, num_rows=manifest.num_rows, counted_in=MANIFEST, more={KIND: WHOLE})
    columns = {name: values(table[name]) for name in table.column_names}
    for reason, wrong in _wrong_places(columns, manifest):
        _refuse_first(path, wrong, reason, columns)
    limit = _most_pixels() if max_pixels is None else max_pixels
    reason = f"an image of more than {limit} pixels: if you trust this set, set {MAX_PIXELS_VARIABLE} to a higher limit"
    _refuse_first(path, columns["height"] > limit // columns["width"], reason, columns)
    return columns


def _most_pixels() -> int:
    said = os.environ.get(MAX_PIXELS_VARIABLE, str(MAX_PIXELS))
    if not said.isascii() or not said.isdecimal() or len(said) > 18:
        raise ConfigError(f"{MAX_PIXELS_VARIABLE}: expected a number of pixels, found {said!r}")
    return int(said)


def _wrong_places(columns: Mapping[str, np.ndarray], manifest: Manifest) -> Iterator[tuple[str, np.ndarray]]:
    """What may be wrong with a row, and with which rows it is, bool (N,). A later check is valid if the earlier ones found nothing."""
    entries = sorted(manifest.shards, key=lambda entry: entry.number)
    numbers, tar_bytes, tar_rows = np.array([(entry.number, entry.num_bytes, entry.num_rows) for entry in entries], dtype=np.int64).T
    shard, offset, size = (columns[name] for name in ("shard", "offset", "size"))
    yield "expected rows 0, 1, 2, …, each once", columns["row"] != np.arange(len(shard))
    yield f"not in the shard that {MANIFEST} has for it", shard != np.repeat(numbers, tar_rows)
    end = np.repeat(tar_bytes, tar_rows)
    yield "outside of its shard", (offset < 0) | (size < 1) | (offset > end - size)
    same = shard[1:] == shard[:-1]
    yield "before the end of the image before it", np.append(False, same & (offset[1:] < offset[:-1] + size[:-1]))
    for side in ("height", "width"):
        yield "an image without pixels", (columns[side] < 1) | (columns[side] > MAX_SIDE_PX)
    yield "crc32 is not a number of 32 bits", (columns["crc32"] < 0) | (columns["crc32"] >= 2**32)
    if KIND in columns:
        yield f"{KIND} is not 0, 1 or 2", (columns[KIND] < 0) | (columns[KIND] >= NUM_KINDS)


def _refuse_first(path: Path, wrong: np.ndarray, reason: str, columns: "Mapping[str, Any]") -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        found = ", ".join(f"{name} {columns[name][row]}" for name in columns if name in _SHOWN)
        raise PackedSetError(f"{path}: line {row}: {reason} ({found}); {PACK_AGAIN}")


def check_idx(folder: Path, entry: ShardEntry, offset: np.ndarray, size: np.ndarray) -> None:
    """Raise PackedSetError if the index of a shard for other readers has other places than `offset` and `size`, int64 (n,), say."""
    path = folder / layout.index_name(entry.number)
    header, *lines = read_file(path, layout.most_idx_bytes(entry.num_rows)).decode("utf-8", errors="replace").split("\n")
    if header != f"v1.2 {entry.num_rows}" or len(lines) != entry.num_rows + 1 or lines[-1]:
        raise PackedSetError(f"{path}: expected v1.2 and {entry.num_rows} lines, found {header[:40]!r} and {len(lines) - 1}; {PACK_AGAIN}")
    for number, (line, at, long) in enumerate(zip(lines, offset.tolist(), size.tolist(), strict=False)):
        found = _IDX_LINE.fullmatch(line)
        if not found or (int(found[1]), int(found[2])) != (at, long) or int(found[3]) + int(found[4]) > entry.num_bytes:
            raise PackedSetError(f"{path}: line {number + 2}: expected an image of {long} bytes at byte {at}, and a JSON; {PACK_AGAIN}")


def read_rejected(path: Path) -> "pd.Series":
    """The reasons of rejected.csv, in its order; raises PackedSetError if it is not as FORMAT.md asks."""
    import pandas as pd

    data = read_file(path / REJECTED, layout.MOST_BYTES[REJECTED])
    try:
        return pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, index_col=False)["reason"]
    except (KeyError, ValueError) as error:
        raise PackedSetError(f"{path / REJECTED}: expected id,line,reason, not readable ({why(error)}); {PACK_AGAIN}") from error


def _parse(path: Path, data: bytes, needed: Mapping[str, str], **how: Any) -> "pa.Table":
    """The same for a table of a set; raises PackedSetError."""
    import pyarrow as pa

    try:
        return parse_table(data, needed, **how)
    except UnfitError as error:
        raise PackedSetError(f"{path}: {error}; {PACK_AGAIN}") from error
    finally:
        pa.default_memory_pool().release_unused()  # of a catalog of 6 MB it keeps 35 MB otherwise
