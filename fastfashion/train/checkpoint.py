"""Checkpoints: all that training needs to go on, saved whole or not at all. Loading one never runs code from it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fastfashion.errors import TrainingError
from fastfashion.files import publish

LAST = "last.pt"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training stands. The epoch plan makes these numbers the whole state of the data."""

    epoch: int = 0  # the next step's
    step: int = 0  # the next step's, within the epoch
    best_metric: float = -1.0
    best_epoch: int = -1


def save_checkpoint(folder: Path, progress: Progress, states: dict[str, Any]) -> None:
    """Write `folder`/last.pt, flushed to disk and renamed into place."""
    folder.mkdir(parents=True, exist_ok=True)
    publish(folder / LAST, lambda beside: torch.save({"progress": asdict(progress)} | states, beside))


def load_checkpoint(folder: Path) -> tuple[Progress, dict[str, Any]] | None:
    """The last checkpoint, on CPU, or None where there is none; raises TrainingError where it is damaged."""
    path = folder / LAST
    if not path.is_file():
        return None
    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
        return Progress(**states.pop("progress")), states
    except Exception as error:
        raise TrainingError(f"{path}: not readable as a checkpoint ({type(error).__name__}); remove it to train from the start") from error
