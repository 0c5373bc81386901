"""A run to its report.

run/best + config.json ─► test rows ─► predict (every rank its share) ─► gather ─► metrics ─► report.json, predictions.parquet, plots/
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from fastfashion import dist
from fastfashion.catalog import JointSplit, correct, ids_hash, joint_split
from fastfashion.catalog.splits import REFERENCE_SEED
from fastfashion.config import RunConfig, Size
from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.evaluate import metrics, plots
from fastfashion.evaluate.intervals import bootstrap
from fastfashion.evaluate.predictions import Predictions, predict, score
from fastfashion.evaluate.sheet import write_sheet
from fastfashion.files import location, publish, publish_json, unreadable
from fastfashion.load import LoaderSpec, Plan, Skipped, choose_pictures, open_loader
from fastfashion.model import Classifier, load_artifact
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.words import counted

CONFIG, METRICS, REPORT, PREDICTIONS, PLOTS = "config.json", "metrics.jsonl", "report.json", "predictions.parquet", "plots"
MISTAKES = 48  # pictures on a sheet


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Which run to test, and with what."""

    run: Path
    shards: Path | None = None  # where the packed set lies now, if not where the run was trained
    batch_size: int = 256
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run with its best model, on CPU, and the packed set it was trained on."""

    path: Path
    config: RunConfig
    model: Classifier
    size: Size
    packed: PackedSet
    table: pd.DataFrame  # the set's, with the run's corrections
    codes: np.ndarray  # int64 (N, T): its labels by row
    split: JointSplit

    @property
    def tasks(self) -> list[str]:
        return list(self.split.test)


def read_config(run: Path) -> RunConfig:
    """The resolved settings of a run; raises InputError where the folder is no run."""
    try:
        return RunConfig.from_dict(json.loads((run / CONFIG).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{run}: not a run: {CONFIG} is missing; expected a folder such as runs/NAME that fastfashion train made"
        ) from None
    except OSError as error:
        raise InputError(f"{run / CONFIG}: {unreadable(error)}") from error
    except (ValueError, AttributeError) as error:
        raise InputError(f"{run / CONFIG}: not readable as a run's settings: {error}") from error


def open_run(run: Path, shards: Path | None = None) -> OpenRun:
    """Raises InputError, PackedSetError or ConfigError where the folder is no run, or run and packed set do not fit."""
    config = read_config(run)
    model, description = load_artifact(run / "best")
    try:
        packed = open_packed_set(shards or location(config.data.shards))
    except PackedSetError as error:
        if shards is not None:
            raise
        raise PackedSetError(f"{error}\n{run} was trained on it: if it lies elsewhere now, say where with --shards") from error
    for task, names in description.classes.items():
        if list(packed.vocab.names(task)) != names:
            raise ConfigError(
                f"{packed.path}: its {len(packed.vocab.names(task))} classes of {task} are not the {len(names)} that {run} was "
                "trained on; name the packed set of the training with --shards"
            )
    data, tasks = config.data, list(description.classes)
    table = correct(packed.table, packed.vocab, Path(data.corrections)) if data.corrections else packed.table
    return OpenRun(
        path=run,
        config=config,
        model=model,
        size=Size.parse(description.size),
        packed=packed,
        table=table,
        codes=packed.vocab.codes(table, tasks),
        split=joint_split(packed.table, packed.vocab, tasks, data.split_tasks, data.protocol, data.protocol_seed),
    )


def predict_rows(
    opened: OpenRun, rows: np.ndarray, labels: np.ndarray, request: EvaluateRequest, world: dist.World
) -> tuple[Predictions, dict[int, Skipped]]:
    """What a run's model says of rows of its packed set, and which of them do not decode.

    rows: int64 (n,); labels: int64 (N, T) by row of the set, which the predictions carry along.
    """
    data = opened.config.data
    pictures, _ = choose_pictures(opened.packed, data.resolution, str(opened.size))
    spec = LoaderSpec(
        pictures=pictures,
        plan=Plan(rows=rows, heights_px=pictures.height_px, widths_px=pictures.width_px, batch_size=request.batch_size),
        labels=labels,
        size=opened.size,
        device=world.device,
        rank=world.rank,
        world_size=world.size,
        backend=data.backend,
        workers=request.workers or dist.cores_per_process(world.local_size),
        on_bad=data.on_bad,
        cache_dir=data.cache_dir,
        cache_bytes=int(data.cache_gb * 1e9),
    )
    with closing(open_loader(spec)) as loader:
        hidden = None if world.is_main else True  # None: where it is no terminal
        batches = tqdm(loader.steps(0), "answers", loader.num_steps, unit=" batches", disable=hidden, dynamic_ncols=True, leave=False)
        predictions = predict(opened.model.to(world.device), batches, world)
        skipped = {row: one for part in dist.gather(world, loader.skipped) for row, one in part.items()}
    assert np.array_equal(predictions.rows, np.setdiff1d(rows, list(skipped))), "a row was lost or doubled"
    return predictions, skipped


def evaluate_run(request: EvaluateRequest, world: dist.World) -> dict[str, Any]:
    """Test the best weights of a run on the test rows of its split; writes report, predictions and plots into the run.

    Returns the report: `{"run", "split": {…}, "tasks": {task: {"n", "accuracy", "macro_f1", …, "intervals", "classes": […]}}}`.
    Raises what `open_run` raises.
    """
    opened = open_run(request.run, request.shards)
    rows, labels = opened.split.rows("test"), opened.split.labels("test", opened.codes)
    predictions, skipped = predict_rows(opened, rows, labels, request, world)
    report = _report(opened, predictions)
    report["skipped"] = [asdict(one) for _, one in sorted(skipped.items())]
    if world.is_main:
        table = predictions_table(opened.packed, predictions)
        publish(request.run / PREDICTIONS, lambda beside: table.to_parquet(beside, index=False))
        _draw(opened, predictions)
        publish_json(request.run / REPORT, report)  # the last: where it is, all is
    return report


def _report(opened: OpenRun, predictions: Predictions) -> dict[str, Any]:
    config, split = opened.config, opened.split
    ids = opened.packed.table["id"]
    tasks = {task: values | _details(opened, predictions, task) for task, values in score(predictions).items()}
    for task, values in tasks.items():
        values["test_ids_sha256"] = ids_hash(ids.iloc[split.test[task]].tolist())
    return {
        "run": opened.path.name,
        "model": config.model.name,
        "first_weights": config.model.weights or ("imagenet" if config.model.pretrained else "random"),
        "size": config.data.size,
        "split": {
            "protocol": config.data.protocol,
            "seed": REFERENCE_SEED if config.data.protocol == "reference" else config.data.protocol_seed,
            "by": list(config.data.split_tasks),
            "part": "test",
            "num_rows": len(split.rows("test")),
            "train_rows": len(split.train),
            "train_ids_sha256": ids_hash(ids.iloc[split.train].tolist()),
        },
        "corrections_sha256": _corrections_sha256(config),
        "tasks": tasks,
    }


def _corrections_sha256(config: RunConfig) -> str | None:
    """Of the file: corrections change the labels that a run is tested by, too."""
    return hashlib.sha256(Path(config.data.corrections).read_bytes()).hexdigest() if config.data.corrections else None


def _details(opened: OpenRun, predictions: Predictions, task: str) -> dict[str, Any]:
    """What a report says of a task besides its scores."""
    rows, labels, probabilities = predictions.labelled(task)
    t, names = opened.tasks.index(task), opened.packed.vocab.names(task)
    train_labels = opened.codes[opened.split.train, t]
    largest = int(np.bincount(train_labels[train_labels >= 0], minlength=1).argmax())
    right = probabilities.argmax(axis=1) == labels
    scores = metrics.per_class(_confusion(predictions, task))
    classes = [
        {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(names, scores.precision, scores.recall, scores.f1, scores.support, strict=True)
    ]
    groups = opened.packed.table["duplicate_group"].to_numpy()
    twin = np.isin(groups[rows], groups[opened.split.train])
    return {
        "intervals": {name: list(ends) for name, ends in bootstrap(labels, probabilities).items()},
        # Chance: what always answering the training part's largest class would score.
        "chance_accuracy": float((labels == largest).mean()),
        "temperature": float(opened.model.temperatures[t]),
        "with_duplicate_in_training": _share(right[twin]),
        "without_duplicate_in_training": _share(right[~twin]),
        "classes": classes,
    }


def _share(right: np.ndarray) -> dict[str, float | int | None]:
    return {"n": len(right), "accuracy": float(right.mean()) if len(right) else None}


def report_text(run: Path, report: Mapping[str, Any]) -> str:
    """A report as a table for people, and where the rest lies."""
    split = report["split"]
    lines = [
        f"{report['run']}: {report['model']} at {report['size']}, {counted(split['num_rows'], 'test row')} of the {split['protocol']} split"
    ]
    lines[0] += f" by {', '.join(split['by'])}"
    columns = f"{'accuracy, 95 % interval':>26}{'macro F1, 95 % interval':>26}{'top 3':>8}{'calibration':>13}{'chance':>8}"
    lines += ["", f"{'task':<16}{columns}"]
    for task, values in report["tasks"].items():
        cells = "".join(_with_interval(values, name).rjust(26) for name in ("accuracy", "macro_f1"))
        rest = f"{values['top3_accuracy']:>8.4f}{values['calibration_error']:>13.4f}{values['chance_accuracy']:>8.4f}"
        lines.append(f"{task:<16}{cells}{rest}")
    lines += ["", *_duplicate_lines(report["tasks"])]
    if report["skipped"]:
        lines += ["", f"{counted(len(report['skipped']), 'test image')} left out, not decodable: the report names them"]
    lines += ["", "interval: of the choice of test pictures; calibration: mean error of the probabilities; chance: the largest class", ""]
    lines += [f"report       {run / REPORT}", f"predictions  {run / PREDICTIONS}", f"plots        {run / PLOTS}/*.png"]
    return "\n".join(lines)


def _with_interval(values: Mapping[str, Any], name: str) -> str:
    low, high = values["intervals"][name]
    return f"{values[name]:.4f} ({low:.3f}–{high:.3f})"


def _duplicate_lines(tasks: Mapping[str, Any]) -> list[str]:
    """Accuracy on test rows with a near-duplicate in training and on the others, where there are any of the first."""
    if not any(values["with_duplicate_in_training"]["n"] for values in tasks.values()):
        return ["no test row has a near-duplicate in training"]
    lines = ["accuracy on test rows that have a near-duplicate in training, and on the others:"]
    for task, values in tasks.items():
        parts = (values["with_duplicate_in_training"], values["without_duplicate_in_training"])
        lines.append(f"{task:<16}" + "".join(_accuracy_of(part).rjust(20) for part in parts))
    return lines


def _accuracy_of(part: Mapping[str, Any]) -> str:
    return f"{100 * part['accuracy']:.2f} % of {part['n']}" if part["n"] else "no such row"


def _confusion(predictions: Predictions, task: str) -> np.ndarray:
    _, labels, probabilities = predictions.labelled(task)
    return metrics.confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])


def predictions_table(packed: PackedSet, predictions: Predictions) -> pd.DataFrame:
    """One line a row: row, id, and for each task its label and prediction (class names, None without a label) and probability."""
    columns: dict[str, Any] = {"row": predictions.rows, "id": packed.table["id"].to_numpy()[predictions.rows]}
    for t, (task, probabilities) in enumerate(predictions.probabilities.items()):
        names = np.array([*packed.vocab.names(task), None], dtype=object)  # -1 picks the None
        best = probabilities.argmax(axis=1)
        columns |= {
            f"{task}_label": names[predictions.labels[:, t]],
            f"{task}_prediction": names[best],
            f"{task}_probability": probabilities[np.arange(len(best)), best],
        }
    return pd.DataFrame(columns)


def _draw(opened: OpenRun, predictions: Predictions) -> None:
    folder, run = opened.path / PLOTS, opened.path
    folder.mkdir(exist_ok=True)
    if (run / METRICS).is_file():
        plots.plot_training(folder / "training.png", read_metrics(run), title=f"{run.name}: training")
    for task in predictions.probabilities:
        confusion, names = _confusion(predictions, task), opened.packed.vocab.names(task)
        title = f"{run.name}: {task}, test part of the {opened.config.data.protocol} split"
        plots.plot_confusion(folder / f"confusion_{task}.png", confusion, names, title=title)
        per_class = metrics.per_class(confusion)
        plots.plot_per_class(folder / f"classes_{task}.png", per_class.f1, per_class.support, names, title=title)
        rows, labels, probabilities = predictions.labelled(task)
        best, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
        bins = metrics.calibration_bins(confidences, best == labels)
        plots.plot_reliability(folder / f"reliability_{task}.png", *bins, title=title)
        wrong = np.flatnonzero(best != labels)
        worst = wrong[np.argsort(-confidences[wrong], kind="stable")][:MISTAKES]
        if len(worst):
            ids = opened.packed.table["id"]
            captions = [(ids.iloc[rows[i]], names[labels[i]], f"{names[best[i]]} {100 * confidences[i]:.0f} %") for i in worst]
            write_sheet(
                folder / f"mistakes_{task}.png", opened.packed, rows[worst].tolist(), captions, f"{title}: the most confident mistakes"
            )


def read_report(run: Path) -> dict[str, Any] | None:
    """What `evaluate_run` returned; None where the run was not tested. Raises InputError where the file is cut, or no report."""
    path = run / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: {unreadable(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: not readable ({error}); test the run again: fastfashion evaluate {run}") from error
    if not isinstance(report, dict) or not isinstance(report.get("tasks"), dict):
        raise InputError(f"{path}: expected a report with tasks, found none; test the run again: fastfashion evaluate {run}")
    return report


def read_metrics(run: Path) -> list[Mapping[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
