"""Figures in README.md and docs/: each is the value that the record it links to has at the place the link names."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from figures import FIGURE, PAGES, read_record, value_at, written  # noqa: E402


@pytest.mark.parametrize("page", PAGES)
def test_each_figure_is_what_its_record_says(page: str) -> None:
    figures = FIGURE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(figures) > 30
    wrong = []
    for text, _, record, place in figures:
        value = value_at(read_record(record), place)
        if text != written(text, value):
            wrong.append(f"{text}: {record} has {value} at {place}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_a_table_of_results_has_no_figure_without_a_record(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|") and "bench/results/" in line]
    bare = [cell for line in lines for cell in line.split("|")[2:] if re.search(r"\d\.\d|\d{2}", FIGURE.sub("", cell))]
    assert bare == []


def test_a_wrong_figure_would_be_found() -> None:
    record = {"rows": [{"name": "a b", "rate": 0.6937}, {"name": "c", "by": [1.0, 2.345]}]}
    assert written("69 %", value_at(record, "rows[name=a b].rate")) == "69 %"
    assert written("2.40", value_at(record, "rows[1].by[1]")) != "2.40"
    assert written("1,234", 1234.4) == "1,234" and written("0.694", 0.6937) == "0.694"
    with pytest.raises(ValueError):
        value_at(record, "rows[name=missing].rate")
