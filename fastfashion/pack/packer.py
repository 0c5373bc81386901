"""Packing: plan, resume, commit.

    table + images ─► blocks of rows ─► engine ─► staged shards and records ─► catalog, vocab, rejected, index, manifest ─► OUT/<res>/

A resolution appears complete or not at all. What an interrupted run has packed stays staged, and the same command resumes from it.
"""

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fastfashion.catalog import Rejected, Styles, Vocab
from fastfashion.catalog.duplicates import duplicate_groups
from fastfashion.csv_files import publish_csv
from fastfashion.disk import disk_full
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import clear_unpublished, is_remote, publish, publish_json
from fastfashion.pack.block import Job, make_versions
from fastfashion.pack.engines import Engine, open_engine
from fastfashion.pack.plan import PackPlan, already_packed, make_plan
from fastfashion.pack.request import CASCADE, DryRun, PackProgress, PackRequest, PackSummary, descending, encoder_settings
from fastfashion.pack.staging import BlockRecord, Staging, lock
from fastfashion.remote import is_file, list_anew
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import CATALOG, FULL, INDEX, MANIFEST, REJECTED, SET, VOCAB, Manifest, SetFiles
from fastfashion.shards.tables import KIND, read_catalog, read_vocab
from fastfashion.sources.ranges import CHANGED, ChangedError, UnreachableError
from fastfashion.words import why

TAR_BYTES = 2560  # of a sample beside its image: two headers, the labels, padding
SAMPLED = 64  # images that a dry run packs in memory to estimate sizes


def pack(request: PackRequest, progress: PackProgress | None = None) -> PackSummary:
    """Pack a source into a set of shards at the resolutions that OUT does not have yet, each image decoded once.

    Raises InputError if the source cannot be used or more than `max_rejected` rows are left out, PackedSetError if OUT holds another
    set, another packer holds OUT, or the disk is full.
    """
    started = time.perf_counter()
    # Worker processes start first: they import while this one plans.
    with contextlib.closing(open_engine(request.engine, request.workers, request.address)) as engine:
        plan = make_plan(request)
        with lock(request.out):
            if not is_remote(request.out):  # a run may have been killed while publishing one
                for name in (VOCAB, REJECTED, CATALOG, SET):
                    clear_unpublished(request.out / name)
            missing = descending(set(request.resolutions) - set(already_packed(request, plan.styles)))
            packed_now = resumed = 0
            if missing:
                run = _Run(request, plan, Staging(request.out, missing), progress or PackProgress())
                packed_now, resumed = run.pack_missing(engine)
    packed = open_packed_set(request.out)
    resolutions = {}
    for name in request.resolutions:
        opened = packed.open(name, request.max_pixels)
        shards = opened.manifest.shards
        resolutions[name] = {
            "num_bytes": int(opened.num_bytes.sum()),
            "tar_bytes": sum(entry.num_bytes for entry in shards),
            "num_shards": len(shards),
        }
        if name != FULL:
            resolutions[name]["smaller"] = int((np.minimum(opened.height_px, opened.width_px) < int(name)).sum())
    return PackSummary(
        **plan.source_counts(request.out, plan.styles.num_rows - len(packed)),
        kept=len(packed),
        packed_now=packed_now,
        resumed=resumed,
        resolutions=resolutions,
        seconds=time.perf_counter() - started,
    )


def dry_run(request: PackRequest) -> DryRun:
    """Plan, pack a few images in memory, and write nothing; raises as `pack` does."""
    plan = make_plan(request)
    present = already_packed(request, plan.styles)
    missing = descending(set(request.resolutions) - set(present))
    staging = Staging(request.out, missing)
    resumes = missing and staging.would_resume(plan.fingerprint(request, missing))
    job = _make_job(request, plan, staging)
    num_bytes, smaller = dict.fromkeys(missing, 0), {name: 0 for name in missing if name != FULL}
    places = np.unique(np.linspace(0, len(plan.rows) - 1, min(SAMPLED, len(plan.rows))).astype(int))
    sampled = 0
    for data in plan.source.reader.read_many([member for _, member, _ in plan.samples(plan.rows[places])]) if missing else ():
        with contextlib.suppress(InputError):
            if isinstance(data, InputError):
                continue
            for name, version in make_versions(job, data)[1].items():
                num_bytes[name] += len(version.jpg) + TAR_BYTES
                if name in smaller:
                    smaller[name] += min(version.height_px, version.width_px) < int(name)
            sampled += 1
    home = next((path for path in (request.out.absolute(), *request.out.absolute().parents) if path.exists()), None)
    return DryRun(
        **plan.source_counts(request.out, len(plan.lost)),
        to_pack=len(plan.rows) if missing else 0,
        resumed=sum(record.num_rows for record in staging.finished()) if resumes else 0,
        num_shards=len(plan),
        already_packed=tuple(sorted(set(present) & set(request.resolutions))),
        sampled=sampled,
        tar_bytes={name: total * len(plan.rows) // max(1, sampled) for name, total in num_bytes.items()},
        smaller=smaller,
        free_bytes=shutil.disk_usage(home).free if home and not is_remote(request.out) else None,
    )


def _make_job(request: PackRequest, plan: PackPlan, staging: Staging) -> Job:
    return Job(
        reader=plan.source.reader,
        resolutions=tuple(staging.folders),
        quality=request.quality,
        subsampling=request.subsampling,
        max_pixels=request.max_pixels,
        keep_unshrunk=True,
        folders=staging.folders,
        records=staging.records,
    )


class _Run:
    """One packing run: which blocks are done, and what their records say."""

    def __init__(self, request: PackRequest, plan: PackPlan, staging: Staging, progress: PackProgress) -> None:
        self._request, self._plan, self._staging, self._progress = request, plan, staging, progress
        self._records: dict[int, BlockRecord] = {}
        self._left_out = len(plan.lost)  # rejected rows, those of the records included
        self._ticked = (0, 0, len(plan.lost))  # images, bytes, rejected images: already reported to `progress`

    def pack_missing(self, engine: Engine) -> tuple[int, int]:
        """Pack what is not staged yet, and publish; returns the number of images packed now, and of those packed before."""
        self._staging.prepare(self._plan.fingerprint(self._request, list(self._staging.folders)))
        job = _make_job(self._request, self._plan, self._staging)
        with self._disk_full_explained():
            try:
                with self._source_unchanged():
                    self._progress.on_start(len(self._plan.rows))
                    for record in self._staging.finished():
                        self._tick(record.num_rows, record.num_bytes, len(record.rejected))
                        self._take(record)
                    resumed = sum(len(record.kept) for record in self._records.values())
                    if self._records:
                        self._progress.on_resume(resumed)
                    todo = [number for number in range(len(self._plan)) if number not in self._records]
                    for number in engine.run(job, map(self._plan.block, todo), self._tick):
                        self._take(self._staging.read(number))
            finally:
                engine.close()  # nobody writes any more
                self._staging.remove_partials()
            records = [self._records[number] for number in sorted(self._records)]
            commit(self._request, self._staging, self._plan.styles, records, self._rejected())
        return sum(len(record.kept) for record in records) - resumed, resumed

    def _tick(self, images: int, num_bytes: int, rejected: int) -> None:
        self._ticked = (self._ticked[0] + images, self._ticked[1] + num_bytes, self._ticked[2] + rejected)
        self._progress.on_packed(images, num_bytes, self._ticked[2])

    def _take(self, record: BlockRecord) -> None:
        self._records[record.number] = record
        self._left_out += len(record.rejected)
        if self._left_out > self._request.max_rejected:
            listed = self._staging.root / REJECTED
            write_rejected(listed, self._rejected())
            raise InputError(
                f"{self._left_out} rows cannot be packed, more than --max-rejected {self._request.max_rejected}; nothing was "
                f"published. {listed} lists the reasons: fix the source, or run again with a higher --max-rejected"
            )

    def _rejected(self) -> list[Rejected]:
        reasons = {r["id"]: r["reason"] for record in self._records.values() for r in record.rejected}
        table = self._plan.styles.table
        rows = table.loc[table["id"].isin(list(reasons)), ["id", "path", "line"]].itertuples(index=False, name=None)
        unreadable = [Rejected(id=path, line=int(line), reason=reasons[identity]) for identity, path, line in rows]
        return sorted([*self._plan.lost, *unreadable], key=lambda r: r.line)

    @contextlib.contextmanager
    def _source_unchanged(self) -> Iterator[None]:
        """Raises ChangedError, and removes what was packed, if the source is not what it was when the table was read."""
        try:
            try:
                yield
            except UnreachableError:
                raise
            except InputError:  # too many rows are left out, perhaps because their images were replaced
                self._plan.source.check_unchanged()
                raise
            self._plan.source.check_unchanged()
        except ChangedError as error:
            self._staging.remove()
            said = str(error).replace(CHANGED, "the source changed while it was packed")
            raise ChangedError(f"{said}; nothing was published") from error

    @contextlib.contextmanager
    def _disk_full_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if (number := disk_full(error)) is None:
                raise
            out = self._request.out
            left = len(self._plan.rows) - sum(record.num_rows for record in self._records.values())
            each = self._ticked[1] / max(1, self._ticked[0]) + len(self._staging.folders) * TAR_BYTES
            free = shutil.disk_usage(self._staging.root).free if not is_remote(out) else 0
            raise PackedSetError(
                f"{out}: {why(OSError(number, ''))}: about {left * each / 1e6:.0f} MB more are needed, {free / 1e6:.0f} MB are free; "
                "nothing was published. Free some space and run the same command, which resumes from there, or choose another --out"
            ) from error


def commit(request: PackRequest, staging: Staging, styles: Styles, records: Sequence[BlockRecord], rejected: Sequence[Rejected]) -> None:
    """Write what describes the shards, manifest last; on a disk, then rename every resolution into place."""
    out = request.out
    list_anew(out)  # another client may have published the catalog since
    kept = pa.concat_tables([record.kept for record in records])
    if not len(kept):
        write_rejected(staging.root / REJECTED, rejected)
        raise InputError(f"{request.source}: no image decodes; {staging.root / REJECTED} lists the reasons")
    assert len(kept) + len(rejected) == styles.num_rows, "a row was lost"
    for name, folder in staging.folders.items():
        _write_parquet(folder / INDEX, _index(records, name))
    if is_file(out / SET):
        set_files = SetFiles.read(out / SET)
        if read_catalog(out, read_vocab(out, set_files), set_files)["id"].to_pylist() != kept["id"].to_pylist():
            raise PackedSetError(f"{out}: the images of {request.source} changed since it was packed; choose another --out")
    else:
        catalog = _catalog(styles, kept)
        publish_json(out / VOCAB, Vocab.of_table(catalog, styles.labels, request.columns.no_label).classes)
        write_rejected(out / REJECTED, rejected)
        _write_parquet(out / CATALOG, pa.Table.from_pandas(catalog, preserve_index=False))
        SetFiles.of(out, len(kept)).write(out / SET)
    encoder = encoder_settings(request.quality, request.subsampling) | {CASCADE: [name for name in staging.folders if name != FULL]}
    for name, folder in staging.folders.items():
        shards = tuple(entry for record in records if (entry := record.shards[name]))
        Manifest(
            version=Manifest.version_for(shards),
            resolution=name,
            num_rows=len(kept),
            index_sha256=hashlib.sha256((folder / INDEX).read_bytes()).hexdigest(),
            encoder=None if name == FULL else encoder,
            shards=shards,
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
