"""A run's folder: whether this training may use it, who holds it, and whether there is anything left to do."""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from fastfashion.config import Change, RunConfig, changeable
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.fields import Result
from fastfashion.files import hold, is_unpublished
from fastfashion.model.artifact import count_parameters, load_artifact
from fastfashion.runs import files
from fastfashion.runs.files import BEST, CHECKPOINTS, CONFIG, LOCK, METRICS, STATUS, State, Status, read_config, read_metrics, read_status

RESUME = ("auto", "never", "must")
FREE, ALLOWED = changeable(Change.FREE), changeable(Change.ALLOWED)
# What a start writes before its first step.
_STARTED = frozenset({CONFIG, METRICS, STATUS, files.SKIPPED, files.TRAINED_ON, files.TRAINED_ON_ROWS, files.VIEW})
_STARTED |= {files.WANDB_ID, files.MLFLOW_ID, files.WANDB}


def changes(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as `section.key`, with both values."""
    old, new = flat(before), flat(now)
    return {key: (old[key], new[key]) for key in new if old[key] != new[key]}


def changes_that_count(changed: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Those that are not free on resume."""
    return {key: values for key, values in changed.items() if key not in FREE}


def flat(config: RunConfig) -> dict[str, Any]:
    """All settings, as `section.key`."""
    return {f"{section}.{key}": value for section, entries in config.to_dict().items() for key, value in entries.items()}


def check_run_folder(run: Path, config: RunConfig, *, resume: str = "auto", allowed: Collection[str] = ()) -> None:
    """Raises TrainingError if the folder holds a run of other settings, or something else, or what `resume` forbids.

    `allowed` names settings of ALLOWED that may differ; raises ConfigError for others.
    """
    if resume not in RESUME:
        raise ConfigError(f"--resume {resume}: expected {', '.join(RESUME)}")
    if unknown := sorted(set(allowed) - ALLOWED - FREE):
        raise ConfigError(
            f"--allow-config-change {', '.join(unknown)}: a checkpoint does not fit another value; "
            f"possible are {', '.join(sorted(ALLOWED))}"
        )
    if run.exists() and not run.is_dir():
        raise TrainingError(f"{run}: a file, expected a folder; choose another --name")
    if is_untrained(run):
        if resume == "must":
            raise TrainingError(f"{run}: --resume must, but there is no run; omit --resume to start one")
        return
    if not (run / CONFIG).is_file():
        raise TrainingError(f"{run}: holds files but no {CONFIG}; expected an empty folder or a run, choose another --name")
    if resume == "never":
        raise TrainingError(f"{run}: --resume never, but a run is there; choose another --name, or remove it")
    changed = changes_that_count(changes(read_config(run), config))
    if refused := {key: values for key, values in changed.items() if key not in allowed}:
        raise TrainingError(
            f"{run}: holds a run with other settings ({_listed(refused)}); choose another --name, remove it, or resume it with "
            + (" ".join(f"--allow-config-change {key}" for key in refused) if set(refused) <= ALLOWED else "the settings it has")
        )
    if not has_checkpoint(run):
        _check_without_checkpoint(run, changed, resume)


def _check_without_checkpoint(run: Path, changed: dict[str, tuple[Any, Any]], resume: str) -> None:
    dropped = read_status(run).get("optimizer") == "dropped"
    why = "its optimiser state was not kept (train.keep_optimizer=no)" if dropped else f"{CHECKPOINTS}/ holds no checkpoint"
    if is_finished(run) and changed:
        raise TrainingError(
            f"{run}: finished, and cannot be trained further with {_listed(changed)}: {why}. Its weights stay as they are; "
            f"to train further from them, start another run: --name OTHER --weights {run / BEST / 'model.safetensors'}"
        )
    if resume == "must" and not (is_finished(run) and dropped):
        way_out = f"leave --resume out{': a finished run stays as it is' if is_finished(run) else ' to train it from the start'}"
        raise TrainingError(f"{run}: --resume must, but {why}; put {CHECKPOINTS}/ back from a copy, or {way_out}")


def _listed(changed: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key}: {before} there, {now} now" for key, (before, now) in changed.items())


def has_checkpoint(run: Path) -> bool:
    return any((run / CHECKPOINTS).glob("step-*.json"))


def is_finished(run: Path) -> bool:
    """Whether training ended, and its best weights are there."""
    return read_status(run).get("state") == State.FINISHED and (run / BEST).is_dir()


def is_untrained(run: Path) -> bool:
    """Whether a folder is missing, empty, or holds only the files of a start that was killed before its first step."""
    if not run.is_dir():
        return not run.exists()
    for path in run.iterdir():
        if path.name in (METRICS, CHECKPOINTS):
            continue
        if path.name not in {*_STARTED, LOCK} and not path.name.startswith(files.EVENTS) and not is_unpublished(path.name):
            return False
    return not has_checkpoint(run) and not _has_steps(run / METRICS)


def _has_steps(metrics: Path) -> bool:
    if not metrics.is_file():
        return False
    for line in metrics.read_bytes().splitlines():
        try:
            if json.loads(line)["kind"] != "start":
                return True
        except (ValueError, KeyError, TypeError, RecursionError):
            return True  # not ours to throw away
    return False


@dataclass
class Held:
    """A run's folder while this process trains in it."""

    run: Path
    trained: bool  # whether a step was trained, in this start or an earlier one: then the folder stays, however training ends


@contextmanager
def training_in(run: Path) -> Iterator[Held]:
    """Make the folder and hold it. If no step was ever trained, an exception leaves nothing behind.

    Raises TrainingError if another process holds it.
    """
    made = missing(run)
    run.mkdir(parents=True, exist_ok=True)
    held = Held(run, trained=True)
    try:
        with hold(run / LOCK, "training", TrainingError):
            held.trained = not is_untrained(run)
            if not held.trained:
                _clear(run)
            try:
                yield held
            except BaseException:
                if not held.trained:
                    _clear(run)
                raise
    except BaseException:
        if not held.trained:
            remove_empty(made)
        raise


def discard_untrained(run: Path, made: Collection[Path]) -> None:
    """Remove the files that processes killed before the first step left, and the folders `made` for them."""
    with suppress(TrainingError, OSError):  # another process may train there by now
        if is_untrained(run):
            with hold(run / LOCK, "training", TrainingError):
                _clear(run)
            remove_empty(made)


def missing(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_empty(folders: Collection[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _clear(run: Path) -> None:
    for path in list(run.iterdir()):
        if path.name in _STARTED or path.name.startswith(files.EVENTS) or _is_partial(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    remove_empty([run / CHECKPOINTS])


def _is_partial(name: str) -> bool:
    """Whether it is a half-written file of ours; another process, such as an evaluation, may be writing others."""
    return is_unpublished(name) and (not name.endswith(".partial") or any(name.startswith(f".{known}.") for known in _STARTED))


@dataclass(frozen=True, kw_only=True)
class TrainSummary(Result):
    """How a run ended; epochs are counted from 0."""

    run: str
    ended: str  # "finished", "early_stop", "max_time", or the name of a signal
    epochs: int  # complete ones
    steps: int  # over all epochs
    resumed_at_step: int
    best_epoch: int
    best_metric: float  # that of train.select, on validation
    num_parameters: int
    train_rows: int
    val_rows: int


def finished_summary(run: Path, config: RunConfig) -> TrainSummary | None:
    """The summary of a run that has nothing left to do with these settings; None if something may be left."""
    if not is_finished(run) or changes_that_count(changes(read_config(run), config)):
        return None
    status = read_status(run)
    known = status.get("summary", {})
    if known.keys() == {each.name for each in fields(TrainSummary)}:
        try:
            return msgspec.convert(known | {"run": str(run), "resumed_at_step": known["steps"]}, TrainSummary)
        except msgspec.ValidationError as error:
            raise TrainingError(f"{run / STATUS}: its summary is not as expected ({error}); put the file back from a copy") from error
    return None if has_checkpoint(run) else _from_its_files(run, status, config)


def _from_its_files(run: Path, status: Status, config: RunConfig) -> TrainSummary:
    """The summary of a run from before status.json held one, whose checkpoints are gone; its best epoch by the rule of that time."""
    best_epoch, best_metric = -1, -1.0
    for line in read_metrics(run):
        if line["kind"] != "epoch":
            continue
        chosen = [line["val"][task] for task in config.data.split_tasks if task in line["val"]] or list(line["val"].values())
        scores = [each.get(config.train.select) for each in chosen]
        metric = sum(float(line["epoch"] if score is None else score) for score in scores) / len(scores)
        if metric > best_metric:
            best_epoch, best_metric = line["epoch"], metric
    return TrainSummary(
        run=str(run),
        ended=str(status.get("reason", "finished")),
        epochs=int(status.get("epochs", config.train.epochs)),
        steps=int(status.get("steps", 0)),
        resumed_at_step=int(status.get("steps", 0)),
        best_epoch=best_epoch,
        best_metric=best_metric,
        num_parameters=count_parameters(load_artifact(run / BEST)[0]),
        train_rows=0,
        val_rows=0,
    )
