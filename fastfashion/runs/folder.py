"""A run's folder: whether this training may use it, who holds it, and what it says of the state of training."""

import json
import os
import shutil
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from fastfashion.config import RunConfig
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.files import hold, is_unpublished, publish_json, unreadable
from fastfashion.runs import read_config, trained_on
from fastfashion.runs.opened import CONFIG, METRICS
from fastfashion.runs.settings import ALLOWED, FREE, changes, changes_that_count
from fastfashion.untrusted import Count, parse_json, read_limited

CHECKPOINTS, BEST, STATUS, SKIPPED, LOCK = "checkpoints", "best", "status.json", "skipped.csv", ".training.lock"
RESUME = ("auto", "never", "must")
# What a start writes before its first step.
_BEGUN = (CONFIG, METRICS, STATUS, SKIPPED, trained_on.DESCRIPTION, trained_on.ROWS, "wandb-run-id", "mlflow-run-id", "wandb")
_EVENTS = "events.out.tfevents."


def check_run_folder(run: Path, config: RunConfig, *, resume: str = "auto", allowed: Collection[str] = ()) -> None:
    """Raises TrainingError where the folder holds a run of other settings, or something else, or what `resume` does not want.

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
            raise TrainingError(f"{run}: --resume must, but there is no run; leave it out to start one")
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
    why = "its optimiser state was not kept (--keep-optimizer no)" if dropped else f"{CHECKPOINTS}/ holds no checkpoint"
    if is_finished(run) and changed:
        raise TrainingError(
            f"{run}: finished, and cannot be trained further with {_listed(changed)}: {why}. Its weights stay as they are; "
            f"to train further from them, start another run: --name OTHER --weights {run / BEST / 'model.safetensors'}"
        )
    if resume == "must" and not (is_finished(run) and dropped):
        way_out = "leave --resume out: a finished run stays as it is" if is_finished(run) else "leave --resume out to train it anew"
        raise TrainingError(f"{run}: --resume must, but {why}; put {CHECKPOINTS}/ back from a copy, or {way_out}")


def _listed(changed: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key}: {before} there, {now} now" for key, (before, now) in changed.items())


def has_checkpoint(run: Path) -> bool:
    return any((run / CHECKPOINTS).glob("step-*.json"))


def is_finished(run: Path) -> bool:
    """Whether training ended, and its best weights are there."""
    return read_status(run).get("state") == "finished" and (run / BEST).is_dir()


def is_untrained(run: Path) -> bool:
    """Whether a folder is missing or empty, or holds only what a start leaves that never trained a step, as one that was killed."""
    if not run.is_dir():
        return not run.exists()
    for path in run.iterdir():
        if path.name in (METRICS, CHECKPOINTS):
            continue
        if path.name not in (*_BEGUN, LOCK) and not path.name.startswith(_EVENTS) and not is_unpublished(path.name):
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
            return True  # nothing that this could throw away
    return False


@dataclass
class Held:
    """A run's folder while this process trains in it."""

    run: Path
    trained: bool  # whether a step was trained, in this start or an earlier one

    def began(self) -> None:
        """A step was trained: what is in the folder stays, however training ends."""
        self.trained = True


@contextmanager
def training_in(run: Path) -> Iterator[Held]:
    """Make the folder and hold it; where no step was ever trained, nothing is left behind on an exception.

    Raises TrainingError where another process holds it.
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
    """Remove what processes that were killed before the first step have left, and the folders `made` for them."""
    with suppress(TrainingError, OSError):  # another one trains there by now
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
        if path.name in _BEGUN or path.name.startswith(_EVENTS) or _is_partial(path.name):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    remove_empty([run / CHECKPOINTS])


def _is_partial(name: str) -> bool:
    """Of a file of ours; another process, such as an evaluation, may be at work on others."""
    return is_unpublished(name) and (not name.endswith(".partial") or any(name.startswith(f".{known}.") for known in _BEGUN))


class Status(TypedDict, total=False):
    """What status.json says, as far as we read it."""

    state: str
    optimizer: str
    reason: str
    epochs: Count
    steps: Count
    summary: dict[str, str | int | float]


def read_status(run: Path) -> Status:
    """Empty where there is none. Raises TrainingError where it is no status: nobody then knows whether the run is finished."""
    path = run / STATUS
    try:
        data = read_limited(path, 1 << 20)
    except FileNotFoundError:
        return Status()
    except OSError as error:
        raise TrainingError(f"{path}: {unreadable(error)}") from error
    advice = "put it back from a copy, or remove it: the run then resumes from its checkpoints, and without any trains anew"
    return parse_json(data, Status, str(path), TrainingError, advice)


def write_status(run: Path, state: str, **values: Any) -> None:
    """Publish status.json: state is running, finished, interrupted or failed; `resumable` says whether the same command resumes it.

    A run that was killed still says "running", with a process that is no more.
    """
    known = {"state": state, "resumable": state != "finished", "process": os.getpid(), "host": socket.gethostname()}
    publish_json(run / STATUS, known | {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"} | values)
