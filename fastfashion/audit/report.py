"""What a packed set contains: sizes, bytes, classes, duplicates, and how many of them each split leaks from training into its tests.

packed set ─► report (a dict) ─► text, audit.json ; largest duplicate groups ─► duplicates.png
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastfashion.catalog import Vocab, split_rows
from fastfashion.catalog.views import NO_VIEW, View
from fastfashion.csv_files import unescaped
from fastfashion.errors import FastfashionError
from fastfashion.files import publish_json, writing_to
from fastfashion.images.sheets import TILE_WIDTH_PX, Group, draw_sheet, write_sheet
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.shards.tables import read_rejected
from fastfashion.tables import table_text
from fastfashion.words import counted

REPORT, SHEET = "audit.json", "duplicates.png"
PROTOCOLS_SHOWN = ("stratified", "reference")
RARE = 5  # images; a class of fewer can hardly be in every part of a split
SHOWN = 3  # classes, sizes and reasons in the text; the report has all
SHEET_GROUPS, SHEET_IMAGES = 12, 8  # of the contact sheet: groups, and images of one group


def audit(
    path: Path, out: Path | None = None, protocols: Sequence[str] = PROTOCOLS_SHOWN, seed: int = 0, view: View = NO_VIEW
) -> dict[str, Any]:
    """Report on a packed set; with `out`, also write it there as audit.json, with a sheet of the largest duplicate groups.

    Labels are those of the view; all else is about all images. `seed`: of the stratified protocol. Raises PackedSetError if there is no
    whole set, InputError if `out` cannot be written.
    """
    packed, reasons = open_packed_set(path).viewed(view), read_rejected(path)
    report = {
        "set": str(path),
        "images": len(packed),
        "rejected": {"rows": len(reasons), "reasons": dict(Counter(map(unescaped, reasons)).most_common())},
        "sizes": _sizes(packed.table),
        "resolutions": {name: _bytes(packed, name) for name in packed.resolutions},
        "labels": {task: _classes(packed, task) for task in packed.vocab.classes},
        "duplicates": _duplicates(packed.table, packed.vocab),
        "leakage": {
            protocol: {task: leakage(packed.table, packed.vocab, task, protocol, seed) for task in packed.vocab.classes}
            for protocol in protocols
        },
    }
    if out is not None:
        groups = duplicate_tiles(packed)
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
            if groups:
                write_sheet(out / SHEET, draw_sheet(groups))
            else:
                (out / SHEET).unlink(missing_ok=True)  # of an earlier audit
            publish_json(out / REPORT, report)
    return report


def _sizes(table: pd.DataFrame) -> dict[str, Any]:
    shorter_px = table[["height", "width"]].min(axis=1)
    sizes = Counter(zip(table["width"], table["height"], strict=True))
    return {
        "images": {f"{width}x{height}": count for (width, height), count in sizes.most_common()},
        "shorter_side_px": {"min": int(shorter_px.min()), "median": float(shorter_px.median()), "max": int(shorter_px.max())},
    }


def _bytes(packed: PackedSet, name: str) -> dict[str, Any]:
    opened = packed.open(name)
    num_bytes, shards = opened.num_bytes, opened.manifest.shards
    return {
        "num_bytes": int(num_bytes.sum()),
        "median_bytes": float(np.median(num_bytes)),
        "min_bytes": int(num_bytes.min()),
        "max_bytes": int(num_bytes.max()),
        "tar_bytes": sum(entry.num_bytes for entry in shards),
        "num_shards": len(shards),
    }


def _classes(packed: PackedSet, task: str) -> dict[str, Any]:
    codes = packed.vocab.codes(packed.table, [task])[:, 0]
    names = packed.vocab.names(task)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    images = {names[code]: int(counts[code]) for code in np.argsort(-counts, kind="stable")}
    return {"classes": len(names), "missing": int((codes < 0).sum()), "rare": int((counts < RARE).sum()), "images": images}


def _duplicates(table: pd.DataFrame, vocab: Vocab) -> dict[str, Any]:
    groups = table["duplicate_group"].to_numpy()
    sizes = np.bincount(groups, minlength=len(table))
    return {
        "groups": int((sizes > 1).sum()),
        "images": int(sizes[sizes > 1].sum()),
        "largest": int(sizes.max()),
        "groups_with_different_labels": {task: len(_differing(table, vocab, task)) for task in vocab.classes},
    }


def leakage(table: pd.DataFrame, vocab: Vocab, task: str, protocol: str, seed: int) -> dict[str, Any]:
    """Rows of each part, and how many of validation and test have a member of their duplicate group in training."""
    try:
        split = split_rows(table, vocab, task, protocol, seed)
    except FastfashionError as error:
        return {"impossible": str(error)}
    groups = table["duplicate_group"].to_numpy()
    rows = {part: len(rows) for part, rows in split.parts().items()}
    leaked = {part: int(np.isin(groups[split.parts()[part]], groups[split.train]).sum()) for part in ("val", "test")}
    return {"rows": rows, "leaked": leaked}


def _differing(table: pd.DataFrame, vocab: Vocab, task: str) -> np.ndarray:
    """Duplicate groups, by first row, whose members have different labels; a missing label does not count."""
    codes = vocab.codes(table, [task])[:, 0]
    labelled = table["duplicate_group"].to_numpy()[codes >= 0]
    pairs = np.unique(np.stack([labelled, codes[codes >= 0]]), axis=1)
    groups, num_labels = np.unique(pairs[0], return_counts=True)
    return groups[num_labels > 1]


def duplicate_tiles(packed: PackedSet) -> list[Group]:
    """The largest duplicate groups for a sheet, with the labels that differ within each; under an image its id and the first of those."""
    members = packed.table["duplicate_group"].to_numpy()
    sizes = np.bincount(members, minlength=len(members))
    firsts = [int(first) for first in np.argsort(-sizes, kind="stable")[:SHEET_GROUPS] if sizes[first] > 1]
    differing = {task: set(_differing(packed.table, packed.vocab, task).tolist()) for task in packed.vocab.classes}
    finest = max(packed.vocab.classes, key=lambda task: len(packed.vocab.names(task)))
    images = packed.open_for(TILE_WIDTH_PX)
    groups = []
    for first in firsts:
        tasks = [task for task in differing if first in differing[task]]
        title = f"{sizes[first]} images, " + (f"labels differ: {', '.join(tasks)}" if tasks else "same labels")
        labels = packed.table[[*tasks, finest][0]]
        tiles = [images.tile(row, [str(labels.iloc[row])]) for row in np.flatnonzero(members == first)[:SHEET_IMAGES].tolist()]
        groups.append(Group(title=title, tiles=tiles))
    return groups


def audit_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    shorter = report["sizes"]["shorter_side_px"]
    lines = [
        f"{report['set']}: {counted(report['images'], 'image')}, {counted(report['rejected']['rows'], 'row')} rejected",
        *(f"  rejected: {text}" for text in _most(report["rejected"]["reasons"])),
        f"sizes (width x height): {', '.join(_most(report['sizes']['images']))}",
        f"  shorter side {shorter['min']} to {shorter['max']} px, median {shorter['median']:g}",
        "",
        table_text(
            ["resolution", "shards", "tar MB", "images MB", "median KB", "min KB", "max KB"],
            (
                [name, str(r["num_shards"]), *(f"{r[key] / 1e6:.1f}" for key in ("tar_bytes", "num_bytes"))]
                + [f"{r[key] / 1e3:.1f}" for key in ("median_bytes", "min_bytes", "max_bytes")]
                for name, r in report["resolutions"].items()
            ),
            left=(0, -1),
        ),
        "",
        table_text(
            ["label", "classes", "missing", f"below {RARE}", "most frequent, and rarest"],
            (
                [task, *(str(r[key]) for key in ("classes", "missing", "rare")), ", ".join(_ends(r["images"]))]
                for task, r in report["labels"].items()
            ),
            left=(0, -1),
        ),
        "",
        *_duplicates_text(report["duplicates"]),
        "",
        "rows with a duplicate in training:",
        table_text(["protocol", "label", "val", "test"], _leakage_rows(report["leakage"]), left=(0, -1)),
    ]
    return "\n".join(lines)


def _duplicates_text(duplicates: dict[str, Any]) -> list[str]:
    groups = duplicates["groups"]
    if not groups:
        return ["duplicates: none; no two images are near-duplicates"]
    return [
        f"duplicates: {counted(groups, 'group')} of {counted(duplicates['images'], 'image')}, the largest of {duplicates['largest']}",
        "  groups whose labels differ: " + ", ".join(f"{task} {n}" for task, n in duplicates["groups_with_different_labels"].items()),
    ]


def _leakage_rows(leakage: dict[str, Any]) -> list[list[str]]:
    rows = []
    for protocol, tasks in leakage.items():
        for task, r in tasks.items():
            shares = [f"{r['leaked'][part]} of {r['rows'][part]}" for part in ("val", "test")] if "rows" in r else ["-", r["impossible"]]
            rows.append([protocol, task, *shares])
    return rows


def _most(counts: dict[str, int]) -> list[str]:
    shown = [f"{name} ({number})" for name, number in list(counts.items())[:SHOWN]]
    rest = list(counts.values())[SHOWN:]
    return shown + ([f"{counted(len(rest), 'other')} ({sum(rest)})"] if rest else [])


def _ends(counts: dict[str, int]) -> list[str]:
    items = [f"{name} {number}" for name, number in counts.items()]
    return items if len(items) <= 2 * SHOWN else [*items[:SHOWN], "…", *items[-SHOWN:]]
