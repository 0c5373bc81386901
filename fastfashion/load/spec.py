"""What to load: a plan, a packed resolution, an input size, a device."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.config import Size
from fastfashion.errors import PackedSetError
from fastfashion.load.batch import Batch, Profile, Skipped
from fastfashion.load.plan import Part, Plan, Step
from fastfashion.shards import PackedSet, Resolution

if TYPE_CHECKING:
    import torch

    from fastfashion.load.remote import ShardCache

SIZE_STEP_PX = 16  # automatic sizes are multiples of it; the usual backbones divide by 32, padding the odd half
MAX_AUTO_SHORT_PX = 224


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One rank's share of a step, with its labels: int64 (B, T)."""

    part: Part
    labels: np.ndarray
    num_labelled: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LoaderSpec:
    """What to load, for whom, with what: a plain value, which any process may open a loader from."""

    images: Resolution
    plan: Plan
    labels: np.ndarray  # int64 (N, T) by row of the set
    size: Size
    device: "torch.device"
    rank: int = 0
    world_size: int = 1
    portions: int = 1  # batches that a rank's share of a step comes in; the same as if there were so many times the ranks
    backend: str = "auto"
    workers: int = 1  # threads of this process
    prefetch: int = 3  # batches under way while one is in use
    on_bad: str = "stop"  # at an image that does not decode: raise PackedSetError, or "skip": mask it and list it in `skipped`
    hw_decoder_load: float | None = None  # share of JPEGs for the GPU's decoder engine; None: load/dali.py's
    profile: Profile | None = None  # filled where given
    cache_dir: str = ""  # for shards of a set on object storage; a folder of the user's cache by default
    cache_bytes: int = 100 * 10**9
    cache: "ShardCache | None" = None  # `open_loader` opens it where the set is not on a disk

    @property
    def images_shape(self) -> tuple[int, int, int, int]:
        """(B, H, W, 3) of every batch of this rank."""
        return self.plan.num_slots(self.world_size * self.portions), self.size.height_px, self.size.width_px, 3

    def num_batches(self, start: int) -> int:
        """How many batches an epoch still has for this rank from step `start` on."""
        return max(0, self.plan.num_steps - start) * self.portions

    @property
    def chosen_backend(self) -> str:
        """What "auto" stands for on this device."""
        if self.backend != "auto":
            return self.backend
        return "dali" if self.device.type == "cuda" else "threads"

    def parts(self, epoch: int, start: int) -> Iterator[tuple[Step, Part]]:
        total, mine = self.world_size * self.portions, range(self.rank * self.portions, (self.rank + 1) * self.portions)
        num_slots = self.plan.num_slots(total)
        parts = ((step, step.part(portion, total, num_slots)) for step in self.plan.steps(epoch, start) for portion in mine)
        return parts if self.cache is None else self.cache.ahead(parts, in_use=self.prefetch + 2)

    def planned(self, epoch: int, start: int) -> Iterator[Planned]:
        for step, part in self.parts(epoch, start):
            labels = np.where(part.rows[:, None] >= 0, self.labels[part.fetch], -1)
            num_labelled = tuple((self.labels[step.rows] >= 0).sum(axis=0).tolist())
            yield Planned(part=part, labels=labels, num_labelled=num_labelled)

    def sizes_px(self, rows: np.ndarray) -> np.ndarray:
        """Height and width of whole images: int32 (n, 2)."""
        return np.stack([self.images.height_px[rows], self.images.width_px[rows]], axis=1).astype(np.int32)

    def batch(self, images: "torch.Tensor", planned: Planned, wrong: Mapping[int, Exception], skipped: dict[int, Skipped]) -> Batch:
        """Put labels and rows beside the images, and mix those that are to be mixed.

        `wrong` says of slots why their images do not decode: raises PackedSetError, or masks them and adds them to `skipped`.
        """
        import torch

        from fastfashion.load.augment import mix

        part, labels = planned.part, planned.labels
        if wrong:
            part, labels = self._without(sorted(wrong), part, labels)
            for slot, reason in sorted(wrong.items()):
                row = int(part.fetch[slot])
                if self.on_bad != "skip":
                    raise undecodable(self.images, row, reason)
                skipped.setdefault(row, Skipped(row=row, where=self.images.where(row), reason=str(reason)))
        images = mix(images, part)

        rows, codes = (self.to_device(torch.from_numpy(values)) for values in (part.rows, labels))
        if part.partners is None or part.shares is None:
            return Batch(images, codes, rows, planned.num_labelled)
        partners, shares = (self.to_device(torch.from_numpy(values)) for values in (part.partners, part.shares))
        return Batch(images, codes, rows, planned.num_labelled, partners, shares)

    def to_device(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """The tensor where the loader's batches go.

        Not even asked for on the CPU: `.to` gives Python's lock away, and waited up to a millisecond for it to come back.
        """
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)

    def _without(self, slots: list[int], part: Part, labels: np.ndarray) -> tuple[Part, np.ndarray]:
        """Mask slots, which others must not be mixed with either."""
        rows, labels = part.rows.copy(), labels.copy()
        rows[slots] = labels[slots] = -1
        if part.partners is None or part.shares is None:
            return replace(part, rows=rows), labels
        alone = np.isin(part.partners, slots)
        alone[slots] = True
        partners = np.where(alone, np.arange(len(rows)), part.partners)
        return replace(part, rows=rows, partners=partners, shares=np.where(alone, np.float32(1), part.shares)), labels


def undecodable(images: Resolution, row: int, reason: Exception) -> PackedSetError:
    """The error for an image that was whole when it was packed and does not decode any more."""
    return PackedSetError(
        f"{images.where(row)}: {reason}; see what is damaged with fastfashion verify {images.folder.parent}, "
        "or leave such images out with --on-bad skip"
    )


def choose_images(packed: PackedSet, resolution: str, size: str) -> tuple[Resolution, Size]:
    """Settle "auto": the input size, and the smallest packed resolution that need not be enlarged for it.

    An automatic size keeps the images' own shape (the median's), with the shorter side at most 224.
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
    images = packed.open(resolution)
    height, width = float(np.median(images.height_px)), float(np.median(images.width_px))
    scale = min(1.0, MAX_AUTO_SHORT_PX / min(height, width))
    sides = [max(SIZE_STEP_PX, round(side * scale / SIZE_STEP_PX) * SIZE_STEP_PX) for side in (height, width)]
    return images, Size(*sides)
