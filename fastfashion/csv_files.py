"""Writing CSV files that every reader gets back as they were, whatever ids, paths and class names hold, and no spreadsheet calculates.

A cell that a spreadsheet would take for a formula gets an apostrophe before it, as OWASP advises (CSV Injection); a number stays.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fastfashion.files import publish

if TYPE_CHECKING:
    import pandas as pd


# Zero or more apostrophes, so that a cell which has one already gets a second and reads back as it was.
_FORMULA = re.compile(r"'*[=+\-@\uff1d\uff0b\uff0d\uff20\x00-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"'*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def escaped(cell: object) -> object:
    """The cell as written: text (not a number) that begins with = + - @ (also full-width) or a control character gets an ' before it."""
    return f"'{cell}" if isinstance(cell, str) and _would_be_formula(cell) else cell


def unescaped(cell: str) -> str:
    """What `escaped` was given."""
    return cell[1:] if cell.startswith("'") and _would_be_formula(cell) else cell


def _would_be_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None


class _LineFeeds:
    """Gets whole records that end in carriage return and line feed, and writes them with a line feed alone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, record: str) -> None:
        self._file.write(record[:-2] + "\n")


class CsvWriter:
    """A csv.writer for a file opened with newline=""; `raw` writes cells that begin like a formula as they are.

    Python before 3.13 quotes only what is in the line terminator; a bare carriage return would end the line for most readers.
    """

    def __init__(self, file: TextIO, *, raw: bool = False) -> None:
        self._writer: Any = csv.writer(_LineFeeds(file), lineterminator="\r\n")
        self._raw = raw

    def write(self, rows: Iterable[Iterable[object]]) -> None:
        self._writer.writerows(rows if self._raw else (map(escaped, row) for row in rows))


def publish_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], *, raw: bool = False) -> None:
    """Publish a table, comma-separated, in UTF-8; odd bytes of a disk's names, which reasons hold, as \\udcff."""

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = CsvWriter(file, raw=raw)
            writer.write([header])
            writer.write(rows)

    publish(path, write)


def csv_rows(table: "pd.DataFrame", digits: int) -> Iterator[tuple[object, ...]]:
    """The rows of a table as they are written: numbers with this many digits after the point, nothing for None and NaN."""
    import pandas as pd

    columns: list[list[object]] = []
    for name in table.columns:
        values = ["" if pd.isna(value) else value for value in table[name].tolist()]
        columns.append([f"{value:.{digits}f}" if isinstance(value, float) else value for value in values])
    yield from zip(*columns, strict=True)
