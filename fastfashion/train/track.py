"""Weights & Biases and MLflow beside TensorBoard, where they are installed and asked for (train.track)."""

import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fastfashion.config import RunConfig
from fastfashion.errors import ConfigError
from fastfashion.runs.files import MLFLOW_ID, WANDB_ID

PROJECT = "fastfashion"


class Tracker(Protocol):
    """One service."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def check_tracking(config: RunConfig) -> None:
    """Raises ConfigError where a package that train.track names is not installed."""
    for name in config.train.trackers:
        if find_spec(name) is None:
            raise ConfigError(f"train.track={name}: that package is not installed; pip install 'fastfashion[track]'")


class Trackers:
    """All that a run is told to. One that fails is told of and left out: no training ends because of it."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._open: dict[str, Tracker] = {}

    def add(self, name: str, make: Callable[[], Tracker]) -> None:
        def keep() -> None:
            self._open[name] = make()

        self._try(name, keep)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(values, step))  # type: ignore[misc]

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)

    def _try(self, name: str, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:  # whatever a service, its client or the network comes up with
            self._open.pop(name, None)
            self._tell(f"warning: {name} is left out from here on: {type(error).__name__}: {error}")


def open_trackers(config: RunConfig, run: Path, tell: Callable[[str], None]) -> Trackers:
    trackers = Trackers(tell)
    settings = {f"{section}.{key}": value for section, entries in config.to_dict().items() for key, value in entries.items()}
    kinds: dict[str, Callable[..., Tracker]] = {"wandb": _Wandb, "mlflow": _Mlflow}
    for name in config.train.trackers:
        trackers.add(name, lambda kind=kinds[name]: kind(run, settings))  # type: ignore[misc]
    return trackers


class _Wandb:
    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        known = run / WANDB_ID
        identity = known.read_text(encoding="utf-8") if known.is_file() else uuid.uuid4().hex[:8]
        known.write_text(identity, encoding="utf-8")
        self._run = wandb.init(
            project=PROJECT, name=run.name, id=identity, resume="allow", dir=str(run), config=dict(settings), settings={"silent": True}
        )

        # wandb's own steps only go up, and drop what a run that goes on from an earlier step logs again.
        self._run.define_metric("*", step_metric="training_step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({"training_step": step, **values})

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        known = run / MLFLOW_ID
        if known.is_file():
            self._id = known.read_text(encoding="utf-8")
            return
        experiment = mlflow.set_experiment(PROJECT)
        self._id = self._client.create_run(experiment.experiment_id, run_name=run.name).info.run_id
        known.write_text(self._id, encoding="utf-8")
        for key, value in settings.items():
            self._client.log_param(self._id, key, value)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)
