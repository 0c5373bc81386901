"""styles.csv, or a table of one's own, to a table of rows, with every line that cannot be used accounted for."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from fastfashion.errors import ConfigError, InputError
from fastfashion.image import SUFFIXES

if TYPE_CHECKING:
    import pandas as pd

LABEL_COLUMNS = ("masterCategory", "subCategory", "articleType", "gender", "baseColour", "season", "usage")
NAME_COLUMN = "productDisplayName"
NO_LABEL = ("", "NA")
# What a label cannot be called: the other columns of a packed set's catalog (shards/FORMAT.md), and those of predict's tables.
OTHER_COLUMNS = (
    *("row", "id", "line", "year", NAME_COLUMN, "recovered", "height", "width", "fingerprint", "duplicate_group"),
    *("path", "error"),
)
# A label's name stands in --task between commas, in --set before =, in file names, and in the names of a model's weights.
USABLE_LABEL = re.compile(r"[^.,=+/\\\x00-\x1f\x7f]{1,64}")
_END = "\x00"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table are what; those of Kaggle's styles.csv by default. Raises ConfigError for names that cannot be."""

    id: str = "id"
    labels: tuple[str, ...] = LABEL_COLUMNS

    @classmethod
    def parse(cls, identity: str, labels: str) -> "Columns":
        """Of --id-column and --label-columns: names with commas between, none for those of styles.csv."""
        return cls(id=identity, labels=tuple(name.strip() for name in labels.split(",")) if labels else LABEL_COLUMNS)

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"--label-columns: expected names of columns, each once, found {', '.join(self.labels) or 'none'}")
        for name in self.labels:
            if name == self.id:
                raise ConfigError(f"--label-columns: {name!r} is the column of the ids; a label says what pictures have in common")
            if name in OTHER_COLUMNS:
                raise ConfigError(f"--label-columns: {name!r} is a name that a packed set uses itself; rename that column of the table")
            if not USABLE_LABEL.fullmatch(name):
                raise ConfigError(f"--label-columns: expected names of 1 to 64 characters without . , = + / or \\, found {name!r}")
            # x_2 and x_probability are columns of predict's tables, x_ may be a name among a model's weights.
            taken = re.compile(rf"{re.escape(name)}_(\d*|(\d+_)?probability)")
            if clash := next(filter(taken.fullmatch, self.labels), ""):
                raise ConfigError(
                    f"--label-columns: {clash!r} is what answers or weights of {name!r} are called; rename that column of the table"
                )


KAGGLE = Columns()


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """One row that was left out: where it stands and why."""

    id: str
    line: int  # in the table, the header being line 1
    reason: str


@dataclass(frozen=True)
class Styles:
    """The usable lines of a styles.csv, or of a table with other columns.

    `table` has one row a line, in the file's order: line (int64), id (str), the label columns as written (str), year (Int16, missing
    where it is no whole number), productDisplayName (str), recovered (bool: the name held an unquoted comma and was put together again).
    """

    table: "pd.DataFrame"
    rejected: list[Rejected]
    labels: tuple[str, ...] = LABEL_COLUMNS

    @property
    def num_rows(self) -> int:
        return len(self.table) + len(self.rejected)


def read_styles(data: bytes, where: str, wanted: Columns = KAGGLE) -> Styles:
    """Parse Kaggle's styles.csv, or a table with the columns `wanted`; `where` names the file in errors.

    An id may be the name of the picture's file: 12.jpg is read as 12. In a table of one's own it may be a path: photos/12.jpg is, too.

    Commas in a line with too many fields are taken to stand unquoted in productDisplayName. Empty lines are skipped; short and
    id-less lines, and lines whose id stands in an earlier one, are rejected rows. Raises InputError for a missing column, bytes that
    are no UTF-8, an open quote, or no usable row.
    """
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{where}, line {line}: expected UTF-8, found byte 0x{data[error.start]:02x}; save the file as UTF-8") from error
    lines = _lines(data, where)
    try:
        _, header = next(lines)
    except StopIteration:
        raise InputError(f"{where}: the file is empty; expected a header line with {','.join([wanted.id, *wanted.labels])}") from None
    header = [name.strip() for name in header]
    for name in (wanted.id, *wanted.labels):
        if header.count(name) != 1:
            found = "not there" if name not in header else "there twice"
            raise InputError(
                f"{where}, line 1: column {name!r} is {found}; expected once among {', '.join(header)} "
                "(a table of your own: --id-column, --label-columns)"
            )

    columns, rejected = _columns(lines, header, wanted)
    if not columns["id"]:
        raise InputError(f"{where}: no usable row under the header ({len(rejected)} rejected); expected at least one product")
    import pandas as pd  # not at the top of any module that worker processes of the packer import: they start in a third of the time

    table = pd.DataFrame(columns)
    year = pd.to_numeric(table["year"], errors="coerce")
    table["year"] = year.where((year % 1 == 0) & year.between(0, 9999)).astype("Int16")
    return Styles(table, rejected, wanted.labels)


def _columns(lines: Iterable[tuple[int, list[str]]], header: list[str], wanted: Columns) -> tuple[dict[str, list[Any]], list[Rejected]]:
    """Usable lines by column, and those left out.

    Lists, and each label held once: a dict a line costs 1.4 KB a line, where this costs 0.5, and four times as long.
    """
    places = {name: place for place, name in enumerate(header)}
    columns: dict[str, list[Any]] = {name: [] for name in ("line", "id", *wanted.labels, "year", NAME_COLUMN, "recovered")}
    repeated = [(columns[name], places.get(name)) for name in (*wanted.labels, "year")]
    held: dict[str, str] = {}
    rejected: list[Rejected] = []
    first_line: dict[str, int] = {}
    own = wanted != KAGGLE
    for line, fields in lines:
        surplus = len(fields) - len(header)
        if surplus > 0 and NAME_COLUMN in places:
            fields = _join_name(fields, header.index(NAME_COLUMN), surplus)
        identity = fields[places[wanted.id]].strip() if places[wanted.id] < len(fields) else ""
        if own:
            identity = identity.replace("\\", "/").rpartition("/")[2]
        if identity.lower().endswith(SUFFIXES):
            identity = identity.rpartition(".")[0]
        if len(fields) != len(header):
            rejected.append(Rejected(id=identity, line=line, reason=f"expected {len(header)} fields, found {len(fields)}"))
        elif not identity:
            rejected.append(Rejected(id="", line=line, reason="no id"))
        elif identity in first_line:
            rejected.append(Rejected(id=identity, line=line, reason=f"id stands already in line {first_line[identity]}"))
        else:
            first_line[identity] = line
            columns["line"].append(line)
            columns["id"].append(identity)
            for column, place in repeated:
                text = "" if place is None else fields[place].strip()
                column.append(held.setdefault(text, text))
            columns[NAME_COLUMN].append(fields[places[NAME_COLUMN]].strip() if NAME_COLUMN in places else "")
            columns["recovered"].append(surplus > 0)
    return columns, rejected


def _lines(data: bytes, where: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every line that is not empty."""
    # A quote that is never closed swallows the rest of the file without an error: then it swallows the end mark, too.
    reader = csv.reader(chain(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), [_END]))
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except csv.Error as error:
            raise InputError(f"{where}, line {line}: {error}; expected comma-separated values") from error
        if fields == [_END]:
            return
        if fields and fields[-1].endswith(_END):
            raise InputError(f"{where}, line {line}: a quote is opened and never closed; close it, or write it twice within quotes")
        if any(field.strip() for field in fields):
            yield line, fields


def _join_name(fields: list[str], at: int, surplus: int) -> list[str]:
    """Surplus fields go back into the name that an unquoted comma tore apart."""
    return [*fields[:at], ",".join(fields[at : at + surplus + 1]), *fields[at + surplus + 1 :]]
