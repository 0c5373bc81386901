"""The uncertainty of a score: percentile bootstrap (Efron & Tibshirani 1993, chapter 13) less its bias; a paired test."""

import math
from collections.abc import Callable

import numpy as np

from fastfashion.evaluate.metrics import calibration_error, confusion_matrix, confusion_scores, top_k_hits

RESAMPLES, LEVEL = 1000, 0.95
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "macro_f1_present", "weighted_f1")  # what the classes alone decide
BIASED = frozenset({"balanced_accuracy", "macro_f1", "macro_f1_present", "calibration_error"})  # means over classes, or over bins


def bootstrap(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % interval of each score, by name, from 1,000 resamples of the rows.

    labels: integers (N,) in [0, C); probabilities: float (N, C). An interval shows how the score varies with the choice of test images,
    not with the seed of the training. In a resample macro F1 is the mean over the classes that are in it, as in scikit-learn.

    The scores in BIASED differ between resamples and rows in the mean: a class of one row is missing from every third resample. Their
    intervals are shifted by that bias, as the bootstrap estimates it (chapter 10). With a long tail of classes of a few rows those of
    macro F1 are still too narrow: in simulations (bench/LOG.md) they hold the expected score 84 to 91 % of the time.
    """
    num_classes = probabilities.shape[1]
    predictions = probabilities.argmax(axis=1)
    confidences, right, top3 = probabilities.max(axis=1), predictions == labels, top_k_hits(labels, probabilities, 3)

    def score(rows: np.ndarray) -> dict[str, float]:
        more = {"top3_accuracy": float(top3[rows].mean()), "calibration_error": calibration_error(confidences[rows], right[rows])}
        return _scores(labels[rows], predictions[rows], num_classes) | more

    return _intervals(score, len(labels), (0.0, 1.0))


def bootstrap_predictions(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict[str, tuple[float, float]]:
    """As `bootstrap`, of the scores that predicted classes alone decide. labels, predictions: integers (N,) in [0, C)."""
    return _intervals(lambda rows: _scores(labels[rows], predictions[rows], num_classes), len(labels), (0.0, 1.0))


def bootstrap_difference(labels: np.ndarray, first: np.ndarray, second: np.ndarray, num_classes: int) -> dict[str, tuple[float, float]]:
    """95 % interval of each score's difference, second minus first, both from the same resamples of the rows.

    labels, first, second: integers (N,) in [0, C), the true classes and the two predictions.
    """

    def difference(rows: np.ndarray) -> dict[str, float]:
        one, other = (_scores(labels[rows], predictions[rows], num_classes) for predictions in (first, second))
        return {name: other[name] - one[name] for name in SCORES}

    return _intervals(difference, len(labels), (-1.0, 1.0))


def _intervals(score_of: Callable[[np.ndarray], dict[str, float]], n: int, limits: tuple[float, float]) -> dict[str, tuple[float, float]]:
    """The interval of each score of n rows from those of resamples, for those in BIASED less the bias, and never beyond `limits`."""
    rng = np.random.Generator(np.random.Philox(key=0))
    found = [score_of(rng.integers(0, n, size=n)) for _ in range(RESAMPLES)]
    intervals = {}
    for name, score in score_of(np.arange(n)).items():
        values = np.array([each[name] for each in found])
        bias = float(values.mean()) - score if name in BIASED else 0.0
        low, high = interval(values)
        intervals[name] = (max(limits[0], low - bias), min(limits[1], high - bias))
    return intervals


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test (1947) of whether two classifiers are right equally often on the same rows.

    first_right, second_right: bool (N,). Returns on how many rows the first alone and the second alone is right, and the two-sided
    p-value: the binomial test of the smaller of the two counts against a half; 1.0 if the two never differ.
    """
    from scipy.stats import binomtest

    first_alone, second_alone = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    differ = first_alone + second_alone
    return first_alone, second_alone, float(binomtest(first_alone, differ, 0.5).pvalue) if differ else 1.0


def interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    assert math.isfinite(low) and math.isfinite(high)
    return float(low), float(high)


def _scores(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict[str, float]:
    scores = confusion_scores(confusion_matrix(labels, predictions, num_classes))
    return {name: float(scores[name]) for name in SCORES}
