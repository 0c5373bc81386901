"""Rows with more fields than the header has names: an unquoted comma in the name of the product, or elsewhere, which shifts labels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_YEAR = re.compile(r"\d{1,4}(\.0+)?")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Says whether the surplus fields of a row can belong to the name, by the year and by the labels of rows that have no surplus."""

    header: Sequence[str]
    name: int  # places in the header
    year: int | None  # None where there is no such column, or where it holds other things than years
    labels: Mapping[int, frozenset[str]]  # place of a label -> what rows without surplus have there
    no_label: frozenset[str]
    separator: str = ","

    def reason(self, fields: Sequence[str]) -> str:
        """Why a row cannot be right with the surplus put into the name; "" where it can."""
        surplus = len(fields) - len(self.header)
        if surplus <= 0:
            return ""
        said = f"expected {len(self.header)} fields, found {len(fields)}"
        whole = join(fields, self.name, surplus, self.separator)
        fitting = self._fit(whole)
        places = [place for place in range(len(self.header)) if place != self.name]
        others = {place: join(fields, place, surplus, self.separator) for place in places}
        # of readings that fit as well the one with a space after the separator, as people write lists
        place = max(places, key=lambda place: (self._fit(others[place]), f"{self.separator} " in others[place][place]))
        best = others[place]
        if self._fit(best) > fitting:
            return f"{said}: the separator seems to be in {self.header[place]} ({best[place].strip()!r}); put quotes around that field"
        if fitting < 0 and self.year is not None:
            return f"{said}, and with the rest put into {self.header[self.name]} year is {whole[self.year].strip()!r}; quote such fields"
        return ""

    def _fit(self, fields: Sequence[str]) -> int:
        """How many fields are as they are in other rows; -1 where the year is none."""
        fits = sum(fields[place].strip() in known for place, known in self.labels.items())
        if self.year is None or (year := fields[self.year].strip()) in self.no_label:
            return fits
        return fits + 1 if _YEAR.fullmatch(year) else -1


def is_year(text: str) -> bool:
    return bool(_YEAR.fullmatch(text))


def join(fields: Sequence[str], at: int, surplus: int, separator: str = ",") -> list[str]:
    """Surplus fields go back into the field that an unquoted comma tore apart."""
    return [*fields[:at], separator.join(fields[at : at + surplus + 1]), *fields[at + surplus + 1 :]]
