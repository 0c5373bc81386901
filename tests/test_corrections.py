"""Labels put right by a file, and labels that a model finds suspicious."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PackedSmall

from fastfashion.catalog import Vocab, correct
from fastfashion.errors import InputError
from fastfashion.evaluate.suspects import _suspects
from fastfashion.shards import open_packed_set


@pytest.fixture
def catalog() -> tuple[pd.DataFrame, Vocab]:
    table = pd.DataFrame({"id": ["10", "9", "8"], "season": ["Summer", "Winter", ""], "gender": ["Men", "Women", "Men"]})
    return table, Vocab.of_table(table, ["season", "gender"])


def corrections(folder: Path, text: str) -> Path:
    path = folder / "corrections.csv"
    path.write_text("id,task,label,why\n" + text, encoding="utf-8-sig")
    return path


def test_labels_are_replaced_given_and_taken_away(catalog: tuple[pd.DataFrame, Vocab], tmp_path: Path) -> None:
    table, vocab = catalog
    path = corrections(tmp_path, "10,season,Winter,seen\n8,season,Summer,\n9,season,,unclear\n9,gender,Men,\n9,gender,Men,twice\n")
    corrected = correct(table, vocab, path)
    assert corrected["season"].tolist() == ["Winter", "", "Summer"]
    assert corrected["gender"].tolist() == ["Men", "Men", "Men"]
    assert table["season"].tolist() == ["Summer", "Winter", ""]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("11,season,Winter,", "line 3: no picture has the id '11'"),
        ("9,saison,Winter,", "line 3: no task 'saison'; expected season, gender"),
        ("9,season,Sumer,", "did you mean Summer"),
        ("10,season,Summer,", "line 3: season of 10 is 'Summer', but 'Winter' in line 2"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str, catalog: tuple[pd.DataFrame, Vocab], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        correct(*catalog, corrections(tmp_path, f"10,season,Winter,\n{line}\n"))


def test_a_file_of_another_kind_is_refused(catalog: tuple[pd.DataFrame, Vocab], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("id,label\n10,Winter\n")
    with pytest.raises(InputError, match="no column task"):
        correct(*catalog, tmp_path / "other.csv")
    with pytest.raises(InputError, match="not readable"):
        correct(*catalog, tmp_path / "none.csv")


def test_a_packed_set_is_corrected_without_being_packed_again(packed_small: PackedSmall, tmp_path: Path) -> None:
    packed = open_packed_set(packed_small.out)
    identity, before = packed.table["id"].iloc[0], packed.table["subCategory"].iloc[0]
    other = next(name for name in packed.vocab.names("subCategory") if name != before)
    corrected = correct(packed.table, packed.vocab, corrections(tmp_path, f"{identity},subCategory,{other},\n"))
    differing = corrected["subCategory"] != packed.table["subCategory"]
    assert np.flatnonzero(differing).tolist() == [0]


def test_confident_disagreement_is_suspicious_and_doubt_is_not() -> None:
    names = ("a", "b")
    labels = np.array([0, 0, 0, 1, 1, 1, -1, 0])
    shares_of_b = np.array([0.1, 0.2, 0.95, 0.9, 0.8, 0.05, 0.99, 0.6])
    sums = 2 * np.stack([1 - shares_of_b, shares_of_b], axis=1)  # of two runs
    counts = np.array([2, 2, 2, 2, 2, 2, 2, 2])
    found = _suspects(names, "task", labels, sums, counts)
    # The last row leans to b as well, but less than rows that are b do on average: 0.583.
    assert found[["row", "label", "suggestion"]].to_numpy().tolist() == [[2, "a", "b"], [5, "b", "a"], [7, "a", "b"]]
    counts[2] = 0  # seen in training: nothing to judge it by
    sums[2] = 0
    assert _suspects(names, "task", labels, sums, counts)["row"].tolist() == [5, 7]
    shares = np.array([0.1, 0.2, 0.95, 0.9, 0.8, 0.95, 0.99, 0.6])
    doubtful = _suspects(names, "task", labels, 2 * np.stack([1 - shares, shares], axis=1), np.full(8, 2))
    assert doubtful["row"].tolist() == [2]  # 0.6 is below the mean of rows that are b, 0.883
