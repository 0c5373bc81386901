"""What is exported: a run's best model, what its report says of it, and images to check the result with.

Reading a run runs no code from it: weights are safetensors, everything else is JSON.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastfashion import dist
from fastfashion.config import RunConfig, Size
from fastfashion.errors import ConfigError, FastfashionError
from fastfashion.load import LoaderSpec, Plan, choose_images, open_loader
from fastfashion.model import Classifier, load_artifact, probabilities
from fastfashion.runs import OpenRun, open_run
from fastfashion.runs.files import BEST, read_config, read_report

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run as its exports see it."""

    run: Path
    config: RunConfig
    model: Classifier  # in evaluation mode, on CPU
    backbone: str  # timm's name of it
    size: Size
    classes: dict[str, list[str]]  # of the heads that are exported
    flip_average: bool
    report: dict[str, Any] | None  # None: the run was not tested
    opened: OpenRun | None  # with the packed set; None where that was not found, for the reason `without_set`
    without_set: str = ""

    @property
    def name(self) -> str:
        return self.run.resolve().name

    def probabilities(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (B, H, W, 3) to the run's own calibrated probabilities {task: float32 (B, C)}."""
        with torch.inference_mode():
            found = probabilities(self.model(torch.tensor(images)), self.classes, str(self.run))
        return {task: values.numpy() for task, values in found.items()}


def open_subject(run: Path, tasks: Sequence[str] = (), shards: Path | None = None) -> Subject:
    """Raises InputError where the folder holds no trained model, ConfigError for a task that it has no head for.

    A packed set that is not where it was when the run was trained is an error only with `shards`.
    """
    config, opened, why = read_config(run), None, ""
    try:
        opened = open_run(run, shards)
    except FastfashionError as error:
        if shards is not None:
            raise
        why = str(error)
    model, description = load_artifact(run / BEST)
    if unknown := [task for task in tasks if task not in description.classes]:
        raise ConfigError(f"--task {unknown[0]}: {run} has no head for it; there are {', '.join(description.classes)}")
    return Subject(
        run=run,
        config=config,
        model=model,
        backbone=description.model,
        size=Size.parse(description.size),
        classes={task: names for task, names in description.classes.items() if not tasks or task in tasks},
        flip_average=description.flip_average,
        report=read_report(run),
        opened=opened,
        without_set=why,
    )


def part_images(opened: OpenRun, part: str, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of uint8 (B, H, W, 3) and labels int64 (B, T) from up to `most` rows, spread evenly over train, val or test.

    Images are whole, as in a test; those that do not decode are left out.
    """
    rows, labels = (
        (opened.split.train, opened.codes) if part == "train" else (opened.split.rows(part), opened.split.labels(part, opened.codes))
    )
    rows = np.sort(rows)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]
    resolution, _ = choose_images(opened.packed, opened.config.data.resolution, str(opened.size))
    spec = LoaderSpec(
        images=resolution,
        plan=Plan(rows=rows, heights_px=resolution.height_px, widths_px=resolution.width_px, batch_size=BATCH_SIZE),
        labels=labels,
        size=opened.size,
        device=torch.device("cpu"),
        backend="threads",
        workers=dist.cores_per_process(1),
        on_bad="skip",
        cache_dir=opened.config.data.cache_dir,
        cache_bytes=int(opened.config.data.cache_gb * 1e9),
    )
    with closing(open_loader(spec)) as loader:
        for batch in loader.steps(0):
            real = batch.rows >= 0
            yield batch.images[real].numpy(), batch.labels[real].numpy()


def drawn(size: Size, count: int) -> np.ndarray:
    """Smooth random images, uint8 (n, H, W, 3), the same each time: what remains to check with where there is no packed set."""
    coarse = torch.rand((count, 3, 8, 6), generator=torch.Generator().manual_seed(0)) * 255
    fine = torch.nn.functional.interpolate(coarse, (size.height_px, size.width_px), mode="bilinear")
    return fine.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
