"""Tables that say something of images by their ids: a split, predictions. CSV with any separator, or Parquet.

file ─► texts of CSV, values of Parquet, each line with its number ─► the column of ids ─► rows of the catalog
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.catalog.csv_reader import read_csv
from fastfashion.catalog.ids import RowFinder, old_id, stem, went_through_floats
from fastfashion.csv_files import unescaped
from fastfashion.errors import InputError
from fastfashion.untrusted import read_limited
from fastfashion.words import why

if TYPE_CHECKING:
    import pandas as pd

ID_COLUMNS = ("id", "image_id", "imageid", "filename", "file_name", "file", "image", "path", "image_path", "name")
PARQUET = (".parquet", ".pq")
MAX_BYTES = 1 << 32
_SHOWN = 3  # ids in a message


@dataclass(frozen=True, kw_only=True)
class IdTable:
    """A file's columns, and the ids of its lines."""

    path: Path
    columns: "pd.DataFrame"  # its index has the number of each line, of Parquet that of the row from 1
    ids: list[str]

    def line(self, place: int) -> str:
        """The line at a place, from 0, for messages."""
        return f"{'row' if self.path.suffix.lower() in PARQUET else 'line'} {self.columns.index[place]}"

    def where(self, place: int) -> str:
        """The file, and the line at a place, from 0."""
        return f"{self.path}, {self.line(place)}"

    def column(self, names: tuple[str, ...]) -> str:
        """The first of the names that a column has, in any case, as the file writes it; "" if none has."""
        return _column(list(self.columns.columns), names)

    def texts(self, column: str) -> list[str]:
        """A column as texts; "" for an empty cell."""
        return ["" if empty else str(value).strip() for value, empty in zip(self.columns[column], self.columns[column].isna(), strict=True)]

    def rows(self, table: "pd.DataFrame") -> np.ndarray:
        """The row of a catalog that each line is about, int64 (n,), -1 if its id is not in the catalog.

        An id may be written as in the table that the set was packed from, or as the name of its image. Raises InputError if none is known.
        """
        finder, floats = RowFinder(table), went_through_floats(self.ids)
        rows = np.full(len(self.ids), -1)
        for place, identity in enumerate(self.ids):
            spellings = (identity, identity.removesuffix(".0") if floats else identity, stem(identity), old_id(identity))
            rows[place] = next((row for text in spellings if (row := finder.find(text)) is not None), -1)
        if (rows < 0).all():
            known = ", ".join(map(str, table["id"].head(_SHOWN)))
            raise InputError(f"{self.path}: none of its {len(rows)} ids is in this set; expected ids such as {known}")
        return rows


def read_id_table(path: Path) -> IdTable:
    """Raises InputError, with the line, for a file that is neither CSV nor Parquet, has no column of ids, or no line."""
    try:
        data = read_limited(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: not readable ({why(error)}); expected a CSV or Parquet file with a column of ids") from error
    columns = _parquet(path, data) if path.suffix.lower() in PARQUET else _csv(path, data)
    if not (column := _column(list(columns.columns), ID_COLUMNS)):
        has = ", ".join(map(str, list(columns.columns)[:8]))
        raise InputError(f"{path}: no column of ids ({', '.join(ID_COLUMNS[:4])}, …); it has {has}")
    if not len(columns):
        raise InputError(f"{path}: no line under the header")
    return IdTable(path=path, columns=columns, ids=[str(each).strip() for each in columns[column]])


def _column(found: list[str], names: tuple[str, ...]) -> str:
    known = {name.lower(): name for name in reversed(found)}
    return next((known[name.lower()] for name in names if name.lower() in known), "")


def _csv(path: Path, data: bytes) -> "pd.DataFrame":
    import pandas as pd

    refused = []
    for name in ID_COLUMNS:  # the one that the header has decides the separator
        try:
            file = read_csv(data, str(path), (name,), f"expected a column of ids: {', '.join(ID_COLUMNS)}")
        except InputError as error:
            refused.append(error)
            continue
        lines = [(number, [unescaped(cell).strip() for cell in fields]) for number, fields in file]
        if wrong := next((number for number, fields in lines if len(fields) != len(file.header)), None):
            expected = f"{len(file.header)} fields ({', '.join(file.header)})"
            raise InputError(f"{path}, line {wrong}: expected {expected}; put quotes around a field with a separator in it")
        header = [name.strip() for name in file.header]
        return pd.DataFrame([fields for _, fields in lines], columns=header, index=[number for number, _ in lines], dtype=str)
    raise refused[0]


def _parquet(path: Path, data: bytes) -> "pd.DataFrame":
    import pandas as pd

    try:
        columns = pd.read_parquet(io.BytesIO(data))
    except Exception as error:  # pyarrow has many of its own
        raise InputError(f"{path}: not readable as Parquet ({' '.join(str(error).split())[:200]})") from error
    columns.index = pd.RangeIndex(1, len(columns) + 1)
    return columns.rename(columns=str)
