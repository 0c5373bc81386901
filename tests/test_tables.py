"""One way to print a table."""

import pytest

from fastfashion.tables import table_text

COLUMNS = ["task", "rows", "note"]
ROWS = [["season", 1, "few"], ["名前", 1000, None]]


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ((0, -1), ["task    rows  note", "season     1  few", "名前    1000  -"]),
        ((), ["  task  rows  note", "season     1   few", "  名前  1000     -"]),
    ],
)
def test_columns_are_as_wide_as_their_widest_cell(left: tuple[int, ...], expected: list[str]) -> None:
    assert table_text(COLUMNS, ROWS, left=left).splitlines() == expected


def test_a_table_without_names_of_columns_has_no_header() -> None:
    assert table_text(["", ""], [["ok", "torch"], ["broken", "GPU"]], left=(0, 1)).splitlines() == ["ok      torch", "broken  GPU"]
    assert table_text(["a", "b"], []) == "a  b"


def test_markdown_has_a_line_below_the_header() -> None:
    assert table_text(["a", "b"], [["x", 10]], markdown=True).splitlines() == ["| a |  b |", "|---|----|", "| x | 10 |"]


def test_names_from_data_are_text_and_long_ones_are_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    name = "[red]" + "long " * 200 + ":smile:[/red]"
    assert table_text(["name", "n"], [[name, 1]]).splitlines()[1] == f"{name}  1"
