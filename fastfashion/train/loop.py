"""The training loop. It is handed all that it needs and builds nothing.

for epoch: for batch: forward ─► loss ─► backward ─► clip ─► step ─► average; then validate, checkpoint, keep the best
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from fastfashion.config import TrainConfig
from fastfashion.dist import World
from fastfashion.errors import TrainingError
from fastfashion.load import Batch, Loader
from fastfashion.train.checkpoint import Progress
from fastfashion.train.record import Recorder


@dataclass(kw_only=True)
class Training:
    """What the loop works with."""

    world: World
    config: TrainConfig
    model: nn.Module  # as wrapped for training (DistributedDataParallel, compiled)
    optimizer: torch.optim.Optimizer
    loader: Loader
    precision: torch.dtype
    clip_norm: float
    learning_rate: Callable[[int], float]  # of a step, counted over all epochs
    loss: Callable[[dict[str, torch.Tensor], Batch], torch.Tensor]  # of the logits by task and the batch they are for
    average: Callable[[int], None]  # take the weights after this step into the moving average
    validate: Callable[[], dict[str, dict[str, float | int]]]  # task -> metrics
    rows_of: Callable[[int, int], list[int]]  # (epoch, step) -> rows of the global batch
    save: Callable[[Progress, bool], None]  # a checkpoint; and the weights, where they are the best so far
    recorder: Recorder
    pending: list[tuple[int, torch.Tensor]] = field(default_factory=list)  # (step of the epoch, loss) since the last log line


def fit(job: Training, progress: Progress) -> Progress:
    """Train from `progress` to the last epoch; returns where it ended. Raises TrainingError when the loss is not finite."""
    num_steps = job.loader.num_steps
    while progress.epoch < job.config.epochs:
        epoch, started = progress.epoch, time.perf_counter()
        _train_epoch(job, epoch, progress.step)
        seconds = time.perf_counter() - started
        scores = job.validate()
        line = {"kind": "epoch", "epoch": epoch, "step": (epoch + 1) * num_steps, "seconds": round(seconds, 3), "val": scores}
        job.recorder.write(line)
        progress = replace(progress, epoch=epoch + 1, step=0)
        # "last" is no metric: then the number of the epoch stands for it, and each is better than the one before.
        metric = sum(float(s.get(job.config.select, epoch)) for s in scores.values()) / len(scores)
        best = metric > progress.best_metric
        if best:
            progress = replace(progress, best_metric=metric, best_epoch=epoch)
        job.save(progress, best)
        shown = ", ".join(f"{task} accuracy {s['accuracy']:.4f}, macro F1 {s['macro_f1']:.4f}" for task, s in scores.items())
        job.recorder.say(f"epoch {epoch + 1}/{job.config.epochs}: {shown} on validation ({seconds:.0f} s)")
    return progress


def _train_epoch(job: Training, epoch: int, start: int) -> None:
    job.model.train()
    num_steps = job.loader.num_steps
    waited, images, logged_at = 0.0, 0, time.perf_counter()
    asked = logged_at
    for step, batch in enumerate(job.loader.steps(epoch, start), start):
        waited += time.perf_counter() - asked
        done = epoch * num_steps + step
        for group in job.optimizer.param_groups:
            group["lr"] = job.learning_rate(done)
        with torch.autocast(job.world.device.type, dtype=job.precision, enabled=job.precision != torch.float32):
            loss = job.loss(job.model(batch.images), batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(job.model.parameters(), job.clip_norm or math.inf)
        job.optimizer.step()
        job.optimizer.zero_grad(set_to_none=True)
        job.average(done)
        job.pending.append((step, loss.detach()))
        images += max(batch.num_labelled)
        mean_loss = None
        if (done + 1) % job.config.log_every_steps == 0 or step + 1 == num_steps:
            mean_loss = _check_losses(job, epoch)
            seconds, logged_at = time.perf_counter() - logged_at, time.perf_counter()
            line: dict[str, Any] = {"kind": "step", "epoch": epoch, "step": done + 1, "loss": mean_loss, "lr": job.learning_rate(done)}
            rates = {"grad_norm": float(norm), "images_per_s": round(images / seconds, 1), "data_wait_share": round(waited / seconds, 4)}
            job.recorder.write(line | rates)
            waited, images = 0.0, 0
        job.recorder.advance(mean_loss)
        asked = time.perf_counter()


def _check_losses(job: Training, epoch: int) -> float:
    """Mean loss over ranks and the steps since the last log line: the loop's only wait for the device.

    The rows of a step that was not finite are known from the plan, so looking late loses nothing.
    """
    losses = torch.stack([loss for _, loss in job.pending])
    if job.world.size > 1:
        torch.distributed.all_reduce(losses)
        losses = losses / job.world.size
    values = losses.tolist()
    for (step, _), value in zip(job.pending, values, strict=True):
        if not math.isfinite(value):
            rows = job.rows_of(epoch, step)
            raise TrainingError(
                f"the loss became {value} in epoch {epoch}, step {step}; rows of that batch: {rows}. "
                "Try a lower rate (--set optim.lr=…), gradient clipping (optim.clip_norm=1), or train.precision=fp32"
            )
    job.pending.clear()
    return sum(values) / len(values)
