"""Predictions of a model, each row once, on every rank; their scores, and the columns of predictions.parquet."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from fastfashion import dist
from fastfashion.catalog import Vocab
from fastfashion.errors import InputError
from fastfashion.evaluate import metrics
from fastfashion.load import Batch
from fastfashion.model.net import Classifier, no_numbers
from fastfashion.shards import PackedSet


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The rows that have a label for one task, with their probabilities."""

    rows: np.ndarray  # int64 (m,)
    labels: np.ndarray  # int64 (m,) in [0, C)
    probabilities: np.ndarray  # float32 (m, C), rows sum to 1

    @cached_property
    def best(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confidences(self) -> np.ndarray:
        return self.probabilities.max(axis=1)

    @cached_property
    def right(self) -> np.ndarray:
        return self.best == self.labels

    @cached_property
    def confusion(self) -> np.ndarray:
        return metrics.confusion_matrix(self.labels, self.best, self.probabilities.shape[1])


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Every row once, ascending, on every rank."""

    rows: np.ndarray  # int64 (n,)
    labels: np.ndarray  # int64 (n, T), -1 if there is none
    probabilities: dict[str, np.ndarray]  # task -> float32 (n, C), rows sum to 1

    def by(self, numbers: np.ndarray | None) -> "Predictions":
        """Sorted by other numbers of the rows, int64 (N,), since the last bits of a sum of floats depend on the order."""
        if numbers is None:
            return self
        order = np.argsort(numbers[self.rows])
        probabilities = {task: values[order] for task, values in self.probabilities.items()}
        return Predictions(rows=self.rows[order], labels=self.labels[order], probabilities=probabilities)

    def answers(self) -> Iterator[tuple[str, Answers]]:
        """Each task with its rows that have a label."""
        for t, (task, probabilities) in enumerate(self.probabilities.items()):
            has = self.labels[:, t] >= 0
            yield task, Answers(rows=self.rows[has], labels=self.labels[has, t], probabilities=probabilities[has])


def predict(
    model: Classifier, batches: Iterable[Batch], world: dist.World, precision: torch.dtype = torch.float32, who: str = "validation"
) -> Predictions:
    """Run the model over a loader's batches and gather all ranks' rows; padding is dropped.

    Raises InputError, which names `who` and the task, if a probability is not a number.
    """
    rows, labels = [], []
    probabilities: dict[str, list[torch.Tensor]] = {task: [] for task in model.tasks}
    was_training = model.training
    model.eval()
    autocast = torch.autocast(world.device.type, dtype=precision, enabled=precision != torch.float32)
    with torch.inference_mode(), autocast:
        for batch in batches:
            real = batch.rows >= 0
            rows.append(batch.rows[real])
            labels.append(batch.labels[real])
            for task, logits_BC in model(batch.images).items():
                probabilities[task].append(logits_BC[real].float().softmax(dim=1))
    model.train(was_training)
    mine = (_join(rows), _join(labels), {task: _join(parts) for task, parts in probabilities.items()})
    gathered = dist.gather(world, mine)
    # Each rank has a share of every step; sorting by row gives an order that does not depend on the world size.
    all_rows = np.concatenate([rows for rows, _, _ in gathered])
    order = np.argsort(all_rows)
    joined = {task: np.concatenate([shares[task] for _, _, shares in gathered])[order] for task in probabilities}
    for task, values in joined.items():
        if not np.isfinite(values).all():
            raise InputError(no_numbers(who, task))
    labels_of_rows = np.concatenate([labels for _, labels, _ in gathered])[order]
    return Predictions(rows=all_rows[order], labels=labels_of_rows, probabilities=joined)


def fit_temperatures(predictions: Predictions) -> torch.Tensor:
    """The temperature of each task, float32 (T,), from predictions made without any."""
    return torch.tensor([metrics.fit_temperature(task.probabilities, task.labels) for _, task in predictions.answers()])


def _join(parts: Sequence[torch.Tensor]) -> np.ndarray:
    return torch.cat(list(parts)).cpu().numpy()


def score(predictions: Predictions) -> dict[str, dict[str, float | int]]:
    """Metrics by task over the rows that have a label: `metrics.confusion_scores`, top3_accuracy, calibration_error, loss (nats).

    Raises InputError if a task has no such row.
    """
    scores = {}
    for task, answers in predictions.answers():
        if not len(answers.labels):
            raise InputError(
                f"{task}: none of the {len(predictions.rows)} tested rows has a label that the model knows; check the set with "
                "fastfashion verify, and the corrections"
            )
        own = answers.probabilities[np.arange(len(answers.labels)), answers.labels].astype(np.float64)
        scores[task] = metrics.confusion_scores(answers.confusion) | {
            "top3_accuracy": float(metrics.top_k_hits(answers.labels, answers.probabilities, 3).mean()),
            "calibration_error": metrics.calibration_error(answers.confidences, answers.right),
            "loss": float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
        }
    return scores


def predictions_table(packed: PackedSet, vocab: Vocab, predictions: Predictions) -> pd.DataFrame:
    """One line a row: row, id, and for each task its label and prediction (class names, None without a label) and probability."""
    columns: dict[str, Any] = {"row": predictions.rows, "id": packed.table["id"].to_numpy()[predictions.rows]}
    for t, (task, probabilities) in enumerate(predictions.probabilities.items()):
        names = np.array([*vocab.names(task), None], dtype=object)  # -1 picks the None
        best = probabilities.argmax(axis=1)
        columns |= {
            f"{task}_label": names[predictions.labels[:, t]],
            f"{task}_prediction": names[best],
            f"{task}_probability": probabilities[np.arange(len(best)), best],
        }
    return pd.DataFrame(columns)
