"""The thread backend: libjpeg-turbo and a resize without Python's lock, on a pool of threads that fill shared batch arrays.

part ─► chunks of pictures ─► pool: decode what the crop needs ─► resize ─► flip ─► colours, erased box ─► images[chunk]
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from fastfashion.errors import InputError
from fastfashion.load.augment import apply_one
from fastfashion.load.batch import Batch, LoaderSpec, Planned, Skipped
from fastfashion.load.crops import load_crops
from fastfashion.load.plan import Part

CHUNK = 16  # pictures a task: at one a task, handing out costs a fifth of the rate

Wrong = dict[int, InputError]  # what is wrong with pictures that do not decode, by slot


class ThreadsLoader:
    """Works on `spec.workers` threads of this process, `spec.prefetch` batches ahead; one more thread plans."""

    def __init__(self, spec: LoaderSpec) -> None:
        self.num_steps = spec.plan.num_steps
        self.skipped: dict[int, Skipped] = {}
        self._spec = spec
        self._pool = ThreadPoolExecutor(spec.workers, thread_name_prefix="loader")
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="planner")

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self._spec.check_process()
        parts = self._spec.planned(epoch, start)
        coming: Future[Planned | None] = self._planner.submit(next, parts, None)
        pending: deque[tuple[Planned, torch.Tensor, list[Future[Wrong]]]] = deque()
        try:
            while True:
                self._spec.check_process()
                while len(pending) <= self._spec.prefetch and (planned := coming.result()) is not None:
                    coming = self._planner.submit(next, parts, None)
                    pending.append((planned, *self._submit(planned.part)))
                if not pending:
                    return
                yield self._finish(*pending.popleft())
        finally:
            coming.cancel()
            for *_, tasks in pending:
                for task in tasks:
                    task.cancel()

    def _submit(self, part: Part) -> tuple[torch.Tensor, list[Future[Wrong]]]:
        size = self._spec.size
        shape = (len(part.rows), size.height_px, size.width_px, 3)
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=self._spec.device.type == "cuda")
        return images, [self._pool.submit(self._work, images.numpy(), part, chunk) for chunk in self._chunks(len(part.rows))]

    def _chunks(self, count: int) -> list[slice]:
        return [slice(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]

    def _work(self, images: np.ndarray, part: Part, chunk: slice) -> Wrong:
        wrong = self._fill(images[chunk], part, chunk)
        started = time.perf_counter()
        if part.colours is not None or part.erased is not None:
            for slot in range(chunk.start, chunk.stop):
                apply_one(images[slot], *(None if values is None else values[slot] for values in (part.colours, part.erased)))
        if self._spec.profile is not None:
            self._spec.profile.add(resize_s=time.perf_counter() - started)
        return {chunk.start + place: error for place, error in wrong.items()}

    def _fill(self, out: np.ndarray, part: Part, chunk: slice) -> Wrong:
        """Pictures of some slots, uint8 (n, H, W, 3); returns what is wrong with those that do not decode, by place in `out`."""
        rows, pictures = part.fetch[chunk], self._spec.pictures
        seconds = np.zeros(3)
        started = time.perf_counter()
        encoded = [pictures.encoded(row) for row in rows.tolist()]
        seconds[0] = time.perf_counter() - started
        wrong = load_crops(encoded, part.boxes[chunk], self._spec.sizes_px(rows), part.flips[chunk], out, seconds)
        if self._spec.profile is not None:
            read, decode, resize = seconds.tolist()
            self._spec.profile.add(read_s=read, decode_s=decode, resize_s=resize, num_images=len(rows))
        return wrong

    def _finish(self, planned: Planned, images: torch.Tensor, tasks: list[Future[Wrong]]) -> Batch:
        waiting = time.perf_counter()
        wrong = {slot: error for task in tasks for slot, error in task.result().items()}
        copying = time.perf_counter()
        batch = self._spec.batch(images.to(self._spec.device, non_blocking=True), planned, wrong, self.skipped)
        if self._spec.profile is not None:
            self._spec.profile.add(wait_s=copying - waiting, copy_s=time.perf_counter() - copying)
        return batch

    def close(self) -> None:
        self._planner.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)
