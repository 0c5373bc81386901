"""Opening a run: its settings, its best model, and the packed set that it was trained on, checked by the ids."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fastfashion.catalog import JointSplit, Vocab
from fastfashion.config import RunConfig, Size
from fastfashion.errors import InputError, PackedSetError
from fastfashion.model.artifact import load_artifact
from fastfashion.model.net import Classifier
from fastfashion.runs.assumed import assumed_list, named_set, own_set
from fastfashion.runs.files import BEST, read_config
from fastfashion.runs.trained_on import TrainedOn, check_classes, corrected, place, read_trained_on, write_trained_on
from fastfashion.shards import PackedSet, open_packed_set


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run with its best model, on CPU, and the packed set it was trained on."""

    path: Path
    config: RunConfig
    model: Classifier
    size: Size
    packed: PackedSet
    table: pd.DataFrame  # the set's, with the run's corrections
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
        packed = open_packed_set(shards or named_set(run, config))
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
        own = own_set(run, config, packed) if other_ids else packed
        kept = assumed_list(run, own, config, corrected(own, config.data.corrections))
        notes.append(kept.assumption(run))
        if writes:
            with suppress(OSError):  # a run of another user: the note comes again the next time
                write_trained_on(run, kept)
    rows = kept.rows_in(packed) if other_ids else kept.check(run, packed)
    table = corrected(packed, config.data.corrections, of_another_set=other_ids)
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
        packed=packed,
        table=table,
        vocab=vocab,
        codes=vocab.codes(table, list(vocab.classes)),
        split=place(kept.split, rows),
        trained_on=kept,
        unseen=np.flatnonzero(unseen),
        notes=tuple(notes),
    )
