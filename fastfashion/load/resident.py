"""The resident backend: images are decoded once, when they are first needed, and kept as uint8; from then on only crops are resized.

first visit:  encoded ─► decode whole ─► images[place]        every visit:  images[places], boxes ─► resize ─► flip ─► images

On a CPU the images are in host memory, and a pool of threads resizes them. On a GPU they are in its memory, and whole batches are
resized as two products with matrices of filter weights: the triangle filter is linear in the pixels, and separable.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch

from fastfashion.errors import ConfigError, InputError
from fastfashion.load.augment import apply, inside_boxes
from fastfashion.load.batch import Profile
from fastfashion.load.crops import load_crops, resize_crops
from fastfashion.load.fit import Padding
from fastfashion.load.plan import Part
from fastfashion.load.spec import LoaderSpec
from fastfashion.load.threads import CHUNK, ChunkPool, DecodeErrors, HostBatches, augment, slices

SHARE_OF_MEMORY = 0.8  # of free memory; the rest is for the model and other programs


def open_resident(spec: LoaderSpec, profile: Profile) -> ChunkPool:
    """Open the backend; raises ConfigError if the plan's images do not fit into the device's memory."""
    rows = np.unique(spec.plan.rows)
    shape = (len(rows), int(spec.images.height_px[rows].max()), int(spec.images.width_px[rows].max()), 3)
    needed, free = int(np.prod(shape, dtype=np.int64)), free_bytes(spec.device)
    if needed > SHARE_OF_MEMORY * free:
        raise ConfigError(
            f"backend resident: {shape[0]} images of up to {shape[2]}x{shape[1]} take {needed / 1e9:.3g} GB, of which at most "
            f"{SHARE_OF_MEMORY * free / 1e9:.3g} GB are free on {spec.device}; use a smaller --res, or another backend"
        )
    store = DeviceStore(spec, profile, shape) if spec.device.type == "cuda" else HostStore(spec, profile, shape)
    return ChunkPool(store, spec.workers, spec.prefetch, profile)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, or of this machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS, which says only how much is installed


class Place(IntEnum):
    """The state of an image's place in memory."""

    EMPTY = 0
    DECODED = 1
    BROKEN = 2  # a decode error: crops are black


class DecodedImages:
    """Which images are decoded, and where they are kept; decodes what is missing, on any thread.

    `keep(places, decoded)` gets uint8 (k, h, w, 3), images of one size, and their places, int64 (k,). Two threads may decode the same
    image, to the same bytes.
    """

    def __init__(self, spec: LoaderSpec, profile: Profile, keep: Callable[[np.ndarray, np.ndarray], None]) -> None:
        self._spec, self._profile, self._keep = spec, profile, keep
        rows = np.unique(spec.plan.rows)
        self._place_of = np.full(len(spec.images.shard), -1)  # by row
        self._place_of[rows] = np.arange(len(rows))
        self._state = np.full(len(rows), Place.EMPTY, dtype=np.int8)  # by place
        self._errors: dict[int, InputError] = {}  # by place, of those that are BROKEN
        self._complete = False

    def look(self) -> bool:
        """Whether all images are decoded; from then on nothing is searched for what is missing."""
        self._complete = self._complete or bool((self._state != Place.EMPTY).all())
        return self._complete

    def places(self, rows: np.ndarray) -> np.ndarray:
        """int64 (n,)."""
        return self._place_of[rows]

    def has(self, rows: np.ndarray) -> bool:
        return bool((self._state[self._place_of[rows]] != Place.EMPTY).all())

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Places of rows, whose images are decoded if they are not yet."""
        places = self._place_of[rows]
        if self._complete:
            return places
        empty = self._state[places] == Place.EMPTY
        if empty.any():
            fresh = np.unique(rows[empty])
            sizes = self._spec.sizes_px(fresh)
            for size in np.unique(sizes, axis=0):
                self._decode_alike(fresh[(sizes == size).all(axis=1)], size)
        return places

    def blacken(self, places: np.ndarray, out: np.ndarray | torch.Tensor) -> DecodeErrors:
        """Make the crops of broken images black; returns their errors by index in `out`."""
        if not self._errors:
            return {}
        broken = np.flatnonzero(self._state[places] == Place.BROKEN).tolist()
        for i in broken:
            out[i] = 0
        return {i: self._errors[int(places[i])] for i in broken}

    def _decode_alike(self, rows: np.ndarray, size: np.ndarray) -> None:
        """Decode images of one size into their places."""
        places, sizes = self._place_of[rows], np.repeat(size[None], len(rows), axis=0)
        whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        decoded = np.empty((len(rows), *size, 3), dtype=np.uint8)
        seconds = np.zeros(3)
        encoded = self._spec.images.encoded_all(rows)
        flips, kinds = np.zeros(len(rows), dtype=bool), self._spec.images.kinds_of(rows)
        loaded = load_crops(encoded, whole, sizes, flips, decoded, seconds, kinds, decoder=self._spec.decoder)
        errors = self._spec.images.unlike(rows, encoded) | loaded
        self._errors |= {int(places[i]): error for i, error in errors.items()}
        self._keep(places, decoded)
        states = np.full(len(rows), Place.DECODED)
        states[list(errors)] = Place.BROKEN
        self._state[places] = states
        self._profile.add(read_s=seconds[0], decode_s=seconds[1] + seconds[2])


class HostStore:
    """Images in host memory: uint8 (n, h, w, 3), each in the upper left corner of its place, ascending by row."""

    def __init__(self, spec: LoaderSpec, profile: Profile, shape: tuple[int, ...]) -> None:
        self._spec, self._profile, self._batches = spec, profile, HostBatches(spec)
        self._pixels = np.empty(shape, dtype=np.uint8)
        self._decoded = DecodedImages(spec, profile, self._keep)

    @property
    def needs_shards(self) -> bool:
        return not self._decoded.look()

    def buffer(self) -> torch.Tensor:
        return self._batches.take()

    def chunks(self, part: Part) -> list[slice]:
        return even_slices(len(part.rows), self._spec.workers)

    def fill(self, images: np.ndarray, part: Part, chunk: slice) -> DecodeErrors:
        places, out = self._decoded.decode(part.fetch[chunk]), images[chunk]
        started = time.perf_counter()
        padding = self._spec.plan.fit.padding(part.places, chunk)
        resize_crops(self._pixels, places, part.boxes[chunk], part.flips[chunk], out, padding)
        resized = time.perf_counter() - started
        errors = self._decoded.blacken(places, out)
        self._profile.add(resize_s=resized + augment(images, part, chunk), num_images=len(out))
        return {chunk.start + i: error for i, error in errors.items()}

    def finish(self, images: torch.Tensor, part: Part, errors: DecodeErrors) -> tuple[torch.Tensor, DecodeErrors]:
        return self._spec.to_device(images), errors

    def _keep(self, places: np.ndarray, decoded: np.ndarray) -> None:
        self._pixels[places, : decoded.shape[1], : decoded.shape[2]] = decoded


class DeviceStore:
    """Images in the memory of a GPU. Threads only decode, in the first epoch; the GPU resizes when a batch is requested."""

    def __init__(self, spec: LoaderSpec, profile: Profile, shape: tuple[int, ...]) -> None:
        self._spec, self._profile = spec, profile
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=spec.device)  # zeros: unused corners are multiplied by 0
        self._decoded = DecodedImages(spec, profile, self._keep)
        if spec.device.type == "cuda":
            torch.cuda.synchronize(spec.device)  # threads write there, on streams of their own

    @property
    def needs_shards(self) -> bool:
        return not self._decoded.look()

    def buffer(self) -> torch.Tensor:
        return torch.empty(0)  # the batch is made on the device

    def chunks(self, part: Part) -> list[slice]:
        return [] if self._decoded.has(part.fetch) else even_slices(len(part.rows), self._spec.workers)

    def fill(self, images: np.ndarray, part: Part, chunk: slice) -> DecodeErrors:
        self._decoded.decode(part.fetch[chunk])
        return {}

    def finish(self, images: torch.Tensor, part: Part, errors: DecodeErrors) -> tuple[torch.Tensor, DecodeErrors]:
        places, size = self._decoded.places(part.fetch), self._spec.size
        index, boxes, flips = (self._spec.to_device(torch.from_numpy(values)) for values in (places, part.boxes, part.flips))
        padding = self._spec.plan.fit.padding(part.places)
        made = resize_on_device(self._pixels[index], boxes, flips, size.height_px, size.width_px, padding)
        errors = self._decoded.blacken(places, made)
        apply(made, part)
        self._profile.add(num_images=len(part.rows))
        return made, errors

    def _keep(self, places: np.ndarray, decoded: np.ndarray) -> None:
        stream = torch.cuda.Stream(self._spec.device) if self._spec.device.type == "cuda" else None
        with torch.cuda.stream(stream):
            index = torch.from_numpy(places).to(self._spec.device)
            self._pixels[index, : decoded.shape[1], : decoded.shape[2]] = torch.from_numpy(decoded).to(self._spec.device)
        if stream is not None:
            stream.synchronize()  # here, in a thread of the pool: the consumer needs the batch later


def even_slices(count: int, workers: int) -> list[slice]:
    """A task for each thread: a resize is so short that the overhead of more tasks would show."""
    return slices(count, max(CHUNK, -(-count // workers)))


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
    """Triangle filter from [start, end) of `source` pixels to `size`, as in resample.c: float32 (B, size, source), rows sum to 1."""
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
