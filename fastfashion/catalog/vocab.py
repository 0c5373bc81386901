"""Class names by task, and labels as integer codes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.catalog.columns import Table, codes
from fastfashion.catalog.styles import LABEL_COLUMNS, NO_LABEL, Columns
from fastfashion.config import ALL
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.untrusted import parse_json

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Vocab:
    """Task -> class names, sorted; the code of a label is its place in that list, -1 means no label."""

    classes: Mapping[str, tuple[str, ...]]

    @classmethod
    def of_table(cls, table: "pd.DataFrame", tasks: Iterable[str] = LABEL_COLUMNS, no_label: Iterable[str] = NO_LABEL) -> "Vocab":
        """The labels that occur in the columns of a catalog, without the spellings that mean no label."""
        none = set(no_label)
        return cls({task: tuple(sorted(set(table[task].unique()) - none)) for task in tasks})

    @classmethod
    def of_json(cls, data: bytes, where: str) -> "Vocab":
        """Read vocab.json; raises PackedSetError, with `where`, for anything but sorted lists of different labels."""
        classes = parse_json(data, dict[str, tuple[str, ...]], where, PackedSetError, "pack the set again")
        try:
            Columns(labels=tuple(classes))
        except ConfigError as error:
            raise PackedSetError(f"{where}: {str(error).removeprefix('--label-columns: ')}") from error
        for task, names in classes.items():
            if wrong := next((b for a, b in pairwise(names) if a >= b), None):
                raise PackedSetError(f"{where}: classes of {task}: {wrong!r} is there twice or out of order; pack the set again")
        return cls(classes)

    def names(self, task: str) -> tuple[str, ...]:
        """Class names of a task; raises ConfigError if there is no such task."""
        if task not in self.classes:
            raise ConfigError(f"unknown task {task!r}: this packed set has {', '.join(self.classes)}; choose among them")
        return self.classes[task]

    def chosen(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """The tasks that `--task` names, with "all" expanded; raises ConfigError for an unknown one, and for one without a label."""
        if tuple(tasks) == (ALL,):
            tasks = self._labelled() or tuple(self.classes)[:1]  # refused below, by name
        return tuple(map(self.check, tasks))

    def check(self, task: str) -> str:
        """The task, if it can be learned; raises ConfigError for an unknown one, and if no row has a label for it."""
        if not self.names(task):
            others = ", ".join(self._labelled()) or "none: pack the set again with other --label-columns"
            raise ConfigError(f"{task!r} has no label in this packed set, so it cannot be learned; choose among {others}")
        return task

    def _labelled(self) -> tuple[str, ...]:
        return tuple(task for task, names in self.classes.items() if names)

    def left_out(self, tasks: Sequence[str]) -> str:
        """A line about the columns without a label that "all" leaves out; "" if it leaves out none."""
        empty = [task for task, names in self.classes.items() if not names] if tuple(tasks) == (ALL,) else []
        return f"left out of all, since they have no label in this set: {', '.join(empty)}" if empty else ""

    def codes(self, table: Table, tasks: Sequence[str]) -> np.ndarray:
        """Labels as int64 (N, T), -1 if a row has none, or one that is not in the vocabulary."""
        return np.stack([codes(self.names(task), table[task]) for task in tasks], axis=1)
