"""A model and a loader to predictions; a run to its report.

run/best + config.json ─► test rows ─► predict (every rank its share) ─► gather ─► metrics ─► report.json, predictions.parquet, plots/
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fastfashion import dist
from fastfashion.catalog import JointSplit, ids_hash, joint_split
from fastfashion.catalog.splits import REFERENCE_SEED
from fastfashion.config import RunConfig, Size
from fastfashion.errors import ConfigError, InputError
from fastfashion.evaluate import metrics, plots
from fastfashion.files import location, publish, publish_json
from fastfashion.load import Batch, LoaderSpec, Plan, choose_pictures, open_loader
from fastfashion.model import Classifier, load_artifact
from fastfashion.shards import PackedSet, open_packed_set

CONFIG, METRICS, REPORT, PREDICTIONS = "config.json", "metrics.jsonl", "report.json", "predictions.parquet"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Every row once, ascending, on every rank."""

    rows: np.ndarray  # int64 (n,)
    labels: np.ndarray  # int64 (n, T), -1 where there is none
    probabilities: dict[str, np.ndarray]  # task -> float32 (n, C), rows sum to 1


def predict(model: Classifier, batches: Iterable[Batch], world: dist.World) -> Predictions:
    """Run the model, in float32, over a loader's batches and gather all ranks' rows; padding is dropped."""
    rows, labels = [], []
    probabilities: dict[str, list[torch.Tensor]] = {task: [] for task in model.heads}
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            real = batch.rows >= 0
            rows.append(batch.rows[real])
            labels.append(batch.labels[real])
            for task, logits_BC in model(batch.images).items():
                probabilities[task].append(logits_BC[real].float().softmax(dim=1))
    model.train(was_training)
    mine = (_join(rows), _join(labels), {task: _join(parts) for task, parts in probabilities.items()})
    gathered = dist.gather(world, mine)
    # Each step's rows were dealt out in order of rank; sorting by row gives an order that does not depend on the world size.
    all_rows = np.concatenate([rows for rows, _, _ in gathered])
    order = np.argsort(all_rows)
    return Predictions(
        rows=all_rows[order],
        labels=np.concatenate([labels for _, labels, _ in gathered])[order],
        probabilities={task: np.concatenate([shares[task] for _, _, shares in gathered])[order] for task in probabilities},
    )


def fit_temperatures(predictions: Predictions) -> torch.Tensor:
    """The temperature of each task, float32 (T,), from predictions made without any."""
    labelled = [predictions.labels[:, t] >= 0 for t in range(len(predictions.probabilities))]
    return torch.tensor(
        [
            metrics.fit_temperature(probabilities[labelled[t]], predictions.labels[labelled[t], t])
            for t, probabilities in enumerate(predictions.probabilities.values())
        ]
    )


def _join(parts: Sequence[torch.Tensor]) -> np.ndarray:
    return torch.cat(list(parts)).cpu().numpy()


def score(predictions: Predictions) -> dict[str, dict[str, float | int]]:
    """Metrics by task, the mean cross-entropy (nats) among them, over the rows that have a label."""
    scores = {}
    for t, (task, probabilities) in enumerate(predictions.probabilities.items()):
        labelled = predictions.labels[:, t] >= 0
        labels, probabilities = predictions.labels[labelled, t], probabilities[labelled]
        scores[task] = metrics.task_metrics(labels, probabilities.argmax(axis=1), probabilities.shape[1])
        picked = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        scores[task]["loss"] = float(-np.log(np.maximum(picked, np.finfo(np.float32).tiny)).mean())
    return scores


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """Which run to test, and with what."""

    run: Path
    shards: Path | None = None  # where the packed set lies now, if not where the run was trained
    batch_size: int = 256
    workers: int = 0


def read_config(run: Path) -> RunConfig:
    """The resolved settings of a run; raises InputError where the folder is no run."""
    try:
        return RunConfig.from_dict(json.loads((run / CONFIG).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{run}: not a run: {CONFIG} is missing; expected a folder such as runs/NAME that fastfashion train made"
        ) from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{run / CONFIG}: not readable as a run's settings: {error}") from error


def evaluate_run(request: EvaluateRequest, world: dist.World) -> dict[str, Any]:
    """Test the best weights of a run on the test rows of its split; writes report, predictions and plots into the run.

    Returns the report: `{"run", "split": {…}, "tasks": {task: {"n", "accuracy", "macro_f1", "weighted_f1", …, "classes": […]}}}`.
    Raises InputError or PackedSetError where run and packed set do not fit.
    """
    config = read_config(request.run)
    model, description = load_artifact(request.run / "best")
    packed = open_packed_set(request.shards or location(config.data.shards))
    for task, names in description.classes.items():
        if list(packed.vocab.names(task)) != names:
            raise ConfigError(
                f"{packed.path}: its {len(packed.vocab.names(task))} classes of {task} are not the {len(names)} that {request.run} was "
                "trained on; name the packed set of the training with --shards"
            )
    data, tasks = config.data, list(description.classes)
    split = joint_split(packed.table, packed.vocab, tasks, data.split_tasks, data.protocol, data.protocol_seed)
    pictures, _ = choose_pictures(packed, config.data.resolution, description.size)
    spec = LoaderSpec(
        pictures=pictures,
        plan=Plan(rows=split.rows("test"), heights_px=pictures.height_px, widths_px=pictures.width_px, batch_size=request.batch_size),
        labels=split.labels("test", packed.vocab.codes(packed.table, tasks)),
        size=Size.parse(description.size),
        device=world.device,
        rank=world.rank,
        world_size=world.size,
        backend=config.data.backend,
        workers=request.workers or dist.cores_per_process(world.local_size),
        on_bad=config.data.on_bad,
        cache_dir=config.data.cache_dir,
        cache_bytes=int(config.data.cache_gb * 1e9),
    )
    with closing(open_loader(spec)) as loader:
        predictions = predict(model.to(world.device), loader.steps(0), world)
        skipped = {row: one for part in dist.gather(world, loader.skipped) for row, one in part.items()}
    assert np.array_equal(predictions.rows, np.setdiff1d(split.rows("test"), list(skipped))), "a test row was lost or doubled"
    report = _report(request.run, config, packed, split, predictions)
    report["skipped"] = [asdict(one) for _, one in sorted(skipped.items())]
    if world.is_main:
        publish_json(request.run / REPORT, report)
        table = predictions_table(packed, predictions)
        publish(request.run / PREDICTIONS, lambda beside: table.to_parquet(beside, index=False))
        _draw(request.run, config, packed, predictions)
    return report


def _report(run: Path, config: RunConfig, packed: PackedSet, split: JointSplit, predictions: Predictions) -> dict[str, Any]:
    scores = score(predictions)
    tasks = {}
    for t, (task, values) in enumerate(scores.items()):
        labels = predictions.labels[:, t]
        per_class = metrics.per_class(_confusion(predictions, t, task))
        train_labels = packed.vocab.codes(packed.table.iloc[split.train], [task])[:, 0]
        largest = int(np.bincount(train_labels[train_labels >= 0]).argmax())
        classes = [
            {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(
                packed.vocab.names(task), per_class.precision, per_class.recall, per_class.f1, per_class.support, strict=True
            )
        ]
        # Chance: what always answering the training part's largest class would score.
        tasks[task] = values | {"chance_accuracy": float((labels[labels >= 0] == largest).mean()), "classes": classes}
    return {
        "run": run.name,
        "model": config.model.name,
        "first_weights": config.model.weights or ("imagenet" if config.model.pretrained else "random"),
        "size": config.data.size,
        "split": {
            "protocol": config.data.protocol,
            "seed": REFERENCE_SEED if config.data.protocol == "reference" else config.data.protocol_seed,
            "part": "test",
            "tasks": list(config.data.split_tasks),
            "num_rows": len(split.rows("test")),
            "ids_sha256": {task: ids_hash(packed.table["id"].iloc[split.test[task]].tolist()) for task in config.data.split_tasks},
        },
        "tasks": tasks,
    }


def report_text(run: Path, report: Mapping[str, Any]) -> str:
    """A report as a table for people, and where the rest lies."""
    split = report["split"]
    lines = [f"{report['run']}: {report['model']} at {report['size']}, {split['num_rows']} test rows of the {split['protocol']} split", ""]
    lines.append(f"{'task':<16}{'accuracy':>10}{'macro F1':>10}{'weighted F1':>13}{'chance':>10}")
    for task, values in report["tasks"].items():
        numbers = f"{values['accuracy']:>10.4f}{values['macro_f1']:>10.4f}{values['weighted_f1']:>13.4f}{values['chance_accuracy']:>10.4f}"
        lines.append(f"{task:<16}{numbers}")
    if report["skipped"]:
        lines += ["", f"{len(report['skipped'])} test rows do not decode and were left out: the report names them"]
    lines += ["", "chance: the accuracy of always answering the training rows' largest class", ""]
    lines += [f"report       {run / REPORT}", f"predictions  {run / PREDICTIONS}"]
    lines += [f"plot         {path}" for path in sorted((run / "plots").glob("*.png"))]
    return "\n".join(lines)


def _confusion(predictions: Predictions, t: int, task: str) -> np.ndarray:
    labelled = predictions.labels[:, t] >= 0
    probabilities = predictions.probabilities[task]
    return metrics.confusion_matrix(predictions.labels[labelled, t], probabilities[labelled].argmax(axis=1), probabilities.shape[1])


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


def _draw(run: Path, config: RunConfig, packed: PackedSet, predictions: Predictions) -> None:
    folder = run / "plots"
    folder.mkdir(exist_ok=True)
    if (run / METRICS).is_file():
        plots.plot_training(folder / "training.png", read_metrics(run), title=f"{run.name}: training")
    for t, task in enumerate(predictions.probabilities):
        confusion, names = _confusion(predictions, t, task), packed.vocab.names(task)
        title = f"{run.name}: {task}, test part of the {config.data.protocol} split"
        plots.plot_confusion(folder / f"confusion_{task}.png", confusion, names, title=title)
        per_class = metrics.per_class(confusion)
        plots.plot_per_class(folder / f"classes_{task}.png", per_class.f1, per_class.support, names, title=title)


def read_metrics(run: Path) -> list[Mapping[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
