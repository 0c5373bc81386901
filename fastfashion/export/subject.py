"""The input of an export: a run's best model, its report, and images to check the result with.

Reading a run runs no code from it: weights are safetensors, everything else is JSON.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastfashion import dist
from fastfashion.config import RunConfig
from fastfashion.errors import FastfashionError
from fastfashion.load import Loader
from fastfashion.predict.predictor import Predictor
from fastfashion.runs import OpenRun, open_run
from fastfashion.runs.files import read_config, read_report

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run as its exports see it."""

    predictor: Predictor  # on CPU, with the heads that are exported
    config: RunConfig
    report: dict[str, Any] | None  # None: the run was not tested
    opened: OpenRun | None  # with the packed set; None if that was not found, for the reason `without_set`
    without_set: str = ""

    @property
    def name(self) -> str:
        return self.predictor.run.resolve().name

    @property
    def tasks(self) -> list[str]:
        """The heads that are exported."""
        return list(self.predictor.classes)

    def probabilities(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (B, H, W, 3) to the run's own calibrated probabilities {task: float32 (B, C)}."""
        return {task: values.numpy() for task, values in self.predictor.probabilities(images).items()}

    def images(self, part: str, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of uint8 (B, H, W, 3) and labels int64 (B, T) from up to `most` rows, spread evenly over train, val or test.

        Images are whole, as in a test; those that do not decode are left out. Needs the packed set.
        """
        assert self.opened is not None
        split, codes = self.opened.split, self.opened.codes
        rows, labels = (split.train, codes) if part == "train" else (split.rows(part), split.labels(part, codes))
        rows = np.sort(rows)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]
        data = self.config.data
        spec = replace(
            self.predictor.spec(self.opened.packed, rows, BATCH_SIZE),
            labels=labels,
            cache_dir=data.cache_dir,
            cache_bytes=int(data.cache_gb * 1e9),
        )
        with closing(Loader(spec)) as loader:
            for batch in loader.steps(0):
                real = batch.rows >= 0
                yield batch.images[real].numpy(), batch.labels[real].numpy()


def open_subject(run: Path, tasks: Sequence[str] = (), shards: Path | None = None) -> Subject:
    """Open a run for export. Raises InputError if the folder holds no trained model, ConfigError for an unknown task.

    A packed set that is not where it was when the run was trained is an error only with `shards`.
    """
    config, opened, why = read_config(run), None, ""
    try:
        opened = open_run(run, shards)
    except FastfashionError as error:
        if shards is not None:
            raise
        why = str(error)
    predictor = Predictor(run, torch.device("cpu"), workers=dist.cores_per_process(1), tasks=tasks)
    return Subject(predictor=predictor, config=config, report=read_report(run), opened=opened, without_set=why)
