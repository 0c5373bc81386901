"""What to load: a plan, a packed resolution, an input size, a device; and what a loader is and yields."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fastfashion.config import Size
from fastfashion.errors import PackedSetError
from fastfashion.load.plan import Part, Plan, Step
from fastfashion.shards import PackedSet, Resolution

if TYPE_CHECKING:
    import torch

    from fastfashion.load.prefetch import ShardCache

SIZE_STEP_PX = 16  # automatic sizes are multiples of it; the usual backbones divide by 32, padding the odd half
MAX_AUTO_SHORT_PX = 224


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, on the loader's device."""

    images: "torch.Tensor"  # uint8 (B, H, W, 3), RGB
    labels: "torch.Tensor"  # int64 (B, T), -1 for padding and for a row without that label
    rows: "torch.Tensor"  # int64 (B,), -1 for padding
    num_labelled: tuple[int, ...]  # T: labelled rows of the whole global batch, the divisor of a mean over all ranks
    partners: "torch.Tensor | None" = None  # int64 (B,): index in this batch of the image to mix with; None: no mixing
    shares: "torch.Tensor | None" = None  # float32 (B,): weight of the image itself in the mixture


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that is left out because of a decode error."""

    row: int
    where: str  # id, shard and offset
    reason: str


@dataclass(kw_only=True)
class Profile:
    """The time of loading in seconds, by what it is spent on: summed over threads, except `wait_s`."""

    read_s: float = 0.0  # bringing encoded bytes into memory
    decode_s: float = 0.0
    resize_s: float = 0.0  # cropping, resizing, flipping, and the other augmentations
    copy_s: float = 0.0  # from buffers of the loader to the batch and its device
    wait_s: float = 0.0  # of the consumer, for its next batch
    num_images: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def reset(self) -> None:
        self.read_s = self.decode_s = self.resize_s = self.copy_s = self.wait_s = 0.0
        self.num_images = 0

    def add(self, **values: float) -> None:
        """Add to several of the numbers at once, from any thread."""
        with self._lock:
            for name, value in values.items():
                setattr(self, name, getattr(self, name) + value)


class Loader(Protocol):
    """Batches of an epoch, `spec.micro_batches` of them a step, in the plan's order; life.py says who may iterate it."""

    num_steps: int
    skipped: dict[int, Skipped]  # by row, under on_bad="skip"

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One rank's share of a step, with its labels: int64 (B, T)."""

    part: Part
    labels: np.ndarray
    num_labelled: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LoaderSpec:
    """What to load, for which rank, with which backend: a plain value, from which any process may open a loader."""

    images: Resolution
    plan: Plan
    labels: np.ndarray  # int64 (N, T) by row of the set
    size: Size
    device: "torch.device"
    rank: int = 0
    world_size: int = 1
    micro_batches: int = 1  # batches of a rank in a step; the same samples as with more ranks
    backend: str = "auto"
    workers: int = 1  # threads of this process
    prefetch: int = 3  # batches that are prepared while one is in use
    on_bad: str = "stop"  # at a decode error: raise PackedSetError, or "skip": mask the image and list it in `skipped`
    hw_decoder_load: float | None = None  # share of JPEGs for the GPU's decoder engine; None: load/dali.py's default
    profile: Profile | None = None  # to fill
    cache_dir: str = ""  # for shards of a set on object storage; default: a folder of the user's cache
    cache_bytes: int = 100 * 10**9
    cache: "ShardCache | None" = None  # of a set that is not on a disk; `open_loader` opens it

    @property
    def images_shape(self) -> tuple[int, int, int, int]:
        """(B, H, W, 3) of every batch of this rank."""
        return self.plan.num_slots(self.world_size * self.micro_batches), self.size.height_px, self.size.width_px, 3

    def num_batches(self, start: int) -> int:
        """This rank's number of batches in an epoch from step `start`."""
        return max(0, self.plan.num_steps - start) * self.micro_batches

    @property
    def chosen_backend(self) -> str:
        """The backend; for "auto", that of the device."""
        if self.backend != "auto":
            return self.backend
        return "dali" if self.device.type == "cuda" else "threads"

    def planned(self, epoch: int, start: int) -> Iterator[Planned]:
        """This rank's batches of an epoch from step `start`, each once its shards are in the cache, if there is one."""
        total, mine = self.world_size * self.micro_batches, range(self.rank * self.micro_batches, (self.rank + 1) * self.micro_batches)
        num_slots = self.plan.num_slots(total)
        steps: Iterator[tuple[Step, Part]] = (
            (step, step.part(number, total, num_slots)) for step in self.plan.steps(epoch, start) for number in mine
        )
        for step, part in steps if self.cache is None else self.cache.ahead(steps, in_use=self.prefetch + 2):
            labels = np.where(part.rows[:, None] >= 0, self.labels[part.fetch], -1)
            num_labelled = tuple((self.labels[step.rows] >= 0).sum(axis=0).tolist())
            yield Planned(part=part, labels=labels, num_labelled=num_labelled)

    def sizes_px(self, rows: np.ndarray) -> np.ndarray:
        """Height and width of whole images: int32 (n, 2)."""
        return np.stack([self.images.height_px[rows], self.images.width_px[rows]], axis=1).astype(np.int32)

    def batch(self, images: "torch.Tensor", planned: Planned, errors: Mapping[int, Exception], skipped: dict[int, Skipped]) -> Batch:
        """Combine images with labels and rows, and mix them; for `errors`, by slot, raise PackedSetError, or mask and list in `skipped`."""
        import torch

        from fastfashion.load.augment import mix

        part, labels = planned.part, planned.labels
        for slot, error in sorted(errors.items()):
            row = int(part.fetch[slot])
            if self.on_bad != "skip":
                raise undecodable(self.images, row, error)
            skipped.setdefault(row, Skipped(row=row, where=self.images.where(row), reason=str(error)))
        if errors:
            part, labels = _masked(part, labels, sorted(errors))
        images = mix(images, part)

        rows, codes = (self.to_device(torch.from_numpy(values)) for values in (part.rows, labels))
        mixed = () if part.partners is None or part.shares is None else (part.partners, part.shares)
        return Batch(images, codes, rows, planned.num_labelled, *(self.to_device(torch.from_numpy(values)) for values in mixed))

    def to_device(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """The tensor on the loader's device; on the CPU without `.to`, which may wait a millisecond for Python's lock."""
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)


def _masked(part: Part, labels: np.ndarray, slots: list[int]) -> tuple[Part, np.ndarray]:
    """Mask slots as if they were padding; their partners are then not mixed either."""
    rows, labels = part.rows.copy(), labels.copy()
    rows[slots] = labels[slots] = -1
    if part.partners is None or part.shares is None:
        return replace(part, rows=rows), labels
    alone = np.isin(part.partners, slots)
    alone[slots] = True
    partners = np.where(alone, np.arange(len(rows)), part.partners)
    return replace(part, rows=rows, partners=partners, shares=np.where(alone, np.float32(1), part.shares)), labels


def undecodable(images: Resolution, row: int, reason: Exception) -> PackedSetError:
    """The error for an image that decoded when it was packed and does not now."""
    return PackedSetError(
        f"{images.where(row)}: {reason}; see what is damaged with fastfashion verify {images.folder.parent}, "
        "or leave such images out with --set data.on_bad=skip"
    )


def choose_images(packed: PackedSet, resolution: str, size: str) -> tuple[Resolution, Size]:
    """Resolve "auto": the input size, and the smallest packed resolution that is large enough for it.

    An automatic size has the shape of the images (the median's), with the shorter side at most 224.
    """
    wanted = None if size == "auto" else Size.parse(size)
    if resolution == "auto":
        short_px = min(wanted.height_px, wanted.width_px) if wanted else MAX_AUTO_SHORT_PX
        enough = [name for name in packed.resolutions if name.isdecimal() and int(name) >= short_px]
        resolution = enough[0] if enough else packed.resolutions[-1]
    images = packed.open(resolution)
    if wanted:
        return images, wanted
    height, width = float(np.median(images.height_px)), float(np.median(images.width_px))
    scale = min(1.0, MAX_AUTO_SHORT_PX / min(height, width))
    sides = [max(SIZE_STEP_PX, round(side * scale / SIZE_STEP_PX) * SIZE_STEP_PX) for side in (height, width)]
    return images, Size(*sides)
