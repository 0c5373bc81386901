"""Packing: plan, resume, commit.

    table + pictures ─► blocks of rows ─► engine ─► OUT/.staging/<res>/… ─► catalog, vocab, rejected, index, manifest ─► OUT/<res>/

Everything is written under OUT/.staging; a resolution appears under its name by one rename, complete. What an interrupted run has
packed stays in staging, and the same command goes on from there.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fastfashion.catalog import LABEL_COLUMNS, Rejected, Source, Styles, open_source, read_styles
from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.files import publish_json
from fastfashion.pack.commit import commit, encoder_settings, write_rejected
from fastfashion.pack.engines import Block, Job, block_record, run_local
from fastfashion.pack.progress import Progress
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import (
    CATALOG,
    FORMAT_VERSION,
    FULL,
    MANIFEST,
    REJECTED,
    VOCAB,
    Manifest,
    check_resolution,
)

STAGING = ".staging"
PLAN = "plan.json"
SUBSAMPLINGS = ("420", "422", "444")
# An id becomes a tar member's name, for which USTAR has 100 bytes, and webdataset cuts that at the first dot.
USABLE_ID = re.compile(r"[^./\\\x00-\x1f\x7f]+")
MAX_ID_BYTES = 90


@dataclass(frozen=True, kw_only=True)
class PackRequest:
    """What to pack, and how."""

    source: Path
    out: Path
    resolutions: tuple[str, ...] = ("224",)
    workers: int = 1
    max_rejected: int = 1000  # pictures that may be left out before the run stops
    quality: int = 90
    subsampling: str = "420"  # a quarter of the chroma samples: a fifth less time to decode than 444 (bench/LOG.md)
    rows_per_shard: int = 1000

    def __post_init__(self) -> None:
        if not self.resolutions:
            raise ConfigError("--res: expected at least one resolution, found none")
        for name in self.resolutions:
            check_resolution(name)
        for what, value, low, high in (
            ("--workers", self.workers, 1, 1024),
            ("--quality", self.quality, 1, 100),
            ("rows_per_shard", self.rows_per_shard, 1, 1_000_000),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{what}: expected {low} to {high}, found {value}")
        if self.subsampling not in SUBSAMPLINGS:
            raise ConfigError(f"subsampling: expected {', '.join(SUBSAMPLINGS)}, found {self.subsampling!r}")
        if self.max_rejected < 0:
            raise ConfigError(f"--max-rejected: expected 0 or more, found {self.max_rejected}")


@dataclass(frozen=True, kw_only=True)
class PackSummary:
    """What a packing run did. `num_rows` = kept + rejected: the lines of the table."""

    out: Path
    num_rows: int
    kept: int
    rejected: int
    images_without_row: int
    packed_now: int
    resumed: int
    resolutions: dict[str, dict[str, int]]  # name -> num_bytes (encoded pictures), tar_bytes, num_shards
    seconds: float


def pack(request: PackRequest, progress: Progress | None = None) -> PackSummary:
    """Pack a source into a set of shards at one or several resolutions, each picture decoded once.

    Resolutions that OUT already has are left as they are. Raises InputError where the source cannot be used or more than
    `max_rejected` rows are left out, PackedSetError where OUT holds another set.
    """
    started = time.perf_counter()
    progress = progress or Progress()
    source = open_source(request.source)
    styles = read_styles(source.read_table(), f"{source.path}: {source.table}")
    present = _already_packed(request, styles)
    missing = tuple(sorted(set(request.resolutions) - set(present), key=lambda name: (name != FULL, -int(name) if name != FULL else 0)))
    lost, blocks = _plan(styles, source, request.rows_per_shard)
    staging = request.out / STAGING
    if not missing:
        return _summary(request, styles, source, packed_now=0, resumed=0, seconds=time.perf_counter() - started)
    job = Job(source=source, resolutions=missing, quality=request.quality, subsampling=request.subsampling, staging=staging)
    _prepare_staging(job, _fingerprint(request, job, styles))

    progress.on_start(sum(len(block.samples) for block in blocks))
    records: dict[int, dict[str, Any]] = {}
    num_rejected = len(lost)

    def take(record: dict[str, Any]) -> None:
        nonlocal num_rejected
        records[record["number"]] = record
        num_rejected += len(record["rejected"])
        num_bytes = sum(sample[name]["size"] for sample in record["kept"] for name in missing)
        progress.on_block(len(record["kept"]) + len(record["rejected"]), num_bytes, num_rejected)
        if num_rejected > request.max_rejected:
            write_rejected(staging / REJECTED, _all_rejected(styles, lost, records))
            raise InputError(
                f"{num_rejected} rows cannot be packed, more than --max-rejected {request.max_rejected}; nothing was published. "
                f"See {staging / REJECTED} for each and why, then mend the source or run again with a higher --max-rejected"
            )

    for block in blocks:
        if (record := _finished(job, block.number)) is not None:
            take(record)
    resumed = sum(len(record["kept"]) for record in records.values())
    for record in run_local(job, [block for block in blocks if block.number not in records], request.workers):
        take(record)

    commit(job, request.out, styles, [records[number] for number in sorted(records)], _all_rejected(styles, lost, records))
    packed_now = sum(len(record["kept"]) for record in records.values()) - resumed
    return _summary(request, styles, source, packed_now=packed_now, resumed=resumed, seconds=time.perf_counter() - started)


def _plan(styles: Styles, source: Source, rows_per_shard: int) -> tuple[list[Rejected], list[Block]]:
    """Rows that cannot be packed at all, and blocks of those that may be."""
    lost, samples = list(styles.rejected), []
    labels = styles.table[list(LABEL_COLUMNS)].to_dict("records")
    for identity, line, row_labels in zip(styles.table["id"], styles.table["line"], labels, strict=True):
        if not USABLE_ID.fullmatch(identity) or len(identity.encode()) > MAX_ID_BYTES:
            reason = f"id cannot be a file name: expected 1 to {MAX_ID_BYTES} bytes of UTF-8 without . / or \\"
            lost.append(Rejected(id=identity, line=line, reason=reason))
        elif identity not in source.images:
            lost.append(Rejected(id=identity, line=line, reason="no image"))
        else:
            samples.append((identity, {str(name): str(value) for name, value in row_labels.items()}))
    if not samples:
        raise InputError(f"{source.path}: none of the {styles.num_rows} rows of {source.table} has an image; expected images/<id>.jpg")
    starts = range(0, len(samples), rows_per_shard)
    return lost, [Block(number=number, samples=samples[at : at + rows_per_shard]) for number, at in enumerate(starts)]


def _already_packed(request: PackRequest, styles: Styles) -> tuple[str, ...]:
    """Resolutions that OUT has of this very table; raises PackedSetError where it holds something else."""
    if not (request.out / CATALOG).exists():
        ours = (STAGING, VOCAB, REJECTED)  # a run may have been cut off just before it published the catalog
        foreign = [path.name for path in request.out.iterdir() if path.name not in ours] if request.out.exists() else []
        if foreign:
            raise PackedSetError(f"{request.out}: expected an empty folder or a packed set, found {foreign[0]}; choose another --out")
        return ()
    try:
        packed = pd.read_parquet(request.out / CATALOG)
        num_rejected = len(pd.read_csv(request.out / REJECTED))
    except (OSError, ValueError) as error:
        raise PackedSetError(f"{request.out}: holds a damaged set ({error}); choose another --out or remove it") from error
    columns = ["id", *LABEL_COLUMNS]
    expected = styles.table.set_index("id").reindex(packed["id"]).reset_index()
    same = packed[columns].astype(str).equals(expected[columns].astype(str))
    if not same or len(packed) + num_rejected != styles.num_rows:
        raise PackedSetError(
            f"{request.out}: holds another set (its rows differ from those of {request.source}); choose another --out or remove it"
        )
    found = tuple(path.name for path in request.out.iterdir() if (path / MANIFEST).is_file())
    for name in set(found) & set(request.resolutions):
        encoder = Manifest.read(request.out / name / MANIFEST).encoder
        if name != FULL and encoder != encoder_settings(request.quality, request.subsampling):
            raise PackedSetError(
                f"{request.out / name}: packed with other settings or library versions ({encoder}); remove that folder to pack it again"
            )
    return found


def _fingerprint(request: PackRequest, job: Job, styles: Styles) -> dict[str, Any]:
    """What must be the same for staged work to be gone on with."""
    table = hashlib.sha256(pd.util.hash_pandas_object(styles.table, index=False).to_numpy().tobytes()).hexdigest()
    return {
        "version": FORMAT_VERSION,
        "source": str(job.source.path),
        "files": job.source.fingerprint(),
        "table": table,
        "resolutions": list(job.resolutions),
        "encoder": encoder_settings(job.quality, job.subsampling),
        "rows_per_shard": request.rows_per_shard,
    }


def _prepare_staging(job: Job, fingerprint: dict[str, Any]) -> None:
    plan = job.staging / PLAN
    if not plan.is_file() or json.loads(plan.read_text(encoding="utf-8")) != fingerprint:
        shutil.rmtree(job.staging, ignore_errors=True)
        for name in ("blocks", *job.resolutions):
            (job.staging / name).mkdir(parents=True)
        publish_json(plan, fingerprint)


def _finished(job: Job, number: int) -> dict[str, Any] | None:
    """The record of a block that an earlier run packed, if its shards are there in full."""
    path = block_record(job.staging, number)
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name, entry in record["shards"].items():
        if entry is not None:
            shard = job.staging / name / f"{number:05d}.tar"
            if not shard.is_file() or shard.stat().st_size != entry["num_bytes"]:
                return None
    return record


def _all_rejected(styles: Styles, lost: Sequence[Rejected], records: dict[int, dict[str, Any]]) -> list[Rejected]:
    lines = dict(zip(styles.table["id"], styles.table["line"], strict=True))
    unreadable = [
        Rejected(id=r["id"], line=int(lines[r["id"]]), reason=r["reason"]) for record in records.values() for r in record["rejected"]
    ]
    return sorted([*lost, *unreadable], key=lambda r: r.line)


def _summary(request: PackRequest, styles: Styles, source: Source, *, packed_now: int, resumed: int, seconds: float) -> PackSummary:
    packed = open_packed_set(request.out)
    resolutions = {}
    for name in request.resolutions:
        opened = packed.open(name)
        shards = opened.manifest.shards
        resolutions[name] = {
            "num_bytes": int(opened.num_bytes.sum()),
            "tar_bytes": sum(entry.num_bytes for entry in shards),
            "num_shards": len(shards),
        }
    return PackSummary(
        out=request.out,
        num_rows=styles.num_rows,
        kept=len(packed),
        rejected=styles.num_rows - len(packed),
        images_without_row=len(source.images.keys() - set(styles.table["id"])),
        packed_now=packed_now,
        resumed=resumed,
        resolutions=resolutions,
        seconds=seconds,
    )
