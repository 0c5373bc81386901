"""Splits: three lists of rows for a task. A split is never stored in a packed set; it is computed in milliseconds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.catalog.vocab import Vocab
from fastfashion.config import PROTOCOLS
from fastfashion.errors import ConfigError, InputError
from fastfashion.files import publish_csv

if TYPE_CHECKING:
    import pandas as pd

REFERENCE_SEED = 42
PERCENT = {"train": 70, "val": 15, "test": 15}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows (int64) of the three parts, each in the split's own order."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        return {"train": self.train, "val": self.val, "test": self.test}


def split_rows(table: "pd.DataFrame", vocab: Vocab, task: str, protocol: str, seed: int = 0) -> Split:
    """Split the rows of a catalog for one task; rows without a label for it stand in no part.

    `reference` is the reference project's split and ignores `seed`; `stratified` keeps class shares and duplicate groups.
    Raises ConfigError for an unknown task or protocol or a negative seed, InputError where a part would be empty.
    """
    codes = vocab.codes(table, [task])[:, 0]
    if protocol == "reference":
        split = _reference(table, codes)
    elif protocol == "stratified":
        if seed < 0:
            raise ConfigError(f"seed of the split: expected 0 or more, found {seed}")
        split = _stratified(table["duplicate_group"].to_numpy(), codes, seed)
    else:
        raise ConfigError(f"unknown protocol {protocol!r}: there are {', '.join(PROTOCOLS)}")
    for part, rows in split.parts().items():
        if len(rows) == 0:
            raise InputError(
                f"the {part} part of the {protocol} split of {task} is empty: {int((codes >= 0).sum())} labelled rows are too few"
            )
    return split


def _reference(table: "pd.DataFrame", codes: np.ndarray) -> Split:
    """ImageFolder's order (class name, then file name, both as strings), then torch's random_split with seed 42.

    Rows whose name held an unquoted comma are left out, because the reference project's CSV reader skips them.
    """
    import torch

    rows = np.flatnonzero((codes >= 0) & ~table["recovered"].to_numpy())
    files = (table["id"].iloc[rows] + ".jpg").to_list()
    # Classes are sorted by name in the vocabulary, so that the code stands for the name here.
    order = sorted(range(len(rows)), key=lambda i: (codes[rows[i]], files[i]))
    permutation = torch.randperm(len(rows), generator=torch.Generator().manual_seed(REFERENCE_SEED)).numpy()
    shuffled = rows[np.asarray(order, dtype=np.int64)][permutation]
    num_train, num_val = int(0.7 * len(rows)), int(0.15 * len(rows))
    return Split(train=shuffled[:num_train], val=shuffled[num_train : num_train + num_val], test=shuffled[num_train + num_val :])


def _stratified(groups: np.ndarray, codes: np.ndarray, seed: int) -> Split:
    """70/15/15 within each class, near-duplicates together.

    A duplicate group goes as a whole with the class of its first labelled row. A class of one group trains, of two trains and
    tests; from three groups on it stands in every part.
    """
    labelled = np.flatnonzero(codes >= 0)
    order = np.argsort(groups[labelled], kind="stable")
    _, starts = np.unique(groups[labelled][order], return_index=True)
    members = np.split(labelled[order], starts[1:]) if len(labelled) else []
    class_of_group = np.array([codes[rows[0]] for rows in members], dtype=np.int64)
    rng = np.random.Generator(np.random.Philox(key=seed))
    part_of_row = np.full(len(codes), "", dtype="<U5")
    for code in np.unique(class_of_group):
        candidates = rng.permutation(np.flatnonzero(class_of_group == code))
        num_rows = sum(len(members[g]) for g in candidates)
        filled = dict.fromkeys(PERCENT, 0)
        for place, group in enumerate(candidates):
            # The first groups make sure of a member in each part; then whichever part is furthest below its share takes the next.
            part = ("train", "test", "val")[place] if place < 3 else max(PERCENT, key=lambda p: PERCENT[p] * num_rows - 100 * filled[p])
            part_of_row[members[group]] = part
            filled[part] += len(members[group])
    return Split(**{part: np.flatnonzero(part_of_row == part) for part in PERCENT})


def write_split(path: Path, table: "pd.DataFrame", split: Split) -> dict[str, dict[str, int | str]]:
    """Write `id,split` in the split's own order; returns count and hash (of the ids joined by newlines) of each part."""
    parts = {part: table["id"].iloc[rows].tolist() for part, rows in split.parts().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish_csv(path, ["id", "split"], ((identity, part) for part, ids in parts.items() for identity in ids))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); choose another --out") from error
    return {part: {"num_rows": len(ids), "ids_sha256": ids_hash(ids)} for part, ids in parts.items()}


def ids_hash(ids: Sequence[str]) -> str:
    """sha256 of ids joined by newlines: two lists are the same if their hashes are."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
