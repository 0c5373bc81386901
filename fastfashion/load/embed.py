"""A loader from plain arguments: the rows of a split or of a list, with the settings of a run for all that has no argument.

LoaderRequest ─► rows, labels, DataConfig ─► make_spec ─► Loader
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fastfashion import dist
from fastfashion.catalog import joint_split, oversampled
from fastfashion.catalog.splits import Rule
from fastfashion.config import DEFAULT_RECIPE, DEFAULT_TASK, AugmentConfig, DataConfig, RunConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.fields import cast
from fastfashion.load.listed import EXPECTED, listed_rows, listed_weights
from fastfashion.load.loader import Loader
from fastfashion.load.spec import Selection, make_spec
from fastfashion.recipes import recipe
from fastfashion.shards import PackedSet

PARTS = ("train", "val", "test", "all")
SHUFFLES = ("epoch", "window")
TEXTS = ("fit", "backend", "protocol", "on_bad", "cache_dir")  # arguments of this type alone


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
    rank: int | None = None  # None: that of torch.distributed, as the number of processes
    world_size: int | None = None
    device: Any = None
    drop_last: bool = False
    data: Mapping[str, Any]  # fields of DataConfig
    settings: Mapping[str, Any]  # "section.name": value, before all others


def open_request(packed: PackedSet, request: LoaderRequest, names: Collection[str]) -> Loader:
    """Open the loader; names: the arguments that errors name. Raises ConfigError and InputError for what does not fit the set."""
    on, shuffled = _switches(request)
    world = _place(request)
    config = _config(packed, request)
    data, augment = config.data, config.augment if on else None
    rows, labels = _rows_and_labels(packed, request, data)
    least = world.size * (2 if augment is not None and (augment.mixup or augment.cutmix) else 1)  # mixed pairs stay together
    if least > config.train.batch_size:
        raise ConfigError(f"batch_size: expected {least} or more for {world.size} processes, found {config.train.batch_size}")
    if request.weights is not None and not shuffled:
        raise ConfigError("weights: expected shuffle=True, found shuffle=False; rows in order come once each, whatever their weights")
    chosen = Selection(
        rows=rows,
        batch_size=config.train.batch_size,
        tasks=request.tasks,
        labels=labels,
        seed=config.train.seed,
        augment=augment,
        shuffle=shuffled,
        drop_last=request.drop_last,
        weights=None if request.weights is None else listed_weights(request.weights, len(packed), rows),
    )
    return Loader(make_spec(packed, chosen, data, world), packed, names, placed=request.rank is not None)


def _place(request: LoaderRequest) -> dist.World:
    """This process among the others: as asked for, or as torch.distributed says, if it is initialised."""
    import torch

    world, started = dist.here(), dist.env_int("WORLD_SIZE", 1)
    world = replace(world, device=request.device or world.device)
    if (request.rank is None) != (request.world_size is None):
        raise ConfigError("rank and world_size: expected both or neither")
    if request.rank is not None and request.world_size is not None:
        rank, size = cast("rank", int, request.rank), cast("world_size", int, request.world_size)
        if size < 1:
            raise ConfigError(f"world_size: expected 1 or more, found {size}")
        if not 0 <= rank < size:
            raise ConfigError(f"rank: expected 0 to {size - 1}, found {rank}")
        return replace(world, rank=rank, size=size)
    if world.size == 1 and started > 1 and not torch.distributed.is_initialized():
        raise ConfigError(
            f"this is one of {started} processes (WORLD_SIZE), and each would get all rows: call torch.distributed.init_process_group first"
        )
    return world


def _switches(request: LoaderRequest) -> tuple[bool, bool]:
    """Whether images are augmented, and whether rows are shuffled. Raises ConfigError for what is neither on nor off."""
    is_train = isinstance(request.split, str) and request.split == "train"
    augment, shuffle = request.augment, request.shuffle
    if not isinstance(augment, AugmentConfig | Mapping | bool | np.bool_ | None):
        raise ConfigError(f'augment: expected True, False or settings such as {{"mixup": 0.2}}, found {augment!r}')
    if not (isinstance(shuffle, bool | np.bool_ | None) or (isinstance(shuffle, str) and shuffle in SHUFFLES)):
        raise ConfigError(f"shuffle: expected True, False, epoch or window, found {shuffle!r}")
    if not isinstance(request.drop_last, bool | np.bool_):
        raise ConfigError(f"drop_last: expected True or False, found {request.drop_last!r}")
    on = is_train if augment is None else isinstance(augment, AugmentConfig | Mapping) or bool(augment)
    return on, is_train if shuffle is None else bool(shuffle)


def _config(packed: PackedSet, request: LoaderRequest) -> RunConfig:
    """The settings that the arguments mean, and `settings` on top of them; errors name the arguments."""
    for key in request.settings:
        is_known = isinstance(key, str) and (key.partition(".")[0] in ("data", "augment") or key in ("train.seed", "train.batch_size"))
        if not is_known or key in ("data.task", "data.shards"):
            more = f"; use the argument {key.removeprefix('data.')}" if is_known else ""
            raise ConfigError(
                f"settings: {key} means nothing to a loader; expected data.…, augment.…, train.seed or train.batch_size{more}"
            )
    task = request.tasks or ((DEFAULT_TASK,) if DEFAULT_TASK in packed.vocab.classes else tuple(packed.vocab.classes)[:1])
    shuffle = {"data.shuffle": request.shuffle} if isinstance(request.shuffle, str) else {}
    arguments = {"data.size": _size(request.size), "train.seed": request.seed, "train.batch_size": request.batch_size}
    arguments |= {f"data.{name}": value for name, value in request.data.items()}
    folder = arguments["data.cache_dir"]
    arguments["data.cache_dir"] = "" if folder is None else os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    named = {key: key.partition(".")[2].removesuffix("_shards") for key in arguments if key not in request.settings}
    for key, argument in named.items():
        if argument in TEXTS and not isinstance(arguments[key], str):
            raise ConfigError(f"{argument}: expected text, found {arguments[key]!r}")
    given = {"data.task": ",".join(task)} | arguments | shuffle | _augmentation(request)
    try:
        config = RunConfig(data=DataConfig(shards=str(packed.path))).replace({**given, **request.settings})
    except ConfigError as error:
        key, colon, rest = str(error).partition(":")
        if key not in named:
            raise
        raise ConfigError(f"{named[key]}{colon}{rest}") from None
    if config.data.split_seed < 0:
        raise ConfigError(f"split_seed: expected 0 or more, found {config.data.split_seed}")
    return config


def _size(size: Any) -> str:
    """As text: "auto", HxW or a number for a square."""
    if isinstance(size, str):
        return size
    sides = list(size) if isinstance(size, Iterable) else [size]
    if len(sides) in (1, 2) and all(isinstance(side, int | np.integer) and not isinstance(side, bool) for side in sides):
        return str(Size(int(sides[0]), int(sides[-1])))
    raise ConfigError(f"size: expected HxW, (height, width) in pixels, or auto, found {size!r}")


def _augmentation(request: LoaderRequest) -> dict[str, Any]:
    """Those of the default recipe, or what `augment` names on top of them."""
    usual = {key: value for key, value in recipe(DEFAULT_RECIPE).items() if key.startswith("augment.")}
    if isinstance(request.augment, AugmentConfig):
        return {f"augment.{each.name}": getattr(request.augment, each.name) for each in fields(request.augment)}
    if isinstance(request.augment, Mapping):
        return usual | {f"augment.{str(name).removeprefix('augment.')}": value for name, value in request.augment.items()}
    return usual


def _rows_and_labels(packed: PackedSet, request: LoaderRequest, data: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """int64 (n,), and int64 (N, T) by row of the set."""
    vocab, part = packed.vocab, request.split
    codes = np.zeros((len(packed), 0), dtype=np.int64)
    if request.tasks:
        codes = vocab.codes(packed.corrected(data.corrections), request.tasks)
    if not isinstance(part, str):
        return listed_rows(packed.ids, part, packed.path), codes
    if part not in PARTS:
        raise ConfigError(f"{EXPECTED}, found {part!r}")
    if part == "all":
        return np.arange(len(packed)), codes
    split = joint_split(packed.columns, vocab, data.tasks, data.split_tasks, Rule.of(data, lambda: packed.table))
    if part == "train":
        rows = split.train
        if data.oversample:
            rows = oversampled(rows, vocab.codes(packed.columns, data.split_tasks[:1])[:, 0], data.oversample)
        return rows, codes
    return split.rows(part), split.labels(part, codes) if request.tasks else codes
