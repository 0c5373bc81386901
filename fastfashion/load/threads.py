"""The thread backend: libjpeg-turbo and OpenCV, both of which release the GIL, filling a shared batch array.

part ─► chunks of pictures ─► pool: decode at the smallest sufficient scale ─► crop ─► resize ─► flip ─► images[i]
"""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import torch

from fastfashion import image
from fastfashion.errors import InputError
from fastfashion.load.batch import Batch, LoaderSpec, undecodable
from fastfashion.load.plan import Part, Step

CHUNK = 16  # pictures a task: at one a task, handing out costs a fifth of the rate
# Rounding a crop box to a scaled picture moves it by up to 1 / (2 * OVERSAMPLE) of an output pixel.
OVERSAMPLE = 2


class ThreadsLoader:
    """Decodes on `spec.workers` threads of this process, `spec.prefetch` batches ahead."""

    def __init__(self, spec: LoaderSpec) -> None:
        cv2.setNumThreads(0)  # the pool is the parallelism; OpenCV's own threads would only contend with it
        self.num_steps = spec.plan.num_steps
        self._spec = spec
        self._pool = ThreadPoolExecutor(spec.workers, thread_name_prefix="loader")

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        pending: deque[tuple[Step, Part, torch.Tensor, list[Future[None]]]] = deque()
        try:
            for step, part in self._spec.parts(epoch, start):
                pending.append((step, part, *self._submit(part)))
                if len(pending) > self._spec.prefetch:
                    yield self._finish(*pending.popleft())
            while pending:
                yield self._finish(*pending.popleft())
        finally:
            for *_, tasks in pending:
                for task in tasks:
                    task.cancel()

    def _submit(self, part: Part) -> tuple[torch.Tensor, list[Future[None]]]:
        size = self._spec.size
        shape = (len(part.rows), size.height_px, size.width_px, 3)
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=self._spec.device.type == "cuda")
        chunks = [range(at, min(at + CHUNK, len(part.rows))) for at in range(0, len(part.rows), CHUNK)]
        return images, [self._pool.submit(self._fill, images.numpy(), part, chunk) for chunk in chunks]

    def _finish(self, step: Step, part: Part, images: torch.Tensor, tasks: list[Future[None]]) -> Batch:
        for task in tasks:
            task.result()
        return self._spec.batch(images.to(self._spec.device, non_blocking=True), step, part)

    def _fill(self, images: np.ndarray, part: Part, chunk: range) -> None:
        for i in chunk:
            row = int(part.fetch[i])
            try:
                load_crop(self._spec.pictures.encoded(row), part.boxes[i], images[i], self._full_shape(row))
            except InputError as error:
                raise undecodable(self._spec.pictures, row, error) from error
            if part.flips[i]:
                cv2.flip(images[i], 1, images[i])

    def _full_shape(self, row: int) -> tuple[int, int]:
        return int(self._spec.pictures.height_px[row]), int(self._spec.pictures.width_px[row])

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def load_crop(data: np.ndarray, box: np.ndarray, out: np.ndarray, full_shape: tuple[int, int]) -> None:
    """Decode, crop to `box` (y0, x0, y1, x1 in full-size pixels) and resize into `out`, uint8 (H, W, 3).

    The decoder's own scaling (1/8 to 8/8) is used as far as the crop keeps OVERSAMPLE times the pixels of `out` a side. Shrinking
    averages areas, enlarging is bilinear.
    """
    y0, x0, y1, x1 = (int(v) for v in box)
    height, width = out.shape[:2]
    picture = image.decode_rgb(
        data,
        min_height_px=math.ceil(OVERSAMPLE * height * full_shape[0] / (y1 - y0)),
        min_width_px=math.ceil(OVERSAMPLE * width * full_shape[1] / (x1 - x0)),
    )
    if picture.shape[:2] != full_shape:
        scale_y, scale_x = picture.shape[0] / full_shape[0], picture.shape[1] / full_shape[1]
        y0, y1, x0, x1 = round(y0 * scale_y), round(y1 * scale_y), round(x0 * scale_x), round(x1 * scale_x)
    crop = picture[y0:y1, x0:x1]
    if crop.shape == out.shape:
        out[...] = crop
        return
    shrinks = crop.shape[0] >= height and crop.shape[1] >= width
    cv2.resize(crop, (width, height), dst=out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
