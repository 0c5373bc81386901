"""Publishing: from the records of packed blocks to the files that describe the set, manifest last.

records ─► index ─► vocab, rejected, catalog, set.json ─► manifest ─► on a disk: rename OUT/.staging/<res> to OUT/<res>
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fastfashion.catalog import Rejected, Styles, Vocab
from fastfashion.catalog.duplicates import duplicate_groups
from fastfashion.csv_files import publish_csv
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote, publish, publish_json
from fastfashion.pack.encoder import CASCADE, encoder_settings
from fastfashion.pack.request import PackRequest
from fastfashion.pack.staging import BlockRecord, Staging
from fastfashion.remote import is_file, list_anew
from fastfashion.shards.layout import CATALOG, FULL, INDEX, MANIFEST, REJECTED, SET, VOCAB, Manifest, SetFiles
from fastfashion.shards.tables import KIND, read_catalog, read_vocab


def commit(request: PackRequest, staging: Staging, styles: Styles, records: Sequence[BlockRecord], rejected: Sequence[Rejected]) -> None:
    """Write what describes the shards, manifest last; on a disk, then rename every resolution into place."""
    out = request.out
    list_anew(out)  # another client may have published the catalog since
    kept = pa.concat_tables([record.kept for record in records])
    if not len(kept):
        write_rejected(staging.root / REJECTED, rejected)
        raise InputError(f"{request.source}: not one image decodes; see {staging.root / REJECTED} for each and why")
    assert len(kept) + len(rejected) == styles.num_rows, "a row was lost"
    for name, folder in staging.folders.items():
        _write_parquet(folder / INDEX, _index(records, name))
    if is_file(out / SET):
        set_files = SetFiles.read(out / SET)
        packed = read_catalog(out, read_vocab(out, set_files), set_files)
        if packed["id"].tolist() != kept["id"].to_pylist():
            raise PackedSetError(f"{out}: the images of {request.source} changed since it was packed; choose another --out")
    else:
        catalog = _catalog(styles, kept)
        publish_json(out / VOCAB, Vocab.of_table(catalog, styles.labels, request.columns.no_label).classes)
        write_rejected(out / REJECTED, rejected)
        _write_parquet(out / CATALOG, pa.Table.from_pandas(catalog, preserve_index=False))
        SetFiles.of(out, len(kept)).write(out / SET)
    encoder = encoder_settings(request.quality, request.subsampling) | {CASCADE: [name for name in staging.folders if name != FULL]}
    for name, folder in staging.folders.items():
        Manifest(
            resolution=name,
            num_rows=len(kept),
            index_sha256=hashlib.sha256((folder / INDEX).read_bytes()).hexdigest(),
            encoder=None if name == FULL else encoder,
            shards=tuple(entry for record in records if (entry := record.shards[name])),
        ).write(folder / MANIFEST)
    if not is_remote(out):
        for name, folder in staging.folders.items():
            folder.rename(out / name)
    staging.remove()


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    publish_csv(path, ["id", "line", "reason"], ([r.id, r.line, r.reason] for r in rejected))


def _write_parquet(path: Path, table: pa.Table) -> None:
    """Parquet without metadata of pandas, so that the bytes depend on the values (and pyarrow's version) alone."""
    publish(path, lambda beside: pq.write_table(table.replace_schema_metadata(None), beside))


def _index(records: Sequence[BlockRecord], name: str) -> pa.Table:
    images = pa.concat_tables([record.images[name] for record in records])
    shard = np.repeat([record.number for record in records], [len(record.kept) for record in records])
    columns = {"row": pa.array(np.arange(len(images))), "shard": pa.array(shard)}
    columns |= {column: images[column] for column in ("offset", "size", "width", "height", "crc32")}
    return pa.table(columns | {KIND: images[KIND].cast(pa.int8())})


def _catalog(styles: Styles, kept: pa.Table) -> pd.DataFrame:
    table = styles.table[styles.table["id"].isin(kept["id"].to_pylist())].reset_index(drop=True)
    assert table["id"].tolist() == kept["id"].to_pylist(), "rows of the records are not in the table's order"
    table.insert(0, "row", range(len(table)))
    table.insert(1, "id", table.pop("id"))
    for column in ("height", "width", "fingerprint"):
        table[column] = kept[column].to_pandas()
    digits = "".join(kept["fingerprint"].to_pylist())
    table["duplicate_group"] = duplicate_groups(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8).reshape(len(table), -1))
    return table
