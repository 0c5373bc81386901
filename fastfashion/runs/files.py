"""The files of a run: their names, and what the small ones hold. Nobody else spells the names.

    RUN/config.json, metrics.jsonl, status.json, skipped.csv, checkpoints/, best/     from `train`
    RUN/trained_on.json, trained_on.safetensors, view.json (under a view)             from `train`
    RUN/report.json, predictions.parquet, plots/, test_reads.jsonl                    from `evaluate`

Whatever is read here may be somebody else's: it is checked field by field, as untrusted.py does.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from fastfashion.config import RunConfig
from fastfashion.errors import ConfigError, FastfashionError, InputError, TrainingError
from fastfashion.files import publish_json, unreadable
from fastfashion.model.weights import BEST as BEST
from fastfashion.untrusted import Count, Sha256, open_regular, parse_json, read_limited

CONFIG, METRICS, STATUS, SKIPPED = "config.json", "metrics.jsonl", "status.json", "skipped.csv"
CHECKPOINTS, LOCK = "checkpoints", ".training.lock"
TRAINED_ON, TRAINED_ON_ROWS = "trained_on.json", "trained_on.safetensors"
WANDB, WANDB_ID, MLFLOW_ID, EVENTS = "wandb", "wandb-run-id", "mlflow-run-id", "events.out.tfevents."  # the last one begins a name
TEST_READS = "test_reads.jsonl"
VIEW = "view.json"  # of a run that sees its set under a view
REPORT, PREDICTIONS, PLOTS = "report.json", "predictions.parquet", "plots"

_MAX_CONFIG_BYTES, _MAX_STATUS_BYTES, _MAX_REPORT_BYTES, _MAX_LINE_BYTES = 1 << 20, 1 << 20, 1 << 28, 1 << 20
_NOT_FINITE = re.compile(rb"(?<=: )(?:NaN|-?Infinity)(?=[,}])")  # in lines from before these were written as null
Settings = dict[str, dict[str, str | bool | int | float]]  # config.json, by section; RunConfig knows the names and ranges
Share = Annotated[float, msgspec.Meta(ge=-1e-6, le=1 + 1e-6)]  # means of floats may be a last bit past 1


class PartReport(TypedDict):
    n: Count
    accuracy: Share | None


class ClassReport(TypedDict):
    name: str
    precision: Share
    recall: Share
    f1: Share
    support: Count


class TaskReport(TypedDict):
    n: Count
    accuracy: Share
    macro_f1: Share
    balanced_accuracy: Share
    top3_accuracy: Share
    calibration_error: Share
    chance_accuracy: Share
    intervals: dict[str, tuple[Share, Share]]
    with_duplicate_in_training: PartReport
    without_duplicate_in_training: PartReport
    classes: list[ClassReport]
    test_ids_sha256: NotRequired[Sha256]


class SplitReport(TypedDict):
    protocol: str
    seed: int
    by: list[str]
    num_rows: Count
    train_rows: Count
    train_ids_sha256: NotRequired[Sha256]


class SetReport(TypedDict):
    path: str
    num_rows: Count
    ids_sha256: Sha256


class Report(TypedDict):
    """report.json, as far as anybody reads it."""

    split: SplitReport
    tasks: dict[str, TaskReport]
    set: NotRequired[SetReport]
    skipped: NotRequired[list[dict[str, Any]]]


class MetricsLine(TypedDict):
    """A line of metrics.jsonl, as far as anybody reads it; `step` counts over all epochs."""

    kind: Literal["start", "step", "epoch"]
    epoch: Count
    step: Count
    loss: NotRequired[float | None]
    val: NotRequired[dict[str, dict[str, float | None]] | None]
    time: NotRequired[dict[str, float | None] | None]


class Status(TypedDict, total=False):
    """status.json, as far as we read it."""

    state: str
    optimizer: str
    reason: str
    epochs: Count
    steps: Count
    summary: dict[str, str | int | float]


class State(StrEnum):
    """What status.json says of training. A run that was killed still says "running", with a process that no longer exists."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


def read_config(run: Path) -> RunConfig:
    """The resolved settings of a run; raises InputError if the folder is not a run."""
    path = run / CONFIG
    data = read_if_there(path, _MAX_CONFIG_BYTES, InputError)
    if data is None:
        raise InputError(f"{run}: not a run: {CONFIG} is missing; expected a folder such as runs/NAME that fastfashion train made")
    try:
        return RunConfig.from_dict(parse_json(data, Settings, str(path), InputError, "no run's settings"))
    except ConfigError as error:
        raise InputError(f"{path}: not readable as a run's settings: {error}") from error


def read_report(run: Path) -> dict[str, Any] | None:
    """What `evaluate_run` returned; None if the run was not tested. Raises InputError if the file is cut, or no report."""
    path, advice = run / REPORT, f"test the run again: fastfashion evaluate {run}"
    data = read_if_there(path, _MAX_REPORT_BYTES, InputError)
    if data is None:
        return None
    parse_json(data, Report, f"{path}: not readable as a report", InputError, advice)
    return parse_json(data, dict[str, Any], str(path), InputError, advice)


def read_status(run: Path) -> Status:
    """Empty if there is none. Raises TrainingError if it is no status: nobody then knows whether the run is finished."""
    path, advice = run / STATUS, "put it back from a copy, or remove it: the run then resumes from its checkpoints, or starts without any"
    data = read_if_there(path, _MAX_STATUS_BYTES, TrainingError)
    return Status() if data is None else parse_json(data, Status, str(path), TrainingError, advice)


def write_status(run: Path, state: State, **values: Any) -> None:
    """Publish status.json; `resumable` says whether the same command resumes the run."""
    known = {"state": state, "resumable": state is not State.FINISHED, "process": os.getpid(), "host": socket.gethostname()}
    publish_json(run / STATUS, known | {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"} | values)


def read_metrics(run: Path, notes: list[str] | None = None) -> list[Mapping[str, Any]]:
    """The lines of metrics.jsonl, none if it is missing; `notes` and errors are those of `metrics_lines`."""
    return [line for _, line in metrics_lines(run, [] if notes is None else notes)]


def metrics_lines(run: Path, notes: list[str]) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    """Each line as it is, and what it says. A last line without its end, as a killed run leaves, is skipped, with a line in `notes`.

    Raises InputError, with the line's number, if one is damaged.
    """
    path, advice = run / METRICS, "correct or remove that line"
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: {unreadable(error)}") from error
    with file:
        for number, data in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), 1):
            if not data.endswith(b"\n") and len(data) < _MAX_LINE_BYTES:
                notes.append(f"{path}:{number}: half a line, as a killed run leaves, was skipped")
                return
            where, text = f"{path}:{number}: not a line of metrics", _NOT_FINITE.sub(b"null", data)
            line = parse_json(text, MetricsLine, where, InputError, advice)
            if line["kind"] == "epoch" and not line.get("val"):
                raise InputError(f"{where}: an epoch without val; {advice}")
            yield data, parse_json(text, dict[str, Any], where, InputError, advice)


def read_if_there(path: Path, max_bytes: int, refuse: type[FastfashionError]) -> bytes | None:
    """All bytes of a file; None if there is none. Raises `refuse` if it cannot be read."""
    try:
        return read_limited(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise refuse(f"{path}: {unreadable(error)}") from error
