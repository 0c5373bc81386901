"""The DALI backend: one pipeline definition, device "mixed" on CUDA and "cpu" without.

    plan ─► external source (encoded bytes, box, flip) ─► decode the crop ─► resize ─► flip ─► uint8 NHWC

DALI decodes only plain JPEGs (images/codec.py, Kind), where all decoders give the same pixels. For every other image it gets the
finished crop.

The only module that imports DALI.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import torch

from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.images import codec
from fastfashion.load.augment import apply
from fastfashion.load.batch import Batch, Skipped
from fastfashion.load.buffers import Buffers
from fastfashion.load.crops import load_crop
from fastfashion.load.life import Batches, Life
from fastfashion.load.plan import Part
from fastfashion.load.spec import LoaderSpec, Planned, undecodable

HW_DECODER_LOAD = 0.65  # DALI's own default, until tools/gpu_check.sh has swept it on a GPU


class DaliLoader:
    """Keeps `spec.prefetch` batches under way in a DALI pipeline that is fed from the plan."""

    def __init__(self, spec: LoaderSpec) -> None:
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"the dali loader needs NVIDIA DALI ({error}): pip install nvidia-dali-cuda120, or use --set data.backend=threads"
            ) from error
        self.num_steps = spec.plan.num_steps
        self.skipped: dict[int, Skipped] = {}
        self._spec = spec
        self._life = Life()
        self._planned: Iterator[Planned] = iter(())
        self._fed: deque[Planned] = deque()  # asked for by DALI, not yet handed out
        self._wrong: dict[int, InputError] = {}  # by row: why it does not decode
        self._refused = np.zeros(len(spec.images.num_bytes), dtype=bool)  # by row: what DALI has failed on
        self._sized = np.zeros(len(spec.images.num_bytes), dtype=bool)  # by row: as large as the index says
        self._pool: ThreadPoolExecutor | None = None  # for what DALI does not decode; made when it is first of use
        self._ended = True
        self._buffers = Buffers(spec.images_shape, keep=4)
        self._pipeline = build_pipeline(spec, self._feed)

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self._life.hand_out(self._steps(epoch, start), self._spec.num_batches(start))

    def _steps(self, epoch: int, start: int) -> Batches:
        self._planned, self._ended = self._spec.planned(epoch, start), False
        try:
            while (output := self._run()) is not None:
                yield self._finish(output, self._fed.popleft())
        finally:
            self._planned = iter(())
            while not self._ended and self._life.may_clean_up:  # left half-way: what is under way runs out, the next epoch starts clean
                self._run()
            self._fed.clear()

    def _finish(self, output: Any, planned: Planned) -> Batch:
        started = time.perf_counter()
        images = self._to_torch(output)
        apply(images, planned.part)
        wrong = {slot: self._wrong[row] for slot, row in enumerate(planned.part.fetch.tolist()) if row in self._wrong}
        for slot in wrong:
            images[slot] = 0
        batch = self._spec.batch(images, planned, wrong, self.skipped)
        if self._spec.profile is not None:
            self._spec.profile.add(copy_s=time.perf_counter() - started, num_images=len(planned.part.rows))
        return batch

    def _to_torch(self, output: Any) -> torch.Tensor:
        """A copy of DALI's output buffer, which belongs to DALI again after release."""
        if self._spec.device.type == "cpu":
            images = self._buffers.take()
            np.copyto(images.numpy(), output.as_array())
            return images
        from nvidia.dali.plugin.pytorch import feed_ndarray

        dense = output.as_tensor()
        images = torch.empty(dense.shape(), dtype=torch.uint8, device=self._spec.device)
        feed_ndarray(dense, images, cuda_stream=torch.cuda.current_stream(self._spec.device))
        return images

    def _feed(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        """DALI asks for the next batch; StopIteration ends the epoch."""
        planned = next(self._planned)
        self._fed.append(planned)
        started = time.perf_counter()
        part = planned.part
        encoded = [self._spec.images.encoded(row) for row in part.fetch.tolist()]
        if self._spec.profile is not None:
            self._spec.profile.add(read_s=time.perf_counter() - started)
        for place, error in self._unlike(part.fetch, encoded):
            row = int(part.fetch[place])
            self._wrong[row], self._refused[row] = error, True
        start, end, flips = part.boxes[:, :2].copy(), part.boxes[:, 2:].copy(), part.flips.astype(np.int32)
        if len(places := self._not_for_dali(part.fetch)):
            for place, crop in zip(places.tolist(), self._crops(encoded, part, places), strict=True):
                encoded[place] = crop
            start[places], end[places], flips[places] = 0, self._spec.images_shape[1:3], 0
        return encoded, start, end, flips

    def _unlike(self, rows: np.ndarray, encoded: list[np.ndarray]) -> Iterator[tuple[int, InputError]]:
        """Places of images that are not what the index says; DALI itself would make room for any number of pixels."""
        images = self._spec.images
        fresh = ~self._sized[rows]
        yield from images.unlike(rows, encoded).items()
        for place in np.flatnonzero(fresh & (images.kinds_of(rows) != codec.Kind.OTHER)).tolist():
            row = int(rows[place])
            try:
                codec.check_size(encoded[place], int(images.height_px[row]), int(images.width_px[row]))
                self._sized[row] = True
            except InputError as error:
                yield place, error

    def _not_for_dali(self, rows: np.ndarray) -> np.ndarray:
        """Places of images that DALI does not decode, or not to the right pixels."""
        kinds = self._spec.images.kinds_of(rows)
        unfit = kinds != codec.Kind.COLOR if uses_nvjpeg(self._spec) else kinds == codec.Kind.OTHER
        places: np.ndarray = np.flatnonzero(unfit | self._refused[rows])
        return places

    def _crops(self, encoded: list[np.ndarray], part: Part, places: np.ndarray) -> Iterator[np.ndarray]:
        """Finished crops of images at some places, as `load_crop` makes them for all backends, in the bytes of a PPM."""
        sizes = self._spec.sizes_px(part.fetch)

        def crop(place: int) -> np.ndarray:
            row, out, seconds = int(part.fetch[place]), np.zeros(self._spec.images_shape[1:], dtype=np.uint8), np.zeros(3)
            if part.rows[place] >= 0 and row not in self._wrong:  # padding stays black
                try:
                    height_px, width_px = sizes[place].tolist()
                    load_crop(encoded[place], part.boxes[place], (height_px, width_px), bool(part.flips[place]), out, seconds)
                except InputError as error:
                    self._wrong[row] = error
                    out[:] = 0
            if self._spec.profile is not None:
                self._spec.profile.add(decode_s=seconds[1], resize_s=seconds[2])
            return np.frombuffer(codec.encode_pnm(out), dtype=np.uint8)

        if (part.rows[places] >= 0).sum() <= 1:  # handing it to a thread and waiting for that brings nothing
            return map(crop, places.tolist())
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._spec.workers, thread_name_prefix="loader")
        return self._pool.map(crop, places.tolist())

    def _run(self) -> Any:
        started = time.perf_counter()
        try:
            return self._pipeline.run()[0]
        except StopIteration:
            self._pipeline.reset()
            self._ended = True
            return None
        except RuntimeError as error:
            self._ended = True  # DALI cannot go on after an error
            self._find_wrong(error)
            return self._run_again()
        finally:
            if self._spec.profile is not None:
                self._spec.profile.add(wait_s=time.perf_counter() - started)

    def _find_wrong(self, error: RuntimeError) -> None:
        """DALI does not say which image it was: decode those under way one by one. Raises PackedSetError unless they may be skipped.

        Where each decodes by itself, DALI gets no bytes of them any more, but the crops: that is what an index is for that calls an
        image plain which is not.
        """
        images = self._spec.images
        rows = np.unique(np.concatenate([planned.part.fetch for planned in self._fed])) if self._fed else np.zeros(0, np.int64)
        rows = rows[~self._refused[rows]]
        if not len(rows):
            raise PackedSetError(f"DALI fails on images of {images.folder} that it need not even decode: {error}") from error
        for row in rows.tolist():
            try:
                codec.decode_rgb(images.encoded(row), max_pixels=int(images.height_px[row]) * int(images.width_px[row]))
            except InputError as reason:
                if self._spec.on_bad != "skip":
                    raise undecodable(images, row, reason) from error
                self._wrong[row], self._refused[row] = reason, True
        if not self._refused[rows].any():
            self._refused[rows] = True

    def _run_again(self) -> Any:
        """Give a new pipeline what the old one was given and did not hand out."""
        self._planned = chain(list(self._fed), self._planned)
        self._fed.clear()
        self._pipeline = build_pipeline(self._spec, self._feed)
        self._ended = False
        return self._run()

    def close(self) -> None:
        self._life.close()
        self._ended = True  # an iteration left half-way has nothing to run out any more
        self._pipeline = None
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._spec.images.kinds.keep()
        if self._spec.cache is not None:
            self._spec.cache.close()


def uses_nvjpeg(spec: LoaderSpec) -> bool:
    """Whether nvJPEG decodes, which cannot do all that libjpeg can (measured on an H200, DALI 2.4.0):

    - Before 13.2 it does not decode a part of an image with fancy upsampling, so that DALI would do it on the CPU. It is asked for
      whole images, and crops are cut out of them, with the same result. A CPU decodes parts: 1800x2400 in two thirds of the time.
    - A gray JPEG comes out with wrong pixels, without an error. It is decoded beforehand, and DALI is given the crop.
    """
    return spec.device.type == "cuda"


def build_pipeline(spec: LoaderSpec, feed: Callable[[], tuple[Any, ...]]) -> Any:
    """The pipeline: `feed` gives encoded images (uint8), crop start and end (int32 y, x) and flips (int32); out come uint8 (H, W, 3)."""
    from nvidia.dali import fn, pipeline_def, types

    cuda, whole = spec.device.type == "cuda", uses_nvjpeg(spec)
    how = {
        "device": "mixed" if cuda else "cpu",
        "hw_decoder_load": HW_DECODER_LOAD if spec.hw_decoder_load is None else spec.hw_decoder_load,
        "output_type": types.RGB,
        "jpeg_fancy_upsampling": True,  # the upsampling of libjpeg, so that GPU and CPU see the same image
    }

    @pipeline_def
    def decode_crop_resize() -> Any:
        encoded, start, end, flip = fn.external_source(
            source=feed, num_outputs=4, batch=True, dtype=[types.UINT8, types.INT32, types.INT32, types.INT32], ndim=[1, 1, 1, 0]
        )
        crop = {"start": start, "end": end, "axis_names": "HW"}
        images = fn.slice(fn.decoders.image(encoded, **how), **crop) if whole else fn.decoders.image_slice(encoded, **how, **crop)
        images = fn.resize(
            images, resize_y=spec.size.height_px, resize_x=spec.size.width_px, interp_type=types.INTERP_LINEAR, antialias=True
        )
        return fn.flip(images, horizontal=flip)

    pipeline = decode_crop_resize(
        batch_size=spec.images_shape[0],
        num_threads=spec.workers,
        device_id=spec.device.index or 0 if cuda else None,
        prefetch_queue_depth=spec.prefetch,
    )
    pipeline.build()
    return pipeline
