"""Two runs beside each other, from what `evaluate` leaves behind."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fastfashion.errors import InputError
from fastfashion.evaluate.compare import compare, compare_text

LABELS = ["Bags", "Bags", "Shoes", "Shoes", "Belts", None]
FIRST = ["Bags", "Shoes", "Shoes", "Shoes", "Bags", "Bags"]
SECOND = ["Bags", "Bags", "Shoes", "Belts", "Belts", "Belts"]


def run(folder: Path, predictions: list[str], ids: str = "abcdef", digest: str = "1", task: str = "subCategory") -> Path:
    folder.mkdir()
    split = {"protocol": "reference", "seed": 42, "by": [task], "num_rows": 6, "train_rows": 9}
    scores = dict.fromkeys(("accuracy", "macro_f1", "balanced_accuracy", "top3_accuracy", "calibration_error", "chance_accuracy"), 0.5)
    twins = {key: {"n": 0, "accuracy": None} for key in ("with_duplicate_in_training", "without_duplicate_in_training")}
    values = {"n": 5, **scores, **twins, "intervals": {}, "classes": [], "test_ids_sha256": digest * 64}
    (folder / "report.json").write_text(json.dumps({"split": split, "tasks": {task: values}}))
    columns = {"id": list(ids), f"{task}_label": LABELS, f"{task}_prediction": predictions}
    pd.DataFrame(columns).to_parquet(folder / "predictions.parquet")
    return folder


def test_the_difference_counts_rows_with_a_label_and_says_who_was_right(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", FIRST), run(tmp_path / "b", SECOND)
    values = compare(first, second)["tasks"]["subCategory"]
    assert values["n"] == 5
    assert (values["first"]["accuracy"], values["second"]["accuracy"]) == (0.6, 0.8)
    assert (values["only_first_right"], values["only_second_right"], values["p_value"]) == (1, 2, 1.0)
    # By hand: Bags 1/2, Shoes 4/5, Belts 0; then Bags 1, Shoes 2/3, Belts 2/3.
    assert values["difference"]["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3 - (1 / 2 + 4 / 5) / 3)
    low, high = values["intervals"]["accuracy"]
    assert low <= 0.2 <= high
    text = compare_text(compare(first, second))
    assert "+0.2000" in text and "McNemar" in text


def test_rows_are_matched_by_id_whatever_their_order(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", FIRST), run(tmp_path / "b", SECOND)
    before = compare(first, second)["tasks"]
    table = pd.read_parquet(second / "predictions.parquet")
    table.iloc[::-1].to_parquet(second / "predictions.parquet")
    assert compare(first, second)["tasks"] == before


def test_runs_that_cannot_be_compared_are_refused_with_what_to_do(tmp_path: Path) -> None:
    first = run(tmp_path / "a", FIRST)
    with pytest.raises(InputError, match="different rows for subCategory and have none in common"):
        compare(first, run(tmp_path / "b", SECOND, digest="2", ids="ghijkl"))
    with pytest.raises(InputError, match="no task in common"):
        compare(first, run(tmp_path / "c", SECOND, task="season"))
    corrected = run(tmp_path / "e", SECOND)
    table = pd.read_parquet(corrected / "predictions.parquet")
    table.loc[0, "subCategory_label"] = "Shoes"
    table.to_parquet(corrected / "predictions.parquet")
    with pytest.raises(InputError, match="different labels of subCategory on 1 of 6 test rows"):
        compare(first, corrected)
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match="not a run"):
        compare(first, tmp_path / "d")
    (tmp_path / "d" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="fastfashion evaluate"):
        compare(first, tmp_path / "d")


def test_runs_with_some_rows_in_common_are_compared_on_those_and_it_is_said(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", FIRST), run(tmp_path / "b", SECOND, digest="2", ids="abcxyz")
    result = compare(first, second)
    values = result["tasks"]["subCategory"]
    assert (values["n"], values["tested"]) == (3, [5, 5])
    assert (values["first"]["accuracy"], values["second"]["accuracy"]) == (pytest.approx(2 / 3), 1.0)
    assert "compared on the 3 rows that both were tested on, of 5 and 5" in compare_text(result)
