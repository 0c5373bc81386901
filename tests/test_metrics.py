from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from fastfashion.evaluate.metrics import (
    calibration_bins,
    calibration_error,
    confusion_matrix,
    fit_temperature,
    per_class,
    task_metrics,
    top_k_hits,
)

# Five classes. 0: two of three right. 1: its one row was taken for 0. 2: predicted once, never true. 3: neither. 4: all right.
LABELS = np.array([0, 0, 0, 1, 4, 4])
PREDICTIONS = np.array([0, 0, 2, 0, 4, 4])


Rows = tuple[np.ndarray, np.ndarray, int]


@st.composite
def labelled_rows(draw: st.DrawFn) -> Rows:
    """Labels and predictions from two subsets of the classes, so that classes are often absent from either or both."""
    num_classes = draw(st.integers(1, 12))
    codes = st.integers(0, num_classes - 1)
    true_classes = draw(st.lists(codes, min_size=1, unique=True))
    predicted_classes = draw(st.lists(codes, min_size=1, unique=True))
    pair = st.tuples(st.sampled_from(true_classes), st.sampled_from(predicted_classes))
    pairs = np.array(draw(st.lists(pair, min_size=1, max_size=60)))
    return pairs[:, 0], pairs[:, 1], num_classes


def test_confusion_matrix_golden() -> None:
    confusion = confusion_matrix(LABELS, PREDICTIONS, 5)
    assert confusion.dtype == np.int64
    assert confusion.tolist() == [
        [2, 0, 1, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 2],
    ]


def test_per_class_golden() -> None:
    scores = per_class(confusion_matrix(LABELS, PREDICTIONS, 5))
    assert scores.precision == pytest.approx([2 / 3, 0, 0, 0, 1])
    assert scores.recall == pytest.approx([2 / 3, 0, 0, 0, 1])
    assert scores.f1 == pytest.approx([2 / 3, 0, 0, 0, 1])
    assert scores.support.tolist() == [3, 1, 0, 0, 2]
    assert scores.support.dtype == np.int64


def test_per_class_tells_precision_from_recall() -> None:
    scores = per_class(np.array([[1, 3], [0, 4]]))
    assert scores.precision == pytest.approx([1, 4 / 7])
    assert scores.recall == pytest.approx([1 / 4, 1])
    assert scores.f1 == pytest.approx([2 / 5, 8 / 11])


def test_task_metrics_golden() -> None:
    scores = task_metrics(LABELS, PREDICTIONS, 5)
    assert list(scores) == ["n", "accuracy", "macro_f1", "macro_f1_present", "weighted_f1", "balanced_accuracy", "num_classes_present"]
    assert scores == {
        "n": 6,
        "accuracy": pytest.approx(4 / 6),
        "macro_f1": pytest.approx(5 / 12),  # over classes 0, 1, 2, 4
        "macro_f1_present": pytest.approx(5 / 9),  # over classes 0, 1, 4
        "weighted_f1": pytest.approx(2 / 3),
        "balanced_accuracy": pytest.approx(5 / 9),  # over classes 0, 1, 4
        "num_classes_present": 3,
    }
    # A report goes through json, which knows no numpy scalars.
    assert {type(value) for value in scores.values()} == {int, float}


def test_narrow_codes_do_not_overflow() -> None:
    confusion = confusion_matrix(np.full(300, 142, np.uint8), np.full(300, 141, np.uint8), 143)
    assert confusion[142, 141] == 300
    assert confusion.sum() == 300


@given(labelled_rows())
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_confusion_matrix_agrees_with_sklearn(rows: Rows) -> None:
    labels, predictions, num_classes = rows
    np.testing.assert_array_equal(
        confusion_matrix(labels, predictions, num_classes),
        sk.confusion_matrix(labels, predictions, labels=range(num_classes)),
    )


@given(labelled_rows())
def test_per_class_agrees_with_sklearn(rows: Rows) -> None:
    labels, predictions, num_classes = rows
    scores = per_class(confusion_matrix(labels, predictions, num_classes))
    expected = sk.precision_recall_fscore_support(labels, predictions, labels=range(num_classes), zero_division=0)
    for found, want in zip((scores.precision, scores.recall, scores.f1, scores.support), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-12)


@given(labelled_rows())
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_task_metrics_agree_with_sklearn(rows: Rows) -> None:
    labels, predictions, num_classes = rows
    scores = task_metrics(labels, predictions, num_classes)
    assert scores["n"] == len(labels)
    assert scores["num_classes_present"] == len(set(labels.tolist()))
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(labels, predictions, average="macro", zero_division=0))
    assert scores["weighted_f1"] == pytest.approx(sk.f1_score(labels, predictions, average="weighted", zero_division=0))
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predictions))


@given(labelled_rows(), st.integers(1, 5))
def test_classes_that_never_occur_change_nothing(rows: Rows, extra: int) -> None:
    labels, predictions, num_classes = rows
    assert task_metrics(labels, predictions, num_classes) == task_metrics(labels, predictions, num_classes + extra)


@pytest.mark.parametrize(
    ("labels", "predictions", "num_classes", "message"),
    [
        ([0, -1, 2], [0, 1, 2], 3, r"labels\[1\]: expected a code in \[0, 3\), found -1 \(1 such rows\); mask rows without a label"),
        ([0, 1, 2], [0, 3, 3], 3, r"predictions\[1\]: expected a code in \[0, 3\), found 3 \(2 such rows\)$"),
        ([0, 1], [0], 2, "the same length, found 2 and 1"),
        ([[0, 1]], [[0, 1]], 2, r"labels: expected shape \(N,\), found \(1, 2\)"),
        ([0, 1], [0.2, 0.8], 2, "predictions: expected integer class codes, found dtype float64"),
        ([0], [0], 0, "num_classes: expected at least 1, found 0"),
    ],
)
def test_bad_input_is_named(labels: list[Any], predictions: list[Any], num_classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(labels), np.array(predictions), num_classes)


def test_no_rows() -> None:
    nothing = np.array([], dtype=np.int64)
    assert confusion_matrix(nothing, nothing, 2).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="at least 1 labelled row, found 0"):
        task_metrics(nothing, nothing, 2)


def test_confusion_that_is_not_square() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(C, C\), found \(2, 3\)"):
        per_class(np.zeros((2, 3), dtype=np.int64))


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels of some classes, and probabilities of all."""
    num_classes = draw(st.integers(4, 9))
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.normal(size=(n, num_classes)) * draw(st.sampled_from([0.1, 1, 5]))
    return rng.integers(0, num_classes, n), np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@given(answers())
def test_top_3_and_macro_f1_over_present_classes_are_those_of_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    num_classes = probabilities.shape[1]
    expected = sk.top_k_accuracy_score(labels, probabilities, k=3, labels=range(num_classes))
    assert top_k_hits(labels, probabilities, 3).mean() == pytest.approx(expected)
    best = probabilities.argmax(axis=1)
    present = sk.f1_score(labels, best, labels=np.unique(labels), average="macro", zero_division=0)
    assert task_metrics(labels, best, num_classes)["macro_f1_present"] == pytest.approx(present)


def test_calibration_error_golden() -> None:
    """Two bins: of four rows at 0.9 three are right, of two at 0.5 one is: (4 * |0.75 - 0.9| + 2 * 0) / 6."""
    confidences, right = np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.5]), np.array([1, 1, 1, 0, 1, 0], dtype=bool)
    assert calibration_error(confidences, right) == pytest.approx(0.1)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    counts, confidence, accuracy = calibration_bins(np.array([0.0, 1 / 15, 0.07, 1.0]), np.array([True, False, True, True]))
    assert counts.tolist() == [2, 1] + [0] * 12 + [1]
    assert confidence[:2] == pytest.approx([1 / 30, 0.07]) and accuracy[:2].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_made_the_probabilities_too_sure_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 6)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.random((len(true), 1))).sum(axis=1)
    sharpened = np.exp(logits * temperature)
    sharpened /= sharpened.sum(axis=1, keepdims=True)
    assert fit_temperature(sharpened.astype(np.float32), labels) == pytest.approx(temperature, rel=0.04)


def test_temperatures_stay_within_bounds_where_all_or_nothing_is_right() -> None:
    sure = np.tile(np.array([[0.99, 0.01]], dtype=np.float32), (50, 1))
    assert 0.04 < fit_temperature(sure, np.zeros(50, dtype=np.int64)) < 0.2  # sharper hardly pays any more
    assert 19 < fit_temperature(sure, np.ones(50, dtype=np.int64)) < 21
    assert fit_temperature(sure[:0], np.zeros(0, dtype=np.int64)) == 1
