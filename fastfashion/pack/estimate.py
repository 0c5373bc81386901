"""What packing would do, without doing it."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastfashion.catalog import Account
from fastfashion.errors import InputError
from fastfashion.files import is_remote
from fastfashion.pack.block import make_versions
from fastfashion.pack.packer import TAR_BYTES, make_job
from fastfashion.pack.plan import already_packed, make_plan, plan_fingerprint
from fastfashion.pack.request import PackRequest, descending
from fastfashion.pack.staging import Staging
from fastfashion.shards.layout import FULL

SAMPLED = 64  # images that are packed in memory to estimate sizes


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What packing would do. Sizes are estimates from the images sampled."""

    out: Path
    num_rows: int
    rejected: int  # known before an image is read
    images_without_row: int
    passed_over: dict[str, dict[str, int | str]]  # as in PackSummary
    table: str
    account: Account  # lines of the table, its separator, cells without a label
    to_pack: int
    resumed: int  # of them, packed by an interrupted run
    num_shards: int  # a resolution
    already_packed: tuple[str, ...]
    sampled: int
    tar_bytes: dict[str, int]
    smaller: dict[str, int]  # numbered resolution -> images among those sampled whose shorter side is smaller
    free_bytes: int | None  # None on object storage


def dry_run(request: PackRequest) -> DryRun:
    """Plan, pack a few images in memory, and write nothing; raises as `pack` does."""
    plan = make_plan(request)
    present = already_packed(request, plan.styles)
    missing = descending(set(request.resolutions) - set(present))
    staging = Staging(request.out, missing)
    resumed = 0
    if missing and staging.would_resume(plan_fingerprint(request, missing, plan)):
        resumed = sum(record.num_rows for record in staging.finished())
    job = make_job(request, plan, staging)
    sums = dict.fromkeys(missing, 0)
    smaller = {name: 0 for name in missing if name != FULL}
    places = np.unique(np.linspace(0, len(plan.rows) - 1, min(SAMPLED, len(plan.rows))).astype(int))
    sampled = 0
    for data in plan.source.reader.read_many([member for _, member, _ in plan.samples(plan.rows[places])]) if missing else ():
        with contextlib.suppress(InputError):
            if isinstance(data, InputError):
                continue
            for name, version in make_versions(job, data)[1].items():
                sums[name] += len(version.jpg) + TAR_BYTES
                if name in smaller:
                    smaller[name] += min(version.height_px, version.width_px) < int(name)
            sampled += 1
    home = next((path for path in (request.out.absolute(), *request.out.absolute().parents) if path.exists()), None)
    return DryRun(
        out=request.out,
        num_rows=plan.styles.num_rows,
        rejected=len(plan.lost),
        images_without_row=plan.source.finder.without_row(plan.members),
        passed_over=plan.source.passed_over_counts(),
        table=plan.source.table,
        account=plan.styles.account,
        to_pack=len(plan.rows) if missing else 0,
        resumed=resumed,
        num_shards=len(plan),
        already_packed=tuple(sorted(set(present) & set(request.resolutions))),
        sampled=sampled,
        smaller=smaller,
        tar_bytes={name: total * len(plan.rows) // max(1, sampled) for name, total in sums.items()},
        free_bytes=shutil.disk_usage(home).free if home and not is_remote(request.out) else None,
    )
