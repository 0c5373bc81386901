"""What a run trains and validates on: the rows of its own list, or of a new split, as a loader needs them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastfashion import dist
from fastfashion.catalog import ids_hash
from fastfashion.catalog.splits import Rule
from fastfashion.catalog.views import NO_VIEW, View, view_text
from fastfashion.config import RunConfig
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.load import LoaderSpec, Selection, in_order, make_spec
from fastfashion.model.objective import LossSettings
from fastfashion.runs.folder import is_untrained
from fastfashion.runs.opened import assumed_list
from fastfashion.runs.trained_on import RowsOfSet, TrainedOn, check_classes, list_rows, read_trained_on
from fastfashion.runs.views import check_same_view
from fastfashion.shards import PackedSet, open_viewed
from fastfashion.train.record import say


@dataclass(frozen=True, kw_only=True)
class Data:
    """The classes of each task, the loss, and what to load for training and for validation."""

    classes: dict[str, tuple[str, ...]]
    loss: LossSettings
    spec: LoaderSpec
    val_spec: LoaderSpec
    num_test: int  # rows for testing
    numbers: np.ndarray | None  # int64 (N,): the place of each row in the run's own list; None: it is the row itself
    to_keep: TrainedOn | None  # the list that the run does not have in its folder yet
    view: View = NO_VIEW  # of the set
    notes: tuple[str, ...] = ()  # lines about the view, and about a split that somebody else made


def prepare_data(config: RunConfig, world: dist.World, run: Path | None = None) -> Data:
    """Rows of a new run are those of the set's split; a run that has trained keeps its own, in their order.

    Raises ConfigError if a batch is too small for the number of processes, InputError if the set is not the one that `run` was trained on.
    """
    # Images are mixed in pairs, which stay together.
    each = (2 if config.augment.mixup or config.augment.cutmix else 1) * config.train.accumulate
    if config.train.batch_size < each * world.size:
        raise ConfigError(
            f"--batch-size {config.train.batch_size}: expected {each * world.size} or more, {each} for each of {world.size} processes"
        )
    packed = open_viewed(config.data)
    if world.is_main and run is not None and not is_untrained(run):
        check_same_view(run, config.data, packed.view)
    data, tasks, vocab = config.data, config.data.tasks, packed.vocab
    notes = [_view_line(packed)] if packed.view else []
    rows, to_keep = _rows_to_train(config, packed, run, notes) if world.is_main else (None, None)
    rows, ids = dist.from_main(world, (rows, ids_hash(packed.table["id"].tolist())))
    if ids_hash(packed.table["id"].tolist()) != ids:
        raise PackedSetError(
            f"{packed.path}: holds other ids, or in another order, than the set of rank 0; every process needs the same packed set"
        )
    split, codes = rows.split, vocab.codes(packed.corrected(data.corrections), tasks)
    chosen = Selection(
        rows=rows.train,
        batch_size=config.train.batch_size,
        tasks=tasks,
        labels=codes,
        seed=config.train.seed,
        augment=config.augment,
        shard_starts=rows.shard_starts,
        numbers=rows.numbers,
        micro_batches=config.train.accumulate,
    )
    spec = make_spec(packed, chosen, config.data, world)
    val_spec = in_order(spec, rows.val, split.labels("val", codes))
    classes = {task: vocab.names(task) for task in tasks}
    loss = LossSettings(label_smoothing=config.optim.label_smoothing, weights=config.optim.weights)
    return Data(
        num_test=len(split.rows("test")),
        classes=classes,
        loss=loss,
        spec=spec,
        val_spec=val_spec,
        numbers=rows.numbers,
        to_keep=to_keep,
        view=packed.view,
        notes=tuple(notes),
    )


def _view_line(packed: PackedSet) -> str:
    whole = packed.whole or packed
    shown = int((packed.vocab.codes(packed.columns, list(packed.vocab.classes)) >= 0).any(axis=1).sum())
    return view_text(whole.vocab, packed.vocab, packed.view, shown, len(packed))


def _rows_to_train(config: RunConfig, packed: PackedSet, run: Path | None, notes: list[str]) -> tuple[RowsOfSet, TrainedOn | None]:
    """The rows, and their list if the run does not have one in its folder yet; adds to `notes` what a split file or column names."""
    if run is None or is_untrained(run):
        rule = Rule.of(config.data, lambda: packed.table)
        if rule.named is not None:
            notes.append(f"split  {rule.named.text}")
        kept = list_rows(packed, config.data, packed.corrected(config.data.corrections), rule)
        return kept.on(run or packed.path, packed), kept
    if (known := read_trained_on(run)) is not None:
        check_classes(run, packed, known.classes)
        return known.on(run, packed), None
    kept = assumed_list(run, packed, config, packed.corrected(config.data.corrections))
    say(kept.assumption(run))
    return kept.on(run, packed), kept
