"""Figures in README.md and docs/: each is the value that the record it links to has at the place the link names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/benchmarks.md")
FIGURE = re.compile(r'\[([^\]\n]+)\]\((?:\.\./)?(bench/results/[\w.-]+\.json) "([^"\n]+)"\)')
STEP = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")


def value_at(record: Any, place: str) -> Any:
    """`rows[backend=dali].images_per_s`: keys, indices, and the element of a list with this value at this key."""
    for inside, key in STEP.findall(place):
        if "=" in inside:
            name, _, wanted = inside.partition("=")
            (record,) = [each for each in record if str(each[name]) == wanted]
        else:
            record = record[int(inside)] if inside.isdecimal() else record[inside or key]
    return record


def written(text: str, value: float) -> str:
    """A value with as many decimals, and in the unit, that a figure has."""
    share = text.endswith(" %")
    digits = text.removesuffix(" %").partition(".")[2]
    return f"{100 * value if share else value:,.{len(digits)}f}" + (" %" if share else "")


@pytest.mark.parametrize("page", PAGES)
def test_each_figure_is_what_its_record_says(page: str) -> None:
    figures = FIGURE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(figures) > 30
    wrong = []
    for text, record, place in figures:
        value = value_at(json.loads((ROOT / record).read_text(encoding="utf-8")), place)
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
