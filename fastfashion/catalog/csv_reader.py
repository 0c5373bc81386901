"""The one reader of CSV files that people make: RFC 4180, forgiving where nothing is in doubt, exact about lines.

    bytes ─► text (no NUL, UTF-8) ─► header: the separator under which it has the wanted columns ─► records with their line numbers

Forgiven: a byte order mark, line ends of any kind, spaces before a quote, empty fields at the end of lines, another case of letters in the
names of columns. Refused with line, expected and found: what is no CSV, a line above the header, a quote that swallows other rows.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fastfashion.catalog.not_csv import no_text, no_utf8, other_text
from fastfashion.errors import InputError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
HEADER_WITHIN = 20  # records: a header further down is not looked for
_SPACED_QUOTE = {separator: re.compile(rf'(?:^|{re.escape(separator)}) +"') for separator in SEPARATORS}
_SHAPE = ((re.compile(r"\d+"), "0"), (re.compile(r"[^\W\d_]+"), "a"))

# Number of its first line, fields, the lines as they are, what follows a quote that closes a field of several lines.
Record = tuple[int, list[str], list[str], str]


@dataclass
class LineCount:
    """Lines of a file: `total` = `header` + `records` + `blank`, once all records have been read."""

    total: int = 0
    header: int = 0
    records: int = 0
    blank: int = 0


@dataclass
class CsvFile:
    """A CSV with a header that has the wanted columns. Iterating gives (line number, fields) of each record that is not empty."""

    where: str
    text: str
    separator: str
    header: list[str]
    places: dict[str, int]  # wanted column -> its place
    key: int  # place of the column that tells rows apart
    count: LineCount = field(default_factory=LineCount)

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Raises InputError for a quote that is never closed, or closed after lines that look like rows themselves."""
        self.count = LineCount(total=_number_of_lines(self.text))
        shape, first = "", True
        for number, fields, lines, after_quote in _records(self.text, self.separator, self.where):
            if not any(cell.strip() for cell in fields):
                self.count.blank += len(lines)
                continue
            if first:
                first, self.count.header = False, len(lines)
                continue
            self.count.records += len(lines)
            while len(fields) > len(self.header) and not fields[-1].strip():
                fields.pop()
            own = _shape(fields[self.key]) if self.key < len(fields) else ""
            if len(lines) > 1:
                first_line = lines[0].split(self.separator)
                self._refuse_swallowed_rows(number, lines, {own, shape, *map(_shape, first_line[self.key : self.key + 1])})
                if after_quote:  # a quote was forgotten, and the one that closes the field was to open the next
                    end = number + len(lines) - 1
                    raise InputError(
                        f"{self.where}, line {number}: a quoted field runs on to line {end}, where {after_quote[:40]!r} follows its quote; "
                        f"close the quote in line {number}, or write it twice within quotes"
                    )
            shape = own
            yield number, fields

    def _refuse_swallowed_rows(self, number: int, lines: Sequence[str], shapes: set[str]) -> None:
        """A quote that was forgotten is closed by the next one, lines later: those between look like rows."""
        for after, line in enumerate(lines[1:], start=1):
            readings = (line.split(self.separator), _quoted_fields([line], iter(()), self.separator)[0] or [])
            if any(len(f) == len(self.header) and self._looks_like_key(f[self.key].strip(), shapes) for f in readings):
                raise InputError(
                    f"{self.where}, line {number}: a quoted field runs on to line {number + len(lines) - 1}, and line {number + after} in "
                    f"it looks like a row itself: {line.strip()[:60]!r}; close the quote in line {number}, or write it twice within quotes"
                )

    @staticmethod
    def _looks_like_key(cell: str, shapes: set[str]) -> bool:
        closes = cell.endswith('"') and not cell.startswith('"')  # the rest of a key that spans lines
        return bool(shape := _shape(cell)) and not closes and shape in shapes


def read_csv(data: bytes, where: str, wanted: Sequence[str], advice: str = "") -> CsvFile:
    """Decide the separator by the header and return the file; `where` names it in errors, `wanted[0]` is the column that tells rows apart.

    Raises InputError where it is no UTF-8 text, no CSV, or no header has the wanted columns, each once; `advice` ends that message.
    """
    if what := no_text(data):
        raise InputError(f"{where}: expected a CSV file, found {what}")
    try:
        text = data.decode("utf-8").lstrip("\ufeff")  # a byte order mark, or two where two programs wrote one
    except UnicodeDecodeError as error:
        raise InputError(no_utf8(data, where, error.start)) from error
    heads = {separator: _head(text, separator, where) for separator in SEPARATORS}
    for separator, (number, header) in heads.items():
        places = {name: place for name in wanted if (place := _place(header, name)) is not None}
        if number and len(places) == len(wanted):
            return CsvFile(where, text, separator, header, places, places[wanted[0]])
    raise InputError(_no_header(text, where, wanted, heads, advice))


def _head(text: str, separator: str, where: str) -> tuple[int, list[str]]:
    """Line number (0 where there is none) and names of the first record that is not empty."""
    try:
        records = _records(text, separator, where)
        number, fields = next(((n, f) for n, f, *_ in records if any(cell.strip() for cell in f)), (0, []))
    except InputError:  # an open quote in the header under this separator
        return 0, []
    names = [unicodedata.normalize("NFC", cell.strip()) for cell in fields]
    while names and not names[-1]:
        names.pop()
    return number, names


def _place(header: Sequence[str], name: str) -> int | None:
    """Where a column is: spelled so once, or in other letters where only one is."""
    name = unicodedata.normalize("NFC", name)
    if name in header:
        return header.index(name) if header.count(name) == 1 else None
    alike = [place for place, other in enumerate(header) if other.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def _no_header(text: str, where: str, wanted: Sequence[str], heads: dict[str, tuple[int, list[str]]], advice: str) -> str:
    names = ", ".join(wanted)
    number, header = max(heads.values(), key=lambda head: (sum(_place(head[1], name) is not None for name in wanted), len(head[1])))
    if not number:
        return f"{where}: the file is empty; expected a header line with {','.join(wanted)}"
    if what := other_text(text):
        return f"{where}: expected a CSV file with the columns {names}, found {what}"
    for separator in SEPARATORS:
        try:
            for place, (line, fields, *_) in enumerate(_records(text, separator, where)):
                if all(_place([cell.strip() for cell in fields], name) is not None for name in wanted):
                    first = next(line for line in text.splitlines() if line.strip())[:60]
                    return (
                        f"{where}, line {number}: expected the header with the columns {names}, found {first!r}; the header is in line "
                        f"{line}: remove the lines above it"
                    )
                if place >= HEADER_WITHIN:
                    break
        except InputError:
            continue
    missing = next(name for name in wanted if _place(header, name) is None)
    alike = [other for other in header if other.casefold() == missing.casefold()]
    found = f"there {'twice' if len(alike) == 2 else f'{len(alike)} times'}" if alike else "not there"
    return f"{where}, line {number}: column {missing!r} is {found}; expected once among {', '.join(header)}{advice}"


def _number_of_lines(text: str) -> int:
    ends = text.count("\n") + text.count("\r") - text.count("\r\n")
    return ends + bool(text and text[-1] not in "\r\n")


def _records(text: str, separator: str, where: str) -> Iterator[Record]:
    """Every record, empty ones too; raises InputError where a quote is open at the end."""
    lines = iter(io.StringIO(text, newline=""))
    spaced = _SPACED_QUOTE[separator]
    number = 0
    for line in lines:
        number += 1
        taken = [line]
        if '"' not in line:
            yield number, _bare(line).split(separator), taken, ""
            continue
        fields, after_quote = None if spaced.search(line) else _by_csv(line, separator), ""
        if fields is None:
            fields, after_quote = _quoted_fields(taken, lines, separator)
        if fields is None:
            raise InputError(f"{where}, line {number}: a quote is opened and never closed; close it, or write it twice within quotes")
        yield number, fields, taken, after_quote
        number += len(taken) - 1


def _by_csv(line: str, separator: str) -> list[str] | None:
    """The fields of a line whose quotes are all as RFC 4180 has them, by the standard library's reader, which is quick; None for others."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error:
        return None


def _quoted_fields(taken: list[str], lines: Iterator[str], separator: str) -> tuple[list[str] | None, str]:
    """The fields of the record that begins with the line in `taken`, to which further lines are added where a quote spans them.

    None where a quote is never closed. A quote within a field that does not begin with one is a character like any other. The text is
    what follows the closing quote of a field of several lines.
    """
    line, at, after_quote = taken[0], 0, ""
    fields: list[str] = []
    while True:
        start = at
        while line[start : start + 1] == " ":
            start += 1
        parts: list[str] = []
        lines_before = len(taken)
        if line[start : start + 1] == '"':
            at = start + 1
            while True:
                end = line.find('"', at)
                if end < 0:
                    parts.append(line[at:])
                    line, at = next(lines, ""), 0
                    if not line:
                        return None, ""
                    taken.append(line)
                    continue
                parts.append(line[at:end])
                at = end + 1
                if line[at : at + 1] != '"':
                    break
                parts.append('"')
                at += 1
        end = line.find(separator, at)
        rest = line[at:end] if end >= 0 else _bare(line[at:])
        if len(taken) > lines_before:
            after_quote = after_quote or rest.strip()
        fields.append("".join(parts) + rest.rstrip(" ") if parts else rest)
        if end < 0:
            return fields, after_quote
        at = end + 1


def _bare(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _shape(text: str) -> str:
    """What a key looks like: item-12.jpg is a-0.a."""
    for pattern, short in _SHAPE:
        text = pattern.sub(short, text.strip(' "\r\n'))
    return text
