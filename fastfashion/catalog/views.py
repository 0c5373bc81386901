"""Views: a catalog whose labels are changed while it is used, and no byte of the packed set with them.

catalog, vocabulary ─► where ─► class map ─► classes ─► smallest class ─► catalog, vocabulary of the same rows

What a view leaves out has no label any more, so that no split, loss or score counts it. Rows keep their numbers and ids.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fastfashion.catalog.columns import codes
from fastfashion.catalog.conditions import rows_where
from fastfashion.catalog.csv_reader import read_csv
from fastfashion.catalog.vocab import Vocab
from fastfashion.config import DataConfig
from fastfashion.csv_files import unescaped
from fastfashion.errors import ConfigError, InputError
from fastfashion.untrusted import parse_json, read_limited
from fastfashion.words import counted, did_you_mean, why

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")
MAX_BYTES = 1 << 26  # of a file of classes


@dataclass(frozen=True, kw_only=True)
class View:
    """Which rows and classes are used, and how classes are called."""

    where: str = ""  # a condition; rows that do not meet it have no label
    class_map: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # task -> class -> its new name; "": none
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # task -> the only ones, by their new names
    min_class_size: int = 0  # rows; smaller classes are left out

    @classmethod
    def of(cls, data: DataConfig) -> "View":
        """The view that settings name; reads their files. Raises ConfigError or InputError for one that cannot be used."""
        return cls(
            where=data.where,
            class_map=read_class_map(Path(data.class_map)) if data.class_map else {},
            classes=read_classes(Path(data.classes)) if data.classes else {},
            min_class_size=data.min_class_size,
        )

    def __bool__(self) -> bool:
        return self != View()

    def for_other_rows(self) -> "View":
        """The part that means the same for other rows: a run's model has classes already, whatever their sizes are elsewhere."""
        return replace(self, classes={}, min_class_size=0)

    def applied(self, columns: "pa.Table", vocab: Vocab, *, strict: bool = True) -> tuple["pa.Table", Vocab]:
        """The catalog with the labels of the view, and its vocabulary. Classes without a row are in neither.

        Raises ConfigError for a condition that no row meets, and, if `strict`, for labels and classes that the set does not have.
        """
        if not self:
            return columns, vocab
        if strict:
            self._check(vocab)
        kept = rows_where(columns, self.where) if self.where else np.ones(len(columns), dtype=bool)
        if not kept.any():
            raise ConfigError(f"where {self.where!r}: no row of the set meets it")
        found: dict[str, tuple[str, ...]] = {}
        for task, names in vocab.classes.items():
            labels, found[task] = self._labels(task, names, np.where(kept, codes(names, columns[task]), -1))
            columns = columns.set_column(columns.schema.get_field_index(task), task, labels)
        return columns, Vocab(found)

    def relabelled(self, table: "pd.DataFrame", columns: "pa.Table", vocab: Vocab, shown: Vocab) -> "pd.DataFrame":
        """A catalog with corrected labels, as this view shows it. columns, vocab: of the set; shown: the vocabulary of the view of it."""
        if not self:
            return table
        kept = rows_where(columns, self.where) if self.where else np.ones(len(table), dtype=bool)
        changed = {}
        for task, names in vocab.classes.items():
            called = {name: self.class_map.get(task, {}).get(name, name) for name in names}
            known = set(shown.names(task))
            labels = table[task].map({name: to for name, to in called.items() if to in known})
            changed[task] = labels.where(kept).fillna("")
        return table.assign(**changed)

    def _labels(self, task: str, names: tuple[str, ...], old: np.ndarray) -> tuple["pa.Array", tuple[str, ...]]:
        """A column of labels and the names in it. old: int64 (N,), codes in `names`."""
        import pyarrow as pa

        called = [self.class_map.get(task, {}).get(name, name) for name in names]
        if task in self.classes:
            called = [name if name in self.classes[task] else "" for name in called]
        order = sorted(set(called) - {""})
        place = {name: code for code, name in enumerate(order)} | {"": -1}
        new = np.array([*(place[name] for name in called), -1], dtype=np.int64)[old]
        counts = np.bincount(new[new >= 0], minlength=len(order))
        large = counts >= max(1, self.min_class_size)
        new = np.where((new >= 0) & large[new], new, len(order))
        column = pa.DictionaryArray.from_arrays(pa.array(new, type=pa.int32()), pa.array([*order, ""], type=pa.large_string()))
        return column.cast(pa.large_string()), tuple(name for name, is_large in zip(order, large.tolist(), strict=True) if is_large)

    def _check(self, vocab: Vocab) -> None:
        """Raises ConfigError for labels and classes that the set does not have."""
        for task, mapped in self.class_map.items():
            _check_classes("class map", task, mapped, vocab, vocab.classes.get(task, ()))
        for task, names in self.classes.items():
            renamed = self.class_map.get(task, {})
            _check_classes("classes", task, names, vocab, {renamed.get(name, name) for name in vocab.classes.get(task, ())})


NO_VIEW = View()


def view_text(before: Vocab, after: Vocab, view: View, rows: int, total: int) -> str:
    """One line: what is left. rows: those with any label."""
    changed = [
        f"{task} {len(after.names(task))} of {counted(len(names), 'class', 'classes')}"
        for task, names in before.classes.items()
        if after.names(task) != names
    ]
    condition = f" where {view.where}" if view.where else ""
    return f"view   {rows:,} of {total:,} rows{condition}" + (f"; {', '.join(changed)}" if changed else "")


def _check_classes(what: str, task: str, names: Iterable[str], vocab: Vocab, known: Collection[str]) -> None:
    if task not in vocab.classes:
        raise ConfigError(f"{what}: no label {task!r} in this set; expected {', '.join(vocab.classes)}")
    for name in names:
        if name not in known:
            hint = did_you_mean(name, sorted(known), f"there are {counted(len(known), 'class', 'classes')}")
            raise ConfigError(f"{what}: {task} has no class {name!r}; {hint}")


def read_class_map(path: Path) -> dict[str, dict[str, str]]:
    """Classes to rename, merge or drop, by task: a CSV of task, class, to, or JSON {"task": {"class": "new name" or null}}.

    An empty new name drops a class. Raises InputError for another file, and for a class that is named twice.
    """
    if path.suffix.lower() == ".json":
        raw = _json(path, dict[str, dict[str, str | None]], '{"subCategory": {"Flip Flops": "Shoes", "Free Gifts": null}}')
        return {task: {name: to or "" for name, to in mapped.items()} for task, mapped in raw.items()}
    found: dict[str, dict[str, str]] = {}
    for number, (task, name, to) in _lines(path, ("task", "class", "to")):
        if found.setdefault(task, {}).setdefault(name, to) != to:
            raise InputError(
                f"{path}, line {number}: {task} {name!r} becomes {to!r} here and {found[task][name]!r} above; keep one of them"
            )
    return found


def read_classes(path: Path) -> dict[str, tuple[str, ...]]:
    """Classes to keep, by task: a CSV of task, class, or JSON {"task": ["class", …]}. Labels that it does not name keep all of theirs."""
    if path.suffix.lower() == ".json":
        return _json(path, dict[str, tuple[str, ...]], '{"subCategory": ["Shoes", "Bags"]}')
    found: dict[str, list[str]] = {}
    for _, (task, name) in _lines(path, ("task", "class")):
        found.setdefault(task, []).append(name)
    return {task: tuple(dict.fromkeys(names)) for task, names in found.items()}


def _lines(path: Path, columns: tuple[str, ...]) -> list[tuple[int, list[str]]]:
    """Line number and the wanted fields of each line."""
    file = read_csv(_bytes(path, f"a CSV with the columns {', '.join(columns)}, or JSON"), str(path), columns)
    places = [file.places[name] for name in columns]
    lines = []
    for number, fields in file:
        if len(fields) < len(columns) - 1 or len(fields) > len(file.header):
            raise InputError(f"{path}, line {number}: expected {len(file.header)} fields ({', '.join(file.header)}), found {len(fields)}")
        lines.append((number, [unescaped(fields[place]).strip() if place < len(fields) else "" for place in places]))
    if not lines:
        raise InputError(f"{path}: no line under the header {', '.join(file.header)}")
    return lines


def _json(path: Path, schema: type[T], example: str) -> T:
    return parse_json(_bytes(path, f"JSON such as {example}"), schema, str(path), InputError, f"write it as {example}")


def _bytes(path: Path, expected: str) -> bytes:
    try:
        return read_limited(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: not readable ({why(error)}); expected {expected}") from error
