"""What we write as CSV and JSON lines reads back as it was, whatever ids, paths and class names hold."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfashion.catalog.csv_reader import read_csv
from fastfashion.csv_files import CsvWriter, csv_rows, escaped, publish_csv, unescaped
from fastfashion.predict.outputs import write_answers
from fastfashion.predict.predictor import Answers
from fastfashion.serve.page import write_csv

# Anything but NUL (which no path and no table can hold) and halves of surrogate pairs (which UTF-8 cannot).
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
NASTY = st.sampled_from(
    [
        "a\rb",
        "\r",
        "a\r\nb",
        "\n",
        '"',
        '""',
        ",",
        " a",
        "a ",
        "",
        "NA",
        "nan",
        "-1.0",
        "#",
        "=1+1",
        "'",
        "\ufeff",
        ";",
        "\t",
        "'=1",
        "''-x",
        "'-1",
        "-",
    ]
)
CELL = TEXT | NASTY


def by_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def by_pandas(text: str) -> list[list[str]]:
    frame = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False, skip_blank_lines=False)
    return [list(frame.columns), *frame.to_numpy().tolist()]


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=5))
def test_any_table_reads_back_with_csv_and_with_pandas(rows: list[tuple[str, str, str]]) -> None:
    file = io.StringIO(newline="")
    CsvWriter(file, raw=True).write([("id", "task", "label"), *rows])
    expected = [["id", "task", "label"], *map(list, rows)]
    assert by_csv(file.getvalue()) == by_pandas(file.getvalue()) == expected


@given(st.lists(st.tuples(st.from_regex(r"[a-z]\d{1,3}", fullmatch=True), CELL, CELL), min_size=1, max_size=5))
def test_our_own_reader_reads_what_we_write(rows: list[tuple[str, str, str]]) -> None:
    file = io.StringIO(newline="")
    CsvWriter(file, raw=True).write([("id", "task", "label"), *rows])
    found = [fields for _, fields in read_csv(file.getvalue().encode(), "own.csv", ["id", "task", "label"])]
    for ours, written in zip(found, rows, strict=True):
        padded = [*ours, "", ""][:3]  # empty fields at the end are forgiven
        assert [cell.strip(" ") for cell in padded] == [cell.strip(" ") for cell in written]


ESCAPED = {
    "=1+1": "'=1+1", "+1+1": "'+1+1", "-1+1": "'-1+1", "@SUM(1)": "'@SUM(1)", "\t=1": "'\t=1", "\r=1": "'\r=1", "\n=1": "'\n=1",
    "\x1b[31m": "'\x1b[31m", "\x7f": "'\x7f", "\x9b1m": "'\x9b1m", "＝1": "'＝1", "－": "'－",
    "-": "'-", "+": "'+", "+49 123": "'+49 123", "-1,5": "'-1,5", "-0x1": "'-0x1", "-1\n": "'-1\n", "-inf": "'-inf", "-١": "'-١",
    "-1.5": "-1.5", "+3": "+3", "-.5e-3": "-.5e-3", "-5.": "-5.", "1+1": "1+1", "a=1": "a=1", " =1": " =1", "'": "'", "'a": "'a",
    "'=1": "''=1", "''=1": "'''=1", "'-1": "'-1", "'-1x": "''-1x",
}  # fmt: skip


@pytest.mark.parametrize("cell", ESCAPED)
def test_a_cell_that_begins_like_a_formula_is_behind_an_apostrophe(cell: str, tmp_path: Path) -> None:
    publish_csv(tmp_path / "a.csv", [cell, "n"], [[cell, -7]])
    assert by_csv((tmp_path / "a.csv").read_bytes().decode()) == [[ESCAPED[cell], "n"], [ESCAPED[cell], "-7"]]
    publish_csv(tmp_path / "a.csv", [cell, "n"], [[cell, -7]], raw=True)
    assert by_csv((tmp_path / "a.csv").read_bytes().decode()) == [[cell, "n"], [cell, "-7"]]


@given(CELL)
def test_an_escaped_cell_reads_back(cell: str) -> None:
    assert unescaped(str(escaped(cell))) == cell


def test_published_tables_end_lines_with_a_line_feed_and_quote_no_more_than_they_must(tmp_path: Path) -> None:
    publish_csv(tmp_path / "a.csv", ["id", "reason"], [["1", "no image"], ["2\r3", 'a "b", c'], ["", 7]])
    assert (tmp_path / "a.csv").read_bytes() == b'id,reason\n1,no image\n"2\r3","a ""b"", c"\n,7\n'


def test_numbers_are_written_with_so_many_digits_and_none_as_nothing() -> None:
    table = pd.DataFrame({"id": ["a", None], "share": np.array([0.12345678, np.nan], dtype=np.float32), "row": [1, 2]})
    assert list(csv_rows(table, 4)) == [("a", "0.1235", 1), ("", "", 2)]


CLASSES = {"kind": ("red\rblue", 'quo"ted', "a,b", "line\nfeed"), "win": ("NA", " spaced ")}


def odd_answers() -> Answers:
    return Answers(
        names=["plain.jpg", "car\rriage.jpg", "lost.jpg", 'q"uote, comma.jpg'],
        errors={2: "cannot be read: a\r\nb"},
        codes={"kind": np.array([[0, 1], [1, 2], [-1, -1], [3, 0]]), "win": np.array([[0, 1], [1, 0], [-1, -1], [1, 0]])},
        probabilities={
            "kind": np.array([[0.75, 0.25], [0.5, 0.5], [np.nan, np.nan], [1, 0]], dtype=np.float32),
            "win": np.array([[0.5, 0.5], [0.5, 0.5], [np.nan, np.nan], [1, 0]], dtype=np.float32),
        },
    )


def test_predictions_as_csv_read_back_a_line_an_image(tmp_path: Path) -> None:
    write_answers([odd_answers(), odd_answers()], CLASSES, "csv", tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_bytes().decode()
    header, *rows = by_csv(text)
    assert by_pandas(text) == [header, *rows]
    assert [row[header.index("path")] for row in rows] == odd_answers().names * 2
    assert [row[header.index("kind")] for row in rows[:4]] == ["red\rblue", 'quo"ted', "", "line\nfeed"]
    assert [row[header.index("win_probability")] for row in rows[:4]] == ["0.500000", "0.500000", "", "1.000000"]
    assert rows[2][header.index("error")] == "cannot be read: a\r\nb"


def test_every_line_of_predictions_as_json_has_all_keys(tmp_path: Path) -> None:
    write_answers([odd_answers()], CLASSES, "jsonl", tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [list(line) for line in lines] == [["path", "answers", "error"]] * 4
    assert [line["error"] for line in lines] == [None, None, "cannot be read: a\r\nb", None]
    assert [line["answers"] is None for line in lines] == [False, False, True, False]


def test_json_lines_are_whole_for_every_reader_of_lines(tmp_path: Path) -> None:
    names = [f"a{end}b.jpg" for end in ("\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")]
    empty = Answers(names=names, errors=dict.fromkeys(range(len(names)), "no image"), codes={}, probabilities={})
    write_answers([empty], {}, "jsonl", tmp_path / "a.jsonl")
    assert [json.loads(line)["path"] for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()] == names


@pytest.mark.parametrize("name", ["a.jpg", "a\rb.jpg", 'a"b,c.jpg'])
def test_the_pages_csv_reads_back(name: str, tmp_path: Path) -> None:
    records = [
        {"path": name, "answers": {"kind": [{"label": "red\rblue", "probability": 0.5}]}, "error": None},
        {"path": name, "answers": None, "error": "no\rimage"},
    ]
    text = write_csv(tmp_path, records, ["kind"]).read_bytes().decode()
    assert by_csv(text) == by_pandas(text) == [
        ["path", "kind", "kind_probability", "error"],
        [name, "red\rblue", "0.5", ""],
        [name, "", "", "no\rimage"],
    ]  # fmt: skip
