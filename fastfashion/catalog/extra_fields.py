"""Rows with more fields than the header has names: an unquoted separator in the product's name, or in another column."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_YEAR = re.compile(r"\d{1,4}(\.0+)?")


@dataclass(frozen=True, kw_only=True)
class SurplusCheck:
    """Decides whether the surplus fields of a row belong to the name, by the year and labels of rows without surplus."""

    header: Sequence[str]
    separator: str
    name: int  # place of the name in the header
    year: int | None  # place of the year; None if there is no such column, or it mostly holds other things
    labels: Mapping[int, frozenset[str]]  # place of a label -> what rows without surplus have there
    no_label: Sequence[str]

    def reason(self, fields: Sequence[str]) -> str:
        """Why a row cannot be right with the surplus joined into the name; "" if it can, or has no surplus."""
        surplus = len(fields) - len(self.header)
        if surplus <= 0:
            return ""
        readings = {place: join(fields, place, surplus, self.separator) for place in range(len(self.header))}
        named = readings.pop(self.name)
        said = f"expected {len(self.header)} fields, found {len(fields)}"
        # Of readings that fit equally well, prefer the one with a space after the separator, as people write lists.
        place = max(readings, key=lambda place: (self._fit(readings[place]), f"{self.separator} " in readings[place][place]))
        if self._fit(readings[place]) > self._fit(named):
            found = readings[place][place].strip()
            return f"{said}: the separator seems to be in {self.header[place]} ({found!r}); put quotes around that field"
        if self._fit(named) < 0 and self.year is not None:
            return f"{said}, and with the rest put into {self.header[self.name]} year is {named[self.year].strip()!r}; quote such fields"
        return ""

    def _fit(self, fields: Sequence[str]) -> int:
        """How many fields have values that other rows have; -1 if the year is not a year."""
        fits = sum(fields[place].strip() in known for place, known in self.labels.items())
        if self.year is None or (year := fields[self.year].strip()) in self.no_label:
            return fits
        return fits + 1 if _YEAR.fullmatch(year) else -1


def mostly_years(texts: Sequence[str]) -> bool:
    return 2 * sum(_YEAR.fullmatch(text) is not None for text in texts) >= len(texts)


def join(fields: Sequence[str], at: int, surplus: int, separator: str) -> list[str]:
    """Put surplus fields back into the field that an unquoted separator split."""
    return [*fields[:at], separator.join(fields[at : at + surplus + 1]), *fields[at + surplus + 1 :]]
