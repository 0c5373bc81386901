"""What a run was trained on: the ids that trained, validated and tested, in order, and the set that they are from.

    RUN/trained_on.safetensors   all ids of the set, and the rows of each part, in order: at most 8 bytes a row beside the ids
    RUN/trained_on.json          the set's identity, the classes, the checksum of the other file; written last

A set is identified by its ids: another order, another folder or a corrected label does not make it another set.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastfashion.catalog import JointSplit, joint_split, oversampled
from fastfashion.catalog.columns import Table
from fastfashion.catalog.splits import Rule
from fastfashion.config import DataConfig
from fastfashion.errors import ConfigError, FastfashionError, InputError
from fastfashion.files import publish, publish_json, unreadable
from fastfashion.model.weights import checksum
from fastfashion.runs.files import TRAINED_ON, TRAINED_ON_ROWS, read_if_there
from fastfashion.shards import PackedSet
from fastfashion.untrusted import Count, Format, Sha256, described, file_sha256, parse_description

FORMAT = Format("fastfashion-trained-on", oldest=1, newest=2, sealed=2)
MAX_DESCRIPTION_BYTES = 1 << 28
_MOST_TIMES = 100  # by which oversampling lengthens an epoch: less than the root of the number of classes
_SEPARATOR = "\0"  # no file name has it, and so no id
_SHOWN = 3  # ids in a message


@dataclass(frozen=True, kw_only=True)
class SetIdentity:
    """Which packed set: two of equal `ids_sha256` are the same."""

    path: str  # where it was
    num_rows: Count
    ids_sha256: Sha256  # of all ids, sorted, with line feeds between

    @classmethod
    def of(cls, packed: PackedSet) -> "SetIdentity":
        ids = sorted(packed.ids)
        return cls(path=str(packed.path), num_rows=len(ids), ids_sha256=hashlib.sha256("\n".join(ids).encode()).hexdigest())

    def __str__(self) -> str:
        return f"{self.path} ({self.num_rows} rows, ids {self.ids_sha256[:12]})"


@dataclass(frozen=True, kw_only=True)
class _Description:
    """trained_on.json."""

    set: SetIdentity
    assumed: bool
    lists: dict[Literal["val", "test"], dict[str, str]]  # the name of each task's rows in the other file
    classes: dict[str, tuple[str, ...]]
    train_counts: dict[str, tuple[Count, ...]]
    sha256: Sha256  # of the other file

    def __post_init__(self) -> None:
        tasks = list(self.classes)
        for what, of in (("val", self.lists.get("val", {})), ("test", self.lists.get("test", {})), ("train_counts", self.train_counts)):
            if not tasks or list(of) != tasks:
                raise ValueError(f"{what}: expected the labels {', '.join(tasks)}, found {', '.join(of) or 'none'}")
        for task, names in self.classes.items():
            if len(names) != len(self.train_counts[task]):
                raise ValueError(f"train_counts of {task}: expected {len(names)}, one per class, found {len(self.train_counts[task])}")


@dataclass(frozen=True, kw_only=True)
class RowsOfSet:
    """A run's own parts as rows of a packed set."""

    split: JointSplit
    train: np.ndarray  # int64 (n,): of an epoch, rare classes several times
    val: np.ndarray  # int64 (m,): all rows that any task is validated on
    numbers: np.ndarray | None  # int64 (N,): the place of each row in the run's own list; None: it is the row itself
    shard_starts: np.ndarray  # int64 (S,): of that list


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """A run's own list. Rows of `split` are places in `ids`: the rows of the set when training started."""

    source: SetIdentity
    ids: np.ndarray  # str (N,)
    split: JointSplit
    times: np.ndarray  # int64 (n,): how often an epoch has each row of split.train
    shard_starts: np.ndarray  # int64 (S,): first row of each shard, if the order of an epoch depends on them; else (0,)
    classes: dict[str, tuple[str, ...]]
    train_counts: dict[str, tuple[int, ...]]  # training rows of each class
    assumed: bool = False  # made after training, from the set that was found then: the run is from before there were such lists

    @cached_property
    def seen(self) -> np.ndarray:
        """bool (N,): which ids train, validate or test."""
        seen = np.zeros(len(self.ids), dtype=bool)
        for rows in (self.split.train, *self.split.val.values(), *self.split.test.values()):
            seen[rows] = True
        return seen

    def rows_in(self, packed: PackedSet) -> np.ndarray:
        """int64 (N,): the row in `packed` of each of `ids`, -1 if it has none. Raises InputError if `packed` has an id twice."""
        found = packed.ids
        if np.array_equal(found, self.ids):
            return np.arange(len(found))
        import pandas as pd

        index = pd.Index(found)
        if not index.is_unique:
            raise InputError(f"{packed.path}: the id {index[index.duplicated()][0]!r} occurs twice; pack the set again")
        return index.get_indexer(pd.Index(self.ids)).astype(np.int64)

    def check(self, run: Path, packed: PackedSet) -> np.ndarray:
        """As `rows_in`; raises InputError if `packed` has other ids, with both sets and the first ids that differ."""
        rows = self.rows_in(packed)
        if len(packed) == len(self.ids) and (rows >= 0).all():
            return rows
        missing = self.ids[rows < 0]
        more = np.setdiff1d(np.arange(len(packed)), rows)
        parts = [f"{len(missing)} ids of the training are missing ({_first(missing.tolist())})"] if len(missing) else []
        parts += [f"{len(more)} are new ({_first(packed.ids[more].tolist())})"] if len(more) else []
        raise InputError(
            f"{run} was trained on {self.source}, and {SetIdentity.of(packed)} holds other ids: {', '.join(parts)}. "
            f"Name the set that it was trained on with --shards; to train on this set, choose another --name; to test what the run "
            f"never saw of it: fastfashion evaluate {run} --shards {packed.path} --rows unseen"
        )

    def on(self, run: Path, packed: PackedSet) -> RowsOfSet:
        """The parts in `packed`, in the run's own order. Raises what `check` raises."""
        rows, numbers = self.check(run, packed), None
        if not np.array_equal(rows, np.arange(len(rows))):
            numbers = np.argsort(rows)
        split = place(self.split, rows) if numbers is not None else self.split
        return RowsOfSet(
            split=split,
            train=np.repeat(split.train, self.times),
            val=rows[self.split.rows("val")],
            numbers=numbers,
            shard_starts=self.shard_starts,
        )

    def assumption(self, run: Path) -> str:
        """The note, printed once, for a run from before there were lists of ids."""
        return (
            f"{run}: it is from before runs kept the ids that they were trained on; {self.source} is assumed to be its set, {TRAINED_ON} "
            "is written now, and the ids are checked from now on"
        )


def check_classes(run: Path, packed: PackedSet, classes: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ConfigError if labels of `packed` have other classes than the run's heads."""
    for task, names in classes.items():
        found = packed.vocab.names(task)
        if found != names:
            gone, new = [name for name in names if name not in found], [name for name in found if name not in names]
            parts = [f"{what}: {_first(some)}" for what, some in (("missing", gone), ("new", new)) if some]
            raise ConfigError(
                f"{packed.path}: its {len(found)} classes of {task} are not the {len(names)} that {run} was trained on "
                f"({'; '.join(parts) or 'in another order'}); name the packed set of the training with --shards, or train on this one "
                "under another --name"
            )


def _first(texts: Sequence[str]) -> str:
    return ", ".join(map(repr, texts[:_SHOWN])) + (", …" if len(texts) > _SHOWN else "")


def list_rows(packed: PackedSet, data: DataConfig, table: Table, rule: Rule | None = None, *, assumed: bool = False) -> TrainedOn:
    """What a run of these settings trains on. table: the set's, with the run's corrections, which do not change the split.

    rule: that of the settings, if it was read already. Raises what `joint_split` raises, and ConfigError if a resolution that decides
    the order is not packed.
    """
    rule = rule or Rule.of(data, lambda: packed.table)
    split = joint_split(packed.columns, packed.vocab, data.tasks, data.split_tasks, rule)
    times = np.ones(len(split.train), dtype=np.int64)
    if data.oversample:
        train = oversampled(split.train, packed.vocab.codes(table, data.split_tasks[:1])[:, 0], data.oversample)
        times = np.bincount(train, minlength=len(packed))[split.train]
    shard_starts = np.zeros(1, dtype=np.int64)
    if data.shuffle == "window":
        shard_starts = np.flatnonzero(np.diff(packed.open(data.resolution).shard, prepend=-1))
    classes = {task: packed.vocab.names(task) for task in data.tasks}
    labels = dict(zip(data.tasks, packed.vocab.codes(table, data.tasks)[split.train].T, strict=True))
    return TrainedOn(
        source=SetIdentity.of(packed),
        ids=packed.ids,
        split=split,
        times=times,
        shard_starts=shard_starts,
        classes=classes,
        train_counts={task: tuple(np.bincount(codes[codes >= 0], minlength=len(classes[task])).tolist()) for task, codes in labels.items()},
        assumed=assumed,
    )


def place(split: JointSplit, rows: np.ndarray) -> JointSplit:
    """A split of rows of a set, from one of places in a run's list. rows: int64 (N,), the row of each place; -1 is dropped."""
    moved = {id(part): rows[part][rows[part] >= 0] for part in (split.train, *split.val.values(), *split.test.values())}
    return JointSplit(
        train=moved[id(split.train)],
        val={task: moved[id(part)] for task, part in split.val.items()},
        test={task: moved[id(part)] for task, part in split.test.items()},
    )


def write_trained_on(run: Path, kept: TrainedOn) -> None:
    """Publish both files; raises OSError if they cannot be written."""
    from safetensors.numpy import save_file

    lists = {id(part): part for part in (*kept.split.val.values(), *kept.split.test.values())}
    names = {key: f"part_{number}" for number, key in enumerate(lists)}
    text = _SEPARATOR.join(kept.ids.tolist())
    tensors = {"ids": np.frombuffer(text.encode(), dtype=np.uint8), "train": _small(kept.split.train, len(kept.ids))}
    tensors |= {names[key]: _small(part, len(kept.ids)) for key, part in lists.items()} | {"shard_starts": kept.shard_starts}
    if (kept.times != 1).any():
        tensors["times"] = _small(kept.times, int(kept.times.max()) + 1)
    publish(run / TRAINED_ON_ROWS, lambda beside: save_file(tensors, beside))
    parts = {part: {task: names[id(rows)] for task, rows in getattr(kept.split, part).items()} for part in ("val", "test")}
    counts: dict[str, Any] = {"train": len(kept.split.train)}
    counts |= {part: {task: len(rows) for task, rows in getattr(kept.split, part).items()} for part in ("val", "test")}
    known = {"set": asdict(kept.source), "assumed": kept.assumed, "rows": counts, "lists": parts}
    known |= {"classes": kept.classes, "train_counts": kept.train_counts, "sha256": file_sha256(run / TRAINED_ON_ROWS)}
    publish_json(run / TRAINED_ON, described(FORMAT, known))


def read_trained_on(run: Path) -> TrainedOn | None:
    """A run's list; None if it has none. Raises InputError if it is damaged or cannot be read."""
    from safetensors.numpy import load_file

    path, rows = run / TRAINED_ON, run / TRAINED_ON_ROWS
    advice = f"put it back from a copy; without {path.name} and {rows.name} the run's rows are computed from its set, unchecked"
    data = read_if_there(path, MAX_DESCRIPTION_BYTES, InputError)
    if data is None:
        return None
    known = parse_description(data, FORMAT, _Description, str(path), InputError, advice)
    try:
        if checksum(rows) != known.sha256:
            raise InputError(f"{rows}: damaged: its checksum is not the one in {path.name}; {advice}")
        return _from_files(known, load_file(rows))
    except FileNotFoundError:
        raise InputError(f"{rows}: missing; {advice}") from None
    except OSError as error:
        raise InputError(f"{rows}: {unreadable(error)}") from error
    except FastfashionError:
        raise
    except Exception as error:  # safetensors has errors of its own
        raise InputError(f"{rows}: not readable as a run's list of ids ({type(error).__name__}: {error}); {advice}") from error


def _from_files(known: _Description, tensors: Mapping[str, np.ndarray]) -> TrainedOn:
    """Raises ValueError or KeyError if the two files contradict each other, or a row is none of the list."""
    ids = np.array(tensors["ids"].tobytes().decode().split(_SEPARATOR), dtype=object)
    if len(set(ids)) != len(ids):
        raise ValueError("ids: an id occurs twice")
    parts = {name: _rows(name, tensors[name], len(ids)) for of in known.lists.values() for name in of.values()}
    train = _rows("train", tensors["train"], len(ids))
    times = _rows("times", tensors["times"], math.isqrt(len(train)) + 2) if "times" in tensors else np.ones(len(train), dtype=np.int64)
    if len(times) != len(train) or not len(train) <= times.sum() <= _MOST_TIMES * len(train):
        raise ValueError(f"times: expected how often each of {len(train)} training rows is in an epoch, found {len(times)} other numbers")
    starts = _rows("shard_starts", tensors["shard_starts"], len(ids))
    if not len(starts) or starts[0] != 0 or (np.diff(starts) <= 0).any():
        raise ValueError("shard_starts: expected ascending rows from 0 on")
    return TrainedOn(
        source=known.set,
        ids=ids,
        split=JointSplit(
            train=train,
            val={task: parts[name] for task, name in known.lists["val"].items()},
            test={task: parts[name] for task, name in known.lists["test"].items()},
        ),
        times=times,
        shard_starts=starts,
        classes=known.classes,
        train_counts=known.train_counts,
        assumed=known.assumed,
    )


def _rows(name: str, values: np.ndarray, below: int) -> np.ndarray:
    """int64 (n,), each from 0 to below `below`."""
    if values.ndim != 1 or values.dtype.kind not in "iu" or (len(values) and not 0 <= int(values.min()) <= int(values.max()) < below):
        raise ValueError(f"{name}: expected whole numbers from 0 to {below - 1}")
    return values.astype(np.int64)


def _small(rows: np.ndarray, below: int) -> np.ndarray:
    return rows.astype(np.uint16 if below <= 1 << 16 else np.uint32)
