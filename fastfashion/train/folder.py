"""A run's folder: whether this training may use it, who holds it, and what it says of how training stands."""

import os
import socket
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastfashion.config import RunConfig
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.evaluate import read_config
from fastfashion.evaluate.run import CONFIG
from fastfashion.files import publish_json

CHECKPOINTS, BEST, STATUS, SKIPPED, LOCK = "checkpoints", "best", "status.json", "skipped.csv", ".training.lock"
RESUME = ("auto", "never", "must")

# What may differ when a run is gone on with, because it changes where and how fast, not what is computed.
HARMLESS = frozenset(
    {"data.shards", "data.backend", "data.workers", "data.on_bad", "data.cache_dir", "data.cache_gb"}
    | {"train.log_every_steps", "train.max_time", "train.checkpoint_every_steps", "train.checkpoint_every_minutes"}
    | {"train.keep_checkpoints", "train.max_restarts", "train.timeout_s", "train.track"}
)
# What changes the result, but leaves the checkpoint and the place in the data valid: allowed by name.
ALLOWABLE = frozenset(
    {"optim.lr", "optim.weight_decay", "optim.schedule", "optim.warmup_share", "optim.clip_norm", "optim.label_smoothing", "optim.fused"}
    | {"train.epochs", "train.precision", "train.select", "train.early_stop_epochs", "train.loss_spike", "train.deterministic"}
    | {"train.accumulate", "train.sync_bn", "train.compile", "train.cuda_graphs", "model.dropout"}
    | {f"augment.{name}" for name in ("min_area", "max_stretch", "flip", "brightness", "contrast", "saturation", "hue", "grayscale")}
    | {"augment.erase", "augment.mixup", "augment.cutmix"}
)


def check_run_folder(run: Path, config: RunConfig, *, resume: str = "auto", allowed: Collection[str] = ()) -> None:
    """Raises TrainingError where the folder holds a run of other settings, or something else, or what `resume` does not want.

    `allowed` names settings of ALLOWABLE that may differ; raises ConfigError for others.
    """
    if resume not in RESUME:
        raise ConfigError(f"--resume {resume}: expected {', '.join(RESUME)}")
    if unknown := sorted(set(allowed) - ALLOWABLE - HARMLESS):
        raise ConfigError(
            f"--allow-config-change {', '.join(unknown)}: a checkpoint does not fit another value; "
            f"possible are {', '.join(sorted(ALLOWABLE))}"
        )
    if not run.exists() or not any(run.iterdir()):
        if resume == "must":
            raise TrainingError(f"{run}: --resume must, but there is no run; leave it out to start one")
        return
    if not (run / CONFIG).is_file():
        raise TrainingError(f"{run}: holds files but no {CONFIG}; expected an empty folder or a run, choose another --name")
    if resume == "never":
        raise TrainingError(f"{run}: --resume never, but a run is there; choose another --name, or remove it")
    changed = changes(read_config(run), config)
    if refused := {key: values for key, values in changes_that_count(changed).items() if key not in allowed}:
        listed = "; ".join(f"{key}: {before} there, {now} now" for key, (before, now) in refused.items())
        raise TrainingError(
            f"{run}: holds a run with other settings ({listed}); choose another --name, remove it, or go on all the same with "
            + (" ".join(f"--allow-config-change {key}" for key in refused) if set(refused) <= ALLOWABLE else "the settings it has")
        )


def changes(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, with both values."""
    old, new = _flat(before), _flat(now)
    return {key: (old[key], new[key]) for key in new if old[key] != new[key]}


def changes_that_count(changed: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    return {key: values for key, values in changed.items() if key not in HARMLESS}


def _flat(config: RunConfig) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, entries in config.to_dict().items() for key, value in entries.items()}


def write_status(run: Path, state: str, **values: Any) -> None:
    """Publish status.json: state is running, finished, interrupted or failed; `resumable` says whether the same command goes on.

    A run that was killed still says "running", with a process that is no more.
    """
    known = {"state": state, "resumable": state != "finished", "process": os.getpid(), "host": socket.gethostname()}
    publish_json(run / STATUS, known | {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"} | values)
