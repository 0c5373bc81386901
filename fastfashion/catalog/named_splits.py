"""Splits that somebody has made: a file of ids and parts, or a column of the table.

names as people write them ─► train, val, test or none of them, row by row
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.catalog.columns import Table, values
from fastfashion.catalog.csv_reader import read_csv
from fastfashion.catalog.ids import RowFinder, old_id, stem, went_through_floats
from fastfashion.csv_files import unescaped
from fastfashion.errors import ConfigError, InputError
from fastfashion.untrusted import read_limited
from fastfashion.words import counted, why

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "val", "test")
_SPELLINGS = {
    **dict.fromkeys(("train", "training", "trn", "tr"), 0),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), 1),
    **dict.fromkeys(("test", "testing", "tst", "te", "holdout"), 2),
    **dict.fromkeys(("", "none", "na", "nan", "null", "-", "unused", "ignore", "ignored", "exclude", "excluded"), -1),
}
ID_COLUMNS = ("id", "image_id", "imageid", "filename", "file_name", "file", "image", "path", "image_path", "name")
SPLIT_COLUMNS = ("split", "set", "subset", "part", "partition", "phase", "usage")
MAX_BYTES = 1 << 32
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class NamedSplit:
    """The part of each row of a catalog, and what did not fit."""

    parts: np.ndarray  # int8 (N,): the place in PARTS, -1 for a row in none
    source: str  # the file or column
    sha256: str  # of the parts by id, sorted: equal for equal splits, however they were written
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
    """The split in a CSV, with any separator, or a Parquet file with a column of ids and one of parts.

    Several files may be named, with commas between, and one that has no column of parts is all of one part, which its name says: test.csv.
    An id may be written as in the table that the set was packed from, or as the name of its image. Ids that are not in the set are listed.
    Raises InputError, with the line, for an unknown part, an id in two parts, and a file without the two columns or without a known id.
    """
    files = [path] if path.is_file() or "," not in str(path) else [Path(each.strip()) for each in str(path).split(",")]
    lines = [(f"{each}, line {number}", *rest) for each in files for number, *rest in _read(each)]
    finder, floats = RowFinder(table), went_through_floats([identity for _, identity, _ in lines])
    parts, seen, unknown = np.full(len(table), -1, dtype=np.int8), dict[int, str](), list[str]()
    for line, identity, name in lines:
        part = _part(name, line)
        row = _find(finder, identity, floats=floats)
        if row is None:
            unknown.append(identity)
            continue
        if row in seen and parts[row] != part:
            names = [(*PARTS, "no part")[number] for number in (part, int(parts[row]))]
            before = seen[row].removeprefix(f"{line.rpartition(', line ')[0]}, ")
            raise InputError(f"{line}: {identity} is in {names[0]} here and in {names[1]} in {before}; keep one of them")
        parts[row] = part
        seen.setdefault(row, line)
    if not seen:
        known = ", ".join(str(identity) for identity in table["id"].head(_SHOWN))
        raise InputError(f"{path}: none of its {len(lines)} ids is in this set; expected ids such as {known}")
    return _named(parts, values(table["id"]), str(path), tuple(unknown))


def split_of_column(table: Table, name: str) -> NamedSplit:
    """The split that a column of the catalog names. Raises ConfigError if there is no such column, InputError for an unknown part."""
    known = list(getattr(table, "column_names", None) or table.columns)
    if name not in known:
        raise ConfigError(f"data.split_column: no column {name!r} in this set; there are {', '.join(known)}")
    texts = [str(each) for each in values(table[name]).tolist()]
    place = {text: _part(text, f"column {name}") for text in dict.fromkeys(texts)}
    return _named(np.array([place[text] for text in texts], dtype=np.int8), values(table["id"]), f"column {name}")


def _named(parts: np.ndarray, ids: np.ndarray, source: str, unknown: tuple[str, ...] = ()) -> NamedSplit:
    lines = sorted(f"{ids[row]},{PARTS[parts[row]]}" for row in np.flatnonzero(parts >= 0).tolist())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return NamedSplit(parts=parts, source=source, sha256=digest, unknown=unknown)


def _part(name: str, where: str) -> int:
    part = _SPELLINGS.get(name.strip().lower())
    if part is None:
        raise InputError(
            f"{where}: unknown part {name!r}; expected train, val or test (or training, valid, validation, dev, testing, none)"
        )
    return part


def _find(finder: RowFinder, identity: str, *, floats: bool) -> int | None:
    spellings = (identity, identity.removesuffix(".0") if floats else identity, stem(identity), old_id(identity))
    return next((row for text in dict.fromkeys(spellings) if (row := finder.find(text)) is not None), None)


def _read(path: Path) -> list[tuple[int, str, str]]:
    """Line number, id and part of each line of a file."""
    return _read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _read_csv(path)


def _part_of_file(path: Path) -> str:
    """The part that a file's name says, such as shop_validation.csv; "" if it says none, or several."""
    found = {word for word in re.split(r"[^a-z]+", path.stem.lower()) if _SPELLINGS.get(word, -1) >= 0}
    return found.pop() if len(found) == 1 else ""


def _read_csv(path: Path) -> list[tuple[int, str, str]]:
    try:
        data = read_limited(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: not readable ({why(error)}); expected a CSV or Parquet file of id and split") from error
    first = data.split(b"\n", 1)[0].decode("utf-8", "replace").lower()
    header = {cell.strip().strip('"').strip() for cell in re.split(r"[,;\t|]", first.lstrip("\ufeff"))}
    wanted = [next((name for name in names if name in header), names[0]) for names in (ID_COLUMNS, SPLIT_COLUMNS)]
    of_file = _part_of_file(path) if wanted[1] not in header else ""
    wanted = wanted[:1] if of_file else wanted
    file = read_csv(data, str(path), wanted, "a split file has a column of ids and a column of parts")
    places = [file.places[name] for name in wanted]
    lines = []
    for number, fields in file:
        if len(fields) <= max(places) or len(fields) > len(file.header):
            raise InputError(f"{path}, line {number}: expected {len(file.header)} fields ({', '.join(file.header)}), found {len(fields)}")
        cells = [unescaped(fields[place]).strip() for place in places]
        lines.append((number, cells[0], of_file or cells[1]))
    return lines


def _read_parquet(path: Path) -> list[tuple[int, str, str]]:
    """As `_read_csv`; the number of a line is that of its row, from 1."""
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(read_limited(path, MAX_BYTES)))
        names = {name.lower(): name for name in file.schema_arrow.names}
        wanted = [_choose(choices, names, path) for choices in (ID_COLUMNS, SPLIT_COLUMNS)]
        table = file.read(columns=wanted)
        ids, parts = (_texts(table[name].to_pylist()) for name in wanted)
    except OSError as error:
        raise InputError(f"{path}: not readable ({why(error)}); expected a Parquet file of id and split") from error
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: not readable as Parquet ({error})") from error
    return [(number, *both) for number, both in enumerate(zip(ids, parts, strict=True), 1)]


def _choose(choices: Sequence[str], names: dict[str, str], path: Path) -> str:
    found = next((names[choice] for choice in choices if choice in names), None)
    if found is None:
        raise InputError(f"{path}: no column {' or '.join(choices[:3])}; it has {', '.join(names.values())}")
    return found


def _texts(found: Iterable[Any]) -> list[str]:
    return ["" if value is None else str(value).strip() for value in found]
