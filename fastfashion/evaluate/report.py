"""The report of a run: report.json, its plots and its sheets of mistakes.

run/best + config.json ─► test rows ─► predict (every rank its share) ─► gather ─► metrics ─► report.json, predictions.parquet, plots/
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fastfashion import dist
from fastfashion.bars import tqdm
from fastfashion.catalog import ids_hash
from fastfashion.catalog.splits import REFERENCE_SEED
from fastfashion.command_options import EvaluateRequest
from fastfashion.errors import InputError
from fastfashion.evaluate import metrics, plots
from fastfashion.evaluate.intervals import bootstrap
from fastfashion.evaluate.predictions import Answers, Predictions, predict, predictions_table, score
from fastfashion.extras import install, lacks
from fastfashion.files import plain, publish, publish_json
from fastfashion.images.sheets import TILE_WIDTH_PX, Group, draw_sheet, write_sheet
from fastfashion.load import Loader, Selection, Skipped, make_spec
from fastfashion.runs.files import PLOTS, PREDICTIONS, REPORT, read_metrics
from fastfashion.runs.opened import OpenRun, open_run
from fastfashion.runs.reads import count_read
from fastfashion.runs.trained_on import SetIdentity
from fastfashion.shards import PackedSet
from fastfashion.tables import table_text
from fastfashion.untrusted import file_sha256
from fastfashion.words import counted

UNSEEN = "unseen"  # folder of the report of rows that a run never saw
ROWS = ("test", UNSEEN)
MISTAKES, MISTAKES_A_LINE = 48, 8  # images on a sheet
CLASS_COLUMNS = ("name", "precision", "recall", "f1", "support")


def predict_rows(
    opened: OpenRun, rows: np.ndarray, labels: np.ndarray, request: EvaluateRequest, world: dist.World
) -> tuple[Predictions, dict[int, Skipped]]:
    """What a run's model says of rows of its packed set, and which of them do not decode.

    rows: int64 (n,); labels: int64 (N, T) by row of the set, which the predictions carry along.
    """
    data = replace(opened.config.data, size=str(opened.size), workers=request.workers or 0, **opened.fit.settings())
    chosen = Selection(rows=rows, batch_size=opened.size.batch(request.batch_size), labels=labels)
    with Loader(make_spec(opened.packed, chosen, data, world)) as loader:
        hidden = None if world.is_main else True  # None: if it is not a terminal
        batches = tqdm(loader.steps(0), "answers", loader.num_steps, unit=" batches", disable=hidden, dynamic_ncols=True, leave=False)
        predictions = predict(opened.model.to(world.device), batches, world, who=str(opened.path))
        skipped = {row: one for part in dist.gather(world, loader.skipped) for row, one in part.items()}
    assert np.array_equal(predictions.rows, np.setdiff1d(rows, list(skipped))), "a row was lost or doubled"
    return predictions, skipped


def evaluate_run(request: EvaluateRequest, world: dist.World) -> dict[str, Any]:
    """Test the best weights of a run on the test rows of its split; writes report, predictions and plots into the run.

    Returns the report: `{"run", "split": {…}, "tasks": {task: {"n", "accuracy", "macro_f1", …, "intervals", "classes": […]}}}`.
    Raises what `open_run` raises.
    """
    unseen = request.rows == UNSEEN
    opened = open_run(request.run, request.shards, other_ids=unseen, writes=world.is_main)
    rows, labels = tested_rows(opened, request.rows)
    predictions, skipped = predict_rows(opened, rows, labels, request, world)
    if unseen:
        predictions = _with_labels(opened, predictions)
    notes = list(opened.notes)
    history = read_metrics(opened.path, notes)
    if lacks("matplotlib"):
        notes.append(f"{PLOTS}/ has sheets of mistakes alone, as matplotlib is not installed: {install('report')}")
    report = plain(_report(replace(opened, notes=tuple(notes)), predictions, request.rows))
    report["skipped"] = [asdict(one) for _, one in sorted(skipped.items())]
    if world.is_main:
        out = report_folder(request.run, request.rows)
        out.mkdir(exist_ok=True)
        table = predictions_table(opened.packed, opened.vocab, predictions)
        publish(out / PREDICTIONS, lambda beside: table.to_parquet(beside, index=False))
        what = f"rows of {opened.packed.path.name} that it never saw" if unseen else f"test part of the {opened.config.data.protocol} split"
        _draw(opened, predictions, out / PLOTS, what, history)
        publish_json(out / REPORT, report)  # last: if it exists, everything does
    if unseen or not world.is_main:
        return report
    return report | {"test_reads": count_read(request.run, "evaluate")}  # not in the file: the same test has the same report


def report_folder(run: Path, rows: str) -> Path:
    """Where the report of a test is: that of the run's own test rows in the run, that of others in a folder of its own."""
    return run / UNSEEN if rows == UNSEEN else run


def tested_rows(opened: OpenRun, rows: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n,) to test, and labels (N, T) by row of the set. Raises InputError if the run has seen all of them."""
    if rows != UNSEEN:
        return opened.split.rows("test"), opened.split.labels("test", opened.codes)
    if not (opened.codes[opened.unseen] >= 0).any():
        why = f"{opened.path} has trained, validated or tested on all of its {len(opened.packed)} ids"
        if len(opened.unseen):
            why = f"the {counted(len(opened.unseen), 'id')} that {opened.path} never saw have no label that it knows"
        raise InputError(f"{opened.packed.path}: --rows unseen, but {why}")
    labels = np.full_like(opened.codes, -1)
    labels[opened.unseen] = opened.codes[opened.unseen]
    return opened.unseen, labels


def _with_labels(opened: OpenRun, predictions: Predictions) -> Predictions:
    """Without tasks that no row has a label for."""
    has = np.asarray((predictions.labels >= 0).any(axis=0))
    kept = {task: values for (task, values), there in zip(predictions.probabilities.items(), has.tolist(), strict=True) if there}
    return replace(predictions, labels=predictions.labels[:, has], probabilities=kept)


def _unknown_classes(opened: OpenRun) -> dict[str, dict[str, int]]:
    """Labels of unseen rows that the run has no class for, and how many rows have each; those rows are not tested for that task."""
    found: dict[str, dict[str, int]] = {}
    for task, names in opened.vocab.classes.items():
        if task not in opened.packed.vocab.classes:
            continue
        labels = opened.table[task].iloc[opened.unseen]
        counts = labels[labels.isin(set(opened.packed.vocab.names(task)) - set(names))].value_counts()
        if len(counts):
            found[task] = {str(name): int(count) for name, count in counts.items()}
    return found


def _report(opened: OpenRun, predictions: Predictions, tested: str) -> dict[str, Any]:
    config, split, kept = opened.config, opened.split, opened.trained_on
    ids = opened.packed.table["id"]
    scores = score(predictions)
    tasks = {task: scores[task] | _details(opened, task, answers) for task, answers in predictions.answers()}
    for task, values in tasks.items():
        rows = split.test[task] if tested != UNSEEN else opened.unseen
        values["test_ids_sha256"] = ids_hash(ids.iloc[rows].tolist())
    own = {"set": asdict(SetIdentity.of(opened.packed)), "trained_on": asdict(kept.source), "notes": list(opened.notes)}
    if tested == UNSEEN:
        own["unknown_classes"] = _unknown_classes(opened)
    return own | {
        "run": opened.path.name,
        "model": config.model.name,
        "first_weights": config.model.weights or ("imagenet" if config.model.pretrained else "random"),
        "size": config.data.size,
        "split": {
            "protocol": config.data.protocol,
            **{name: given for name in ("split_file", "split_column") if (given := getattr(config.data, name))},
            "seed": REFERENCE_SEED if config.data.protocol == "reference" else config.data.protocol_seed,
            "by": list(config.data.split_tasks),
            "part": tested,
            "num_rows": len(split.rows("test")) if tested != UNSEEN else len(opened.unseen),
            "train_rows": len(kept.split.train),
            "train_rows_in_set": len(split.train),
            "train_ids_sha256": ids_hash(kept.ids[kept.split.train].tolist()),
        },
        # They change the labels that a run is tested by, too.
        "corrections_sha256": file_sha256(Path(config.data.corrections)) if config.data.corrections else None,
        "tasks": tasks,
    }


def _details(opened: OpenRun, task: str, answers: Answers) -> dict[str, Any]:
    """What a report says of a task besides its scores."""
    largest = int(np.argmax(opened.trained_on.train_counts[task]))
    scores = metrics.per_class(answers.confusion)
    columns = (opened.vocab.names(task), scores.precision.tolist(), scores.recall.tolist(), scores.f1.tolist(), scores.support.tolist())
    groups = opened.packed.table["duplicate_group"].to_numpy()
    twin = np.isin(groups[answers.rows], groups[opened.split.train])
    # The bootstrap draws by position: in the run's own order, the same set in another order has the same intervals.
    places = pd.Index(opened.trained_on.ids).get_indexer(pd.Index(opened.packed.table["id"].to_numpy(dtype=object)[answers.rows]))
    order = np.argsort(places, kind="stable")
    return {
        "intervals": {name: list(ends) for name, ends in bootstrap(answers.labels[order], answers.probabilities[order]).items()},
        # Chance: what always answering the training part's largest class would score.
        "chance_accuracy": float((answers.labels == largest).mean()),
        "temperature": float(opened.model.temperatures[opened.tasks.index(task)]),
        "with_duplicate_in_training": _share(answers.right[twin]),
        "without_duplicate_in_training": _share(answers.right[~twin]),
        "classes": [dict(zip(CLASS_COLUMNS, line, strict=True)) for line in zip(*columns, strict=True)],
    }


def _share(right: np.ndarray) -> dict[str, float | int | None]:
    return {"n": len(right), "accuracy": float(right.mean()) if len(right) else None}


def _draw(opened: OpenRun, predictions: Predictions, folder: Path, what: str, history: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    drawn = not lacks("matplotlib")
    if history and drawn:
        plots.plot_training(folder / "training.png", history, title=f"{opened.path.name}: training")
    for task, answers in predictions.answers():
        names, title = opened.vocab.names(task), f"{opened.path.name}: {task}, {what}"
        _draw_mistakes(folder / f"mistakes_{task}.png", opened.packed, answers, names, title)
        if not drawn:
            continue
        plots.plot_confusion(folder / f"confusion_{task}.png", answers.confusion, names, title=title)
        per_class = metrics.per_class(answers.confusion)
        plots.plot_per_class(folder / f"classes_{task}.png", per_class.f1, per_class.support, names, title=title)
        bins = metrics.calibration_bins(answers.confidences, answers.right)
        plots.plot_reliability(folder / f"reliability_{task}.png", *bins, title=title)


def _draw_mistakes(path: Path, packed: PackedSet, answers: Answers, names: Sequence[str], title: str) -> None:
    """A sheet of the images with the most confident wrong answers; none if there are none."""
    wrong = np.flatnonzero(~answers.right)
    worst = wrong[np.argsort(-answers.confidences[wrong], kind="stable")][:MISTAKES].tolist()
    if worst:
        images = packed.open_for(TILE_WIDTH_PX)
        texts = [(names[answers.labels[i]], f"{names[answers.best[i]]} {100 * answers.confidences[i]:.0f} %") for i in worst]
        groups = [Group(tiles=[images.tile(int(answers.rows[i]), lines)]) for i, lines in zip(worst, texts, strict=True)]
        write_sheet(path, draw_sheet(groups, columns=MISTAKES_A_LINE, header=[f"{title}: the most confident mistakes"]))


def report_text(run: Path, report: Mapping[str, Any]) -> str:
    """A report as a table for people, and where its files are: what `fastfashion evaluate` prints."""
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
    if report.get("test_reads", 0) > 1:
        lines += ["", f"the test rows of this run were read {report['test_reads']} times: what is chosen by them is no test any more"]
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
