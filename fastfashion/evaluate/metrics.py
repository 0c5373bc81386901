"""Classification metrics as pure functions of two integer arrays."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class PerClass:
    """Scores of each class: arrays of shape (C,), float64 in [0, 1] but for `support`, int64; 0.0 if undefined."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count each (true, predicted) pair.

    labels, predictions: integers (N,) in [0, C). Returns int64 (C, C), rows true, columns predicted.
    Raises ValueError for other shapes or types and for codes out of range, the "no label" code -1 among them: mask those rows first.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, found {num_classes}")
    labels = _codes("labels", labels, num_classes)
    predictions = _codes("predictions", predictions, num_classes)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels and predictions: expected the same length, found {labels.size} and {predictions.size}")
    pairs = labels * num_classes + predictions
    return np.bincount(pairs, minlength=num_classes**2).astype(np.int64, copy=False).reshape(num_classes, num_classes)


def per_class(confusion: np.ndarray) -> PerClass:
    """Precision, recall, F1 and support of each class from a confusion matrix.

    confusion: int (C, C), rows true, columns predicted. F1 is 2 TP / (2 TP + FP + FN), van Rijsbergen 1979, chapter 7.
    Raises ValueError if the matrix is not square.
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion: expected shape (C, C), found {confusion.shape}")
    hits = np.diagonal(confusion)
    support = confusion.sum(axis=1).astype(np.int64)
    predicted = confusion.sum(axis=0)
    return PerClass(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, support + predicted),
        support=support,
    )


def task_metrics(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict[str, float | int]:
    """`confusion_scores` of labels and predictions: integers (N,) in [0, C), N at least 1. Raises what `confusion_matrix` raises, too."""
    return confusion_scores(confusion_matrix(labels, predictions, num_classes))


def confusion_scores(confusion: np.ndarray) -> dict[str, float | int]:
    """Scores of one task: n, accuracy, macro_f1, macro_f1_present, weighted_f1, balanced_accuracy, num_classes_present.

    confusion: int (C, C), rows true, columns predicted. `n` and `num_classes_present` (classes among the labels) are ints, the
    others floats in [0, 1]. Macro F1 is the mean over classes among labels or predictions and weighted F1 is weighted by support, as
    scikit-learn's `f1_score(zero_division=0)` has them; `macro_f1_present` is the mean over classes among the labels, balanced accuracy
    that of their recalls. Raises ValueError if there are no rows.
    """
    n = int(confusion.sum())
    if n == 0:
        raise ValueError("labels: expected at least 1 labelled row, found 0; leave this task out of the report")
    scores = per_class(confusion)
    labelled = scores.support > 0
    seen = labelled | (confusion.sum(axis=0) > 0)
    return {
        "n": n,
        "accuracy": float(np.trace(confusion) / n),
        "macro_f1": float(scores.f1[seen].mean()),
        "macro_f1_present": float(scores.f1[labelled].mean()),
        "weighted_f1": float(scores.f1 @ scores.support / n),
        "balanced_accuracy": float(scores.recall[labelled].mean()),
        "num_classes_present": int(labelled.sum()),
    }


def top_k_hits(labels: np.ndarray, probabilities: np.ndarray, k: int) -> np.ndarray:
    """Whether fewer than k classes are more probable than the true one: bool (N,).

    labels: integers (N,) in [0, C); probabilities: float (N, C).
    """
    own = probabilities[np.arange(len(labels)), labels]
    return (probabilities > own[:, None]).sum(axis=1) < k


def calibration_bins(confidences: np.ndarray, right: np.ndarray, num_bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many rows have a confidence in each of `num_bins` equal parts of (0, 1], their mean confidence and their accuracy.

    confidences: float (N,) in [0, 1]; right: bool (N,). Each result (num_bins,), 0.0 for an empty bin.
    """
    bins = np.clip(np.ceil(confidences * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidences, right))
    confidence, accuracy = (_ratio(values, counts) for values in sums)
    return counts, confidence, accuracy


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: mean over rows of the difference of confidence and accuracy in their bin, 15 bins (Guo et al. 2017)."""
    counts, confidence, accuracy = calibration_bins(confidences, right)
    return float(counts @ np.abs(accuracy - confidence) / counts.sum())


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The divisor of logits that calibrates their softmax on these rows (Guo et al. 2017): 0.05 to 20.

    probabilities: float (N, C), the softmax of the logits; labels: integers (N,) in [0, C). The mean cross-entropy is convex in
    1/temperature; its minimum is found by bounded search. 1.0 if there are no rows.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    logs = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
    own = logs[np.arange(len(labels)), labels]

    def cost(log_temperature: float) -> float:
        sharp = np.exp(-log_temperature)
        highest = logs.max(axis=1)
        norm = highest * sharp + np.log(np.exp((logs - highest[:, None]) * sharp).sum(axis=1))
        return float((norm - own * sharp).mean())

    return float(np.exp(minimize_scalar(cost, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def _codes(name: str, values: np.ndarray, num_classes: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"{name}: expected shape (N,), found {values.shape}")
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integer class codes, found dtype {values.dtype}")
    outside = np.flatnonzero((values < 0) | (values >= num_classes))
    if outside.size:
        at = int(outside[0])
        hint = "; mask rows without a label first" if values[at] == -1 else ""
        raise ValueError(f"{name}[{at}]: expected a code in [0, {num_classes}), found {values[at]} ({outside.size} such rows){hint}")
    return values.astype(np.int64)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
