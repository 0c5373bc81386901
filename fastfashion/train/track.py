"""Weights & Biases and MLflow beside TensorBoard, if train.track names them."""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastfashion.config import RunConfig
from fastfashion.extras import require
from fastfashion.runs.files import MLFLOW_ID, WANDB_ID
from fastfashion.runs.folder import flat

PROJECT = "fastfashion"


def check_tracking(config: RunConfig) -> None:
    """Raises ConfigError if a package that train.track names is not installed."""
    for name in config.train.trackers:
        require("track", f"train.track={name}", name)


class Trackers:
    """All services of a run. One that fails is dropped with a warning: no training ends because of it."""

    def __init__(self, config: RunConfig, run: Path, say: Callable[[str], None]) -> None:
        self._say = say
        self._open: dict[str, _Wandb | _Mlflow] = {}
        for name in config.train.trackers:
            self._try(name, lambda name=name: self._open.update({name: KINDS[name](run, flat(config))}))  # type: ignore[misc]

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
            self._say(f"warning: {name} is switched off for the rest of the run: {type(error).__name__}: {error}")


class _Wandb:
    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        known = run / WANDB_ID
        identity = known.read_text(encoding="utf-8") if known.is_file() else uuid.uuid4().hex[:8]
        known.write_text(identity, encoding="utf-8")
        self._run = wandb.init(
            project=PROJECT, name=run.name, id=identity, resume="allow", dir=str(run), config=dict(settings), settings={"silent": True}
        )
        # wandb's own steps only increase; it drops what a run that resumes at an earlier step logs again.
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


KINDS: dict[str, type[_Wandb | _Mlflow]] = {"wandb": _Wandb, "mlflow": _Mlflow}
