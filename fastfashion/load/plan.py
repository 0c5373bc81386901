"""The epoch plan: which rows are in which step, and how each picture is cropped and flipped. Pure numpy.

Every random number is a function of (seed, epoch, position): Philox (Salmon et al. 2011) keyed by (seed, epoch), its counter addressed
by the sample's position in the epoch. Nobody else draws random numbers for data, so that resuming at a step, or training on another
number of processes, sees the same pictures.

    rows ─► order(epoch) ─► step s: positions [s·n/S, (s+1)·n/S) ─► rank r: its even share, padded with row -1
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastfashion.config import AugmentConfig
from fastfashion.errors import InputError

_ORDER_STREAM, _AUGMENT_STREAM = 0, 1  # the highest word of Philox's counter keeps them apart
_UNIFORMS_PER_SAMPLE = 8  # two Philox blocks of four; five are used, three are left for later augmentations


@dataclass(frozen=True, kw_only=True)
class Part:
    """One rank's share of a step; all arrays have the same length in every step, so that shapes never change."""

    rows: np.ndarray  # int64 (L,), -1 for padding
    fetch: np.ndarray  # int64 (L,): what to load; padding loads a real picture of the batch, whose label is masked
    boxes: np.ndarray  # int32 (L, 4): y0, x0, y1, x1 in pixels of the packed picture, the ends exclusive
    flips: np.ndarray  # bool (L,): mirror left and right
    colours: np.ndarray | None = None
    erased: np.ndarray | None = None
    partners: np.ndarray | None = None
    shares: np.ndarray | None = None
    pasted: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One global batch: rows int64 (B,), boxes int32 (B, 4), flips bool (B,)."""

    rows: np.ndarray
    boxes: np.ndarray
    flips: np.ndarray

    def part(self, rank: int, world_size: int, num_slots: int) -> Part:
        """The even, contiguous share of one rank, padded to `num_slots`."""
        size = len(self.rows)
        mine = np.arange(rank * size // world_size, (rank + 1) * size // world_size)
        padding = np.full(num_slots - len(mine), mine[0] if len(mine) else 0)
        taken = np.concatenate([mine, padding])
        rows = self.rows[taken].copy()
        rows[len(mine) :] = -1
        return Part(rows=rows, fetch=self.rows[taken], boxes=self.boxes[taken], flips=self.flips[taken])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every row once an epoch, in steps of equal size (within one): shuffled and augmented, or in order and whole.

    `heights_px` and `widths_px` are those of the packed pictures, by row of the set.
    """

    rows: np.ndarray  # int64 (n,)
    heights_px: np.ndarray  # int64 (N,)
    widths_px: np.ndarray  # int64 (N,)
    batch_size: int  # global; no step is larger
    seed: int = 0
    shard_starts: np.ndarray | None = None
    window_shards: int = 0
    augment: AugmentConfig | None = None  # None: evaluation, in the order of `rows`, whole pictures

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise InputError("no rows to load: the part of the split is empty")

    @property
    def num_steps(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def num_slots(self, world_size: int) -> int:
        """Pictures in a rank's batch, padding included."""
        return math.ceil(math.ceil(len(self.rows) / self.num_steps) / world_size)

    def order(self, epoch: int) -> np.ndarray:
        """Rows of an epoch in the order of their positions: int64 (n,)."""
        if self.augment is None:
            return self.rows
        return self.rows[np.random.Generator(self._philox(epoch, _ORDER_STREAM)).permutation(len(self.rows))]

    def steps(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """The steps of an epoch from `start` on."""
        order = self.order(epoch)
        for step in range(start, self.num_steps):
            first, end = (step * len(order) // self.num_steps, (step + 1) * len(order) // self.num_steps)
            yield self._cut(epoch, first, order[first:end])

    def step(self, epoch: int, step: int) -> Step:
        """One step of an epoch; for many, `steps` shuffles only once."""
        return next(self.steps(epoch, step))

    def _cut(self, epoch: int, position: int, rows: np.ndarray) -> Step:
        """Crop boxes and flips of the samples from `position` on.

        A crop covers a share of the picture uniform in [min_area, 1], its aspect ratio changed by a factor log-uniform in
        [1/max_stretch, max_stretch] against the picture's own, at a place uniform over all that fit. (torchvision's
        RandomResizedCrop draws an absolute ratio and tries again where it does not fit; product pictures all share one shape.)
        """
        heights, widths = self.heights_px[rows], self.widths_px[rows]
        if self.augment is None:
            boxes = np.stack([np.zeros_like(heights), np.zeros_like(heights), heights, widths], axis=1)
            return Step(rows=rows, boxes=boxes.astype(np.int32), flips=np.zeros(len(rows), dtype=bool))
        area_u, stretch_u, y_u, x_u, flip_u = self._uniforms(epoch, position, len(rows))[:5]
        area = self.augment.min_area + (1 - self.augment.min_area) * area_u
        stretch = self.augment.max_stretch ** (2 * stretch_u - 1)
        crop_heights = np.clip(np.rint(np.sqrt(area * stretch) * heights), 1, heights).astype(np.int64)
        crop_widths = np.clip(np.rint(np.sqrt(area / stretch) * widths), 1, widths).astype(np.int64)
        y0 = (y_u * (heights - crop_heights + 1)).astype(np.int64)
        x0 = (x_u * (widths - crop_widths + 1)).astype(np.int64)
        boxes = np.stack([y0, x0, y0 + crop_heights, x0 + crop_widths], axis=1)
        return Step(rows=rows, boxes=boxes.astype(np.int32), flips=flip_u < self.augment.flip)

    def _uniforms(self, epoch: int, position: int, count: int) -> np.ndarray:
        """float64 in [0, 1), (8, count): those of the positions from `position` on."""
        raw = self._philox(epoch, _AUGMENT_STREAM, position * _UNIFORMS_PER_SAMPLE // 4).random_raw(count * _UNIFORMS_PER_SAMPLE)
        return (raw.reshape(count, _UNIFORMS_PER_SAMPLE).T >> np.uint64(11)) * 2.0**-53

    def _philox(self, epoch: int, stream: int, block: int = 0) -> np.random.Philox:
        return np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64), counter=np.array([block, 0, 0, stream], dtype=np.uint64))
