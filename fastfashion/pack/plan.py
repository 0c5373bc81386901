"""What there is to pack: rows to blocks, and what OUT has of them already."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fastfashion.catalog import Rejected, Source, Styles, open_source, read_styles
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote
from fastfashion.pack.block import Block
from fastfashion.pack.commit import encoder_settings, same_encoder
from fastfashion.pack.request import PackRequest
from fastfashion.pack.staging import LOCK, STAGING, has_manifest
from fastfashion.shards.layout import CATALOG, FORMAT_VERSION, FULL, MANIFEST, REJECTED, SET, VOCAB, Manifest
from fastfashion.shards.reader import parse_parquet

# An id becomes a tar member's name, for which USTAR has 100 bytes, and webdataset cuts that at the first dot.
USABLE_ID = re.compile(r"[^./\\\x00-\x1f\x7f]+")
MAX_ID_BYTES = 90


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which rows become which block."""

    source: Source
    styles: Styles
    lost: list[Rejected]  # rows that cannot be packed at all
    rows: np.ndarray  # int64, positions in the table of those that may be
    rows_per_shard: int

    def __len__(self) -> int:
        return -(-len(self.rows) // self.rows_per_shard)

    def block(self, number: int) -> Block:
        return Block(number=number, samples=self.samples(self.rows[number * self.rows_per_shard : (number + 1) * self.rows_per_shard]))

    def samples(self, positions: np.ndarray) -> list[Any]:
        rows = self.styles.table.iloc[positions]
        names = self.styles.labels
        labels = zip(*(rows[name].tolist() for name in names), strict=True)
        images = self.source.images
        return [(i, images[i], dict(zip(names, row, strict=True))) for i, row in zip(rows["id"].tolist(), labels, strict=True)]


def make_plan(request: PackRequest) -> Plan:
    """Read the table and the names of the pictures; raises InputError where nothing can be packed."""
    source = open_source(request.source, request.table)
    styles = read_styles(source.read_table(), f"{source.path}: {source.table}", request.columns)
    ids = styles.table["id"].tolist()
    usable = np.fromiter((bool(USABLE_ID.fullmatch(i)) and len(i.encode()) <= MAX_ID_BYTES for i in ids), bool, len(ids))
    there = np.fromiter((i in source.images for i in ids), bool, len(ids))
    lost = list(styles.rejected)
    for position in np.flatnonzero(~(usable & there)):
        row = styles.table.iloc[position]
        reason = f"id cannot be a file name: expected 1 to {MAX_ID_BYTES} bytes of UTF-8 without . / or \\"
        if usable[position]:
            reason = "no image"
        lost.append(Rejected(id=row["id"], line=int(row["line"]), reason=reason))
    rows = np.flatnonzero(usable & there)
    if not len(rows):
        first = lost[len(styles.rejected)]
        raise InputError(
            f"{source.path}: none of the {styles.num_rows} rows of {source.table} has an image (line {first.line}, id {first.id!r}: "
            f"{first.reason}); expected names of pictures without their suffix, such as {min(source.images)!r}; "
            "--id-column names the column that has them"
        )
    return Plan(source=source, styles=styles, lost=lost, rows=rows, rows_per_shard=request.rows_per_shard)


def already_packed(request: PackRequest, styles: Styles) -> tuple[str, ...]:
    """Resolutions that OUT has of this very table; raises PackedSetError where it holds something else."""
    out = request.out
    if not (out / SET).is_file():
        ours = {STAGING, LOCK, VOCAB, REJECTED, CATALOG}  # a run may have been cut off just before it published set.json
        if is_remote(out):
            ours |= set(request.resolutions)
        foreign = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.exists() else []
        if foreign:
            raise PackedSetError(f"{out}: expected an empty folder or a packed set, found {foreign[0]}; choose another --out")
        return ()
    try:
        packed = parse_parquet(out / CATALOG, (out / CATALOG).read_bytes(), ["id", *styles.labels])
        num_rejected = len(pd.read_csv(io.BytesIO((out / REJECTED).read_bytes())))
    except (OSError, ValueError) as error:
        raise PackedSetError(f"{out}: holds a damaged set ({error}); choose another --out or remove it") from error
    columns = ["id", *styles.labels]
    expected = styles.table.set_index("id").reindex(packed["id"]).reset_index()
    same = packed[columns].astype(str).equals(expected[columns].astype(str))
    if not same or len(packed) + num_rejected != styles.num_rows:
        raise PackedSetError(
            f"{out}: holds another set (its rows differ from those of {request.source}); choose another --out or remove it"
        )
    found = tuple(path.name for path in out.iterdir() if has_manifest(path))
    for name in set(found) & set(request.resolutions):
        encoder = dict(Manifest.read(out / name / MANIFEST).encoder or {})
        encoder.pop("cascade", None)
        if name != FULL and not same_encoder(encoder, encoder_settings(request.quality, request.subsampling)):
            raise PackedSetError(
                f"{out / name}: packed with other settings or library versions ({encoder}); remove that folder to pack it again"
            )
    return found


def plan_fingerprint(request: PackRequest, resolutions: Sequence[str], plan: Plan) -> dict[str, Any]:
    """What must be the same for staged work to be gone on with."""
    table = hashlib.sha256(pd.util.hash_pandas_object(plan.styles.table, index=False).to_numpy().tobytes()).hexdigest()
    return {
        "version": FORMAT_VERSION,
        "source": str(plan.source.path),
        "files": plan.source.fingerprint(),
        "table": table,
        "labels": list(plan.styles.labels),
        "resolutions": list(resolutions),
        "encoder": encoder_settings(request.quality, request.subsampling),
        "max_pixels": request.max_pixels,
        "rows_per_shard": request.rows_per_shard,
    }
