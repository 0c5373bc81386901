"""Splits: three lists of rows for a task, computed in milliseconds and never stored in a packed set."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.catalog.columns import Table, values
from fastfashion.catalog.named_splits import NamedSplit, read_split_file, split_of_column
from fastfashion.catalog.vocab import Vocab
from fastfashion.config import FOLDS, PROTOCOLS, DataConfig
from fastfashion.csv_files import publish_csv
from fastfashion.errors import ConfigError, InputError
from fastfashion.files import writing_to

if TYPE_CHECKING:
    import pandas as pd

REFERENCE_SEED = 42
PERCENT = {"train": 70, "val": 15, "test": 15}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows (int64) of the three parts, each in the order of the split."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True, kw_only=True)
class JointSplit:
    """Rows to train on, and for each task the rows to validate and test on; no row of either is trained on."""

    train: np.ndarray
    val: dict[str, np.ndarray]
    test: dict[str, np.ndarray]

    def of(self, task: str) -> Split:
        """The rows that one task is trained, validated and tested on."""
        return Split(train=self.train, val=self.val[task], test=self.test[task])

    def rows(self, part: str) -> np.ndarray:
        """The rows to predict for all tasks: ascending, except that a single list keeps its order."""
        lists = list({id(rows): rows for rows in getattr(self, part).values()}.values())
        return lists[0] if len(lists) == 1 else np.unique(np.concatenate(lists))

    def labels(self, part: str, codes: np.ndarray) -> np.ndarray:
        """Codes (N, T), by row of the set, with -1 if a row is not in that task's part."""
        masked = np.full_like(codes, -1)
        for t, rows in enumerate(getattr(self, part).values()):
            masked[rows, t] = codes[rows, t]
        return masked


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How to split."""

    protocol: str = "stratified"  # one of PROTOCOLS
    seed: int = 0  # of stratified; with folds the one to test on
    named: NamedSplit | None = None  # with file and column: the part of each row

    @classmethod
    def of(cls, data: DataConfig, table: "Callable[[], pd.DataFrame]") -> "Rule":
        """The rule that settings name; `table` gives the catalog, as pandas. Raises what reading a split file or column raises."""
        named = None
        if data.protocol == "file":
            named = read_split_file(Path(data.split_file), table())
        elif data.protocol == "column":
            named = split_of_column(table(), data.split_column)
        return cls(protocol=data.protocol, seed=data.protocol_seed, named=named)

    @property
    def keeps_twins_apart(self) -> bool:
        """Whether near-duplicates stay together in one part; published splits are taken as they are."""
        return self.protocol in ("stratified", "folds")


def joint_split(
    table: Table, vocab: Vocab, tasks: Sequence[str], split_tasks: Sequence[str], rule: Rule | str, seed: int = 0
) -> JointSplit:
    """Split rows for several tasks at once, by the splits of `split_tasks`, which differ from each other.

    A row is trained on if one of these splits trains on it and none validates or tests on it, or, unless the split is a published one
    (reference, file, column), on a near-duplicate of it. Tasks that are not in `split_tasks` get the rows of the first. Raises what
    `split_rows` raises.
    """
    rule = Rule(protocol=rule, seed=seed) if isinstance(rule, str) else rule
    splits = {task: split_rows(table, vocab, task, rule) for task in split_tasks}
    held = np.zeros(len(table), dtype=bool)
    for split in splits.values():
        held[np.concatenate([split.val, split.test])] = True
    if rule.keeps_twins_apart:
        groups = values(table["duplicate_group"])
        held = np.isin(groups, groups[held])
    either = np.concatenate([split.train for split in splits.values()])
    _, first = np.unique(either, return_index=True)
    train = either[np.sort(first)]
    joint = JointSplit(
        train=train[~held[train]],
        val={task: splits.get(task, splits[split_tasks[0]]).val for task in tasks},
        test={task: splits.get(task, splits[split_tasks[0]]).test for task in tasks},
    )
    for rows in (*joint.val.values(), *joint.test.values()):
        assert not np.isin(rows, joint.train).any(), "a row of a val or test part would be trained on"
    if len(joint.train) == 0:
        raise InputError(f"no row is left to train on: each is in a val or test part of {', '.join(split_tasks)}; split by fewer tasks")
    return joint


def oversampled(rows: np.ndarray, codes: np.ndarray, share: float) -> np.ndarray:
    """The rows, with those of rare classes repeated: repeat-factor sampling (Gupta et al. 2019, LVIS).

    rows: int64 (n,); codes: int64 (N,) by row of the set. Rows of a class that makes up a share f of all, f below `share`, are repeated
    sqrt(share / f) times, rounded; others, and rows without a label, are returned once.
    """
    mine = codes[rows]
    counts = np.maximum(np.bincount(mine[mine >= 0], minlength=1), 1)
    times = np.maximum(1, np.rint(np.sqrt(share * len(rows) / counts))).astype(np.int64)
    return np.repeat(rows, np.where(mine >= 0, times[mine], 1))


def split_rows(table: Table, vocab: Vocab, task: str, rule: Rule | str, seed: int = 0) -> Split:
    """Split the rows of a catalog for one task; rows without a label for it are in no part.

    `rule`: or a protocol, with `seed`. `reference` is the reference project's split and ignores the seed; `stratified` keeps class shares
    and duplicate groups, and so does `folds`, which makes FOLDS parts of equal size: the seed is the one to test on; `file` and `column`
    are exactly what they name, and if they name no val part, it is drawn from their train part as `stratified` draws it.
    Raises ConfigError for an unknown task or protocol or a negative seed, InputError if a part would be empty.
    """
    rule = Rule(protocol=rule, seed=seed) if isinstance(rule, str) else rule
    protocol, seed = rule.protocol, rule.seed
    codes = vocab.codes(table, [task])[:, 0]
    if protocol == "reference":
        split = _reference(table, codes)
    elif protocol == "stratified":
        if seed < 0:
            raise ConfigError(f"seed of the split: expected 0 or more, found {seed}")
        split = _stratified(values(table["duplicate_group"]), codes, seed)
    elif protocol == "folds":
        split = _fold(values(table["duplicate_group"]), codes, seed)
    elif rule.named is not None:
        split = _as_named(rule.named.parts, values(table["duplicate_group"]), codes, seed)
    elif protocol in PROTOCOLS:
        raise ConfigError(f"protocol {protocol}: needs the split that it names")
    else:
        raise ConfigError(f"unknown protocol {protocol!r}: there are {', '.join(PROTOCOLS)}")
    for part, rows in split.parts().items():
        if len(rows) == 0:
            raise InputError(f"the {part} part of the {protocol} split of {task} is empty: {_too_few(table, codes, protocol)}")
    return split


def _as_named(parts: np.ndarray, groups: np.ndarray, codes: np.ndarray, seed: int) -> Split:
    """The rows that have a label, in the parts that they are named for, in the catalog's order. parts: int8 (N,)."""
    train, val, test = (np.flatnonzero((parts == part) & (codes >= 0)) for part in range(3))
    if len(val) == 0 and not (parts == 1).any() and len(train):
        drawn = _stratified(groups, np.where(parts == 0, codes, -1), seed).val
        train, val = np.setdiff1d(train, drawn), drawn
    return Split(train=train, val=val, test=test)


def _too_few(table: Table, codes: np.ndarray, protocol: str) -> str:
    rows = np.flatnonzero(codes >= 0)
    if protocol in ("file", "column"):
        return f"it names none of the {len(rows)} rows that have a label"
    different = len(np.unique(values(table["duplicate_group"])[rows])) if protocol != "reference" else len(rows)
    if different == len(rows):
        return f"{len(rows)} labelled rows are too few"
    return (
        f"its {len(rows)} labelled rows show {different} different image{'' if different == 1 else 's'}, and near-duplicates stay together "
        "in one part, so these are too few; see them with fastfashion audit SET --out audit (duplicates.png)"
    )


def _reference(table: Table, codes: np.ndarray) -> Split:
    """ImageFolder's order (class name, then file name, both as strings), then torch's random_split with seed 42.

    Rows whose name held an unquoted comma are left out, because the reference project's CSV reader skips them.
    """
    import torch

    rows = np.flatnonzero((codes >= 0) & ~values(table["recovered"]))
    files = [f"{identity}.jpg" for identity in values(table["id"])[rows]]
    # The vocabulary sorts classes by name, so that codes sort as names do.
    order = sorted(range(len(rows)), key=lambda i: (codes[rows[i]], files[i]))
    permutation = torch.randperm(len(rows), generator=torch.Generator().manual_seed(REFERENCE_SEED)).numpy()
    shuffled = rows[np.asarray(order, dtype=np.int64)][permutation]
    num_train, num_val = int(0.7 * len(rows)), int(0.15 * len(rows))
    return Split(train=shuffled[:num_train], val=shuffled[num_train : num_train + num_val], test=shuffled[num_train + num_val :])


@dataclass(frozen=True, kw_only=True)
class _Groups:
    """The duplicate groups that have a labelled row, G of them, by the number of the group."""

    rows: np.ndarray  # int64 (n,): labelled rows, those of a group together
    sizes: np.ndarray  # int64 (G,): labelled rows of each
    classes: np.ndarray  # int64 (G,): the code of the first of them

    @classmethod
    def of(cls, groups: np.ndarray, codes: np.ndarray) -> "_Groups":
        labelled = np.flatnonzero(codes >= 0)
        rows = labelled[np.argsort(groups[labelled], kind="stable")]
        _, starts, sizes = np.unique(groups[rows], return_index=True, return_counts=True)
        return cls(rows=rows, sizes=sizes, classes=codes[rows[starts]])

    def of_rows(self, values: np.ndarray, num_rows: int) -> np.ndarray:
        """int64 (num_rows,): the value of each row's group, -1 for rows without a label. values: int64 (G,)."""
        found = np.full(num_rows, -1)
        found[self.rows] = np.repeat(values, self.sizes)
        return found


def _fold(groups: np.ndarray, codes: np.ndarray, fold: int) -> Split:
    """Each class spread over the folds, near-duplicates together; the fold after the tested one validates."""
    found = _Groups.of(groups, codes)
    rng = np.random.Generator(np.random.Philox(key=0))
    fold_of_group, filled = np.zeros(len(found.sizes), dtype=np.int64), [0] * FOLDS
    for code in np.unique(found.classes):
        of_class = [0] * FOLDS
        candidates = rng.permutation(np.flatnonzero(found.classes == code))
        for group, size in zip(candidates.tolist(), found.sizes[candidates].tolist(), strict=True):
            chosen = min(range(FOLDS), key=lambda f: (of_class[f], filled[f]))
            fold_of_group[group] = chosen
            of_class[chosen] += size
            filled[chosen] += size
    fold_of_row = found.of_rows(fold_of_group, len(codes))
    val, labelled = (fold + 1) % FOLDS, fold_of_row >= 0
    return Split(
        train=np.flatnonzero(labelled & (fold_of_row != fold) & (fold_of_row != val)),
        val=np.flatnonzero(fold_of_row == val),
        test=np.flatnonzero(fold_of_row == fold),
    )


def _stratified(groups: np.ndarray, codes: np.ndarray, seed: int) -> Split:
    """70/15/15 within each class, near-duplicates together.

    A duplicate group belongs as a whole to the class of its first labelled row. A class of one group is in train, one of two in train and
    test, one of three or more in every part.
    """
    found = _Groups.of(groups, codes)
    rng = np.random.Generator(np.random.Philox(key=seed))
    part_of_group = np.zeros(len(found.sizes), dtype=np.int64)
    for code in np.unique(found.classes):
        candidates = rng.permutation(np.flatnonzero(found.classes == code))
        part_of_group[candidates] = _parts(found.sizes[candidates].tolist())
    part_of_row = found.of_rows(part_of_group, len(codes))
    return Split(**{part: np.flatnonzero(part_of_row == number) for number, part in enumerate(PERCENT)})


def _parts(sizes: list[int]) -> list[int]:
    """The part, by its place in PERCENT, of each group of a class. sizes: its rows."""
    train, val, test = (percent * sum(sizes) for percent in PERCENT.values())  # a hundred times the rows that it lacks
    parts = []
    for place, size in enumerate(sizes):
        # The first three groups fill each part; every later one goes to the part that is furthest below its share.
        part = (0, 2, 1)[place] if place < 3 else 0 if train >= val and train >= test else 1 if val >= test else 2
        if part == 0:
            train -= 100 * size
        elif part == 1:
            val -= 100 * size
        else:
            test -= 100 * size
        parts.append(part)
    return parts


def write_split(path: Path, table: Table, split: JointSplit, *, raw: bool = False) -> dict[str, dict[str, dict[str, int | str]]]:
    """Write `id,split` in the order of the split, or `id,split,task` if tasks are tested on different rows.

    Returns, by task and part, the count and `ids_hash` of the rows. Raises InputError if the file cannot be written.
    """
    ids = values(table["id"])
    lists = {task: {part: ids[rows].tolist() for part, rows in split.of(task).parts().items()} for task in split.test}
    one = len({id(rows) for rows in split.test.values()}) == 1
    shown = dict(list(lists.items())[:1]) if one else lists
    lines = ((identity, part, task) for task, parts in shown.items() for part, named in parts.items() for identity in named)
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        publish_csv(path, ["id", "split"] if one else ["id", "split", "task"], (line[:2] if one else line for line in lines), raw=raw)
    return {
        task: {part: {"num_rows": len(named), "ids_sha256": ids_hash(named)} for part, named in parts.items()}
        for task, parts in lists.items()
    }


def splits_text(summary: Mapping[str, Mapping[str, Mapping[str, int | str]]]) -> str:
    """The result of `write_split` for a terminal: one line, or one for each task if they differ."""
    texts = {task: ", ".join(f"{part} {values['num_rows']}" for part, values in parts.items()) for task, parts in summary.items()}
    if len({str(parts) for parts in summary.values()}) == 1:
        return next(iter(texts.values()))
    return "".join(f"\n  {task}: {text}" for task, text in texts.items())


def ids_hash(ids: Sequence[str]) -> str:
    """sha256 of ids joined by newlines: lists are equal if their hashes are."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
