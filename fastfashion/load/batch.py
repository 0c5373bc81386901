"""What a loader is and hands over, and the choice of one.

plan + packed set ─► open_loader ─► dali | threads ─► Batch, Batch, …
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fastfashion.config import Size
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.load.plan import Part, Plan, Step
from fastfashion.shards import PackedSet, Resolution

if TYPE_CHECKING:
    import torch

SIZE_STEP_PX = 16  # automatic sizes are multiples of it; the usual backbones divide by 32, padding the odd half
MAX_AUTO_SHORT_PX = 224


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, on the loader's device."""

    images: "torch.Tensor"  # uint8 (B, H, W, 3), RGB
    labels: "torch.Tensor"  # int64 (B, T), -1 where a row has no label or is padding
    rows: "torch.Tensor"  # int64 (B,), -1 for padding
    num_labelled: tuple[int, ...]  # T: labelled rows of the whole global batch, what a mean over all ranks divides by


class Loader(Protocol):
    """Batches of an epoch, in the plan's order. `close` ends its threads; a closed loader must not be used any more."""

    num_steps: int

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LoaderSpec:
    """What to load, for whom, with what."""

    pictures: Resolution
    plan: Plan
    labels: np.ndarray  # int64 (N, T) by row of the set
    size: Size
    device: "torch.device"
    rank: int = 0
    world_size: int = 1
    backend: str = "auto"
    workers: int = 1  # threads of this process
    prefetch: int = 3  # batches under way while one is in use

    def parts(self, epoch: int, start: int) -> Iterator[tuple[Step, Part]]:
        num_slots = self.plan.num_slots(self.world_size)
        for step in self.plan.steps(epoch, start):
            yield step, step.part(self.rank, self.world_size, num_slots)

    def batch(self, images: "torch.Tensor", step: Step, part: Part) -> Batch:
        """Put labels and rows beside the images."""
        import torch

        labels = np.where(part.rows[:, None] >= 0, self.labels[part.fetch], -1)
        num_labelled = tuple(int(n) for n in (self.labels[step.rows] >= 0).sum(axis=0))
        on_device = [torch.from_numpy(values).to(self.device, non_blocking=True) for values in (labels, part.rows)]
        return Batch(images, on_device[0], on_device[1], num_labelled)


def open_loader(spec: LoaderSpec) -> Loader:
    """Open a backend; "auto" is DALI on a GPU and threads without one, where they are faster (bench/results/).

    Raises ConfigError where the backend is unknown or cannot run here.
    """
    backend = spec.backend
    if backend == "auto":
        backend = "dali" if spec.device.type == "cuda" else "threads"
    if backend == "dali":
        from fastfashion.load.dali import DaliLoader

        return DaliLoader(spec)
    if backend == "threads":
        from fastfashion.load.threads import ThreadsLoader

        return ThreadsLoader(spec)
    raise ConfigError(f"unknown loader backend {spec.backend!r}: there are auto, dali, threads")


def undecodable(pictures: Resolution, row: int, reason: Exception) -> PackedSetError:
    """The error for a picture that was whole when it was packed and does not decode any more."""
    return PackedSetError(f"row {row}, in {pictures.where(row)}: {reason}; pack the set again")


def choose_pictures(packed: PackedSet, resolution: str, size: str) -> tuple[Resolution, Size]:
    """Settle "auto": the input size, and the smallest packed resolution that need not be enlarged for it.

    An automatic size keeps the pictures' own shape (the median's), with the shorter side at most 224.
    """
    if size != "auto":
        wanted = Size.parse(size)
        if resolution == "auto":
            enough = [name for name in packed.resolutions if name.isdecimal() and int(name) >= min(wanted.height_px, wanted.width_px)]
            resolution = enough[0] if enough else packed.resolutions[-1]
        return packed.open(resolution), wanted
    if resolution == "auto":
        enough = [name for name in packed.resolutions if name.isdecimal() and int(name) >= MAX_AUTO_SHORT_PX]
        resolution = enough[0] if enough else packed.resolutions[-1]
    pictures = packed.open(resolution)
    height, width = float(np.median(pictures.height_px)), float(np.median(pictures.width_px))
    scale = min(1.0, MAX_AUTO_SHORT_PX / min(height, width))
    sides = [max(SIZE_STEP_PX, round(side * scale / SIZE_STEP_PX) * SIZE_STEP_PX) for side in (height, width)]
    return pictures, Size(*sides)
