"""How a run ended, also where it had ended before."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from fastfashion.config import RunConfig
from fastfashion.errors import TrainingError
from fastfashion.model import count_parameters, load_artifact
from fastfashion.runs.folder import BEST, STATUS, Status, has_checkpoint, is_finished, read_status
from fastfashion.runs.opened import METRICS, read_config, read_metrics
from fastfashion.runs.settings import changes, changes_that_count


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def finished_summary(run: Path, config: RunConfig) -> TrainSummary | None:
    """Of a run that has nothing left to do with these settings; None where there is something, or its last checkpoint has to say."""
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
    """Of a run from before status.json held a summary, whose checkpoints are gone; its best epoch by the rule of that time."""
    lines = [line for line in read_metrics(run) if line["kind"] == "epoch"] if (run / METRICS).is_file() else []
    best_epoch, best_metric = -1, -1.0
    for line in lines:
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
