"""Labels corrected by a file, and labels that a model finds suspicious."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PackedSmall

from fastfashion.audit.suspects import _suspects
from fastfashion.catalog import Vocab, correct
from fastfashion.csv_files import publish_csv
from fastfashion.errors import InputError
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
        ("11,season,Winter,", "line 3: no image has the id '11'"),
        ("9,saison,Winter,", "line 3: no task 'saison'; expected season, gender"),
        ("9,season,Sumer,", "did you mean Summer"),
        ("10,season,Summer,", "line 3: season of 10 is 'Summer', but 'Winter' in line 2"),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str, catalog: tuple[pd.DataFrame, Vocab], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        correct(*catalog, corrections(tmp_path, f"10,season,Winter,\n{line}\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,task,label\n10,season,Winter\n9,season\n", r"line 3: expected 3 fields \(id, task, label\), found 2; an empty label needs"),
        ("id,task,label\n10,season\n", "line 2: expected 3 fields .*, found 2"),
        ("id,task,label,why\n10,season,Winter,seen, twice\n", "line 2: expected 4 fields .*, found 5"),
        ("a title\nid,task,label\n10,season,Winter\n", "line 1: expected the header .*found 'a title'; the header is in line 2"),
        ('id,task,label\n10,season,"Winter\n9,season,Summer\n8,season,"Summer"\n', "line 2: a quoted field extends to line 4, and line 3"),
        ("id,task,label\n10,season,Win\x00ter\n", "a NUL byte in line 2"),
    ],
)
def test_a_line_that_is_not_what_it_was_meant_to_be_changes_no_label(
    text: str, said: str, catalog: tuple[pd.DataFrame, Vocab], tmp_path: Path
) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        correct(*catalog, tmp_path / "c.csv")


@pytest.mark.parametrize(
    "text",
    [
        "id,task,label\n10,season,Winter,\n8,season,Summer,\n9,season,,\n",  # a comma at each end moves no column
        "id,task,label,\n10,season,Winter,\n8,season,Summer,\n9,season,,\n",
        "id;task;label\r\n10;season;Winter\r\n8;season;Summer\r\n9;season;\r\n",
        "label\ttask\tid\nWinter\tseason\t10\nSummer\tseason\t8\n\tseason\t9\n",
        'ID|Task|Label\r10|season| "Winter"\r8|season| "Summer"\r9|season| ""\r',
        "id,task,label\n10.0,season,Winter\n8.0,season,Summer\n9.0,season,\n",
        "id,task,label\n10,season,Winter\n8,season,Summer\n9,season,None\n",
    ],
)
def test_a_file_that_another_program_wrote_is_read_the_same(text: str, catalog: tuple[pd.DataFrame, Vocab], tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(text.encode())
    codes = catalog[1].codes(correct(*catalog, tmp_path / "c.csv"), ["season"])[:, 0].tolist()
    assert codes == [1, -1, 0]  # Winter, none, Summer


@pytest.mark.parametrize("raw", [False, True])
def test_what_we_wrote_is_read_back_whether_with_raw_or_not(raw: bool, tmp_path: Path) -> None:
    odd = ["=a", "'=b", "''+c", "-", "-5", "'", "@d", "'=e"]
    table = pd.DataFrame({"id": odd, "hue": [*odd[:3], "'-", *odd[4:]]})
    vocab = Vocab.of_table(table, ["hue"])
    names = vocab.names("hue")
    lines = [(identity, "hue", names[place % len(names)]) for place, identity in enumerate(odd)]
    publish_csv(tmp_path / "c.csv", ["id", "task", "label"], lines, raw=raw)
    assert correct(table, vocab, tmp_path / "c.csv")["hue"].tolist() == [label for _, _, label in lines]


def test_an_id_may_be_written_as_in_the_table(tmp_path: Path) -> None:
    paths = ["new/a.jpg", "old\\b.jpg", "caf\u00e9.jpg", "new_a_jpg"]
    ids = ["new_a_jpg_1", "old_b_jpg", "caf\u00e9_jpg", "new_a_jpg"]
    table = pd.DataFrame({"id": ids, "path": paths, "hue": ["red"] * 4})
    (tmp_path / "c.csv").write_text("id,task,label\nnew/a.jpg,hue,\nold/b.jpg,hue,\ncafe\u0301.jpg,hue,\n", encoding="utf-8")
    assert correct(table, Vocab.of_table(table, ["hue"]), tmp_path / "c.csv")["hue"].tolist() == ["", "", "", "red"]
    (tmp_path / "c.csv").write_text("id,task,label\nnew_a_jpg,hue,\nold_b_jpg,hue,\n", encoding="utf-8")
    assert correct(table, Vocab.of_table(table, ["hue"]), tmp_path / "c.csv")["hue"].tolist() == ["red", "", "red", ""]


def test_a_file_of_another_kind_is_refused(catalog: tuple[pd.DataFrame, Vocab], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("id,label\n10,Winter\n")
    with pytest.raises(InputError, match="line 1: column 'task' is not there; expected once among id, label"):
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
