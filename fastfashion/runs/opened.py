"""Opening a run: its settings, its best model, and the packed set that it was trained on, checked by the ids.

Runs from before lists of ids existed: their set is assumed, and checked against their own files.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.catalog import JointSplit, Vocab, ids_hash
from fastfashion.catalog.columns import Table
from fastfashion.config import RunConfig, Size
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_address, location
from fastfashion.load.fit import Fit
from fastfashion.model.artifact import load_artifact
from fastfashion.model.net import Classifier
from fastfashion.runs.files import BEST, REPORT, read_config, read_metrics, read_report
from fastfashion.runs.trained_on import (
    SetIdentity,
    TrainedOn,
    check_classes,
    list_rows,
    place,
    read_trained_on,
    write_trained_on,
)
from fastfashion.runs.views import read_view
from fastfashion.shards import PackedSet, open_packed_set

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run with its best model, on CPU, and the packed set it was trained on."""

    path: Path
    config: RunConfig
    model: Classifier
    size: Size
    fit: Fit
    packed: PackedSet
    table: "pd.DataFrame"  # the set's, with the run's corrections
    vocab: Vocab  # of the run's heads
    codes: np.ndarray  # int64 (N, T): its labels by row, -1 if there is none, or none that the run knows
    split: JointSplit  # the run's own, as rows of the set; of another set those that it has
    trained_on: TrainedOn
    unseen: np.ndarray  # int64 (n,): rows of the set that the run neither trained, validated nor tested
    notes: tuple[str, ...] = ()  # for people

    @property
    def tasks(self) -> list[str]:
        return list(self.split.test)


def open_run(run: Path, shards: Path | None = None, *, other_ids: bool = False, writes: bool = True) -> OpenRun:
    """Open a run with the set that it was trained on, or, if `other_ids` allows, with any set.

    Raises InputError, PackedSetError or ConfigError if the folder is not a run, or run and packed set do not fit, or the set is at
    an address that only the run's settings name: a run cannot make this machine contact an address. A run from before there were lists of
    ids gets one in its folder, if this rank `writes`; nothing else is written.
    """
    config = read_config(run)
    model, description = load_artifact(run / BEST)
    try:
        packed = open_packed_set(shards or _named_set(run, config))
        view = read_view(run, config.data)
        packed = packed.viewed(view.for_other_rows() if other_ids else view, strict=not other_ids)
    except PackedSetError as error:
        if shards is not None:
            raise
        raise PackedSetError(f"{error}\n{run} was trained on it: if it is elsewhere now, say where with --shards") from error
    vocab = Vocab({task: tuple(names) for task, names in description.classes.items()})
    if not other_ids:
        check_classes(run, packed, vocab.classes)
    kept, notes = read_trained_on(run), list[str]()
    if kept is not None and list(kept.classes.items()) != list(vocab.classes.items()):
        raise InputError(f"{run}: best/ and trained_on.json have other labels or classes, so they are not of one run")
    if kept is None:
        own = _own_set(run, config, packed) if other_ids else packed
        kept = assumed_list(run, own, config, own.corrected(config.data.corrections))
        notes.append(kept.assumption(run))
        if writes:
            with suppress(OSError):  # a run of another user: the note comes again the next time
                write_trained_on(run, kept)
    rows = kept.rows_in(packed) if other_ids else kept.check(run, packed)
    table = packed.corrected(config.data.corrections, of_another_set=other_ids) if config.data.corrections else packed.table
    if absent := [task for task in vocab.classes if task not in packed.vocab.classes]:
        table = table.assign(**dict.fromkeys(absent, ""))
        notes.append(f"{packed.path} has no label {', '.join(absent)}: not tested")
    unseen = np.ones(len(packed), dtype=bool)
    unseen[rows[kept.seen & (rows >= 0)]] = False
    return OpenRun(
        path=run,
        config=config,
        model=model,
        size=Size.parse(description.size),
        fit=description.fit,
        packed=packed,
        table=table,
        vocab=vocab,
        codes=vocab.codes(table, list(vocab.classes)),
        split=place(kept.split, rows),
        trained_on=kept,
        unseen=np.flatnonzero(unseen),
        notes=tuple(notes),
    )


def assumed_list(run: Path, packed: PackedSet, config: RunConfig, table: Table) -> TrainedOn:
    """The list of a set, for a run from before lists of ids existed; the run's own files must not contradict it.

    Raises InputError if its report names other training ids, or its epochs had another number of steps than this set gives.
    """
    kept = list_rows(packed, config.data, table, assumed=True)
    steps = math.ceil(int(kept.times.sum()) / config.train.batch_size)
    for line in read_metrics(run):
        if line["kind"] == "epoch" and line["step"] != (line["epoch"] + 1) * steps:
            raise InputError(
                f"{run} was trained on other rows than {packed.path} gives it now: its epochs had {line['step'] // (line['epoch'] + 1)} "
                f"steps, of this set they have {steps}; name the set that it was trained on with --shards"
            )
    report = read_report(run)
    known = None if report is None else report["split"].get("train_ids_sha256")
    if known is not None and known != ids_hash(kept.ids[kept.split.train].tolist()):
        raise InputError(
            f"{run} was trained on other rows than {packed.path} gives it now: the training ids in {run / REPORT} have the hash "
            f"{known[:12]}; name the set that it was trained on with --shards"
        )
    _check_recorded(run, packed, kept)
    return kept


def _check_recorded(run: Path, packed: PackedSet, kept: TrainedOn) -> None:
    """Raises InputError if the set that a run's settings name is still there, and has other ids than the one that is given."""
    named = read_config(run).data.shards
    if is_address(named) or named == str(packed.path):
        return
    try:
        recorded = SetIdentity.of(open_packed_set(location(named)))
    except PackedSetError:
        return  # it was moved
    if recorded.ids_sha256 != kept.source.ids_sha256:
        raise InputError(
            f"{run} is from before runs kept the ids of their training; its settings name {recorded}, and {kept.source} holds other "
            f"ids. Leave --shards out; if {recorded.path} was packed again since, and the other is the set of the training, move "
            f"{recorded.path} away; to test what the run never saw of it: fastfashion evaluate {run} --shards {packed.path} --rows unseen"
        )


def _own_set(run: Path, config: RunConfig, tested: PackedSet) -> PackedSet:
    """The set that the settings of a run without a list name; `tested` may hold rows that the run never saw."""
    try:
        if config.data.shards == str(tested.path):
            return tested
        return open_packed_set(_named_set(run, config)).viewed(read_view(run, config.data))
    except (PackedSetError, InputError) as error:
        raise InputError(
            f"{run}: it is from before runs kept the ids that they were trained on, and its own set cannot be opened ({error}). "
            f"So it is unknown which rows of {tested.path} it never saw: test it on its own set first, "
            f"fastfashion evaluate {run} --shards SET"
        ) from error


def _named_set(run: Path, config: RunConfig) -> Path:
    """The path of a run's set on this machine, from its settings. Raises InputError if that is an address."""
    if is_address(config.data.shards):
        raise InputError(
            f"{run}: its settings name the packed set {config.data.shards}, which was not contacted: a run's own address is opened only "
            f"if you name it. If you trust it:  --shards {config.data.shards}"
        )
    return location(config.data.shards)
