"""The thread backend: libjpeg-turbo and a resize without Python's lock, on a pool of threads that fill shared batch arrays.

part ─► chunks of images ─► pool: decode what the crop needs ─► resize ─► flip ─► colours, erased box ─► images[chunk]
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from fastfashion.errors import InputError
from fastfashion.load.augment import apply_one
from fastfashion.load.crops import load_crops, warn_if_slow
from fastfashion.load.life import Backend, Batches, Buffers
from fastfashion.load.plan import Part
from fastfashion.load.spec import Batch, LoaderSpec, Planned

CHUNK = 16  # images a task: with one a task, the overhead costs a fifth of the rate

DecodeErrors = dict[int, InputError]  # by slot


@dataclass(frozen=True)
class Started:
    """A batch in progress."""

    planned: Planned
    images: torch.Tensor  # uint8 (B, H, W, 3), being filled
    tasks: list[Future[DecodeErrors]]

    def wait(self) -> DecodeErrors:
        return {slot: error for task in self.tasks for slot, error in task.result().items()}


def _cancel_tasks(future: "Future[Started | None]") -> None:
    if future.exception() is None and (started := future.result()) is not None:
        for task in started.tasks:
            task.cancel()


class ThreadsLoader(Backend):
    """Works on `spec.workers` threads of this process, `spec.prefetch` batches ahead; one more thread plans."""

    def __init__(self, spec: LoaderSpec) -> None:
        warn_if_slow()
        super().__init__(spec)
        self._buffers = Buffers(spec.images_shape, keep=spec.prefetch + 4)
        self._pool = ThreadPoolExecutor(spec.workers, thread_name_prefix="loader")
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="planner")

    def _steps(self, epoch: int, start: int) -> Batches:
        coming = self._planned(epoch, start)
        ahead = deque(self._planner.submit(self._start_next, coming) for _ in range(self._spec.prefetch + 1))
        try:
            while (started := ahead[0].result()) is not None:
                ahead.popleft()
                ahead.append(self._planner.submit(self._start_next, coming))
                yield self._finish(started)
        finally:
            if self._may_clean_up:
                for future in ahead:
                    if not future.cancel():
                        future.add_done_callback(_cancel_tasks)  # without waiting: it may itself wait for a shard

    def _planned(self, epoch: int, start: int) -> Iterator[Planned]:
        return self._spec.planned(epoch, start)

    def _start_next(self, coming: Iterator[Planned]) -> "Started | None":
        """Start the next batch; on the planner's thread, so that the consumer's is free."""
        planned = next(coming, None)
        if planned is None:
            return None
        images = self._images()
        return Started(planned, images, self._tasks(planned.part, images))

    def _images(self) -> torch.Tensor:
        if self._spec.device.type == "cuda":
            return torch.empty(self._spec.images_shape, dtype=torch.uint8, pin_memory=True)  # torch itself reuses this memory
        return self._buffers.take()

    def _tasks(self, part: Part, images: torch.Tensor) -> list[Future[DecodeErrors]]:
        return [self._pool.submit(self._work, images.numpy(), part, chunk) for chunk in self._chunks(len(part.rows))]

    def _chunks(self, count: int) -> list[slice]:
        return [slice(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]

    def _work(self, images: np.ndarray, part: Part, chunk: slice) -> DecodeErrors:
        errors = self._fill(images[chunk], part, chunk)
        started = time.perf_counter()
        if part.colours is not None or part.erased is not None:
            for slot in range(chunk.start, chunk.stop):
                apply_one(images[slot], *(None if values is None else values[slot] for values in (part.colours, part.erased)))
        self._profile.add(resize_s=time.perf_counter() - started)
        return {chunk.start + i: error for i, error in errors.items()}

    def _fill(self, out: np.ndarray, part: Part, chunk: slice) -> DecodeErrors:
        """Load the images of some slots into uint8 (n, H, W, 3); returns decode errors by index in `out`."""
        rows, images = part.fetch[chunk], self._spec.images
        seconds = np.zeros(3)
        started = time.perf_counter()
        encoded = [images.encoded(row) for row in rows.tolist()]
        kinds, unlike = images.kinds_of(rows), images.unlike(rows, encoded)
        seconds[0] = time.perf_counter() - started
        errors = unlike | load_crops(encoded, part.boxes[chunk], self._spec.sizes_px(rows), part.flips[chunk], out, seconds, kinds)
        out[list(unlike)] = 0
        read, decode, resize = seconds.tolist()
        self._profile.add(read_s=read, decode_s=decode, resize_s=resize, num_images=len(rows))
        return errors

    def _finish(self, started: Started) -> Batch:
        waiting = time.perf_counter()
        errors = started.wait()
        copying = time.perf_counter()
        batch = self._spec.batch(self._spec.to_device(started.images), started.planned, errors, self.skipped)
        self._profile.add(wait_s=copying - waiting, copy_s=time.perf_counter() - copying)
        return batch

    def close(self) -> None:
        super().close()
        self._planner.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)
