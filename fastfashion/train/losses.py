"""The losses and rows of steps: kept on their device until they are needed, then checked and added to the progress of training."""

import math
from dataclasses import replace

import torch

from fastfashion.config import TrainConfig
from fastfashion.dist import World
from fastfashion.errors import TrainingError
from fastfashion.train.checkpoint import Checkpoints, Progress
from fastfashion.train.data import Data

MEAN_WEIGHT = 0.02  # of a step's loss in the running mean
_FEW = 8  # the mean loss of fewer images jumps by chance


class Losses:
    """The steps since the last `settle`."""

    def __init__(self, config: TrainConfig, data: Data, world: World) -> None:
        self._config, self._plan, self._world = config, data.spec.plan, world
        self._pending: list[tuple[int, torch.Tensor, torch.Tensor]] = []  # step, loss, rows: not on the CPU yet
        self._numbers = None if data.numbers is None else torch.from_numpy(data.numbers).to(world.device)
        weights = data.loss.weights
        self._guessing = sum(  # the loss of giving every class the same probability
            weights.get(task, 1.0) * math.log(len(names)) for task, names in data.classes.items()
        )

    def add(self, step: int, loss: torch.Tensor, rows: torch.Tensor) -> None:
        """Keep this rank's loss and rows of a step of the epoch."""
        self._pending.append((step, loss, rows))

    def settle(self, progress: Progress, checkpoints: Checkpoints | None) -> Progress:
        """`progress` with the steps of all ranks added; raises TrainingError if a loss is out of hand, with the last of `checkpoints`.

        The rows of a bad step are known from the plan, so looking late loses nothing.
        """
        if not self._pending:
            return progress
        losses, rows = torch.stack([loss for _, loss, _ in self._pending]), torch.cat([rows for _, _, rows in self._pending])
        counts = count_rows(rows if self._numbers is None else torch.where(rows >= 0, self._numbers[rows.clamp(min=0)], rows))
        if self._world.size > 1:
            torch.distributed.all_reduce(losses)
            losses = losses / self._world.size
            torch.distributed.all_reduce(counts)
        values, (num_rows, rows_hash) = losses.tolist(), counts.tolist()
        mean = progress.mean_loss
        for (step, _, _), value in zip(self._pending, values, strict=True):
            if wrong := self._wrong(value, mean):
                raise TrainingError(
                    f"the loss {wrong} in epoch {progress.epoch + 1}, step {step + 1}; rows of that batch: "
                    f"{self._plan.step(progress.epoch, step).rows.tolist()}. Last good checkpoint: "
                    f"{(checkpoints and checkpoints.last()) or 'none yet'}. "
                    "Try a lower rate (--set optim.lr=…), gradient clipping (optim.clip_norm=1), or train.precision=fp32; "
                    "train.loss_spike=0 switches this check off"
                )
            mean = mean + MEAN_WEIGHT * (value - mean) if mean else value
        self._pending.clear()
        return replace(
            progress,
            mean_loss=mean,
            losses=(*progress.losses, *values),
            num_rows=progress.num_rows + num_rows,
            rows_hash=(progress.rows_hash + rows_hash) % 2**64,
        )

    def _wrong(self, value: float, mean: float) -> str:
        """What is wrong with a loss, "" if nothing is."""
        spike = self._config.loss_spike
        if not math.isfinite(value):
            return f"became {value}"
        if value <= loss_limit(spike, mean, self._guessing, self._config.batch_size):
            return ""
        return f"jumped to {value:.4g}, above {spike:g} times both its running mean {mean:.4g} and that of guessing"


def loss_limit(loss_spike: float, mean: float, guessing: float, batch_size: int) -> float:
    """Above which loss training stops: `loss_spike` times its running mean and that of guessing; infinite if there is no limit yet.

    The mean over few images varies by chance: that of a single one by as much as the loss itself.
    """
    if not loss_spike or not mean:
        return math.inf
    return loss_spike * max(mean, guessing) * max(1.0, math.sqrt(_FEW / batch_size))


def count_rows(rows: torch.Tensor) -> torch.Tensor:
    """How many of `rows`, int64 (n,), are not padding, and the sum of their hashes modulo 2^64 as int64; (2,), on the rows' device.

    The sum does not depend on the order, nor on which rank had which row. The hash is murmur3's finaliser (Appleby 2011), its shifts
    signed.
    """
    real = rows >= 0
    hashed = rows
    for factor in (-0xAE502812AA7333, -0x3B314601E57A13AD, 1):
        hashed = (hashed ^ (hashed >> 33)) * factor
    return torch.stack([real.sum(), torch.where(real, hashed, 0).sum()])
