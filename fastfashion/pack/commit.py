"""Publishing: from the records of packed blocks to the files that describe the set, manifest last.

staging/<res>/*.tar + records ─► index, manifest ─► vocab, rejected, catalog ─► rename staging/<res> to OUT/<res>
"""

import hashlib
import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fastfashion.catalog import Rejected, Styles, Vocab
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import publish, publish_csv, publish_json
from fastfashion.pack.engines import Job
from fastfashion.shards.layout import (
    CATALOG,
    FULL,
    INDEX,
    MANIFEST,
    REJECTED,
    VOCAB,
    Manifest,
    ShardEntry,
)


def encoder_settings(quality: int, subsampling: str) -> dict[str, Any]:
    """All that the bytes of a re-encoded picture depend on, besides the picture."""
    versions = {name.lower(): importlib.metadata.version(name) for name in ("simplejpeg", "Pillow")}
    return {"format": "jpeg", "quality": quality, "subsampling": subsampling, "resize": "bicubic"} | versions


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    publish_csv(path, ["id", "line", "reason"], ([r.id, r.line, r.reason] for r in rejected))


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Parquet without pandas' metadata, so that the bytes depend on the values (and pyarrow's version) alone."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    publish(path, lambda beside: pq.write_table(arrow, beside))


def commit(job: Job, out: Path, styles: Styles, records: Sequence[dict[str, Any]], rejected: Sequence[Rejected]) -> None:
    """Write what describes the shards, manifest last, and rename every resolution into place."""
    kept = [(record["number"], sample) for record in records for sample in record["kept"]]
    if not kept:
        write_rejected(job.staging / REJECTED, rejected)
        raise InputError(f"{job.source.path}: not one picture decodes; see {job.staging / REJECTED} for each and why")
    assert len(kept) + len(rejected) == styles.num_rows, "a row was lost"
    catalog = _catalog(styles, [sample for _, sample in kept])
    if (out / CATALOG).exists():
        packed = pd.read_parquet(out / CATALOG, columns=["id"])
        if packed["id"].tolist() != catalog["id"].tolist():
            raise PackedSetError(f"{out}: the pictures of {job.source.path} changed since it was packed; choose another --out")
    for name in job.resolutions:
        folder = job.staging / name
        rows = [{"row": row, "shard": number} | sample[name] for row, (number, sample) in enumerate(kept)]
        index = pd.DataFrame(rows)[["row", "shard", "offset", "size", "width", "height", "crc32"]]
        _write_parquet(folder / INDEX, index)
        Manifest(
            resolution=name,
            num_rows=len(kept),
            index_sha256=hashlib.sha256((folder / INDEX).read_bytes()).hexdigest(),
            encoder=None if name == FULL else encoder_settings(job.quality, job.subsampling),
            shards=tuple(ShardEntry(**record["shards"][name]) for record in records if record["shards"][name]),
        ).write(folder / MANIFEST)
    if not (out / CATALOG).exists():
        publish_json(out / VOCAB, Vocab.of_table(catalog).classes)
        write_rejected(out / REJECTED, rejected)
        _write_parquet(out / CATALOG, catalog)
    for name in job.resolutions:
        (job.staging / name).rename(out / name)
    shutil.rmtree(job.staging)


def _catalog(styles: Styles, samples: Sequence[dict[str, Any]]) -> pd.DataFrame:
    table = styles.table.set_index("id").loc[[sample["id"] for sample in samples]].reset_index()
    table.insert(0, "row", range(len(table)))
    table["height"] = [sample["height"] for sample in samples]
    table["width"] = [sample["width"] for sample in samples]
    table["duplicate_group"] = duplicate_groups([sample["pixels"] for sample in samples])
    return table


def duplicate_groups(digests: Sequence[str]) -> np.ndarray:
    """For every row the first row with the same pixels: int64 (N,)."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], dtype=np.int64)
