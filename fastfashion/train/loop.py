"""The training loop. It is handed all that it needs and builds nothing.

    for epoch: for step: data ─► forward, loss, backward (of each portion) ─► clip, step, average ─► log ─► checkpoint
               then validate, checkpoint, keep the best

Nothing in it waits for a GPU but log lines, checkpoints and validation.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from fastfashion.config import TrainConfig
from fastfashion.dist import World
from fastfashion.errors import TrainingError
from fastfashion.load import Batch, Loader
from fastfashion.train.checkpoint import Progress
from fastfashion.train.control import Control, Stopped
from fastfashion.train.learner import Learner, seed_step
from fastfashion.train.record import Recorder
from fastfashion.train.texts import epoch_text, weighted_mean
from fastfashion.train.timing import Phases

MEAN_WEIGHT = 0.02  # of a step's loss in the running mean
_FEW = 8  # images, of whose mean loss a jump says something
SHOWN = 16  # training images for TensorBoard


@dataclass(kw_only=True)
class Training:
    """What the loop works with."""

    world: World
    config: TrainConfig
    learner: Learner
    loader: Loader
    loss: Callable[[dict[str, torch.Tensor], Batch], torch.Tensor]  # of the logits by task and the batch they are for
    weights: Mapping[str, float]  # of a task in the mean metric that decides which epoch is the best; 1 where it is not named
    guessing: float  # the loss of giving every class the same probability
    validate: Callable[[], dict[str, dict[str, float | int]]]  # task -> metrics; raises Stopped where training is to end
    rows_of: Callable[[int, int], list[int]]  # (epoch, step) -> rows of the global batch
    save: Callable[[Progress], None]  # a checkpoint; and best/, where progress says that the weights are the best
    last_good: Callable[[], str]  # where the last good checkpoint is, for people
    control: Control
    recorder: Recorder
    began: Callable[[], None] = lambda: None  # called after each step: one was trained
    numbers: torch.Tensor | None = None  # int64 (N,): the numbers that rows have in the record; None: the set's own
    first_step_s: float | None = None  # of this start, until it has been told
    glance: "Glance | None" = None  # after the first step of this start
    pending: list[tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=list)  # step, loss, rows: not looked at yet


@dataclass
class Glance:
    """What is shown between the first log lines: loss and rate of the steps since the first one, which may compile."""

    since: float  # time.perf_counter
    num_steps: int = 0
    num_images: int = 0

    @property
    def is_due(self) -> bool:
        """After the second step, the third, the fifth, the ninth, …: no clock, so that all ranks look at the same step."""
        return self.num_steps > 0 and self.num_steps & (self.num_steps - 1) == 0


def fit(job: Training, progress: Progress) -> tuple[Progress, str]:
    """Train from `progress` to the end; returns where and why it ended: "finished", "early_stop", or what asked for it.

    Raises TrainingError when the loss is not finite or far above what it was.
    """
    with job.control:
        while (ended := _ended(job.config, progress)) is None:
            try:
                progress = train_epoch(job, progress)
                progress = _end_epoch(job, progress)
            except Stopped as stop:
                return stop.progress or progress, stop.reason
    return progress, ended


def _ended(config: TrainConfig, progress: Progress) -> str | None:
    if progress.epoch >= config.epochs:
        return "finished"
    without_best = progress.epoch - 1 - (progress.best_epoch if progress.better_epoch < 0 else progress.better_epoch)
    if config.early_stop_epochs and progress.best_epoch >= 0 and progress.step == 0 and without_best >= config.early_stop_epochs:
        return "early_stop"
    return None


def train_epoch(job: Training, progress: Progress) -> Progress:
    """The rest of an epoch's steps."""
    learner, config, num_steps = job.learner, job.config, job.loader.num_steps
    learner.wrapped.train()
    phases = Phases(job.world.device)
    num_images = 0
    batches = job.loader.steps(progress.epoch, progress.step)
    for step in range(progress.step, num_steps):
        done = progress.epoch * num_steps + step
        seed_step(config.seed, done, job.world.rank)
        count = _backward(job, progress.epoch, step, batches, phases)
        num_images += count
        norm = learner.update(done)
        job.began()
        phases.mark("optimizer")
        progress = replace(progress, step=step + 1)
        asked, last = job.control.ask(), step + 1 == num_steps
        if job.first_step_s is None:  # it may compile, and starts the loader: it says nothing of the others
            job.first_step_s, num_images = sum(phases.read().values()), 0
            job.glance = Glance(time.perf_counter())
        elif job.glance is not None:
            job.glance.num_steps += 1
            job.glance.num_images += count
        if (done + 1) % config.log_every_steps == 0 or last:
            progress = _log(job, progress, norm, num_images, phases.read())
            num_images = 0
            if job.glance is not None and job.glance.num_steps:
                job.glance = None
        elif job.glance is not None and job.glance.is_due:
            progress = _show(job, progress, job.glance)
        job.recorder.advance()
        phases.mark("logging")
        every = config.checkpoint_every_steps
        due = asked.save or (every > 0 and (done + 1) % every == 0)
        if asked.stop or (due and not last):
            progress = _settle(job, progress)
            job.save(progress)
            phases.mark("checkpoint")
        if asked.stop:
            raise Stopped(asked.stop, progress)
    assert next(batches, None) is None, "the loader has more batches than the epoch has steps"  # and so the loader ends its epoch
    return progress


def _backward(job: Training, epoch: int, step: int, batches: Iterator[Batch], phases: Phases) -> int:
    """Gradients of a step, portion by portion; returns the number of labelled images in the global batch."""
    learner, portions = job.learner, job.config.accumulate
    losses, rows = [], []
    for portion in range(portions):
        batch = next(batches)
        phases.mark("data")
        if epoch == step == portion == 0:
            job.recorder.show(batch.images[:SHOWN])
        with learner.alone() if portion + 1 < portions else nullcontext():
            with torch.autocast(job.world.device.type, dtype=learner.precision, enabled=learner.precision != torch.float32):
                loss = job.loss(learner.wrapped(batch.images), batch)
            with _strides_not_warned_of() if job.world.size > 1 and job.first_step_s is None else nullcontext():
                loss.backward()
        losses.append(loss.detach())
        rows.append(batch.rows)
        phases.mark("forward_backward")
    job.pending.append((step, torch.stack(losses).sum(), torch.cat(rows)))
    return max(batch.num_labelled)


@contextmanager
def _strides_not_warned_of() -> Iterator[None]:
    """DDP warns once, of the gradients of 1x1 convolutions in channels-last memory; a program that makes errors of warnings would end."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        yield


def _log(job: Training, progress: Progress, norm: torch.Tensor, num_images: int, times: dict[str, float]) -> Progress:
    """Write the line of the steps since the last one; waits for the GPU."""
    progress = _settle(job, progress)
    done = progress.epoch * job.loader.num_steps + progress.step
    seconds = sum(times.values())
    line = {
        "kind": "step",
        "epoch": progress.epoch,
        "step": done,
        "loss": sum(progress.losses) / len(progress.losses),
        "lr": job.learner.learning_rate(done - 1),
        "grad_norm": float(norm),
        "rows": progress.num_rows,
        "rows_hash": f"{progress.rows_hash:016x}",
    }
    known: dict[str, float | None] = {"seconds": seconds, "images_per_s": num_images / seconds if num_images else None}
    known |= {f"{name}_s": value for name, value in times.items()} | {"first_step_s": job.first_step_s}
    job.first_step_s = 0.0  # told
    job.recorder.write(line | {"time": {name: round(value, 6) for name, value in known.items() if value}})
    return replace(progress, losses=(), num_rows=0, rows_hash=0)


def _show(job: Training, progress: Progress, glance: Glance) -> Progress:
    """Show loss and rate so far, and write nothing; waits for the GPU."""
    progress = _settle(job, progress)
    done = progress.epoch * job.loader.num_steps + progress.step
    time_s = time.perf_counter() - glance.since
    line = {"epoch": progress.epoch, "step": done, "loss": progress.losses[-1], "lr": job.learner.learning_rate(done - 1)}
    job.recorder.tell(line | {"time": {"images_per_s": glance.num_images / time_s}})
    return progress


def _settle(job: Training, progress: Progress) -> Progress:
    """Take in the losses and rows of all ranks that nobody has looked at yet; raises TrainingError where a loss is out of hand.

    The rows of a bad step are known from the plan, so looking late loses nothing. Checkpoints are made after this alone: they are good.
    """
    if not job.pending:
        return progress
    losses, rows = torch.stack([loss for _, loss, _ in job.pending]), torch.cat([rows for _, _, rows in job.pending])
    counts = count_rows(rows if job.numbers is None else torch.where(rows >= 0, job.numbers[rows.clamp(min=0)], rows))
    if job.world.size > 1:
        torch.distributed.all_reduce(losses)
        losses = losses / job.world.size
        torch.distributed.all_reduce(counts)
    values, (num_rows, rows_hash) = losses.tolist(), counts.tolist()
    mean = progress.mean_loss
    for (step, _, _), value in zip(job.pending, values, strict=True):
        _check_loss(job, progress.epoch, step, value, mean)
        mean = mean + MEAN_WEIGHT * (value - mean) if mean else value
    job.pending.clear()
    return replace(
        progress,
        mean_loss=mean,
        losses=(*progress.losses, *values),
        num_rows=progress.num_rows + num_rows,
        rows_hash=(progress.rows_hash + rows_hash) % 2**64,
    )


def count_rows(rows: torch.Tensor) -> torch.Tensor:
    """How many of `rows`, int64 (n,), are no padding, and the sum of their hashes modulo 2^64 as int64; (2,), on the rows' device.

    The sum does not depend on the order, nor on which rank had which row. The hash is murmur3's finaliser (Appleby 2011), its shifts
    signed.
    """
    real = rows >= 0
    hashed = rows
    for factor in (-0xAE502812AA7333, -0x3B314601E57A13AD, 1):
        hashed = (hashed ^ (hashed >> 33)) * factor
    return torch.stack([real.sum(), torch.where(real, hashed, 0).sum()])


def _check_loss(job: Training, epoch: int, step: int, value: float, mean: float) -> None:
    # The mean of few images varies by chance: of one alone by as much as the loss itself.
    limit = job.config.loss_spike * max(mean, job.guessing) * max(1.0, math.sqrt(_FEW / job.config.batch_size))
    if math.isfinite(value) and (value <= limit or not job.config.loss_spike or not mean):
        return
    what = f"became {value}"
    if math.isfinite(value):
        what = f"jumped to {value:.4g}, above {job.config.loss_spike:g} times both its running mean {mean:.4g} and that of guessing"
    raise TrainingError(
        f"the loss {what} in epoch {epoch + 1}, step {step + 1}; rows of that batch: {job.rows_of(epoch, step)}. "
        f"Last good checkpoint: {job.last_good()}. "
        "Try a lower rate (--set optim.lr=…), gradient clipping (optim.clip_norm=1), or train.precision=fp32; "
        "train.loss_spike=0 switches this check off"
    )


def _end_epoch(job: Training, progress: Progress) -> Progress:
    """Validate where it is due, and save; the weights, too, where they are the best so far."""
    epoch, config = progress.epoch, job.config
    if (epoch + 1) % config.validate_every and epoch + 1 < config.epochs:
        progress = replace(progress, epoch=epoch + 1, step=0)
        job.save(progress)
        return progress
    phases = Phases(job.world.device)
    try:
        scores = job.validate()
    except Stopped as stop:
        job.save(progress)
        raise Stopped(stop.reason, progress) from None
    phases.mark("validation")
    seconds = phases.read()["validation"]
    line = {"kind": "epoch", "epoch": epoch, "step": (epoch + 1) * job.loader.num_steps, "val": scores}
    job.recorder.write(line | {"time": {"seconds": round(seconds, 6)}})
    progress = replace(progress, epoch=epoch + 1, step=0)
    # "last" is no metric: then the number of the epoch stands for it, and each is better than the one before.
    metric = float(epoch) if config.select == "last" else weighted_mean(scores, job.weights, config.select)
    if metric >= progress.best_metric:  # of equal ones the later
        better = epoch if metric > progress.best_metric else progress.better_epoch
        progress = replace(progress, best_metric=metric, best_epoch=epoch, better_epoch=better)
    job.save(progress)
    job.recorder.say(epoch_text(progress, config.epochs, scores, job.weights))
    return progress
