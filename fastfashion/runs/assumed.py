"""Runs from before lists of ids existed: their set is assumed, and checked against their own files."""

import math
from pathlib import Path

import pandas as pd

from fastfashion.catalog import ids_hash
from fastfashion.config import RunConfig
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_address, location
from fastfashion.runs.files import REPORT, read_config, read_metrics, read_report
from fastfashion.runs.trained_on import SetIdentity, TrainedOn, list_rows
from fastfashion.shards import PackedSet, open_packed_set


def assumed_list(run: Path, packed: PackedSet, config: RunConfig, table: pd.DataFrame) -> TrainedOn:
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


def own_set(run: Path, config: RunConfig, tested: PackedSet) -> PackedSet:
    """The set that the settings of a run without a list name; `tested` may hold rows that the run never saw."""
    try:
        return tested if config.data.shards == str(tested.path) else open_packed_set(named_set(run, config))
    except (PackedSetError, InputError) as error:
        raise InputError(
            f"{run}: it is from before runs kept the ids that they were trained on, and its own set cannot be opened ({error}). "
            f"So it is unknown which rows of {tested.path} it never saw: test it on its own set first, "
            f"fastfashion evaluate {run} --shards SET"
        ) from error


def named_set(run: Path, config: RunConfig) -> Path:
    """The path of a run's set on this machine, from its settings. Raises InputError if that is an address."""
    if is_address(config.data.shards):
        raise InputError(
            f"{run}: its settings name the packed set {config.data.shards}, which was not contacted: a run's own address is opened only "
            f"if you name it. If you trust it:  --shards {config.data.shards}"
        )
    return location(config.data.shards)
