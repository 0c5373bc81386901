"""Intervals by simulation, McNemar's test against statsmodels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from fastfashion.evaluate import intervals
from fastfashion.evaluate.intervals import bootstrap, bootstrap_difference, mcnemar
from fastfashion.evaluate.metrics import calibration_error, task_metrics

# How often each class is taken for each, and how often it is the true one.
CONFUSION = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.4, 0.6]])
SHARES = np.array([0.6, 0.3, 0.1])
TRUE_ACCURACY = float(SHARES @ np.diagonal(CONFUSION))
TRUE_MACRO_F1 = float(np.mean(2 * SHARES * np.diagonal(CONFUSION) / (SHARES + SHARES @ CONFUSION)))


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.choice(3, n, p=SHARES)
    return labels, np.array([rng.choice(3, p=CONFUSION[label]) for label in labels])


def test_intervals_hold_the_true_score_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    rng, tries = np.random.default_rng(0), 60
    truths = {"accuracy": TRUE_ACCURACY, "macro_f1": TRUE_MACRO_F1}
    drawn = [draw(rng, 300) for _ in range(tries)]
    found = [bootstrap(labels, np.eye(3)[predictions]) for labels, predictions in drawn]
    scores = [task_metrics(labels, predictions, 3) for labels, predictions in drawn]
    for name, truth in truths.items():
        # 95 % of 60 is 57; of a true 95 %, fewer than 51 come once in two hundred tries.
        assert sum(each[name][0] <= truth <= each[name][1] for each in found) >= 51
        width = np.mean([each[name][1] - each[name][0] for each in found])
        assert width == pytest.approx(2 * 1.96 * np.std([each[name] for each in scores]), rel=0.3)


def test_intervals_with_a_long_tail_of_classes_hold_the_expected_macro_f1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 100)
    rng, shares = np.random.default_rng(4), 0.8 ** np.arange(30) / np.sum(0.8 ** np.arange(30))

    def draw_tail() -> tuple[np.ndarray, np.ndarray]:
        labels = rng.choice(30, 500, p=shares)  # the rarest class has one row in three draws
        return labels, np.where(rng.random(500) < np.linspace(0.95, 0.3, 30)[labels], labels, rng.choice(30, 500, p=shares))

    expected = np.mean([task_metrics(*draw_tail(), 30)["macro_f1"] for _ in range(300)])
    found = [bootstrap(labels, np.eye(30)[predictions])["macro_f1"] for labels, predictions in (draw_tail() for _ in range(40))]
    assert sum(low <= expected <= high for low, high in found) >= 30  # the docstring's 84 % would be 34


def test_the_interval_of_a_calibrated_models_error_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resamples of a calibrated model's rows have a larger error than the rows: uncorrected intervals are above their score."""
    monkeypatch.setattr(intervals, "RESAMPLES", 100)
    rng = np.random.default_rng(5)

    def draw_calibrated() -> tuple[np.ndarray, np.ndarray]:
        confidences = rng.uniform(0.5, 1, 2000)
        probabilities = np.stack([confidences, 1 - confidences], axis=1)
        return (rng.random(2000) > confidences).astype(np.int64), probabilities

    def error(labels: np.ndarray, probabilities: np.ndarray) -> float:
        return calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)

    expected = np.mean([error(*draw_calibrated()) for _ in range(200)])
    inside = 0
    for _ in range(40):
        labels, probabilities = draw_calibrated()
        low, high = bootstrap(labels, probabilities)["calibration_error"]
        assert 0 <= low <= error(labels, probabilities) <= high
        inside += low <= expected <= high
    assert inside >= 33


def test_intervals_have_the_width_of_the_binomial_distribution() -> None:
    labels, predictions = draw(np.random.default_rng(1), 2000)
    right = (labels == predictions).mean()
    low, high = bootstrap(labels, np.eye(3)[predictions])["accuracy"]
    width = 2 * 1.96 * np.sqrt(right * (1 - right) / 2000)
    assert high - low == pytest.approx(width, rel=0.12)
    assert low < right < high


def test_the_difference_of_a_run_with_itself_is_nothing_and_of_a_better_one_is_above_0() -> None:
    rng = np.random.default_rng(2)
    labels, worse = draw(rng, 1000)
    better = np.where(rng.random(1000) < 0.3, labels, worse)
    assert set(bootstrap_difference(labels, worse, worse, 3).values()) == {(0.0, 0.0)}
    for low, high in bootstrap_difference(labels, worse, better, 3).values():
        assert 0 < low < high
    for low, high in bootstrap_difference(labels, better, worse, 3).values():
        assert low < high < 0


def test_paired_rows_tell_more_than_two_intervals_apart() -> None:
    rng = np.random.default_rng(3)
    labels, one = draw(rng, 1000)
    other = one.copy()
    other[np.flatnonzero(one != labels)[:12]] = labels[np.flatnonzero(one != labels)[:12]]
    low, high = bootstrap_difference(labels, one, other, 3)["accuracy"]
    alone = bootstrap(labels, np.eye(3)[one])["accuracy"]
    assert low > 0 and high - low < (alone[1] - alone[0]) / 2


@settings(max_examples=60)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20), st.integers(0, 20))
def test_mcnemar_is_that_of_statsmodels(first_alone: int, second_alone: int, both: int, neither: int) -> None:
    first = np.repeat([True, False, True, False], [first_alone, second_alone, both, neither])
    second = np.repeat([False, True, True, False], [first_alone, second_alone, both, neither])
    order = np.random.default_rng(0).permutation(len(first))
    found = mcnemar(first[order], second[order])
    expected = statsmodels_mcnemar([[both, first_alone], [second_alone, neither]], exact=True).pvalue if first_alone + second_alone else 1
    assert found == (first_alone, second_alone, pytest.approx(expected))


def test_mcnemar_golden() -> None:
    """Ten differ, nine of them for the second: 2 * (C(10,0) + C(10,1)) / 2^10."""
    assert mcnemar(np.array([True] + [False] * 9), np.array([False] + [True] * 9)) == (1, 9, pytest.approx(22 / 1024))


def rare_classes() -> tuple[np.ndarray, np.ndarray]:
    """As usage of the real set: one class with most rows, and three of one or two, none of which is predicted."""
    labels = np.repeat(np.arange(8), [770, 90, 70, 40, 6, 2, 1, 1])
    predictions = np.where(np.arange(len(labels)) % 11 == 0, 0, labels)
    predictions[labels >= 5] = 0
    return labels, predictions


def test_the_macro_f1_of_rare_classes_is_well_inside_its_interval() -> None:
    labels, predictions = rare_classes()
    found = bootstrap(labels, np.eye(8)[predictions])
    scores = task_metrics(labels, predictions, 8)
    for name in ("macro_f1", "macro_f1_present", "balanced_accuracy"):
        low, high = found[name]
        assert low + 0.2 * (high - low) < scores[name] < high - 0.2 * (high - low), name


def test_the_interval_of_macro_f1_is_that_of_scipys_bootstrap_less_its_bias() -> None:
    labels, predictions = rare_classes()

    def macro_f1(rows: np.ndarray) -> float:
        return float(f1_score(labels[rows], predictions[rows], average="macro", zero_division=0))

    rows = np.arange(len(labels))
    theirs = scipy_bootstrap((rows,), macro_f1, vectorized=False, n_resamples=1000, method="percentile", rng=np.random.default_rng(7))
    bias = theirs.bootstrap_distribution.mean() - macro_f1(rows)
    low, high = bootstrap(labels, np.eye(8)[predictions])["macro_f1"]
    assert bias > 0.02  # without it the score would be at the edge
    assert (low, high) == pytest.approx((theirs.confidence_interval.low - bias, theirs.confidence_interval.high - bias), abs=0.012)
