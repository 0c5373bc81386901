"""Labels put right: a small CSV of id, task, label that is laid over a catalog, so that nobody edits the shop's table by hand."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from fastfashion.catalog.styles import NO_LABEL
from fastfashion.catalog.vocab import Vocab
from fastfashion.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "task", "label")


def correct(table: "pd.DataFrame", vocab: Vocab, path: Path) -> "pd.DataFrame":
    """A copy of a catalog with the labels of a corrections file; an empty label takes a label away.

    Other columns of the file are for people. Splits are to be computed from the table as it was, so that they stay the same lists of rows.
    Raises InputError, with the line, for an id or a task that is not in the catalog, a label that no row had, and contradictions.
    """
    import pandas as pd

    try:
        with path.open("rb") as file:
            lines = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as a CSV of corrections ({error}); expected the columns {', '.join(COLUMNS)}") from error
    if missing := [name for name in COLUMNS if name not in lines.columns]:
        raise InputError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}, found {', '.join(lines.columns)}")
    row_of = {identity: row for row, identity in enumerate(table["id"])}
    corrected = {task: table[task].to_numpy(dtype=object, copy=True) for task in vocab.classes}
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    for number, (identity, task, label) in enumerate(lines[list(COLUMNS)].itertuples(index=False, name=None), start=2):
        _check(vocab, task, label, f"{path}, line {number}")
        if identity not in row_of:
            raise InputError(f"{path}, line {number}: no picture has the id {identity!r}")
        other, where = seen.setdefault((identity, task), (label, number))
        if other != label:
            raise InputError(f"{path}, line {number}: {task} of {identity} is {label!r}, but {other!r} in line {where}; keep one of them")
        corrected[task][row_of[identity]] = label
    return table.assign(**corrected)


def _check(vocab: Vocab, task: str, label: str, where: str) -> None:
    if task not in vocab.classes:
        raise InputError(f"{where}: no task {task!r}; expected {', '.join(vocab.classes)}")
    if label not in NO_LABEL and label not in vocab.classes[task]:
        near = difflib.get_close_matches(label, vocab.classes[task], n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "a new class needs a row in the table and the set packed again"
        raise InputError(f"{where}: no class {label!r} of {task}; {hint}")
