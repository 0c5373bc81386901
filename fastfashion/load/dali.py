"""The DALI backend: one pipeline definition, device "mixed" on CUDA and "cpu" without.

    plan ─► external source (encoded bytes, box, flip) ─► decode the crop ─► resize ─► flip ─► with fit pad: pad ─► uint8 NHWC

DALI decodes only plain JPEGs (images/codec.py, Kind), of which all decoders give the same pixels. For every other image it gets the
finished crop. Only this module imports DALI.
"""

import ctypes
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from enum import Enum, IntEnum
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import torch

from fastfashion.errors import InputError, PackedSetError
from fastfashion.extras import lacks, needs
from fastfashion.images import codec
from fastfashion.load.augment import apply
from fastfashion.load.batch import Profile
from fastfashion.load.buffers import Buffers, Owner
from fastfashion.load.crops import load_crop
from fastfashion.load.feed import Made, Planned, undecodable
from fastfashion.load.fit import PAD
from fastfashion.load.plan import Part
from fastfashion.load.pool import Pool
from fastfashion.load.spec import LoaderSpec

HW_DECODER_LOAD = 0.65  # DALI's own default


class State(Enum):
    """The state of the pipeline."""

    IDLE = "no batch in it"
    RUNNING = "batches in it"
    FAILED = "DALI cannot continue after an error: it takes another pipeline"
    CLOSED = "gone"


class Row(IntEnum):
    """Whether DALI may decode a row's image."""

    UNCHECKED = 0
    CHECKED = 1  # of the size that the index says
    REFUSED = 2  # not what the index says, or DALI has failed on it: it gets the crop


class DaliBackend:
    """Keeps `spec.prefetch` batches in progress in a DALI pipeline that is fed from the plan."""

    needs_shards = True

    def __init__(self, spec: LoaderSpec, profile: Profile) -> None:
        with needs("cuda12", "the dali loader", "use --set data.backend=threads"):
            import nvidia.dali  # noqa: F401
        self._spec, self._profile, self._owner = spec, profile, Owner()
        self._planned: Iterator[Planned] = iter(())
        self._fed: deque[Planned] = deque()  # in the pipeline
        self._errors: dict[int, InputError] = {}  # by row: decode errors
        self._rows = np.full(len(spec.images.num_bytes), Row.UNCHECKED, dtype=np.int8)
        self._pool = Pool(spec.workers, "loader")  # for what DALI does not decode
        self._buffers = Buffers(spec.images_shape, keep=4)
        self._pipeline = build_pipeline(spec, self._feed)
        self._state = State.IDLE
        _keep_in_children()
        _OPEN.add(self)

    def batches(self, planned: Iterator[Planned]) -> Generator[Made, None, None]:
        self._planned = planned
        self._start()
        try:
            while (output := self._run()) is not None:
                yield self._finish(output, self._fed.popleft())
        finally:
            self._planned = iter(())
            while self._owner.may_clean_up and self._state is State.RUNNING:  # left half-way: empty it, so that the next epoch starts clean
                self._run()
            self._fed.clear()

    def _start(self) -> None:
        if self._state is State.FAILED:
            self._pipeline = build_pipeline(self._spec, self._feed)
        self._state = State.RUNNING

    def _run(self) -> Any:
        """The next output of the pipeline; None at the end of the epoch."""
        started = time.perf_counter()
        try:
            return self._pipeline.run()[0]
        except StopIteration:
            self._pipeline.reset()
            self._state = State.IDLE
            return None
        except RuntimeError as error:
            self._state = State.FAILED
            self._find_cause(error)
        finally:
            self._profile.add(wait_s=time.perf_counter() - started)
        self._planned = chain(list(self._fed), self._planned)
        self._fed.clear()
        self._start()
        return self._run()

    def _finish(self, output: Any, planned: Planned) -> Made:
        started = time.perf_counter()
        images = self._to_torch(output)
        apply(images, planned.part)
        errors = {slot: self._errors[row] for slot, row in enumerate(planned.part.fetch.tolist()) if row in self._errors}
        for slot in errors:
            images[slot] = 0
        self._profile.add(copy_s=time.perf_counter() - started, num_images=len(planned.part.rows))
        return Made(planned, images, errors)

    def _to_torch(self, output: Any) -> torch.Tensor:
        """A copy of DALI's output buffer, which DALI will overwrite."""
        if self._spec.device.type == "cpu":
            images = self._buffers.take()
            np.copyto(images.numpy(), output.as_array())
            return images
        from nvidia.dali.plugin.pytorch import feed_ndarray

        dense = output.as_tensor()
        images = torch.empty(dense.shape(), dtype=torch.uint8, device=self._spec.device)
        feed_ndarray(dense, images, cuda_stream=torch.cuda.current_stream(self._spec.device))
        return images

    def _feed(self) -> tuple[Any, ...]:
        """The next batch for DALI, which calls this, as `build_pipeline` has it; StopIteration ends the epoch."""
        planned = next(self._planned)
        self._fed.append(planned)
        started = time.perf_counter()
        part = planned.part
        encoded = self._spec.images.encoded_all(part.fetch)
        self._profile.add(read_s=time.perf_counter() - started)
        self._check_sizes(part.fetch, encoded)
        start, end, flips = part.boxes[:, :2].copy(), part.boxes[:, 2:].copy(), part.flips.astype(np.int32)
        whole = self._spec.images_shape[1:3]
        shown = np.tile(np.array(whole, np.int32), (len(flips), 1)) if part.places is None else part.places[:, 2:] - part.places[:, :2]
        corner = np.zeros_like(shown) if part.places is None else -part.places[:, :2]
        if len(slots := self._not_for_dali(part.fetch)):
            for slot, crop in zip(slots.tolist(), self._crops(encoded, part, slots), strict=True):
                encoded[slot] = crop
            start[slots], end[slots], flips[slots], shown[slots], corner[slots] = 0, whole, 0, whole, 0
        return (encoded, start, end, flips) if part.places is None else (encoded, start, end, flips, shown, corner)

    def _check_sizes(self, rows: np.ndarray, encoded: list[np.ndarray]) -> None:
        """Refuse images that are not what the index says; DALI itself would allocate memory for any number of pixels."""
        images = self._spec.images
        errors = images.unlike(rows, encoded)
        fresh = (self._rows[rows] == Row.UNCHECKED) & (images.kinds_of(rows) != codec.Kind.OTHER)
        for place in np.flatnonzero(fresh).tolist():
            row = int(rows[place])
            try:
                codec.check_size(encoded[place], int(images.height_px[row]), int(images.width_px[row]))
                self._rows[row] = Row.CHECKED
            except InputError as error:
                errors[place] = error
        for place, reason in errors.items():
            row = int(rows[place])
            self._errors[row], self._rows[row] = reason, Row.REFUSED

    def _not_for_dali(self, rows: np.ndarray) -> np.ndarray:
        """Indices of images that DALI does not decode, or not to the right pixels."""
        kinds = self._spec.images.kinds_of(rows)
        unfit = kinds != codec.Kind.COLOR if uses_nvjpeg(self._spec) else kinds == codec.Kind.OTHER
        places: np.ndarray = np.flatnonzero(unfit | (self._rows[rows] == Row.REFUSED))
        return places

    def _crops(self, encoded: list[np.ndarray], part: Part, slots: np.ndarray) -> Iterator[np.ndarray]:
        """Finished images of some slots, as `load_crop` makes them for all backends, in the bytes of a PPM."""
        sizes, padding = self._spec.sizes_px(part.fetch), self._spec.plan.fit.padding(part.places)

        def crop(slot: int) -> np.ndarray:
            row, out, seconds = int(part.fetch[slot]), np.zeros(self._spec.images_shape[1:], dtype=np.uint8), np.zeros(3)
            if part.rows[slot] >= 0 and row not in self._errors:  # a slot without a row stays black
                try:
                    height_px, width_px = sizes[slot].tolist()
                    shown = out if padding is None else padding.fill(slot, out)
                    load_crop(encoded[slot], part.boxes[slot], (height_px, width_px), bool(part.flips[slot]), shown, seconds)
                except InputError as error:
                    self._errors[row] = error
                    out[:] = 0
            self._profile.add(decode_s=seconds[1], resize_s=seconds[2])
            return np.frombuffer(codec.encode_pnm(out), dtype=np.uint8)

        tasks = [self._pool.submit(crop, slot) for slot in slots.tolist()]
        return (task.result() for task in tasks)

    def _find_cause(self, error: RuntimeError) -> None:
        """Decode the images in the pipeline one by one: DALI does not say which failed. Raises PackedSetError unless it may be skipped.

        If each decodes, DALI gets no bytes of them from then on, but their crops: an index may call an image plain that is not.
        """
        images = self._spec.images
        rows = np.unique(np.concatenate([planned.part.fetch for planned in self._fed])) if self._fed else np.zeros(0, np.int64)
        rows = rows[self._rows[rows] != Row.REFUSED]
        if not len(rows):
            raise PackedSetError(f"DALI fails on images of {images.folder} that it does not have to decode: {error}") from error
        for row in rows.tolist():
            try:
                codec.decode_rgb(images.encoded(row), max_pixels=int(images.height_px[row]) * int(images.width_px[row]))
            except InputError as reason:
                if self._spec.on_bad != "skip":
                    raise undecodable(images, row, reason) from error
                self._errors[row], self._rows[row] = reason, Row.REFUSED
        if not (self._rows[rows] == Row.REFUSED).any():
            self._rows[rows] = Row.REFUSED

    def close(self) -> None:
        self._state, self._pipeline = State.CLOSED, None
        self._pool.close()


_OPEN: "weakref.WeakSet[DaliBackend]" = weakref.WeakSet()


@cache
def _keep_in_children() -> None:
    """Never destroy a pipeline in a forked child: that waits for threads which exist in the parent alone. DALI would, at exit."""

    def keep() -> None:
        for backend in _OPEN:
            pipeline = backend._pipeline
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pipeline))
            getattr(pipeline, "_pipes", set()).discard(weakref.ref(pipeline))

    os.register_at_fork(after_in_child=keep)


def has_dali() -> bool:
    """Whether DALI is installed."""
    return lacks("nvidia.dali") is None


def uses_nvjpeg(spec: LoaderSpec) -> bool:
    """Whether nvJPEG decodes, which cannot do all that libjpeg can (observed on an H200, DALI 2.4.0).

    Before version 13.2 it cannot decode a part of an image with fancy upsampling: it gets whole images, and crops are cut out of them.
    It decodes a gray JPEG to wrong pixels, without an error: DALI gets the finished crop.
    """
    return spec.device.type == "cuda"


def build_pipeline(spec: LoaderSpec, feed: Callable[[], tuple[Any, ...]]) -> Any:
    """The pipeline: it returns uint8 (H, W, 3).

    `feed` gives encoded images (uint8), crop start and end (int32 y, x) and flips (int32); with fit pad also the height and width to show
    them in (int32), and minus the corner (int32 y, x) where.
    """
    from nvidia.dali import fn, pipeline_def, types

    cuda, whole, size, fit = spec.device.type == "cuda", uses_nvjpeg(spec), spec.size, spec.plan.fit
    kinds = [types.UINT8, types.INT32, types.INT32, types.INT32, types.INT32, types.INT32][: 6 if fit.mode == PAD else 4]
    how = {
        "device": "mixed" if cuda else "cpu",
        "hw_decoder_load": HW_DECODER_LOAD if spec.hw_decoder_load is None else spec.hw_decoder_load,
        "output_type": types.RGB,
        "jpeg_fancy_upsampling": True,  # the upsampling of libjpeg, so that GPU and CPU see the same image
    }

    @pipeline_def
    def decode_crop_resize() -> Any:
        encoded, start, end, flip, *place = fn.external_source(
            source=feed, num_outputs=len(kinds), batch=True, dtype=kinds, ndim=[1, 1, 1, 0, 1, 1][: len(kinds)]
        )
        crop = {"start": start, "end": end, "axis_names": "HW"}
        images = fn.slice(fn.decoders.image(encoded, **how), **crop) if whole else fn.decoders.image_slice(encoded, **how, **crop)
        resize = {"interp_type": types.INTERP_LINEAR, "antialias": True}
        if not place:
            images = fn.resize(images, resize_y=size.height_px, resize_x=size.width_px, **resize)
            return fn.flip(images, horizontal=flip)
        shown, corner = place
        images = fn.flip(fn.resize(images, size=fn.cast(shown, dtype=types.FLOAT), **resize), horizontal=flip)
        whole_size, color = [size.height_px, size.width_px], [float(level) for level in fit.pad_color]
        return fn.slice(images, start=corner, shape=whole_size, axis_names="HW", out_of_bounds_policy="pad", fill_values=color)

    pipeline = decode_crop_resize(
        batch_size=spec.images_shape[0],
        num_threads=spec.workers,
        device_id=spec.device.index or 0 if cuda else None,
        prefetch_queue_depth=spec.prefetch,
    )
    pipeline.build()
    return pipeline
