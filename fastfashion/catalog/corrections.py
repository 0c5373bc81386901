"""Corrected labels: a small CSV of id, task, label that is applied to a catalog, so that nobody edits the shop's table by hand."""

import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from fastfashion.catalog.csv_reader import read_csv
from fastfashion.catalog.ids import RowFinder, went_through_floats
from fastfashion.catalog.styles import NO_LABEL
from fastfashion.catalog.vocab import Vocab
from fastfashion.csv_files import unescaped
from fastfashion.errors import InputError
from fastfashion.untrusted import read_limited
from fastfashion.words import did_you_mean, why

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "task", "label")
MAX_BYTES = 1 << 28


def correct(table: "pd.DataFrame", vocab: Vocab, path: Path, *, of_another_set: bool = False) -> "pd.DataFrame":
    """A copy of a catalog with the labels of a corrections file; an empty label removes a label.

    An id may be written as in the table that the set was packed from. Other columns of the file are ignored. Compute splits from the table
    without corrections, so that they stay the same lists of rows. With `of_another_set`, lines whose id, task or label the catalog does not
    have are skipped. Raises InputError, with the line, for a line without one of the three fields or with more fields than the header, an
    id or a task that is not in the catalog, a label that no row had, and contradictions.
    """
    corrected = {task: table[task].to_numpy(dtype=object, copy=True) for task in vocab.classes}
    finder = RowFinder(table)
    seen: dict[tuple[int, str], tuple[str, int]] = {}
    lines = _read(path)
    floats = went_through_floats([identity for _, identity, _, _ in lines])
    for number, identity, task, label in lines:
        task = _as_known(task, vocab.classes)
        label = _as_known(label, vocab.classes.get(task, ()))
        if of_another_set and (task not in vocab.classes or label not in (*NO_LABEL, *vocab.classes[task])):
            continue
        _check(vocab, task, label, f"{path}, line {number}")
        spellings = (unescaped(identity).strip(), identity, identity.removesuffix(".0") if floats else "")  # the second is of --raw
        row = next((row for text in spellings if (row := finder.find(text)) is not None), None)
        if row is None and of_another_set:
            continue
        if row is None:
            raise InputError(f"{path}, line {number}: no image has the id {identity!r}; correct it or remove the line")
        other, where = seen.setdefault((row, task), (label, number))
        if other != label:
            raise InputError(f"{path}, line {number}: {task} of {identity} is {label!r}, but {other!r} in line {where}; keep one of them")
        corrected[task][row] = label
    return table.assign(**corrected)


def _read(path: Path) -> list[tuple[int, str, str, str]]:
    """Line number, id, task and label of each line."""
    try:
        data = read_limited(path, MAX_BYTES)
    except OSError as error:
        expected = f"expected a CSV with the columns {', '.join(COLUMNS)}"
        raise InputError(f"{path}: not readable ({why(error)}); {expected}") from error
    file = read_csv(data, str(path), COLUMNS)
    places = [file.places[name] for name in COLUMNS]
    lines = []
    for number, fields in file:
        if len(fields) <= max(places) or len(fields) > len(file.header):
            raise InputError(
                f"{path}, line {number}: expected {len(file.header)} fields ({', '.join(file.header)}), found {len(fields)}; an empty "
                "label needs its separator before it, and quotes belong around a field with a separator in it"
            )
        identity, task, label = (fields[place].strip() for place in places)
        lines.append((number, identity, task, label))
    return lines


def _as_known(text: str, known: Collection[str]) -> str:
    """A cell as the catalog spells it: without the apostrophe before a formula, unless the catalog has that apostrophe, too (--raw)."""
    plain = unescaped(text).strip()
    spellings = (plain, unicodedata.normalize("NFC", plain), text)  # names are composed (NFC), except in sets of version 2
    return next((spelling for spelling in spellings if spelling in known), spellings[1])


def _check(vocab: Vocab, task: str, label: str, where: str) -> None:
    if task not in vocab.classes:
        raise InputError(f"{where}: no task {task!r}; expected {', '.join(vocab.classes)}")
    if label not in NO_LABEL and label not in vocab.classes[task]:
        hint = did_you_mean(label, vocab.classes[task], "a new class needs a row in the table and the set packed again")
        raise InputError(f"{where}: no class {label!r} of {task}; {hint}")
