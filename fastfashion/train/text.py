"""What training prints: five lines before it starts, one per epoch, and where it resumes. Lines have at most 100 columns."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fastfashion.config import RunConfig
from fastfashion.dist import World
from fastfashion.load.fit import SQUASH
from fastfashion.train.checkpoint import Progress
from fastfashion.train.data import Data
from fastfashion.words import counted

COLUMNS = 100


def epoch_text(progress: Progress, epochs: int, scores: Mapping[str, Mapping[str, float | int]], weights: Mapping[str, float]) -> str:
    """How good an epoch was on validation; `progress` is that of its end. Of several labels the weighted mean first, then each."""
    begin, best = f"epoch {progress.epoch}/{epochs}: accuracy/macro F1 on validation:", " (the best so far)" if progress.has_best else ""
    each = [f"{task} {score['accuracy']:.4f}/{score['macro_f1']:.4f}" for task, score in scores.items()]
    whole = f"{begin} {', '.join(each)}{best}"
    if len(each) == 1:
        return whole
    means = "/".join(f"{weighted_mean(scores, weights, name):.4f}" for name in ("accuracy", "macro_f1"))
    return "\n".join([f"{begin} mean {means}{best}", *wrapped(each, "  ")])


def weighted_mean(scores: Mapping[str, Mapping[str, float | int]], weights: Mapping[str, float], name: str) -> float:
    """The weighted mean of one metric over labels; a label without a weight counts 1, and all count alike if all weights are 0."""
    shares = {task: weights.get(task, 1.0) for task in scores}
    if not sum(shares.values()):
        shares = dict.fromkeys(scores, 1.0)
    return sum(share * float(scores[task][name]) for task, share in shares.items()) / sum(shares.values())


def wrapped(items: Iterable[str], indent: str) -> list[str]:
    """Items with commas between, in as few lines as fit."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 3 <= COLUMNS:
            lines[-1] += f", {item}"
        else:
            lines = [f"{line}," if line is lines[-1] else line for line in lines] + [f"{indent}{item}"]
    return lines


def resumed_text(run: Path, progress: Progress, num_steps: int, epochs: int) -> str:
    """The line that says where a run is resumed."""
    if progress.epoch >= epochs:
        return f"{run}: all {epochs} epochs are done"
    where = f"in epoch {progress.epoch + 1} of {epochs}"
    if progress.step >= num_steps:
        return f"{run}: resuming with the validation {where}"
    return f"{run}: resuming at step {progress.step + 1} of {num_steps} {where}"


def intro_text(run: Path, config: RunConfig, world: World, data: Data, num_parameters: int) -> str:
    """Set, rows, labels, model and run, a line each; and a warning if no step can fill a batch."""
    spec, train, plan = data.spec, config.train, data.spec.plan
    images = f"{len(spec.images.height_px):,} images, resolution {spec.images.name}"
    distinct = len(np.unique(plan.rows))
    oversampled = f" ({len(plan.rows):,} an epoch: rare classes repeated)" if len(plan.rows) > distinct else ""
    fold = f", fold {config.data.fold}" if config.data.protocol == "folds" else ""
    split = f"{config.data.protocol}{fold} split by {', '.join(config.data.split_tasks)}"
    first = config.model.weights or ("ImageNet weights" if config.model.pretrained else "random weights")
    fit = "" if plan.fit.mode == SQUASH else f", fit {plan.fit.mode}"
    size = f"images {spec.size.height_px} high, {spec.size.width_px} wide{fit}"
    steps = f"{counted(train.epochs, 'epoch')} of {counted(plan.num_steps, 'step')}"
    where = f"{spec.device.type} ({counted(world.size, 'process', 'processes')}), {spec.chosen_backend}"
    lines = [
        f"set    {config.data.shards}: {images}",
        *data.notes,
        f"rows   {distinct:,} train{oversampled}, {len(data.val_spec.plan.rows):,} val, {data.num_test:,} test; {split}",
        _labels({task: len(names) for task, names in data.classes.items()}),
        f"model  {config.model.name} ({num_parameters / 1e6:.1f} M parameters) from {first}, {size}",
        f"run    {run}: {where}, {train.precision}, batch {train.batch_size}, {steps}",
    ]
    if train.batch_size > (num_rows := len(plan.rows)):
        above = f"--batch-size {train.batch_size} is above the {counted(num_rows, 'training row')}"
        lines.append(f"warning: {above}: each epoch is one step of {num_rows}")
    return "\n".join(lines)


def _labels(classes: dict[str, int]) -> str:
    """Labels with their numbers of classes, shortened to fit a line."""
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
