"""The epoch plan: which rows are in which step, and how each image is cropped, flipped, coloured, erased and mixed. Pure numpy.

Every random number is a function of (seed, epoch, position): Philox (Salmon et al. 2011) keyed by (seed, epoch), its counter addressed
by the sample's position in the epoch. No other module draws random numbers for data, so that a run that resumes at a step, or uses
another number of processes, sees the same images.

    rows ─► order(epoch) ─► step s: positions [s·n/S, (s+1)·n/S) ─► rank r: its even share, padded with row -1

The order is a permutation of all rows. For sets larger than memory it is one of the shards, cut into windows of `window_shards`, and one
of the rows inside each window, computed when a step needs it: then only a window's shards are read at a time.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import ConfigError, InputError
from fastfashion.load.draws import changes_colours, draw_colours, draw_crops, draw_erased, draw_mixing
from fastfashion.load.fit import CROP, DEFAULT_FIT, SQUASH, Fit

# The highest word of Philox's counter, which separates the streams.
_ORDER_STREAM, _CROP_STREAM, _COLOUR_STREAM, _ERASE_STREAM, _MIX_STREAM, _SHARDS_STREAM, _WINDOW_STREAM = range(7)
_UNIFORMS_PER_SAMPLE = 8  # of each stream: two Philox blocks of four; the unused ones are reserved for later augmentations
_DRAWN_SAMPLES = 1024  # at a time, unless a step has more: for a few, NumPy's calls take longer than its work
_CHECKED_ROWS = 1 << 20  # at a time, so that checking an order takes little memory


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Rows and how each is augmented; arrays of one length, None for an augmentation that is off."""

    rows: np.ndarray  # int64 (L,), -1 for padding
    boxes: np.ndarray  # int32 (L, 4): y0, x0, y1, x1 in pixels of the packed image, the ends exclusive
    flips: np.ndarray  # bool (L,): mirror left and right, inside the place
    places: np.ndarray | None = None  # int32 (L, 4): y0, x0, y1, x1 of the output's pixels that show the box; None: all of them
    colours: np.ndarray | None = None  # float32 (L, 3, 4): out = M[:, :3] @ rgb + M[:, 3] in grey levels, rounded, clipped to 0..255
    erased: np.ndarray | None = None  # float32 (L, 4): y0, x0, y1, x1 as shares of the output's height and width, all 0: nothing
    partners: np.ndarray | None = None  # int64 (L,): index, here, of the image to mix with; the image's own if it is not mixed
    shares: np.ndarray | None = None  # float32 (L,): weight of the image itself in the mixture
    pasted: np.ndarray | None = None  # float32 (L, 4): the box, as `erased`, that shows the partner (cutmix); all 0: a blend (mixup)

    def _slices(self, first: int, end: int) -> dict[str, Any]:
        """Views of the samples from `first` to `end`; mixed pairs must stay together."""
        found = {name: values[first:end] for name in _PER_SAMPLE if (values := getattr(self, name)) is not None}
        if self.partners is not None:
            found["partners"] = self.partners[first:end] - first
        return found


_PER_SAMPLE = tuple(field.name for field in fields(Samples))


@dataclass(frozen=True, kw_only=True)
class Part(Samples):
    """One rank's share of a step, of the same length in every step, so that shapes never change. Padding is not mixed."""

    fetch: np.ndarray  # int64 (L,): what to load; padding loads a real image of the batch, whose label is masked


@dataclass(frozen=True, kw_only=True)
class Step(Samples):
    """One global batch, without padding."""

    end: int  # samples of the epoch that are done after it, in the epoch's order

    def part(self, rank: int, world_size: int, num_slots: int) -> Part:
        """The even, contiguous share of one rank, padded to `num_slots`; mixed pairs stay together."""
        size, together = len(self.rows), 1 if self.partners is None else 2
        units = math.ceil(size / together)
        first, end = (min(edge * units // world_size * together, size) for edge in (rank, rank + 1))
        if end - first == num_slots:
            kept = self._slices(first, end)
            return Part(fetch=kept["rows"], **kept)
        taken = np.full(num_slots, first if first < end else 0)
        taken[: end - first] = np.arange(first, end)
        fetch = self.rows[taken]
        real = np.arange(num_slots) < end - first
        more = {name: values[taken] for name in ("places", "colours", "erased") if (values := getattr(self, name)) is not None}
        if self.partners is not None and self.shares is not None and self.pasted is not None:
            more["partners"] = np.where(real, self.partners[taken] - taken[0], np.arange(num_slots))
            more["shares"] = np.where(real, self.shares[taken], np.float32(1))
            more["pasted"] = np.where(real[:, None], self.pasted[taken], np.float32(0))
        return Part(rows=np.where(real, fetch, -1), fetch=fetch, boxes=self.boxes[taken], flips=self.flips[taken], **more)

    def cut(self, first: int, end: int, samples: int) -> "Step":
        """Some of its samples, not of mixed ones; samples: of the epoch that are done after them."""
        return self if end - first == len(self.rows) else Step(end=samples, **self._slices(first, end))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every row once an epoch, in steps of equal size (within one): shuffled and augmented, or in order and whole.

    `heights_px` and `widths_px` are the sizes of the packed images, by row of the set. With windows, rows are sorted, and no array of an
    epoch's length is allocated. With `weights`, an epoch has as many samples as rows, and a row is among them n * weight / sum(weights)
    times, rounded down or up by chance (systematic sampling, Madow 1949). With `drop_last` all steps have exactly `batch_size` samples.
    Raises InputError if there are no rows, or if `shard_starts` do not cover all rows; ConfigError for weights that are no chances, or with
    windows, with `drop_last` if the rows do not fill a batch, and for a fit without the size that it depends on.
    """

    rows: np.ndarray  # int32 or int64 (n,)
    heights_px: np.ndarray  # any integer (N,), a memory map too
    widths_px: np.ndarray  # any integer (N,)
    batch_size: int  # global; no step is larger
    seed: int = 0
    augment: AugmentConfig | None = None  # None: whole images
    shuffle: bool | None = None  # None: if there is augmentation; False: in the order of `rows`
    drop_last: bool = False  # leave out the last samples of an epoch that do not fill a batch; others in each epoch if shuffled
    weights: np.ndarray | None = None  # float64 (n,), 0 or more, beside `rows`; None: each row once
    shard_starts: np.ndarray | None = None  # int64 (S,): first row of each shard of the set, ascending from 0
    window_shards: int = 0  # most shards in a window; 0: one permutation of all rows
    fit: Fit = DEFAULT_FIT
    size: Size | None = None  # of the model's input; only fit crop and pad depend on it
    numbers: np.ndarray | None = None  # int64 (N,): each row's number in the set that `shard_starts` belong to; None: the same set

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise InputError("no rows to load: the part of the split is empty")
        if self.drop_last and len(self.rows) < self.batch_size:
            raise ConfigError(f"drop_last: expected at least one whole batch of {self.batch_size}, found {len(self.rows)} rows")
        if self.weights is not None:
            _check_weights(self.weights, len(self.rows), self._windowed)
        if self.fit.mode != SQUASH and self.size is None:
            raise ConfigError(f"fit {self.fit.mode}: expected the size of the model's input, found None")
        if not self._windowed:
            return
        starts = self.shard_starts
        if starts is None or len(starts) == 0 or starts[0] != 0 or (np.diff(starts) < 0).any():
            found = None if starts is None else np.asarray(starts)[:5]
            raise InputError(
                f"shuffle in windows: expected the first row of each shard, ascending from 0, found {found}; pack the set again"
            )
        if not _ascending(self._numbered):
            ordered = np.sort(self.rows) if self.numbers is None else self.rows[np.argsort(self._numbered, kind="stable")]
            object.__setattr__(self, "rows", ordered)
        if self.rows[0] < 0:
            raise InputError(f"shuffle in windows: expected rows from 0, found {self.rows[0]}")

    @property
    def num_steps(self) -> int:
        return len(self.rows) // self.batch_size if self.drop_last else math.ceil(len(self.rows) / self.batch_size)

    @property
    def num_samples(self) -> int:
        """Samples in the steps of an epoch."""
        return self.num_steps * self.batch_size if self.drop_last else len(self.rows)

    @property
    def shuffled(self) -> bool:
        """Whether epochs have an order of their own each."""
        return self.augment is not None if self.shuffle is None else self.shuffle

    def num_slots(self, world_size: int) -> int:
        """Images in a rank's batch, including padding."""
        most, together = math.ceil(self.num_samples / self.num_steps), 2 if self._mixes else 1
        return math.ceil(math.ceil(most / together) / world_size) * together

    def order(self, epoch: int) -> np.ndarray:
        """Rows of an epoch in the order of their positions, as `rows`: (n,)."""
        return self._order(epoch)(0, len(self.rows))

    def steps(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """The steps of an epoch, from step `start`."""
        return self.steps_after(epoch, self.edge(start))

    def steps_after(self, epoch: int, samples: int) -> Iterator[Step]:
        """The rest of an epoch of which `samples` are done; the first step is a short one if they end inside a step."""
        order = self._order(epoch)
        together = 1 if self._mixes else max(1, _DRAWN_SAMPLES // self.batch_size)  # a step is mixed by itself
        while samples < self.num_samples:
            step = self.step_of(samples)
            ends = [self.edge(number + 1) for number in range(step, min(step + together, self.num_steps))]
            drawn = self._draw(epoch, samples, order(samples, ends[-1]).astype(np.int64))
            first = samples
            for end in ends:
                yield drawn.cut(samples - first, end - first, end)
                samples = end

    def edge(self, step: int) -> int:
        """Samples of an epoch before a step."""
        return step * self.num_samples // self.num_steps

    def step_of(self, samples: int) -> int:
        """The step that has the next sample after `samples`: the last one that starts there or before."""
        return ((samples + 1) * self.num_steps - 1) // self.num_samples

    def step(self, epoch: int, step: int) -> Step:
        """One step of an epoch; for many, `steps` shuffles only once."""
        return next(self.steps(epoch, step))

    @property
    def _windowed(self) -> bool:
        return self.window_shards > 0 and self.shuffled

    @property
    def _shape(self) -> tuple[int, int]:
        """Height and width of the model's input, where the fit depends on it."""
        return (0, 0) if self.size is None else (self.size.height_px, self.size.width_px)

    @property
    def _mixes(self) -> bool:
        return self.augment is not None and bool(self.augment.mixup or self.augment.cutmix)

    def _order(self, epoch: int) -> Callable[[int, int], np.ndarray]:
        """A function from positions `first` and `end` of an epoch to the rows between them."""
        if self._windowed:
            return self._windows(epoch).rows
        order = self.rows
        if self.shuffled:
            rng = np.random.Generator(self._philox(epoch, _ORDER_STREAM))
            order = order[rng.permutation(len(order))] if self.weights is None else rng.permutation(self._sampled(rng.random()))
        return lambda first, end: order[first:end]

    def _sampled(self, offset: float) -> np.ndarray:
        """As many rows as there are, by their weights: those at evenly spaced points of the cumulative weights; offset: in [0, 1)."""
        assert self.weights is not None
        ends = np.cumsum(self.weights)
        points = (np.arange(len(self.rows)) + offset) * (ends[-1] / len(self.rows))
        return self.rows[np.minimum(np.searchsorted(ends, points, side="right"), np.flatnonzero(self.weights)[-1])]

    def _windows(self, epoch: int) -> "_Windows":
        starts, sizes = self._runs
        shards = np.random.Generator(self._philox(epoch, _SHARDS_STREAM)).permutation(len(starts))
        num_windows = math.ceil(len(shards) / self.window_shards)
        cuts = np.arange(num_windows + 1) * len(shards) // num_windows
        ends = np.concatenate([[0], np.cumsum(sizes[shards])])

        def shuffled(window: int) -> np.ndarray:
            inside = shards[cuts[window] : cuts[window + 1]]
            rows = np.concatenate([self.rows[starts[shard] : starts[shard] + sizes[shard]] for shard in inside])
            return np.random.Generator(self._philox(epoch, _WINDOW_STREAM, window=window)).permutation(rows)

        return _Windows(ends[cuts], shuffled)

    @property
    def _numbered(self) -> np.ndarray:
        """`rows`, by the numbers that windows consist of."""
        return self.rows if self.numbers is None else self.numbers[self.rows]

    @cached_property
    def _runs(self) -> tuple[np.ndarray, np.ndarray]:
        """First index in `rows`, and number of rows, of each shard that has any: int64 (s,) each."""
        assert self.shard_starts is not None
        # Of the rows' own type: otherwise searchsorted copies them all.
        numbered = self._numbered
        starts = np.minimum(self.shard_starts, np.iinfo(numbered.dtype).max).astype(numbered.dtype)
        edges = np.append(np.searchsorted(numbered, starts), len(numbered))
        sizes = np.diff(edges)
        return edges[:-1][sizes > 0], sizes[sizes > 0]

    def _draw(self, epoch: int, position: int, rows: np.ndarray) -> Step:
        """The step whose first sample is at `position`."""
        heights, widths = self.heights_px[rows].astype(np.int64), self.widths_px[rows].astype(np.int64)
        if self.augment is None:
            boxes, flips = self.fit.whole(heights, widths, self._shape), np.zeros(len(rows), dtype=bool)
            return Step(rows=rows, boxes=boxes, flips=flips, places=self.fit.places(boxes, self._shape), end=position + len(rows))

        def uniforms(stream: int, lines: int) -> np.ndarray:
            """float64 in [0, 1), (lines, L)."""
            raw = self._philox(epoch, stream, position * _UNIFORMS_PER_SAMPLE // 4).random_raw(len(rows) * _UNIFORMS_PER_SAMPLE)
            return ((raw.reshape(len(rows), _UNIFORMS_PER_SAMPLE).T >> np.uint64(11)) * 2.0**-53)[:lines]

        crops = uniforms(_CROP_STREAM, 5)
        boxes = draw_crops(crops[:4], heights, widths, self.augment, self._shape if self.fit.mode == CROP else None)
        partners, shares, pasted = draw_mixing(uniforms(_MIX_STREAM, 4), self.augment) if self._mixes else (None, None, None)
        return Step(
            rows=rows,
            boxes=boxes,
            flips=crops[4] < self.augment.flip,
            places=self.fit.places(boxes, self._shape),
            colours=draw_colours(uniforms(_COLOUR_STREAM, 5), self.augment) if changes_colours(self.augment) else None,
            erased=draw_erased(uniforms(_ERASE_STREAM, 5), self.augment) if self.augment.erase else None,
            partners=partners,
            shares=shares,
            pasted=pasted,
            end=position + len(rows),
        )

    def _philox(self, epoch: int, stream: int, block: int = 0, window: int = 0) -> np.random.Philox:
        counter = np.array([block, window, 0, stream], dtype=np.uint64)
        return np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64), counter=counter)


class _Windows:
    """The rows of one epoch, shuffled window by window on demand; only the windows of the last call are kept."""

    def __init__(self, edges: np.ndarray, shuffled: Callable[[int], np.ndarray]) -> None:
        self._edges = edges  # int64 (w + 1,): first position of each window, and the end
        self._shuffled = shuffled
        self._kept: dict[int, np.ndarray] = {}

    def rows(self, first: int, end: int) -> np.ndarray:
        begin, stop = int(np.searchsorted(self._edges, first, "right")) - 1, int(np.searchsorted(self._edges, end))
        self._kept = {window: self._kept[window] if window in self._kept else self._shuffled(window) for window in range(begin, stop)}
        pieces = [kept[max(first - self._edges[window], 0) : end - self._edges[window]] for window, kept in self._kept.items()]
        return np.concatenate(pieces)


def _check_weights(weights: np.ndarray, num_rows: int, windowed: bool) -> None:
    if windowed:
        raise ConfigError("weights: not with shuffle in windows, which reads each shard once; use shuffle by epoch")
    if weights.shape != (num_rows,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ConfigError(f"weights: expected {num_rows} finite numbers, 0 or more and not all 0, one for each row, found {weights!r}")


def _ascending(rows: np.ndarray) -> bool:
    pieces = (rows[at : at + _CHECKED_ROWS + 1] for at in range(0, len(rows), _CHECKED_ROWS))
    return all((piece[:-1] <= piece[1:]).all() for piece in pieces)
