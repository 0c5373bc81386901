"""Published results, one TOML file each in published/: their cells and scores, and the splits they were measured on."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import msgspec
import numpy as np

from fastfashion.catalog import ids_hash, split_rows
from fastfashion.catalog.splits import Rule
from fastfashion.config import DataConfig
from fastfashion.errors import ConfigError, FastfashionError
from fastfashion.shards import PackedSet

DIGITS = 16  # of a hash, as the files have them


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a source gives for a cell; None if it gives nothing."""

    accuracy: float | None = None
    macro_f1: float | None = None


class ImageSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One size of the same images: the height of most of them, and the command that downloads them."""

    height_px: int
    download: str


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published result: a model trained on one label of images of one size."""

    task: str
    images: str
    model: str
    epochs: int
    scores: dict[str, Score]  # by source

    @property
    def name(self) -> tuple[str, str, str]:
        return self.task, self.images, self.model


class Published(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of published results."""

    data: str  # in words
    protocol: str  # of its splits
    recipe: str  # under which a cell is trained for its own number of epochs
    sources: dict[str, str]  # of scores, and what a table calls them
    images: dict[str, ImageSize]
    splits: dict[str, tuple[str, str, str]]  # task -> beginnings of the hashes of the ids of train, val and test
    cells: tuple[Cell, ...]
    joint: bool = False  # one model learns all labels
    split_source: str = ""  # of the file protocol: which files to name, and where they are

    def values(self, what: str) -> tuple[str, ...]:
        """The different values of "task", "images" or "model" among the cells, in their order."""
        return tuple(dict.fromkeys(getattr(cell, what) for cell in self.cells))

    def images_of(self, packed: PackedSet) -> str:
        """Which of the sizes a set has: the one whose height is nearest to that of its images before packing."""
        height_px = float(np.median(packed.column("height")))
        return min(self.images, key=lambda name: abs(np.log(self.images[name].height_px / height_px)))

    def difference(self, packed: PackedSet, tasks: Iterable[str], split_file: str = "") -> str:
        """The first part of a split in which a set's rows are not the published ones, in words; "" if all are."""
        ids = packed.ids
        data = DataConfig(protocol=self.protocol, split_file=split_file)
        for task in tasks:
            try:
                split = split_rows(packed.columns, packed.vocab, task, Rule.of(data, lambda: packed.table))
            except FastfashionError as error:
                return str(error)
            for (part, rows), expected in zip(split.parts().items(), self.splits[task], strict=True):
                found = ids_hash(ids[rows].tolist())[:DIGITS]
                if found != expected:
                    return f"the {part} part of its {task} split has {len(rows)} rows of hash {found}, expected {expected}"
        return ""

    def other_data(self, sets: Mapping[str, PackedSet], tasks: Iterable[str], any_set: bool, split_file: str = "") -> frozenset[str]:
        """Which of the sets hold other data than the published values are of. Raises ConfigError for one, unless `any_set`."""
        differ = {name: reason for name, packed in sets.items() if (reason := self.difference(packed, tasks, split_file))}
        for name, reason in differ.items():
            if not any_set:
                raise ConfigError(
                    f"{sets[name].path}: not the data behind the published values ({reason}); expected {self.data}:  "
                    f"{self.images[name].download}. --any-set runs it anyway and marks the table"
                )
        return frozenset(differ)


def published_names() -> tuple[str, ...]:
    """The names of all published results, as `fastfashion reproduce` takes them."""
    found = (path.name for path in files("fastfashion.evaluate").joinpath("published").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def read_published(name: str) -> Published:
    """Raises ConfigError if there are no results of that name."""
    if name not in published_names():
        raise ConfigError(f"{name or 'NAME'}: no published results of that name; expected one of {', '.join(published_names())}")
    text = files("fastfashion.evaluate").joinpath("published", f"{name}.toml").read_text(encoding="utf-8")
    values: dict[str, Any] = msgspec.toml.decode(text)
    for cell in values["cells"]:
        cell["scores"] = {source: cell.pop(source) for source in values["sources"] if source in cell}
    return msgspec.convert(values, Published)
