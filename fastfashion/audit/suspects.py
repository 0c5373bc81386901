"""Labels that are probably wrong, found by models that were not trained on them.

runs ─► rows that a run neither trained on nor has a duplicate of in training ─► mean probabilities ─► confident disagreement, ranked
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastfashion import dist
from fastfashion.command_options import EvaluateRequest
from fastfashion.config import FOLDS
from fastfashion.csv_files import csv_rows, publish_csv
from fastfashion.errors import ConfigError, InputError
from fastfashion.evaluate.report import predict_rows
from fastfashion.images.sheets import TILE_WIDTH_PX, Group, draw_sheet, write_sheet
from fastfashion.runs.opened import OpenRun, open_run
from fastfashion.tables import table_text
from fastfashion.words import counted

SUSPECTS = "suspects.csv"
SHOWN, SHOWN_A_LINE = 48, 8  # images on a sheet
COLUMNS = ["id", "task", "label", "suggestion", "probability", "label_probability"]


@dataclass(frozen=True, kw_only=True)
class SuspectsRequest:
    """Whose predictions to use, and where to write."""

    runs: Sequence[Path]
    out: Path
    shards: Path | None = None  # where the packed set is now, if it was moved
    corrections: Path | None = None  # already known, on top of those of the first run
    workers: int = 0
    raw: bool = False  # cells of suspects.csv as they are, for programs


def find_suspects(request: SuspectsRequest, world: dist.World) -> dict[str, Any]:
    """Write suspects.csv with all tasks, worst first, and a sheet of images for each task.

    Confident learning (Northcutt et al. 2021): a label is suspicious if another class is the most probable, and at least as probable as
    that class is on average where it is the label; ranked by how far the label's probability is below that. Returns `{"out", "rows",
    "unseen", "suspects": {task: count}, "notes"}`. Raises InputError if no row was left unseen, ConfigError if runs differ in packed
    set or tasks.
    """
    opened = [open_run(run, request.shards, writes=world.is_main) for run in request.runs]
    sums, counts = _unseen_probabilities(opened, request, world)
    packed, tasks = opened[0].packed, opened[0].tasks
    codes = opened[0].codes
    if request.corrections is not None:
        codes = packed.vocab.codes(packed.corrected(opened[0].config.data.corrections, str(request.corrections)), tasks)
    tables = [_suspects(packed.vocab.names(task), task, codes[:, t], sums[task], counts) for t, task in enumerate(tasks)]
    table = pd.concat(tables).sort_values("margin", ascending=False, kind="stable")
    table.insert(0, "id", packed.table["id"].to_numpy()[table["row"]])
    request.out.mkdir(parents=True, exist_ok=True)
    publish_csv(request.out / SUSPECTS, COLUMNS, csv_rows(table[COLUMNS], digits=4), raw=request.raw)
    for task, of_task in table.groupby("task"):
        shown = of_task.head(SHOWN)
        images = packed.open_for(TILE_WIDTH_PX)
        columns = [shown[column].tolist() for column in ("row", "label", "suggestion", "probability")]
        tiles = [images.tile(row, (label, f"{best} {100 * share:.0f} %")) for row, label, best, share in zip(*columns, strict=True)]
        judged = counted(int((counts > 0).sum()), "row")
        title = f"{task}: {counted(len(of_task), 'suspicious label')} of {judged}; the label, and what the model says"
        sheet = draw_sheet([Group(tiles=[tile]) for tile in tiles], columns=SHOWN_A_LINE, header=[title])
        write_sheet(request.out / f"suspects_{task}.png", sheet)
    return {
        "out": str(request.out),
        "rows": len(packed),
        "unseen": int((counts > 0).sum()),
        "suspects": {task: int((table["task"] == task).sum()) for task in tasks},
        "notes": [note for run in opened for note in run.notes],
    }


def _unseen_probabilities(
    opened: Sequence[OpenRun], request: SuspectsRequest, world: dist.World
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sums of probabilities over the runs that have not seen a row, float64 (N, C) by task, and the number of these runs, int64 (N,)."""
    first = opened[0]
    groups = first.packed.table["duplicate_group"].to_numpy()
    sums = {task: np.zeros((len(groups), len(first.packed.vocab.names(task)))) for task in first.tasks}
    counts = np.zeros(len(groups), dtype=np.int64)
    for run in opened:
        if run.tasks != first.tasks or not run.packed.table["id"].equals(first.packed.table["id"]):
            raise ConfigError(f"{run.path} and {first.path}: expected runs of the same packed set and tasks, found different ones")
        rows = np.flatnonzero(~np.isin(groups, groups[run.split.train]))
        if not len(rows):
            continue
        predictions, _ = predict_rows(run, rows, run.codes, EvaluateRequest(run=run.path, workers=request.workers), world)
        counts[predictions.rows] += 1
        for task, probabilities in predictions.probabilities.items():
            sums[task][predictions.rows] += probabilities
    if not counts.any():
        raise InputError("every run was trained on every row, so no label can be judged; train with --protocol folds")
    return sums, counts


def _suspects(names: Sequence[str], task: str, labels: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> pd.DataFrame:
    rows = np.flatnonzero((counts > 0) & (labels >= 0))
    probabilities, given = sums[rows] / counts[rows, None], labels[rows]
    totals = np.bincount(given, minlength=len(names))
    own = probabilities[np.arange(len(rows)), given]
    usual = np.divide(np.bincount(given, weights=own, minlength=len(names)), totals, out=np.ones(len(names)), where=totals > 0)
    best = probabilities.argmax(axis=1)
    highest = probabilities.max(axis=1)
    suspicious = (best != given) & (highest >= usual[best])
    table = pd.DataFrame({"row": rows, "probability": highest, "label_probability": own, "margin": highest - own})
    table["task"], table["label"], table["suggestion"] = task, [names[c] for c in given], [names[c] for c in best]
    return table[suspicious]


def suspects_text(result: dict[str, Any]) -> str:
    """How many labels of each task are suspicious, and what to do with them."""
    lines = [
        *result.get("notes", ()),
        f"judged by a run that did not see them in training: {result['unseen']} of {counted(result['rows'], 'row')}",
    ]
    if result["unseen"] < result["rows"]:
        lines[-1] += f"; for all, train with --protocol folds --set data.fold=0 to {FOLDS - 1} and name the {FOLDS} runs"
    lines.append(table_text(["", ""], [[task, counted(number, "suspicious label")] for task, number in result["suspects"].items()]))
    lines += [f"written: {result['out']}/{SUSPECTS}, worst first, and a sheet of images for each task"]
    lines += ["to correct labels, make a CSV with the columns id, task, label and name it with --corrections"]
    return "\n".join(lines)
