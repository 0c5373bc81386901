"""A pool of threads that fills batches chunk by chunk, ahead of the consumer; and what it does in the `threads` backend.

part ─► chunks of images ─► pool: decode what the crop needs ─► resize ─► flip ─► colours, erased box ─► images[chunk]
"""

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from fastfashion.errors import InputError
from fastfashion.load.augment import apply_slot
from fastfashion.load.batch import Profile
from fastfashion.load.buffers import Buffers, Owner
from fastfashion.load.crops import load_crops
from fastfashion.load.feed import Made, Planned
from fastfashion.load.plan import Part
from fastfashion.load.pool import Pool
from fastfashion.load.spec import LoaderSpec

CHUNK = 16  # decoded images a task, at least: with one a task, the overhead costs a fifth of the rate
CHUNK_BYTES = 200_000  # of encoded images a task: a millisecond or two, beside which the task's own tenth of one is little
FEWEST, MOST = 4, 64  # encoded images a task
SAMPLED = 1024  # rows whose sizes are read

DecodeErrors = dict[int, InputError]  # by slot


class Filler(Protocol):
    """What the pool does for a batch."""

    @property
    def needs_shards(self) -> bool: ...

    def buffer(self) -> torch.Tensor:
        """Memory for a batch."""

    def chunks(self, part: Part) -> list[slice]:
        """The slots of each task; none if there is nothing to do on threads."""

    def fill(self, images: np.ndarray, part: Part, chunk: slice) -> DecodeErrors:
        """One task, on a thread of the pool; returns decode errors by slot, whose images are black."""

    def finish(self, images: torch.Tensor, part: Part, errors: DecodeErrors) -> tuple[torch.Tensor, DecodeErrors]:
        """After all tasks, on the consumer's thread: the images on the device, and all errors."""


@dataclass(frozen=True)
class Started:
    """A batch in progress."""

    planned: Planned
    images: torch.Tensor  # being filled
    tasks: list[Future[DecodeErrors]]


class ChunkPool:
    """The backend that works on `workers` threads of this process, `prefetch` batches ahead; one more thread plans."""

    def __init__(self, filler: Filler, workers: int, prefetch: int, profile: Profile) -> None:
        self._filler, self._prefetch, self._profile, self._owner = filler, prefetch, profile, Owner()
        self._pool = Pool(workers, "loader")
        self._planner = Pool(1, "planner")

    @property
    def needs_shards(self) -> bool:
        return self._filler.needs_shards

    def batches(self, planned: Iterator[Planned]) -> Generator[Made, None, None]:
        ahead = deque(self._planner.submit(self._start_next, planned) for _ in range(self._prefetch + 1))
        try:
            while (started := ahead[0].result()) is not None:
                ahead.popleft()
                ahead.append(self._planner.submit(self._start_next, planned))
                yield self._finish(started)
        finally:
            if self._owner.may_clean_up:
                for future in ahead:
                    if not future.cancel():
                        future.add_done_callback(_cancel_tasks)  # without waiting: it may itself wait for a shard

    def close(self) -> None:
        self._planner.close()
        self._pool.close()

    def _start_next(self, planned: Iterator[Planned]) -> Started | None:
        """Start the next batch; on the planner's thread, so that the consumer's is free."""
        coming = next(planned, None)
        if coming is None:
            return None
        images, part = self._filler.buffer(), coming.part
        filled = images.numpy()
        return Started(coming, images, [self._pool.submit(self._filler.fill, filled, part, chunk) for chunk in self._filler.chunks(part)])

    def _finish(self, started: Started) -> Made:
        waiting = time.perf_counter()
        errors = {slot: error for task in started.tasks for slot, error in task.result().items()}
        copying = time.perf_counter()
        images, errors = self._filler.finish(started.images, started.planned.part, errors)
        self._profile.add(wait_s=copying - waiting, copy_s=time.perf_counter() - copying)
        return Made(started.planned, images, errors)


def _cancel_tasks(future: Future[Started | None]) -> None:
    if future.exception() is None and (started := future.result()) is not None:
        for task in started.tasks:
            task.cancel()


class HostBatches:
    """Memory for a filler whose batches are made on the CPU and then moved to the device."""

    def __init__(self, spec: LoaderSpec) -> None:
        self._spec = spec
        self._buffers = Buffers(spec.images_shape, keep=spec.prefetch + 4)

    def take(self) -> torch.Tensor:
        """uint8 (B, H, W, 3), uninitialised."""
        if self._spec.device.type == "cuda":
            return torch.empty(self._spec.images_shape, dtype=torch.uint8, pin_memory=True)  # torch itself reuses this memory
        return self._buffers.take()


class CropDecoder:
    """Decodes each crop from the encoded image, every time."""

    needs_shards = True

    def __init__(self, spec: LoaderSpec, profile: Profile) -> None:
        self._spec, self._profile, self._batches, self._chunk = spec, profile, HostBatches(spec), chunk_size(spec)
        self._seeks = spec.seeks

    def buffer(self) -> torch.Tensor:
        return self._batches.take()

    def chunks(self, part: Part) -> list[slice]:
        return slices(len(part.rows), self._chunk)

    def fill(self, images: np.ndarray, part: Part, chunk: slice) -> DecodeErrors:
        rows, packed, out = part.fetch[chunk], self._spec.images, images[chunk]
        seconds = np.zeros(3)
        started = time.perf_counter()
        encoded = packed.encoded_all(rows)
        kinds, unlike = packed.kinds_of(rows), packed.unlike(rows, encoded)
        marks = packed.seek.marks_of(rows) if self._seeks else None
        seconds[0] = time.perf_counter() - started
        boxes, sizes, padding = part.boxes[chunk], self._spec.sizes_px(rows), self._spec.plan.fit.padding(part.places, chunk)
        errors = unlike | load_crops(encoded, boxes, sizes, part.flips[chunk], out, seconds, kinds, padding, self._spec.decoder, marks)
        if unlike:
            out[list(unlike)] = 0
        read, decode, resize = seconds.tolist()
        self._profile.add(read_s=read, decode_s=decode, resize_s=resize + augment(images, part, chunk), num_images=len(rows))
        return {chunk.start + i: error for i, error in errors.items()}

    def finish(self, images: torch.Tensor, part: Part, errors: DecodeErrors) -> tuple[torch.Tensor, DecodeErrors]:
        return self._spec.to_device(images), errors


def chunk_size(spec: LoaderSpec) -> int:
    """Images a task: CHUNK_BYTES of them, but so few that the batches in preparation have two tasks for each thread."""
    rows = spec.plan.rows
    mean_bytes = float(spec.images.num_bytes[rows[:: -(-len(rows) // SAMPLED)]].mean())
    shared = spec.images_shape[0] * spec.prefetch // (2 * spec.workers)
    return max(FEWEST, min(MOST, round(CHUNK_BYTES / mean_bytes), shared))


def slices(count: int, size: int) -> list[slice]:
    """Slots 0 to `count` in pieces of `size`."""
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]


def augment(images: np.ndarray, part: Part, chunk: slice) -> float:
    """Colours and erased boxes of some slots, in place; returns the seconds that it took."""
    if part.colours is None and part.erased is None:
        return 0.0
    started = time.perf_counter()
    for slot in range(chunk.start, chunk.stop):
        apply_slot(images[slot], part, slot)
    return time.perf_counter() - started


def open_threads(spec: LoaderSpec, profile: Profile) -> ChunkPool:
    return ChunkPool(CropDecoder(spec, profile), spec.workers, spec.prefetch, profile)
