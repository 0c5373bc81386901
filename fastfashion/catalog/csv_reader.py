"""Reading hand-made CSV files: RFC 4180, tolerant where nothing is ambiguous, exact about line numbers.

    bytes ─► text (no NUL, UTF-8) ─► header: the separator under which it has the wanted columns ─► records with their line numbers

Accepted: a byte order mark, line ends of any kind, spaces before a quote, empty fields at the end of lines, column names in another case.
Refused with line, expected and found: files that are not CSV, a line above the header, a quote that swallows other rows.
"""

import contextlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from fastfashion.catalog.file_types import line_of, markup, not_csv
from fastfashion.errors import InputError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
HEADER_WITHIN = 20  # records: a header further down is not looked for
_LINE = re.compile(r"[^\r\n]*+(?:\r\n|\r|\n)|[^\r\n]++")
# A field in quotes and what follows its closing quote, or a field without; and what ends it. Possessive, so that it takes linear time.
_FIELD = {
    separator: re.compile(rf' *+"((?:[^"]++|"")*+)"([^{end}\r\n]*+)({end}|\r\n|\r|\n|\Z)|([^{end}\r\n]*+)({end}|\r\n|\r|\n|\Z)')
    for separator, end in zip(SEPARATORS, map(re.escape, SEPARATORS), strict=True)
}
_SHAPE = ((re.compile(r"\d+"), "0"), (re.compile(r"[^\W\d_]+"), "a"))
_MARKUP = {
    "HTML": "a web page (HTML), such as a sign-in form: download the table itself",
    "XML": "XML or HTML: write the table as CSV",
    "JSON": "JSON, or JSON lines: write the table as CSV",
}
Header = tuple[int, list[str]]  # its line number and the names of the columns


class _Record(NamedTuple):
    line: int  # the number of its first line
    fields: list[str]
    lines: list[str]  # as they are in the file
    after_quote: str = ""  # what follows a quote that closes a field of several lines


@dataclass
class CsvFile:
    """A CSV with a header that has the wanted columns. Iterating gives (line number, fields) of each record that is not empty."""

    where: str
    text: str
    separator: str
    header: list[str]
    places: dict[str, int]  # wanted column -> its place
    key: int  # place of the column that identifies rows
    count: Counter[str] = field(default_factory=Counter)  # lines = header_lines + record_lines + blank_lines, once all are read

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Raises InputError for a quote that is never closed, or closed after lines that look like rows themselves."""
        self.count = Counter()
        shape = ""
        for record in _records(self.text, self.separator, self.where):
            kind = "blank_lines" if _is_blank(record) else "record_lines" if self.count["header_lines"] else "header_lines"
            self.count.update({"lines": len(record.lines), kind: len(record.lines)})
            if kind != "record_lines":
                continue
            fields = record.fields
            while len(fields) > len(self.header) and not fields[-1].strip():
                fields.pop()
            own = _shape(fields[self.key]) if self.key < len(fields) else ""
            if len(record.lines) > 1:
                self._refuse_swallowed_rows(record, {own, shape})
            shape = own
            yield record.line, fields

    def _refuse_swallowed_rows(self, record: _Record, shapes: set[str]) -> None:
        """A quote that was forgotten is closed by the next quote, lines later: the lines between look like rows.

        `shapes`: what the keys of this record and the one before look like.
        """
        first, *others = record.lines
        shapes = shapes | set(map(_shape, first.split(self.separator)[self.key : self.key + 1]))
        last = record.line + len(others)
        said = f"{self.where}, line {record.line}: a quoted field extends to line {last}, "
        advice = f"close the quote in line {record.line}, or write it twice within quotes"
        for number, line in enumerate(others, start=record.line + 1):
            readings = (line.split(self.separator), (_parse(line, 0, self.separator) or ([], "", 0))[0])
            if any(len(read) == len(self.header) and _looks_like_key(read[self.key].strip(), shapes) for read in readings):
                raise InputError(f"{said}and line {number} in it looks like a row itself: {line.strip()[:60]!r}; {advice}")
        if record.after_quote:  # a quote was forgotten, and the one that closes the field was meant to open the next
            raise InputError(f"{said}where {record.after_quote[:40]!r} follows its quote; {advice}")


def read_csv(data: bytes, where: str, wanted: Sequence[str], advice: str = "") -> CsvFile:
    """Choose the separator by the header and return the file; `where` names it in errors, `wanted[0]` is the column that identifies rows.

    Raises InputError if it is not UTF-8 text, not CSV, or no header has the wanted columns, each once; `advice` ends that message.
    """
    if what := not_csv(data):
        raise InputError(f"{where}: expected a CSV file, found {what}")
    try:
        text = data.decode("utf-8").lstrip("\ufeff")  # a byte order mark, or two if two programs wrote one
    except UnicodeDecodeError as error:
        at = error.start
        raise InputError(
            f"{where}, line {line_of(data, at)}: expected UTF-8, found byte 0x{data[at]:02x}; save the file as UTF-8"
        ) from error
    heads = {separator: _first_records(text, separator, where) for separator in SEPARATORS}
    for separator, found in heads.items():
        header = found[0][1] if found else []
        places = {name: place for name in wanted if (place := _place(header, name)) is not None}
        if len(places) == len(wanted):
            return CsvFile(where, text, separator, header, places, places[wanted[0]])
    raise InputError(_no_header(text, where, wanted, [found for found in heads.values() if found], advice))


def _first_records(text: str, separator: str, where: str) -> list[Header]:
    """The first records that are not empty, each as if it were the header; none from a quote that stays open under this separator."""
    found: list[Header] = []
    with contextlib.suppress(InputError):
        for record in islice((record for record in _records(text, separator, where) if not _is_blank(record)), HEADER_WITHIN):
            names = [unicodedata.normalize("NFC", cell.strip()) for cell in record.fields]
            while not names[-1]:
                names.pop()
            found.append((record.line, names))
    return found


def _place(header: Sequence[str], name: str) -> int | None:
    """Where a column is: the only one of this name, or the only one that differs from it in case alone."""
    name = unicodedata.normalize("NFC", name)
    alike = [place for place, other in enumerate(header) if other.casefold() == name.casefold()]
    same = [place for place in alike if header[place] == name] or alike
    return same[0] if len(same) == 1 else None


def _no_header(text: str, where: str, wanted: Sequence[str], heads: Sequence[Sequence[Header]], advice: str) -> str:
    """Why the first record is not the header; `heads`: the first records under each separator."""
    names = ", ".join(wanted)
    if not heads:
        return f"{where}: the file is empty; expected a header line with {','.join(wanted)}"
    if what := markup(text):
        return f"{where}: expected a CSV file with the columns {names}, found {_MARKUP[what]}"

    def has(header: Sequence[str]) -> int:
        return sum(_place(header, name) is not None for name in wanted)

    number, header = max((found[0] for found in heads), key=lambda head: (has(head[1]), len(head[1])))
    if below := next((line for found in heads for line, others in found if has(others) == len(wanted)), 0):
        first = next(line for line in text.splitlines() if line.strip())[:60]
        return (
            f"{where}, line {number}: expected the header with the columns {names}, found {first!r}; the header is in line "
            f"{below}: remove the lines above it"
        )
    missing = next(name for name in wanted if _place(header, name) is None)
    alike = [other for other in header if other.casefold() == missing.casefold()]
    found = f"there {'twice' if len(alike) == 2 else f'{len(alike)} times'}" if alike else "not there"
    return f"{where}, line {number}: column {missing!r} is {found}; expected once among {', '.join(header)}{advice}"


def _records(text: str, separator: str, where: str) -> Iterator[_Record]:
    """Every record, empty ones too; raises InputError if a quote is open at the end."""
    end = 0
    for number, line in enumerate(_LINE.finditer(text), start=1):
        if line.start() < end:  # within the record before
            continue
        end = line.end()
        if '"' not in line[0]:
            yield _Record(number, line[0].removesuffix("\n").removesuffix("\r").split(separator), [line[0]])
            continue
        parsed = _parse(text, line.start(), separator)
        if parsed is None:
            raise InputError(f"{where}, line {number}: a quote is opened and never closed; close it, or write it twice within quotes")
        fields, after_quote, end = parsed
        yield _Record(number, fields, _LINE.findall(text, line.start(), end), after_quote)


def _parse(text: str, start: int, separator: str) -> tuple[list[str], str, int] | None:
    """The record that begins at a place of the text: its fields, what follows a quote that closes a field of several lines, its end.

    None if it opens a quote that is never closed. A quote within a field that does not begin with one is a character like any other.
    """
    fields: list[str] = []
    after_quote = ""
    for found in _FIELD[separator].finditer(text, start):
        quoted, rest, _, plain, _ = found.groups()
        if quoted is None and plain.lstrip(" ").startswith('"'):
            return None
        if quoted is not None and ("\n" in quoted or "\r" in quoted):
            after_quote = after_quote or rest.strip()
        fields.append(plain if quoted is None else quoted.replace('""', '"') + rest.rstrip(" "))
        if separator not in (found[3], found[5]):
            return fields, after_quote, found.end()
    return None


def _is_blank(record: _Record) -> bool:
    return not any(cell.strip() for cell in record.fields)


def _looks_like_key(cell: str, shapes: set[str]) -> bool:
    closes = cell.endswith('"') and not cell.startswith('"')  # the rest of a key that spans lines
    return bool(shape := _shape(cell)) and not closes and shape in shapes


def _shape(text: str) -> str:
    """What a key looks like: item-12.jpg is a-0.a."""
    for pattern, short in _SHAPE:
        text = pattern.sub(short, text.strip(' "\r\n'))
    return text
