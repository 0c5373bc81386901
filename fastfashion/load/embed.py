"""A loader from plain arguments: the rows of a split or of a list, with the settings of a run for all that has no argument.

LoaderRequest ─► rows, labels, DataConfig ─► make_spec ─► Loader
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastfashion import dist
from fastfashion.catalog import correct, joint_split, oversampled
from fastfashion.config import DEFAULT_RECIPE, DEFAULT_TASK, AugmentConfig, DataConfig, RunConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.load.loader import Loader
from fastfashion.load.spec import Selection, make_spec
from fastfashion.recipes import recipe
from fastfashion.shards import PackedSet

PARTS = ("train", "val", "test", "all")


@dataclass(frozen=True, kw_only=True)
class LoaderRequest:
    """The arguments of `ff.loader`, which explains them."""

    split: str | Sequence[int] | Sequence[str] | np.ndarray = "train"
    tasks: tuple[str, ...] = ()  # none: only images and rows
    batch_size: int = 128
    size: str | tuple[int, int] = "auto"
    seed: int = 0
    augment: AugmentConfig | Mapping[str, float] | bool | None = None
    shuffle: bool | str | None = None
    weights: Sequence[float] | np.ndarray | None = None  # by row of the set
    rank: int = 0
    world_size: int = 1
    device: Any = None
    drop_last: bool = False
    data: Mapping[str, Any]  # fields of DataConfig
    settings: Mapping[str, Any]  # "section.name": value, before all others


def open_request(packed: PackedSet, request: LoaderRequest, names: Collection[str]) -> Loader:
    """Open the loader; names: the arguments that errors name. Raises ConfigError and InputError for what does not fit the set."""
    config = _config(packed, request)
    data, augment, shuffle = config.data, config.augment, request.shuffle
    rows, labels = _rows_and_labels(packed, request, data)
    on = request.augment if request.augment is not None else request.split == "train"
    if shuffle not in (None, True, False, "epoch", "window"):
        raise ConfigError(f"shuffle: expected True, False, epoch or window, found {shuffle!r}")
    shuffled = request.split == "train" if shuffle is None else bool(shuffle)
    if _least_batch(augment if on is not False else None) * request.world_size > config.train.batch_size:
        least = _least_batch(augment if on is not False else None) * request.world_size
        raise ConfigError(f"batch_size: expected {least} or more for {request.world_size} processes, found {config.train.batch_size}")
    chosen = Selection(
        rows=rows,
        batch_size=config.train.batch_size,
        tasks=request.tasks,
        labels=labels,
        seed=config.train.seed,
        augment=None if on is False else augment,
        shuffle=shuffled,
        drop_last=request.drop_last,
        weights=None if request.weights is None else _weights(request.weights, len(packed), rows),
    )
    world = dist.here()
    place = replace(world, rank=request.rank, size=request.world_size, device=request.device or world.device)
    return Loader(make_spec(packed, chosen, data, place), packed, names)


def _config(packed: PackedSet, request: LoaderRequest) -> RunConfig:
    """The settings that the arguments mean, and `settings` on top of them."""
    for key in request.settings:
        if key.partition(".")[0] not in ("data", "augment") and key not in ("train.seed", "train.batch_size"):
            raise ConfigError(f"settings: {key} means nothing to a loader; expected data.…, augment.…, train.seed or train.batch_size")
    size = request.size if isinstance(request.size, str) else str(Size(*request.size))
    task = request.tasks or ((DEFAULT_TASK,) if DEFAULT_TASK in packed.vocab.classes else tuple(packed.vocab.classes)[:1])
    shuffle = {"data.shuffle": request.shuffle} if isinstance(request.shuffle, str) else {}
    given = {"data.task": ",".join(task), "data.size": size, "train.seed": request.seed, "train.batch_size": request.batch_size}
    given |= {f"data.{name}": value for name, value in request.data.items()} | shuffle | _augmentation(request)
    return RunConfig(data=DataConfig(shards=str(packed.path))).replace({**given, **request.settings})


def _augmentation(request: LoaderRequest) -> dict[str, Any]:
    """Those of the default recipe, or what `augment` names on top of them."""
    usual = {key: value for key, value in recipe(DEFAULT_RECIPE).items() if key.startswith("augment.")}
    if isinstance(request.augment, AugmentConfig):
        return {f"augment.{each.name}": getattr(request.augment, each.name) for each in fields(request.augment)}
    if isinstance(request.augment, Mapping):
        return usual | {f"augment.{name.removeprefix('augment.')}": value for name, value in request.augment.items()}
    return usual


def _least_batch(augment: AugmentConfig | None) -> int:
    return 2 if augment is not None and (augment.mixup or augment.cutmix) else 1  # images are mixed in pairs, which stay together


def _rows_and_labels(packed: PackedSet, request: LoaderRequest, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """int64 (n,), and int64 (N, T) by row of the set."""
    vocab, part = packed.vocab, request.split
    codes = np.zeros((len(packed), 0), dtype=np.int64)
    if request.tasks:
        corrected = correct(packed.table, vocab, Path(data.corrections)) if data.corrections else packed.columns
        codes = vocab.codes(corrected, request.tasks)
    if not isinstance(part, str):
        return _listed(packed, part), codes
    if part not in PARTS:
        raise ConfigError(f"split: expected {', '.join(PARTS)}, or a list of rows or ids, found {part!r}")
    if part == "all":
        return np.arange(len(packed)), codes
    split = joint_split(packed.columns, vocab, data.tasks, data.split_tasks, data.protocol, data.protocol_seed)
    if part == "train":
        rows = split.train
        if data.oversample:
            rows = oversampled(rows, vocab.codes(packed.columns, data.split_tasks[:1])[:, 0], data.oversample)
        return rows, codes
    return split.rows(part), split.labels(part, codes) if request.tasks else codes


def _listed(packed: PackedSet, listed: Any) -> np.ndarray:
    """Rows of a list of rows, of ids, or of a mask: int64 (n,)."""
    values = np.asarray(listed)
    if values.ndim != 1:
        raise ConfigError(f"split: expected a list of rows or ids, found an array of shape {values.shape}")
    if values.dtype == bool:
        if len(values) != len(packed):
            raise ConfigError(f"split: expected a mask of {len(packed)} rows, found {len(values)}")
        return np.flatnonzero(values)
    if values.dtype.kind in "iu" or not len(values):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < len(packed):
            wrong = values[(values < 0) | (values >= len(packed))][0]
            raise ConfigError(f"split: expected rows from 0 to {len(packed) - 1}, found {wrong}; ids are text")
        return values.astype(np.int64)
    row_of = {identity: row for row, identity in enumerate(packed.ids.tolist())}
    rows = [row_of.get(identity, -1) for identity in values.tolist()]
    if -1 in rows:
        missing = [values.tolist()[place] for place, row in enumerate(rows) if row < 0]
        raise ConfigError(f"split: {len(missing)} of {len(rows)} ids are not in {packed.path}, the first is {missing[0]!r}")
    return np.array(rows, dtype=np.int64)


def _weights(weights: Any, num_rows: int, rows: np.ndarray) -> np.ndarray:
    """The weights of `rows`: float64 (n,)."""
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (num_rows,):
        raise ConfigError(f"weights: expected a number for each of the {num_rows} rows of the set, found an array of shape {values.shape}")
    return values[rows]
