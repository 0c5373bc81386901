"""What training is about to do, in five lines."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastfashion.config import RunConfig
from fastfashion.dist import World
from fastfashion.load import LoaderSpec
from fastfashion.train.texts import COLUMNS
from fastfashion.words import counted


@dataclass(frozen=True, kw_only=True)
class Intro:
    """What the lines are about."""

    run: Path
    config: RunConfig
    world: World
    spec: LoaderSpec  # of the training rows
    num_val: int
    num_test: int
    classes: dict[str, int]  # of each label
    num_parameters: int

    def lines(self) -> list[str]:
        """Set, rows by part, classes by label, model and first weights, and how it is trained into which run."""
        config, data, spec, train = self.config, self.config.data, self.spec, self.config.train
        plan = spec.plan
        images = f"{len(spec.images.height_px):,} images, resolution {spec.images.name}"
        distinct = len(np.unique(plan.rows))
        oversampled = f" ({len(plan.rows):,} an epoch: rare classes repeated)" if len(plan.rows) > distinct else ""
        split = f"{data.protocol}{f', fold {data.fold}' if data.protocol == 'folds' else ''} split by {', '.join(data.split_tasks)}"
        first = config.model.weights or ("ImageNet weights" if config.model.pretrained else "random weights")
        size = f"images {spec.size.height_px} high, {spec.size.width_px} wide"
        steps = f"{counted(train.epochs, 'epoch')} of {counted(plan.num_steps, 'step')}"
        where = f"{spec.device.type} ({counted(self.world.size, 'process', 'processes')}), {spec.chosen_backend}"
        return [
            f"set    {data.shards}: {images}",
            f"rows   {distinct:,} train{oversampled}, {self.num_val:,} val, {self.num_test:,} test; {split}",
            _labels(self.classes),
            f"model  {config.model.name} ({self.num_parameters / 1e6:.1f} M parameters) from {first}, {size}",
            f"run    {self.run}: {where}, {train.precision}, batch {train.batch_size}, {steps}",
        ]

    def warning(self) -> str:
        """Of a batch that no step can fill; empty where there is none."""
        num_rows, batch_size = len(self.spec.plan.rows), self.config.train.batch_size
        if batch_size <= num_rows:
            return ""
        return f"warning: --batch-size {batch_size} is above the {counted(num_rows, 'training row')}: each epoch is one step of {num_rows}"


def _labels(classes: dict[str, int]) -> str:
    """Labels and how many classes each has; of many labels the numbers alone, and how many labels are left out."""
    in_words = "labels " + ", ".join(f"{task} {counted(num, 'class', 'classes')}" for task, num in classes.items())
    if len(in_words) <= COLUMNS:
        return in_words
    items = [f"{task} {num}" for task, num in classes.items()]
    for kept in range(len(items), 0, -1):
        left = f" and {len(items) - kept} more" if kept < len(items) else ""
        line = f"labels {', '.join(items[:kept])}{left}"
        if len(line) <= COLUMNS:
            break
    return line
