"""From the plan to batches and back: what a rank loads in each step, and its images with labels as a Batch.

plan ─► Feed: this rank's share, labels, shards in the cache ─► Planned ─► backend ─► Made ─► finish ─► Batch
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fastfashion.errors import PackedSetError
from fastfashion.load.batch import Batch, Skipped
from fastfashion.load.plan import Part, Step
from fastfashion.load.spec import LoaderSpec
from fastfashion.shards import Resolution

if TYPE_CHECKING:
    import torch

    from fastfashion.load.prefetch import ShardCache


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One batch to load: a rank's share of a step, with its labels, int64 (B, T)."""

    part: Part
    labels: np.ndarray
    num_labelled: tuple[int, ...]
    epoch: int
    samples: int  # as Batch.samples: of a step in several batches, only the last one completes it
    is_last: bool  # of the epoch


@dataclass(frozen=True)
class Made:
    """A batch whose images are loaded and augmented, but not mixed yet."""

    planned: Planned
    images: "torch.Tensor"  # uint8 (B, H, W, 3), on the loader's device
    errors: Mapping[int, Exception]  # by slot: decode errors; these images are black


class Backend(Protocol):
    """How images are loaded. One call of `batches` at a time; closing its generator leaves no work behind."""

    @property
    def needs_shards(self) -> bool:
        """False once it can do without the encoded images."""

    def batches(self, planned: Iterator[Planned]) -> Generator[Made, None, None]: ...

    def close(self) -> None: ...


class Feed:
    """What this rank loads, batch by batch, each once its shards are in the cache, if there is one."""

    def __init__(self, spec: LoaderSpec, cache: "ShardCache | None" = None) -> None:
        self._spec, self._cache = spec, cache

    def planned(self, epoch: int, samples: int, *, with_shards: bool = True) -> Iterator[Planned]:
        """The rest of an epoch of which `samples` are done."""
        spec, plan = self._spec, self._spec.plan
        total, mine = spec.world_size * spec.micro_batches, range(spec.rank * spec.micro_batches, (spec.rank + 1) * spec.micro_batches)
        num_slots = plan.num_slots(total)
        steps: Iterator[tuple[Step, Part]] = (
            (step, step.part(number, total, num_slots)) for step in plan.steps_after(epoch, samples) for number in mine
        )
        if self._cache is not None and with_shards:
            steps = self._cache.ahead(steps, in_use=spec.prefetch + 2)
        in_step = 0
        for step, part in steps:
            in_step = in_step % len(mine) + 1
            complete = in_step == len(mine)
            yield Planned(
                part=part,
                labels=np.where(part.rows[:, None] >= 0, spec.labels[part.fetch], -1),
                num_labelled=tuple((spec.labels[step.rows] >= 0).sum(axis=0).tolist()),
                epoch=epoch,
                samples=step.end if complete else step.end - len(step.rows),
                is_last=complete and step.end == plan.num_samples,
            )


def finish(spec: LoaderSpec, made: Made, skipped: dict[int, Skipped]) -> Batch:
    """Combine images with labels and rows, and mix them. An error is raised as PackedSetError, or its image masked and listed."""
    import torch

    from fastfashion.load.augment import mix

    part, labels = made.planned.part, made.planned.labels
    for slot, error in sorted(made.errors.items()):
        row = int(part.fetch[slot])
        if spec.on_bad != "skip":
            raise undecodable(spec.images, row, error)
        skipped.setdefault(row, Skipped(row=row, where=spec.images.where(row), reason=str(error)))
    if made.errors:
        part, labels = _masked(part, labels, sorted(made.errors))

    def moved(values: np.ndarray | None) -> "torch.Tensor | None":
        return None if values is None else spec.to_device(torch.from_numpy(values))

    rows, codes = (spec.to_device(torch.from_numpy(values)) for values in (part.rows, labels))
    return Batch(
        images=mix(made.images, part),
        labels=codes,
        rows=rows,
        num_labelled=made.planned.num_labelled,
        partners=moved(part.partners),
        shares=moved(part.shares),
        tasks=spec.tasks,
        num_classes=spec.num_classes,
        epoch=made.planned.epoch,
        samples=made.planned.samples,
    )


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
