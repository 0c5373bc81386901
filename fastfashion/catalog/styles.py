"""styles.csv, or a table of your own, as a table of rows, with every line that cannot be used accounted for."""

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastfashion.catalog.csv_reader import CsvFile, read_csv
from fastfashion.catalog.extra_fields import SurplusCheck, join, mostly_years
from fastfashion.catalog.ids import make_ids, same_text, went_through_floats
from fastfashion.errors import ConfigError, InputError

if TYPE_CHECKING:
    import pandas as pd

LABEL_COLUMNS = ("masterCategory", "subCategory", "articleType", "gender", "baseColour", "season", "usage")
NAME_COLUMN, YEAR = "productDisplayName", "year"
# Spellings of "no label", as Kaggle's table, Python, pandas, JavaScript, SQL, Excel and people write them; docs/tables.md lists them.
NO_LABEL = ("", "NA", "nan", "NaN", "None", "null", "NULL", "N/A", "#N/A", "<NA>", "-")
# What a label cannot be called: the other columns of a packed set's catalog (shards/FORMAT.md), and those of predict's tables.
OTHER_COLUMNS = (
    *("row", "id", "line", YEAR, NAME_COLUMN, "recovered", "height", "width", "fingerprint", "duplicate_group"),
    *("path", "error"),
)
# A label's name is used in --task between commas, in --set before =, in file names, and in the names of a model's weights.
USABLE_LABEL = re.compile(r"[^.,=+/\\\x00-\x1f\x7f]{1,64}")
OWN_TABLE = " (a table of your own: --id-column, --label-columns)"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold ids and labels; those of Kaggle's styles.csv by default. Raises ConfigError for names that cannot be used."""

    id: str = "id"
    labels: tuple[str, ...] = LABEL_COLUMNS
    no_label: tuple[str, ...] = NO_LABEL  # spellings of a cell without a label; an empty cell always is one

    @classmethod
    def parse(cls, identity: str, labels: str, na_values: str | None = None) -> "Columns":
        """From --id-column, --label-columns and --na-values: lists with commas; empty for the columns of styles.csv and for NO_LABEL."""
        return cls(
            id=identity,
            labels=tuple(name.strip() for name in labels.split(",")) if labels else LABEL_COLUMNS,
            no_label=NO_LABEL if na_values is None else tuple(dict.fromkeys(["", *(text.strip() for text in na_values.split(","))])),
        )

    @property
    def is_kaggles(self) -> bool:
        return self.id == "id" and self.labels == LABEL_COLUMNS

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"--label-columns: expected names of columns, each once, found {', '.join(self.labels) or 'none'}")
        for name in self.labels:
            if name == self.id:
                raise ConfigError(f"--label-columns: {name!r} is the column of the ids; a label says what images have in common")
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
    """One row that was left out: its line and the reason."""

    id: str  # the text of the id column
    line: int  # in the table, the header being line 1
    reason: str


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a table was read as. `lines` = header_lines + record_lines + blank_lines."""

    separator: str = ","
    lines: int = 0
    header_lines: int = 0
    record_lines: int = 0
    blank_lines: int = 0
    no_label: dict[str, dict[str, int]] = field(default_factory=dict)  # label column -> spelling -> cells without a label
    float_ids: bool = False  # 26366.0 was read as 26366


@dataclass(frozen=True)
class Styles:
    """The usable lines of a styles.csv, or of a table with other columns.

    `table` has one row a line, in the file's order: line (int64), id (str), path (str: the text of the id column as it was), the label
    columns as written (str), year (Int16, missing if it is not a whole number), productDisplayName (str), recovered (bool: the name held an
    unquoted comma and was put together again).
    """

    table: "pd.DataFrame"
    rejected: list[Rejected]
    labels: tuple[str, ...] = LABEL_COLUMNS
    account: Account = field(default_factory=Account)

    @property
    def num_rows(self) -> int:
        return len(self.table) + len(self.rejected)

    def files(self) -> list[str]:
        """What names the image of each row: `path`, or the id if all ids went through a column of floats."""
        column: list[str] = self.table["id" if self.account.float_ids else "path"].tolist()
        return column


def read_styles(data: bytes, where: str, wanted: Columns = KAGGLE) -> Styles:
    """Parse Kaggle's styles.csv, or a table with the columns `wanted`; `where` names the file in errors.

    The text of the id column may be the path of the image's file; catalog/ids.py says which id it gives. Of two rows with one text the
    first counts. Surplus commas in a line are taken for unquoted ones in productDisplayName, unless year or labels show otherwise. Lines
    without text are skipped; short lines, lines without an id, and lines whose id is in an earlier one are rejected rows. Raises
    InputError for a missing column, bytes that are not UTF-8, a file that is not CSV, an open quote, or no usable row.
    """
    file = read_csv(data, where, [wanted.id, *wanted.labels], OWN_TABLE)
    columns, rejected = _columns(file, wanted, None)
    if any(columns["recovered"]):
        columns, rejected = _columns(file, wanted, _surplus_check(file, wanted, columns))
    if not columns["path"]:
        raise InputError(f"{where}: no usable row under the header ({len(rejected)} rejected); expected at least one product")
    import pandas as pd  # not at the top of any module that worker processes of the packer import: they start in a third of the time

    floats = went_through_floats(columns["path"])
    texts = [text[:-2] for text in columns["path"]] if floats else columns["path"]
    table = pd.DataFrame(columns)
    table.insert(1, "id", make_ids(texts, by_stem=wanted.is_kaggles))
    year = pd.to_numeric(table[YEAR], errors="coerce")
    table[YEAR] = year.where((year % 1 == 0) & year.between(0, 9999)).astype("Int16")
    without = {name: table[name][table[name].isin(wanted.no_label)].value_counts() for name in wanted.labels}
    no_label = {name: {str(text): int(cells) for text, cells in found.items()} for name, found in without.items() if len(found)}
    account = Account(separator=file.separator, **file.count, no_label=no_label, float_ids=floats)
    return Styles(table, rejected, wanted.labels, account)


def _columns(file: CsvFile, wanted: Columns, check: SurplusCheck | None) -> tuple[dict[str, list[Any]], list[Rejected]]:
    """Usable lines by column, and rejected ones; without `check` every row with surplus fields is usable.

    Lists, and each label held once: a dict per line costs 1.4 KB per line and four times as long; this costs 0.5 KB.
    """
    header = file.header
    name_at, year_at = (header.index(name) if name in header else None for name in (NAME_COLUMN, YEAR))
    columns: dict[str, list[Any]] = {name: [] for name in ("line", "path", *wanted.labels, YEAR, NAME_COLUMN, "recovered")}
    repeated = [*((columns[name], file.places[name]) for name in wanted.labels), (columns[YEAR], year_at)]
    held: dict[str, str] = {}
    rejected: list[Rejected] = []
    first_line: dict[str, int] = {}
    for line, fields in file:
        reason = check.reason(fields) if check else ""
        surplus = len(fields) - len(header)
        if surplus > 0 and name_at is not None:
            fields = join(fields, name_at, surplus, file.separator)
        text = fields[file.key].strip() if file.key < len(fields) else ""
        key = same_text(text)  # 12 and 12.jpg may be one image, which the packer finds out
        if reason := reason or _unusable(fields, header, key, first_line):
            rejected.append(Rejected(id=text, line=line, reason=reason))
            continue
        first_line[key] = line
        columns["line"].append(line)
        columns["path"].append(text)
        for column, place in repeated:
            cell = "" if place is None else fields[place].strip()
            if (label := held.get(cell)) is None:
                label = held[cell] = unicodedata.normalize("NFC", cell)  # two spellings of one accent are one class
            column.append(label)
        columns[NAME_COLUMN].append("" if name_at is None else fields[name_at].strip())
        columns["recovered"].append(surplus > 0)
    return columns, rejected


def _unusable(fields: list[str], header: list[str], key: str, first_line: dict[str, int]) -> str:
    """Why a row is rejected; "" if it is usable. `first_line`: the line of each id so far."""
    if len(fields) != len(header):
        return f"expected {len(header)} fields, found {len(fields)}"
    if not key.rpartition("/")[2]:
        return "no id"
    return f"its id is already in line {first_line[key]}" if key in first_line else ""


def _surplus_check(file: CsvFile, wanted: Columns, columns: dict[str, list[Any]]) -> SurplusCheck:
    """A check by what the rows without surplus fields hold."""
    clean = [row for row, recovered in enumerate(columns["recovered"]) if not recovered]
    years = [year for row in clean if (year := columns[YEAR][row]) not in wanted.no_label]
    return SurplusCheck(
        header=file.header,
        separator=file.separator,
        name=file.header.index(NAME_COLUMN),
        year=file.header.index(YEAR) if YEAR in file.header and mostly_years(years) else None,
        labels={file.places[name]: frozenset(columns[name][row] for row in clean) - {*wanted.no_label} for name in wanted.labels},
        no_label=wanted.no_label,
    )
