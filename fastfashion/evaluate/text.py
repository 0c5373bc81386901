"""What `fastfashion evaluate` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastfashion.evaluate.report import UNSEEN, report_folder
from fastfashion.runs.files import PLOTS, PREDICTIONS, REPORT
from fastfashion.tables import table_text
from fastfashion.words import counted


def report_text(run: Path, report: Mapping[str, Any]) -> str:
    """A report as a table for people, and where its files are."""
    split = report["split"]
    what = f"{counted(split['num_rows'], 'test row')} of the {split['protocol']} split by {', '.join(split['by'])}"
    if split.get("part") == UNSEEN:
        what = f"{counted(split['num_rows'], 'row')} of {report['set']['path']} that it neither trained, validated nor tested"
    lines = [*report.get("notes", ()), f"{report['run']}: {report['model']} at {report['size']}, {what}"]
    for task, counts in report.get("unknown_classes", {}).items():
        listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
        lines.append(f"{sum(counts.values())} of them are not tested for {task}, whose classes {listed} the run does not know")
    columns = ["task", "accuracy, 95 % interval", "macro F1, 95 % interval", "top 3", "calibration", "chance"]
    rows = [
        [
            task,
            *(_with_interval(values, name) for name in ("accuracy", "macro_f1")),
            *(f"{values[name]:.4f}" for name in ("top3_accuracy", "calibration_error", "chance_accuracy")),
        ]
        for task, values in report["tasks"].items()
    ]
    lines += ["", table_text(columns, rows), "", *_duplicate_lines(report)]
    if report["skipped"]:
        lines += ["", f"{counted(len(report['skipped']), 'test image')} left out, not decodable: the report names them"]
    lines += ["", "interval: of the choice of test images; calibration: mean error of the probabilities; chance: the largest class", ""]
    out = report_folder(run, split.get("part", "test"))
    lines += [f"report       {out / REPORT}", f"predictions  {out / PREDICTIONS}", f"plots        {out / PLOTS}/*.png"]
    return "\n".join(lines)


def _with_interval(values: Mapping[str, Any], name: str) -> str:
    low, high = values["intervals"][name]
    return f"{values[name]:.4f} ({low:.3f}–{high:.3f})"


def _duplicate_lines(report: Mapping[str, Any]) -> list[str]:
    """Accuracy on test rows with a near-duplicate in training and on the others, if there are any of the first."""
    tasks, split = report["tasks"], report["split"]
    if missing := split["train_rows"] - split.get("train_rows_in_set", split["train_rows"]):
        where = f"{missing} of the {split['train_rows']} training rows are not in {report['set']['path']}"
        there = dict(report) | {"split": split | {"train_rows": split["train_rows_in_set"]}}
        return [
            f"{where}: whether a test row is a near-duplicate of those is not known",
            *(_duplicate_lines(there) if there["split"]["train_rows"] else []),
        ]
    if not any(values["with_duplicate_in_training"]["n"] for values in tasks.values()):
        return ["no test row has a near-duplicate in training"]
    parts = ("with_duplicate_in_training", "without_duplicate_in_training")
    rows = [[task, *(_accuracy_of(values[part]) for part in parts)] for task, values in tasks.items()]
    return [
        "accuracy on test rows that have a near-duplicate in training, and on the others:",
        table_text(["task", "with duplicate", "others"], rows),
    ]


def _accuracy_of(part: Mapping[str, Any]) -> str:
    return f"{100 * part['accuracy']:.2f} % of {part['n']}" if part["n"] else "no such row"
