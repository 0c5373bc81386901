"""Writing CSV files that every reader gets back as they were, whatever ids, paths and class names hold."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fastfashion.files import publish

if TYPE_CHECKING:
    import pandas as pd


class _LineFeeds:
    """Gets whole records that end in carriage return and line feed, and writes them with a line feed alone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, record: str) -> None:
        self._file.write(record[:-2] + "\n")


def csv_writer(file: TextIO) -> Any:
    """A csv.writer for a file opened with newline="".

    With lineterminator="\\n" Python before 3.13 leaves a field with a carriage return unquoted, which ends the line for most readers: it
    quotes only what is in the terminator (found with 3.11 and 3.12).
    """
    return csv.writer(_LineFeeds(file), lineterminator="\r\n")


def publish_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Publish a table, comma-separated, in UTF-8."""

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv_writer(file)
            writer.writerow(header)
            writer.writerows(rows)

    publish(path, write)


def csv_rows(table: "pd.DataFrame", digits: int) -> Iterator[tuple[object, ...]]:
    """The rows of a table as they are written: numbers with a point in so many digits after it, nothing for None and NaN."""
    import pandas as pd

    columns: list[list[object]] = []
    for name in table.columns:
        values = ["" if pd.isna(value) else value for value in table[name].tolist()]
        columns.append([f"{value:.{digits}f}" if isinstance(value, float) else value for value in values])
    yield from zip(*columns, strict=True)
