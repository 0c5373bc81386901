"""Packing: plan, resume, commit.

    table + images ─► blocks of rows ─► engine ─► staged shards and records ─► catalog, vocab, rejected, index, manifest ─► OUT/<res>/

A resolution appears complete or not at all. What an interrupted run has packed stays staged, and the same command goes on from there.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator

import numpy as np

from fastfashion.catalog import Rejected
from fastfashion.disk import disk_full
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote
from fastfashion.pack.block import Job
from fastfashion.pack.commit import commit, write_rejected
from fastfashion.pack.engines import Engine, open_engine
from fastfashion.pack.plan import Plan, already_packed, make_plan, plan_fingerprint
from fastfashion.pack.progress import Progress
from fastfashion.pack.request import PackRequest, PackSummary, descending
from fastfashion.pack.staging import Record, Staging, lock
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import FULL, REJECTED
from fastfashion.sources.ranges import CHANGED, ChangedError, UnreachableError
from fastfashion.words import why

TAR_BYTES = 2560  # of a sample beside its image: two headers, the labels, padding


def pack(request: PackRequest, progress: Progress | None = None) -> PackSummary:
    """Pack a source into a set of shards at one or several resolutions, each image decoded once.

    Resolutions that OUT already has are left as they are. Raises InputError where the source cannot be used or more than
    `max_rejected` rows are left out, PackedSetError where OUT holds another set, another packer holds OUT, or the disk is full.
    """
    started = time.perf_counter()
    progress = progress or Progress()
    # Worker processes start first: they import while this one plans.
    with contextlib.closing(open_engine(request.engine, request.workers, request.address)) as engine:
        plan = make_plan(request)
        with lock(request.out):
            missing = descending(set(request.resolutions) - set(already_packed(request, plan.styles)))
            packed_now = resumed = 0
            if missing:
                packed_now, resumed = _pack_missing(request, plan, Staging(request.out, missing), engine, progress)
    return _summary(request, plan, packed_now=packed_now, resumed=resumed, seconds=time.perf_counter() - started)


def _pack_missing(request: PackRequest, plan: Plan, staging: Staging, engine: Engine, progress: Progress) -> tuple[int, int]:
    """Pack what is not staged yet, and publish; returns how many images were packed now, and how many before."""
    staging.prepare(plan_fingerprint(request, list(staging.folders), plan))
    run = _Run(request, plan, staging, progress)
    with _disk_full_explained(run):
        try:
            with _unchanged(plan, staging):
                resumed = run.resume()
                run.finish(engine.run(run.job, (plan.block(number) for number in run.missing()), run.tick))
        finally:
            engine.close()  # nobody writes any more
            staging.remove_partials()
        commit(request, staging, plan.styles, run.in_order(), run.rejected())
    return sum(len(record.kept) for record in run.in_order()) - resumed, resumed


def make_job(request: PackRequest, plan: Plan, staging: Staging) -> Job:
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
    """The blocks of one run: which are done, and what they say."""

    def __init__(self, request: PackRequest, plan: Plan, staging: Staging, progress: Progress) -> None:
        self._request = request
        self._plan = plan
        self._records: dict[int, Record] = {}
        self._num_rejected = len(plan.lost)
        self._told = [0, 0, len(plan.lost)]  # images, bytes, rejected
        self._progress = progress
        self.staging = staging
        self.job = make_job(request, plan, staging)

    def resume(self) -> int:
        """Take what an earlier run has packed; returns how many images that are."""
        self._progress.on_start(len(self._plan.rows))
        for record in self.staging.finished():
            self.tick(record.num_rows, record.num_bytes, len(record.rejected))
            self._take(record)
        resumed = sum(len(record.kept) for record in self._records.values())
        if self._records:
            self._progress.on_resume(resumed)
        return resumed

    def missing(self) -> list[int]:
        return [number for number in range(len(self._plan)) if number not in self._records]

    def finish(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            self._take(self.staging.read(number))

    def tick(self, images: int, num_bytes: int, rejected: int) -> None:
        self._told = [self._told[0] + images, self._told[1] + num_bytes, self._told[2] + rejected]
        self._progress.on_packed(images, num_bytes, self._told[2])

    def _take(self, record: Record) -> None:
        self._records[record.number] = record
        self._num_rejected += len(record.rejected)
        if self._num_rejected > self._request.max_rejected:
            listed = self.staging.root / REJECTED
            write_rejected(listed, self.rejected())
            raise InputError(
                f"{self._num_rejected} rows cannot be packed, more than --max-rejected {self._request.max_rejected}; nothing was "
                f"published. See {listed} for each and why, then mend the source or run again with a higher --max-rejected"
            )

    def in_order(self) -> list[Record]:
        return [self._records[number] for number in sorted(self._records)]

    def rejected(self) -> list[Rejected]:
        reasons = {r["id"]: r["reason"] for record in self._records.values() for r in record.rejected}
        table = self._plan.styles.table
        rows = table.loc[table["id"].isin(list(reasons)), ["id", "path", "line"]].itertuples(index=False, name=None)
        unreadable = [Rejected(id=path, line=int(line), reason=reasons[identity]) for identity, path, line in rows]
        return sorted([*self._plan.lost, *unreadable], key=lambda r: r.line)

    def bytes_needed(self) -> int:
        """About how many bytes the rest takes, from the mean of what is packed."""
        images, num_bytes, _ = self._told
        per_image = num_bytes / max(1, images) + len(self.job.resolutions) * TAR_BYTES
        return int((len(self._plan.rows) - sum(record.num_rows for record in self._records.values())) * per_image)


@contextlib.contextmanager
def _unchanged(plan: Plan, staging: Staging) -> Iterator[None]:
    """Raises ChangedError, and keeps nothing of what was packed, where the source is not what it was when the table was read."""
    try:
        try:
            yield
        except UnreachableError:
            raise
        except InputError:  # too many rows are left out, perhaps as their images were replaced
            plan.source.check_unchanged()
            raise
        plan.source.check_unchanged()
    except ChangedError as error:
        staging.remove()
        said = str(error).replace(CHANGED, "the source changed while it was packed")
        raise ChangedError(f"{said}; nothing was published") from error


@contextlib.contextmanager
def _disk_full_explained(run: _Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if (number := disk_full(error)) is None:
            raise
        free = shutil.disk_usage(run.staging.root).free if not is_remote(run.staging.root) else 0
        raise PackedSetError(
            f"{run.staging.root.parent}: {why(OSError(number, ''))}: about {run.bytes_needed() / 1e6:.0f} MB more are needed, "
            f"{free / 1e6:.0f} MB are free; nothing was published. Free some space and run the same command, which resumes from what is "
            "packed, or choose another --out"
        ) from error


def _summary(request: PackRequest, plan: Plan, *, packed_now: int, resumed: int, seconds: float) -> PackSummary:
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
            shorter_px = np.minimum(opened.height_px, opened.width_px)
            resolutions[name]["smaller"] = int((shorter_px < int(name)).sum())
    return PackSummary(
        out=request.out,
        num_rows=plan.styles.num_rows,
        kept=len(packed),
        rejected=plan.styles.num_rows - len(packed),
        images_without_row=plan.source.finder.without_row(plan.members),
        table=plan.source.table,
        account=plan.styles.account,
        passed_over=plan.source.passed_over_counts(),
        packed_now=packed_now,
        resumed=resumed,
        resolutions=resolutions,
        seconds=seconds,
    )
