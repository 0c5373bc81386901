"""Take the figures of README.md and docs/benchmarks.md from the records that they link to again: after a benchmark has run again.

    python tools/figures.py

A figure is a link to a record in bench/results/, whose title is the place of the value in that JSON file. Its decimals and its unit
stay. tests/test_figures.py says which are stale.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/benchmarks.md")
FIGURE = re.compile(r'\[([^\]\n]+)\]\(((?:\.\./)?)(bench/results/[\w.-]+\.json) "([^"\n]+)"\)')
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


@cache
def read_record(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def renewed(text: str) -> str:
    """A page with every figure as its record has it now."""
    return FIGURE.sub(
        lambda found: f'[{written(found[1], value_at(read_record(found[3]), found[4]))}]({found[2]}{found[3]} "{found[4]}")', text
    )


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
