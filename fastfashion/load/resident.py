"""The resident backend: images are decoded once, when they are first needed, and kept as uint8; from then on only crops are resized.

first visit:  encoded ─► decode whole ─► images[place]        every visit:  images[places], boxes ─► resize ─► flip ─► images

On a CPU the images are in host memory, and a pool of threads resizes them. On a GPU they are in its memory, and whole batches are
resized as two products with matrices of filter weights: the triangle filter is linear in the pixels, and separable.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch

from fastfashion.errors import ConfigError, InputError
from fastfashion.load.augment import apply, inside_boxes
from fastfashion.load.crops import load_crops, resize_crops
from fastfashion.load.fit import Padding
from fastfashion.load.plan import Part
from fastfashion.load.spec import Batch, Loader, LoaderSpec, Planned
from fastfashion.load.threads import CHUNK, DecodeErrors, Started, ThreadsLoader

SHARE_OF_MEMORY = 0.8  # of free memory; the rest is for the model and other programs


def open_resident(spec: LoaderSpec) -> Loader:
    """Open the backend; raises ConfigError if the plan's images do not fit into the device's memory."""
    rows = spec.plan.rows
    shape = (len(rows), int(spec.images.height_px[rows].max()), int(spec.images.width_px[rows].max()), 3)
    needed, free = int(np.prod(shape, dtype=np.int64)), free_bytes(spec.device)
    if needed > SHARE_OF_MEMORY * free:
        raise ConfigError(
            f"backend resident: {shape[0]} images of up to {shape[2]}x{shape[1]} take {needed / 1e9:.3g} GB, of which at most "
            f"{SHARE_OF_MEMORY * free / 1e9:.3g} GB are free on {spec.device}; use a smaller --res, or another backend"
        )
    return ResidentOnDevice(spec, shape) if spec.device.type == "cuda" else ResidentLoader(spec, shape)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, or of this machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # not Linux, which says only how much is installed


class Place(IntEnum):
    """The state of an image's place in memory."""

    EMPTY = 0
    DECODED = 1
    BROKEN = 2  # a decode error: crops are black


class ResidentLoader(ThreadsLoader):
    """Images in host memory: uint8 (n, h, w, 3), each in the upper left corner of its place, in the order of the plan's rows."""

    def __init__(self, spec: LoaderSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec)
        self._decoded = np.empty(shape, dtype=np.uint8)
        self._place_of = np.full(len(spec.images.shard), -1)  # by row
        self._place_of[spec.plan.rows] = np.arange(len(spec.plan.rows))
        self._state = np.full(len(spec.plan.rows), Place.EMPTY, dtype=np.int8)  # by place
        self._errors: dict[int, InputError] = {}  # by place, of those that are BROKEN

    def _planned(self, epoch: int, start: int) -> Iterator[Planned]:
        no_shard_needed = (self._state != Place.EMPTY).all()
        return (replace(self._spec, cache=None) if no_shard_needed else self._spec).planned(epoch, start)

    def _chunks(self, count: int) -> list[slice]:
        size = max(CHUNK, -(-count // self._spec.workers))  # a resize is so short that the overhead of tasks would show
        return [slice(at, min(at + size, count)) for at in range(0, count, size)]

    def _fill(self, out: np.ndarray, part: Part, chunk: slice) -> DecodeErrors:
        places = self._decode(part.fetch[chunk])
        started = time.perf_counter()
        resize_crops(self._decoded, places, part.boxes[chunk], part.flips[chunk], out)
        self._profile.add(resize_s=time.perf_counter() - started, num_images=len(out))
        return self._blacken(places, out)

    def _blacken(self, places: np.ndarray, out: np.ndarray | torch.Tensor) -> DecodeErrors:
        """Make the crops of broken images black; returns their errors by index in `out`."""
        broken = np.flatnonzero(self._state[places] == Place.BROKEN).tolist()
        for i in broken:
            out[i] = 0
        return {i: self._errors[int(places[i])] for i in broken}

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        """Places of rows, whose images are decoded if they are not yet. Two threads may decode the same one, to the same bytes."""
        places = self._place_of[rows]
        empty = self._state[places] == Place.EMPTY
        if empty.any():
            fresh = np.unique(rows[empty])
            sizes = self._spec.sizes_px(fresh)
            for size in np.unique(sizes, axis=0):
                self._decode_alike(fresh[(sizes == size).all(axis=1)], size)
        return places

    def _decode_alike(self, rows: np.ndarray, size: np.ndarray) -> None:
        """Decode images of one size into their places."""
        places, sizes = self._place_of[rows], np.repeat(size[None], len(rows), axis=0)
        whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        decoded = np.empty((len(rows), *size, 3), dtype=np.uint8)
        seconds = np.zeros(3)
        encoded = [self._spec.images.encoded(row) for row in rows.tolist()]
        errors = self._spec.images.unlike(rows, encoded) | load_crops(
            encoded, whole, sizes, np.zeros(len(rows), dtype=bool), decoded, seconds, self._spec.images.kinds_of(rows)
        )
        self._errors |= {int(places[i]): error for i, error in errors.items()}
        self._store(places, decoded)
        states = np.full(len(rows), Place.DECODED)
        states[list(errors)] = Place.BROKEN
        self._state[places] = states
        self._profile.add(read_s=seconds[0], decode_s=seconds[1] + seconds[2])

    def _store(self, places: np.ndarray, decoded: np.ndarray) -> None:
        self._decoded[places, : decoded.shape[1], : decoded.shape[2]] = decoded


class ResidentOnDevice(ResidentLoader):
    """Images in the memory of a GPU. Threads only decode, in the first epoch; the GPU resizes when a batch is requested."""

    def __init__(self, spec: LoaderSpec, shape: tuple[int, ...]) -> None:
        super().__init__(spec, (0, 0, 0, 3))
        self._on_device = torch.zeros(shape, dtype=torch.uint8, device=spec.device)  # zeros: unused corners are multiplied by 0
        if spec.device.type == "cuda":
            torch.cuda.synchronize(spec.device)  # threads write there, on streams of their own

    def _tasks(self, part: Part, images: torch.Tensor) -> list[Future[DecodeErrors]]:
        if (self._state[self._place_of[part.fetch]] != Place.EMPTY).all():
            return []
        return [self._pool.submit(self._decode_only, part.fetch[chunk]) for chunk in self._chunks(len(part.rows))]

    def _images(self) -> torch.Tensor:
        return torch.empty(0)  # the batch is made on the device

    def _decode_only(self, rows: np.ndarray) -> DecodeErrors:
        self._decode(rows)
        return {}

    def _store(self, places: np.ndarray, decoded: np.ndarray) -> None:
        stream = torch.cuda.Stream(self._spec.device) if self._spec.device.type == "cuda" else None
        with torch.cuda.stream(stream):
            index = torch.from_numpy(places).to(self._spec.device)
            self._on_device[index, : decoded.shape[1], : decoded.shape[2]] = torch.from_numpy(decoded).to(self._spec.device)
        if stream is not None:
            stream.synchronize()  # here, in a thread of the pool: the consumer needs the batch later

    def _finish(self, started: Started) -> Batch:
        waiting = time.perf_counter()
        started.wait()
        copying = time.perf_counter()
        part = started.planned.part
        places = self._place_of[part.fetch]
        index, boxes, flips = (self._spec.to_device(torch.from_numpy(values)) for values in (places, part.boxes, part.flips))
        images = resize_on_device(self._on_device[index], boxes, flips, self._spec.size.height_px, self._spec.size.width_px)
        errors = self._blacken(places, images)
        apply(images, part)
        batch = self._spec.batch(images, started.planned, errors, self.skipped)
        self._profile.add(wait_s=copying - waiting, copy_s=time.perf_counter() - copying, num_images=len(part.rows))
        return batch


def resize_on_device(
    images: torch.Tensor, boxes: torch.Tensor, flips: torch.Tensor, height_px: int, width_px: int, padding: Padding | None = None
) -> torch.Tensor:
    """Resize boxes (y0, x0, y1, x1), (B, 4), of uint8 (B, h, w, 3) to uint8 (B, height_px, width_px, 3), mirrored if `flips`, (B,).

    With `padding`, a box is shown in its place, and the colour is around it.
    """
    count, source_height, source_width, _ = images.shape
    # Half precision represents grey levels exactly and weights to 0.05 %; products are summed in float32. CPUs have no fast half.
    precision = torch.float16 if images.device.type == "cuda" else torch.float32
    if padding is None:
        down = filter_weights(boxes[:, 0], boxes[:, 2], height_px, source_height).to(precision)
        across = filter_weights(boxes[:, 1], boxes[:, 3], width_px, source_width)
        across = torch.where(flips[:, None, None], across.flip(1), across).to(precision)
    else:
        places = torch.from_numpy(np.ascontiguousarray(padding.places)).to(images.device, non_blocking=True)
        down = place_weights(boxes[:, ::2], places[:, ::2], torch.zeros_like(flips), height_px, source_height).to(precision)
        across = place_weights(boxes[:, 1::2], places[:, 1::2], flips, width_px, source_width).to(precision)
    lines = down @ images.view(count, source_height, source_width * 3).to(precision)  # (B, H, w * 3)
    columns = lines.view(count, height_px, source_width, 3).transpose(1, 2).reshape(count, source_width, height_px * 3)
    shown = (across @ columns).view(count, width_px, height_px, 3).transpose(1, 2)
    made = shown.float().add_(0.5).clamp_(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)
    if padding is None:
        return made
    color = torch.tensor(padding.color, dtype=torch.uint8).to(images.device, non_blocking=True)
    return torch.where(inside_boxes(padding.places, made)[..., None], made, color)


def filter_weights(starts: torch.Tensor, ends: torch.Tensor, size: int, source: int) -> torch.Tensor:
    """Triangle filter from [start, end) of `source` pixels to `size`, as in load/_native.c: float32 (B, size, source), rows sum to 1."""
    at = torch.arange(source, device=starts.device)
    scale = ((ends - starts) / size)[:, None, None]
    centre = starts[:, None, None] + (torch.arange(size, device=starts.device)[None, :, None] + 0.5) * scale
    weights = (1 - (at + 0.5 - centre).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights *= (at >= starts[:, None, None]) & (at < ends[:, None, None])
    return weights / weights.sum(dim=2, keepdim=True)


def place_weights(spans: torch.Tensor, places: torch.Tensor, flips: torch.Tensor, size: int, source: int) -> torch.Tensor:
    """As `filter_weights`, from spans [start, end) of the source, (B, 2), to places [first, end) of the output, (B, 2), mirrored inside
    them if `flips`, (B,); rows outside of the place are 0."""
    (starts, ends), (firsts, lasts) = spans.T[:, :, None], places.T[:, :, None]  # (B, 1) each
    out, at, shown = torch.arange(size, device=spans.device), torch.arange(source, device=spans.device), lasts - firsts
    step = torch.where(flips[:, None], lasts - 1 - out, out - firsts)
    scale = ((ends - starts) / shown)[:, :, None]
    centre = starts[:, :, None] + (step[:, :, None] + 0.5) * scale
    weights = (1 - (at + 0.5 - centre).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights *= ((at >= starts) & (at < ends))[:, None]
    inside = ((out >= firsts) & (out < lasts))[:, :, None]
    return torch.where(inside, weights / weights.sum(dim=2, keepdim=True), 0)
