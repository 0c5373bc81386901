"""Splits that somebody has made: a file of ids and parts, or a column of the table.

names as people write them ─► train, val, test or none of them, row by row
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.catalog.columns import Table, values
from fastfashion.catalog.id_tables import read_id_table
from fastfashion.errors import ConfigError, InputError
from fastfashion.words import counted

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "val", "test")
_SPELLINGS = {
    **dict.fromkeys(("train", "training", "trn", "tr"), 0),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), 1),
    **dict.fromkeys(("test", "testing", "tst", "te", "holdout"), 2),
    **dict.fromkeys(("", "none", "na", "nan", "null", "-", "unused", "ignore", "ignored", "exclude", "excluded"), -1),
}
SPLIT_COLUMNS = ("split", "set", "subset", "part", "partition", "phase", "usage")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class NamedSplit:
    """The part of each row of a catalog, and what did not fit."""

    parts: np.ndarray  # int8 (N,): the place in PARTS, -1 for a row in none
    source: str  # the file or column
    unknown: tuple[str, ...] = ()  # ids that the catalog does not have

    @property
    def text(self) -> str:
        """What it names, in one line."""
        counts = np.bincount(self.parts[self.parts >= 0], minlength=len(PARTS))
        parts = ", ".join(f"{name} {count:,}" for name, count in zip(PARTS, counts.tolist(), strict=True))
        shown = ", ".join(self.unknown[:_SHOWN]) + (", …" if len(self.unknown) > _SHOWN else "")
        missing = f"; {counted(len(self.unknown), 'id')} not in this set ({shown})" if self.unknown else ""
        return f"{self.source}: {parts}; {int((self.parts < 0).sum()):,} rows of the set in no part{missing}"


def read_split_file(path: Path, table: "pd.DataFrame") -> NamedSplit:
    """The split in a CSV or Parquet file with a column of ids and one of parts.

    Several files may be named, with commas between, and one that has no column of parts is all of one part, which its name says: test.csv.
    Ids that are not in the set are listed. Raises InputError, with the line, for an unknown part, an id in two parts, and what
    `read_id_table` and `IdTable.rows` raise.
    """
    parts, seen, unknown = np.full(len(table), -1, dtype=np.int8), dict[int, str](), list[str]()
    for each in [path] if path.is_file() or "," not in str(path) else [Path(name.strip()) for name in str(path).split(",")]:
        file = read_id_table(each)
        column, of_file = file.column(SPLIT_COLUMNS), _part_of_file(each)
        if not (column or of_file):
            raise InputError(f"{each}: no column of parts ({', '.join(SPLIT_COLUMNS[:3])}, …), and its name says none (train, val, test)")
        names = file.texts(column) if column else [of_file] * len(file.ids)
        for place, (row, name) in enumerate(zip(file.rows(table).tolist(), names, strict=True)):
            where, part = file.where(place), _part(name, file.where(place))
            if row < 0:
                unknown.append(file.ids[place])
                continue
            if row in seen and parts[row] != part:
                one, other = ((*PARTS, "no part")[number] for number in (part, int(parts[row])))
                before = seen[row].removeprefix(f"{each}, ")
                raise InputError(f"{where}: {file.ids[place]} is in {one} here and in {other} in {before}; keep one of them")
            parts[row] = part
            seen.setdefault(row, where)
    return NamedSplit(parts=parts, source=str(path), unknown=tuple(unknown))


def split_of_column(table: Table, name: str) -> NamedSplit:
    """The split that a column of the catalog names. Raises ConfigError if there is no such column, InputError for an unknown part."""
    known = list(getattr(table, "column_names", None) or table.columns)
    if name not in known:
        raise ConfigError(f"data.split_column: no column {name!r} in this set; there are {', '.join(known)}")
    texts = [str(each) for each in values(table[name]).tolist()]
    place = {text: _part(text, f"column {name}") for text in dict.fromkeys(texts)}
    return NamedSplit(parts=np.array([place[text] for text in texts], dtype=np.int8), source=f"column {name}")


def _part(name: str, where: str) -> int:
    part = _SPELLINGS.get(name.strip().lower())
    if part is None:
        raise InputError(f"{where}: unknown part {name!r}; expected train, val or test, or training, valid, validation, dev, testing, none")
    return part


def _part_of_file(path: Path) -> str:
    """The part that a file's name says, such as shop_validation.csv; "" if it says none, or several."""
    found = {word for word in re.split(r"[^a-z]+", path.stem.lower()) if _SPELLINGS.get(word, -1) >= 0}
    return found.pop() if len(found) == 1 else ""
