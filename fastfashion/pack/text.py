"""What packing and verifying print."""

import json
from pathlib import Path

from fastfashion.catalog.csv_reader import SEPARATORS
from fastfashion.pack.request import DryRun, PackSummary
from fastfashion.shards.verify import VerifyResult, verify
from fastfashion.sources.listing import skipped_text
from fastfashion.words import counted


def summary_text(summary: PackSummary) -> str:
    rejected = f"{summary.rejected} rejected" + (f", see {summary.out / 'rejected.csv'}" if summary.rejected else "")
    lines = [f"{summary.out}: {summary.kept} of {counted(summary.num_rows, 'row')} packed{_when(summary)}, {rejected}"]
    lines += account_lines(summary)
    for name, sizes in summary.resolutions.items():
        tar_mb, image_mb = sizes["tar_bytes"] / 1e6, sizes["num_bytes"] / 1e6
        shards = counted(sizes["num_shards"], "shard")
        lines.append(f"  {name}: {shards}, {tar_mb:.1f} MB ({image_mb:.1f} MB of images)")
        if smaller := sizes.get("smaller"):
            lines[-1] += f"; {smaller:,} of {summary.kept:,} are smaller than {name}, and not enlarged"
    return "\n".join(lines)


def account_lines(summary: PackSummary | DryRun) -> list[str]:
    """Where every line of the table and every image went."""
    account = summary.account
    kept = summary.num_rows - summary.rejected
    lines = [
        f"  {summary.table}, separator {SEPARATORS[account.separator]}: {counted(account.lines, 'line')} = {account.header_lines} header + "
        f"{account.record_lines} of records + {account.blank_lines} blank; {counted(summary.num_rows, 'record')} = {kept} kept + "
        f"{summary.rejected} rejected; {counted(summary.images_without_row, 'image')} without a row"
    ]
    if summary.passed_over:
        lines.append(f"  skipped in the source: {skipped_text(summary.passed_over)}")
    if account.float_ids:
        lines.append("  ids: all went through a column of floats, so 26366.0 is read as 26366")
    for name, spellings in account.no_label.items():
        found = ", ".join(f"{cells} {json.dumps(text, ensure_ascii=False) if text else 'empty'}" for text, cells in spellings.items())
        lines.append(f"  without a label in {name}: {sum(spellings.values())} ({found})")
    return lines


def _when(summary: PackSummary) -> str:
    """How many images were packed now, and how many by an interrupted run, or that there was nothing to do."""
    if not summary.packed_now and not summary.resumed:
        return " before; nothing to do"
    rate = f", {summary.packed_now / max(1e-9, summary.seconds):.0f} images/s" if summary.packed_now else ""
    before = f", {summary.resumed} by an interrupted run" if summary.resumed else ""
    return f" ({summary.packed_now} now{rate}{before})"


def dry_run_text(plan: DryRun) -> str:
    lines = [f"{plan.out}: {counted(plan.num_rows, 'row')}, {plan.rejected} of them without a usable id or image; nothing is written"]
    lines += account_lines(plan)
    if plan.already_packed:
        lines.append(f"  packed already: {', '.join(plan.already_packed)}")
    if plan.tar_bytes:
        before = f", {plan.resumed} of them done by an interrupted run" if plan.resumed else ""
        lines.append(f"  to pack: {counted(plan.to_pack, 'image')}{before}, in {counted(plan.num_shards, 'shard')} a resolution")
        for name, size in plan.tar_bytes.items():
            lines.append(f"  {name}: about {size / 1e6:.1f} MB, judging by {counted(plan.sampled, 'image')}")
            if smaller := plan.smaller.get(name):
                lines[-1] += f", of which {smaller} are smaller than {name} and not enlarged"
        needed = sum(plan.tar_bytes.values())
        if plan.free_bytes is not None:
            enough = "enough" if plan.free_bytes > needed else "NOT ENOUGH"
            lines.append(f"  free there: {plan.free_bytes / 1e6:.0f} MB, {enough}")
    return "\n".join(lines)


def verify_bar(path: Path) -> VerifyResult:
    """Verify with a progress bar."""
    from fastfashion.bars import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None, dynamic_ncols=True) as bar:
        return verify(path, on_bytes=bar.update, on_total=bar.reset)


def verify_text(path: Path, result: VerifyResult) -> str:
    what = f"{path}: {counted(result.num_files, 'file')}, {result.num_bytes / 1e6:.1f} MB, {counted(result.num_rows, 'row')}"
    if not result.damage:
        return f"{what}: every byte as packed"
    lines = [f"{what}: {len(result.damage)} damaged"]
    lines += [f"  {found.where}: {found.reason}" for found in result.damage]
    if any(found.shard is not None for found in result.damage):
        command = f"fastfashion verify {path} --repair --source ZIP_OR_FOLDER"
        lines.append(f"to pack damaged shards again: {command} (with the same --table and --id-column as then)")
    return "\n".join(lines)
