"""Training: fit ─► train_epoch ─► train_step; after each epoch validate and save. job.py builds the parts.

Nothing here waits for a GPU but log lines, checkpoints and validation.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Protocol

import torch

from fastfashion import dist
from fastfashion.config import RunConfig
from fastfashion.csv_files import publish_csv
from fastfashion.errors import FastfashionError, FirstStepError
from fastfashion.evaluate import fit_temperatures, predict, score
from fastfashion.load import Batch, Skipped
from fastfashion.model.first_step import reason
from fastfashion.model.objective import objective
from fastfashion.runs.files import SKIPPED
from fastfashion.runs.folder import Held
from fastfashion.train.checkpoint import Checkpoints, Progress
from fastfashion.train.control import Control, Stopped
from fastfashion.train.data import Data
from fastfashion.train.learner import Learner, seed_step
from fastfashion.train.losses import Losses
from fastfashion.train.record import Phases, Recorder
from fastfashion.train.text import epoch_text, weighted_mean

SHOWN = 16  # training images for TensorBoard
Scores = Mapping[str, Mapping[str, float | int]]  # task -> metric -> value


class Batches(Protocol):
    """What a loader is to training: the batches of any epoch from any step on, and the rows that were left out."""

    skipped: dict[int, Skipped]

    @property
    def num_steps(self) -> int: ...

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


class Stage(Enum):
    """What the user has seen of this start."""

    FIRST_STEP = "nothing: the first step may compile, and starts the loader, so its rate is not that of the others"
    GLANCES = "loss and rate of the steps since the first one, without a log line"
    LOG_LINES = "log lines"


@dataclass(kw_only=True)
class Trainer:
    """Trains from `progress` on; `progress` is where training is, `stage` what the user has seen."""

    run: Path
    config: RunConfig
    world: dist.World
    data: Data
    learner: Learner
    loader: Batches
    val_loader: Batches
    control: Control
    recorder: Recorder
    checkpoints: Checkpoints | None  # rank 0 alone has them
    held: Held
    progress: Progress
    stage: Stage = Stage.FIRST_STEP

    def __post_init__(self) -> None:
        self._settings = self.config.train
        self._num_steps = self.loader.num_steps  # of an epoch
        self._phases = Phases(self.world.device)
        self._num_images, self._num_steps_since, self._first_step_ended_at = 0, 0, 0.0  # since the first step
        self._first_step_s = 0.0  # until a log line has it
        self._losses = Losses(self._settings, self.data, self.world)

    @property
    def num_done(self) -> int:
        """Steps over all epochs."""
        return self.progress.epoch * self._num_steps + self.progress.step

    def fit(self) -> str:
        """Train to the end; returns why it ended: "finished", "early_stop", or what asked for it.

        Raises TrainingError when the loss is not finite or far above what it was.
        """
        with first_step_explained(lambda: self.stage is Stage.FIRST_STEP), dist.lost_peer_explained(self.world), self.control:
            while (ended := self._ended()) is None:
                try:
                    self.train_epoch()
                    self._end_epoch()
                except Stopped as stop:
                    return stop.reason
        return ended

    def train_epoch(self) -> None:
        """Train the rest of an epoch's steps; raises Stopped if training must end, after a checkpoint."""
        self.learner.wrapped.train()
        self._phases, self._num_images = Phases(self.world.device), 0
        batches = self.loader.steps(self.progress.epoch, self.progress.step)
        while self.progress.step < self._num_steps:
            self.train_step(batches)
        assert next(batches, None) is None, "the loader has more batches than the epoch has steps"  # and so the loader ends its epoch

    def train_step(self, batches: Iterator[Batch]) -> None:
        """Data, forward, loss and backward of each micro-batch; then clip, update, log, and save if it is due."""
        step = self.num_done
        seed_step(self._settings.seed, step, self.world.rank)
        num_images = self._backward(batches)
        norm = self.learner.update(step)
        self.held.trained = True
        self._phases.mark("optimizer")
        self.progress = replace(self.progress, step=self.progress.step + 1)
        asked = self.control.ask()
        self._report(norm, num_images)
        self._phases.mark("logging")
        every = self._settings.checkpoint_every_steps
        due = asked.save or (every > 0 and self.num_done % every == 0)
        if asked.stop or (due and self.progress.step < self._num_steps):
            self.save()
            self._phases.mark("checkpoint")
        if asked.stop:
            raise Stopped(asked.stop)

    def validate(self) -> Scores:
        """Fit the temperatures of the averaged model and score it; raises Stopped if training must end."""
        averaged = self.learner.averaged
        dist.broadcast_buffers(self.world, averaged)
        averaged.temperatures.fill_(1)
        batches = self.control.interruptible(self.val_loader.steps(0))
        predictions = predict(averaged, batches, self.world, self.learner.precision).by(self.data.numbers)
        averaged.temperatures.copy_(fit_temperatures(predictions))
        scores = score(predictions)
        self._list_skipped()
        return scores

    def save(self) -> None:
        """Write a checkpoint beside training; and best/, if the weights are the best so far."""
        self._settle()
        if self.checkpoints is not None:
            started = time.monotonic()
            self.checkpoints.save(self.num_done, self.progress, self.learner.tensors())
            self.control.saved(time.monotonic() - started)

    def _ended(self) -> str | None:
        progress, patience = self.progress, self._settings.early_stop_epochs
        if progress.epoch >= self._settings.epochs:
            return "finished"
        without_best = progress.epoch - 1 - (progress.best_epoch if progress.better_epoch < 0 else progress.better_epoch)
        if patience and progress.best_epoch >= 0 and progress.step == 0 and without_best >= patience:
            return "early_stop"
        return None

    def _end_epoch(self) -> None:
        """Validate if it is due, and save."""
        epoch, config = self.progress.epoch, self._settings
        ended = replace(self.progress, epoch=epoch + 1, step=0)
        if (epoch + 1) % config.validate_every and epoch + 1 < config.epochs:
            self.progress = ended
            self.save()
            return
        phases = Phases(self.world.device)
        try:
            scores = self.validate()
        except Stopped:
            self.save()
            raise
        phases.mark("validation")
        seconds = phases.read()["validation"]
        line = {"kind": "epoch", "epoch": epoch, "step": self.num_done, "val": scores}
        self.recorder.write(line | {"time": {"seconds": round(seconds, 6)}})
        weights = self.config.optim.weights
        # "last" is not a metric: the number of the epoch replaces it, so that each epoch is better than the one before.
        metric = float(epoch) if config.select == "last" else weighted_mean(scores, weights, config.select)
        if metric >= ended.best_metric:  # of equal ones the later
            better = epoch if metric > ended.best_metric else ended.better_epoch
            ended = replace(ended, best_metric=metric, best_epoch=epoch, better_epoch=better)
        self.progress = ended
        self.save()
        self.recorder.say(epoch_text(ended, config.epochs, scores, weights))

    def _backward(self, batches: Iterator[Batch]) -> int:
        """Gradients of a step, summed over its micro-batches; returns the number of labelled images in the global batch."""
        learner, micro_batches, device = self.learner, self._settings.accumulate, self.world.device.type
        losses, rows = [], []
        for number in range(micro_batches):
            batch = next(batches)
            self._phases.mark("data")
            if self.num_done == number == 0 and not self.config.model.freeze:
                self.recorder.show_images(batch.images[:SHOWN])
            with learner.alone() if number + 1 < micro_batches else nullcontext():
                with torch.autocast(device, dtype=learner.precision, enabled=learner.precision != torch.float32):
                    loss = objective(learner.wrapped(batch.images), batch, self.world.size, self.data.loss)
                with _no_warning_of_strides() if self.world.size > 1 and self.stage is Stage.FIRST_STEP else nullcontext():
                    loss.backward()
            losses.append(loss.detach())
            rows.append(batch.rows)
            self._phases.mark("forward_backward")
        self._losses.add(self.progress.step, torch.stack(losses).sum(), torch.cat(rows))
        return max(batch.num_labelled)

    def _report(self, norm: torch.Tensor, num_images: int) -> None:
        """A log line if it is due; before the first one a glance after the second step, the third, the fifth, the ninth, …

        No clock decides, so that all ranks look at the losses of the same steps.
        """
        self._num_images += num_images
        self._num_steps_since += 1
        if self.stage is Stage.FIRST_STEP:
            self.stage, self._first_step_ended_at = Stage.GLANCES, time.perf_counter()
            self._first_step_s, self._num_images, self._num_steps_since = sum(self._phases.read().values()), 0, 0
        if self.num_done % self._settings.log_every_steps == 0 or self.progress.step == self._num_steps:
            self._log(norm)
        elif self.stage is Stage.GLANCES and self._num_steps_since.bit_count() == 1:  # a power of two
            self._glance()
        self.recorder.advance()

    def _log(self, norm: torch.Tensor) -> None:
        """Write the line of the steps since the last one; waits for the GPU."""
        times = self._phases.read()
        self._settle()
        progress, seconds = self.progress, sum(times.values())
        line = {
            "kind": "step",
            "epoch": progress.epoch,
            "step": self.num_done,
            "loss": sum(progress.losses) / len(progress.losses),
            "lr": self.learner.learning_rate(self.num_done - 1),
            "grad_norm": float(norm),
            "rows": progress.num_rows,
            "rows_hash": f"{progress.rows_hash:016x}",
        }
        known = {"seconds": seconds, "images_per_s": self._num_images / seconds if self._num_images else 0.0}
        known |= {f"{name}_s": value for name, value in times.items()} | {"first_step_s": self._first_step_s}
        self.recorder.write(line | {"time": {name: round(value, 6) for name, value in known.items() if value}})
        if self._num_steps_since:
            self.stage = Stage.LOG_LINES
        self._first_step_s, self._num_images = 0.0, 0
        self.progress = replace(progress, losses=(), num_rows=0, rows_hash=0)

    def _glance(self) -> None:
        """Show loss and rate since the first step, and write nothing; waits for the GPU."""
        self._settle()
        line = {"epoch": self.progress.epoch, "step": self.num_done, "loss": self.progress.losses[-1]}
        line |= {"lr": self.learner.learning_rate(self.num_done - 1)}
        self.recorder.show_live(line | {"time": {"images_per_s": self._num_images / (time.perf_counter() - self._first_step_ended_at)}})

    def _settle(self) -> None:
        """Add the losses and rows of all ranks since the last time. Every checkpoint is made after this, so it is good."""
        self.progress = self._losses.settle(self.progress, self.checkpoints)

    def _list_skipped(self) -> None:
        """List in the run's folder which images any rank has skipped so far."""
        skipped = self.loader.skipped | self.val_loader.skipped
        by_row = {row: one for part in dist.gather(self.world, skipped) for row, one in part.items()}
        if by_row and self.world.is_main:
            path, lines = self.run / SKIPPED, [(row, one.where, one.reason) for row, one in sorted(by_row.items())]
            publish_csv(path, ("row", "where", "reason"), lines)
            self.recorder.say(f"{len(lines)} images were skipped because of decode errors: {path}")


@contextmanager
def _no_warning_of_strides() -> Iterator[None]:
    """DDP warns once of the gradients of channels-last 1x1 convolutions, which would end a program that turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        yield


@contextmanager
def first_step_explained(is_first: Callable[[], bool]) -> Iterator[None]:
    """What fails in the first step of a start becomes a FirstStepError, after which nothing is restarted."""
    try:
        yield
    except (FastfashionError, OSError):
        raise
    except Exception as error:
        if not is_first():
            raise
        if isinstance(error, torch.OutOfMemoryError):
            raise FirstStepError(
                f"the first step does not fit into the GPU's memory ({reason(error)}); use a smaller --batch-size or --size, or split "
                "each batch into micro-batches with --set train.accumulate=2"
            ) from error
        raise FirstStepError(
            f"the first step failed ({reason(error)}). A restart would fail in the same way; --debug shows where it failed"
        ) from error
