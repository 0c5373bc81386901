"""The DALI backend: one pipeline definition, device "mixed" on CUDA and "cpu" without.

    plan ─► external source (encoded bytes, box, flip) ─► decode the region ─► resize ─► flip ─► uint8 NHWC

The only module that imports DALI.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from fastfashion import image
from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.load.batch import Batch, LoaderSpec, undecodable
from fastfashion.load.plan import Part, Step


class DaliLoader:
    """Keeps `spec.prefetch` batches under way in a DALI pipeline that is fed from the plan."""

    def __init__(self, spec: LoaderSpec) -> None:
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"the dali loader needs NVIDIA DALI ({error}): pip install nvidia-dali-cuda120, or use --backend threads"
            ) from error
        self.num_steps = spec.plan.num_steps
        self._spec = spec
        self._parts: Iterator[tuple[Step, Part]] = iter(())
        self._fed: deque[tuple[Step, Part]] = deque()  # asked for by DALI, not yet handed out
        self._ended = True
        self._pipeline = build_pipeline(spec, self._feed)

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        self._parts, self._ended = self._spec.parts(epoch, start), False
        try:
            while (output := self._run()) is not None:
                step, part = self._fed.popleft()
                yield self._spec.batch(_to_torch(output, self._spec.device), step, part)
        finally:
            self._parts = iter(())
            while not self._ended:  # left half-way: let what is under way run out, so that the next epoch starts clean
                self._run()
            self._fed.clear()

    def _feed(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        """DALI asks for the next batch; StopIteration ends the epoch."""
        step, part = next(self._parts)
        self._fed.append((step, part))
        encoded = [self._spec.pictures.encoded(int(row)) for row in part.fetch]
        return encoded, part.boxes[:, :2].copy(), part.boxes[:, 2:].copy(), part.flips.astype(np.int32)

    def _run(self) -> Any:
        try:
            return self._pipeline.run()[0]
        except StopIteration:
            self._pipeline.reset()
            self._ended = True
            return None
        except RuntimeError as error:
            self._ended = True  # DALI cannot go on after an error
            raise self._explain(error) from error

    def _explain(self, error: RuntimeError) -> PackedSetError:
        """DALI does not say which picture it was: decode those under way one by one."""
        pictures = self._spec.pictures
        for row in np.concatenate([part.fetch for _, part in self._fed]):
            try:
                image.decode_rgb(pictures.encoded(int(row)))
            except InputError as reason:
                return undecodable(pictures, int(row), reason)
        return PackedSetError(f"DALI cannot decode pictures of {pictures.folder}, though each decodes by itself: {error}")

    def close(self) -> None:
        self._ended = True  # an iteration left half-way has nothing to run out any more
        self._pipeline = None


def build_pipeline(spec: LoaderSpec, feed: Callable[[], tuple[Any, ...]]) -> Any:
    """The pipeline: `feed` gives encoded pictures (uint8), crop start and end (int32 y, x) and flips (int32); out come uint8 (H, W, 3)."""
    from nvidia.dali import fn, pipeline_def, types

    cuda = spec.device.type == "cuda"

    @pipeline_def
    def decode_crop_resize() -> Any:
        encoded, start, end, flip = fn.external_source(
            source=feed, num_outputs=4, batch=True, dtype=[types.UINT8, types.INT32, types.INT32, types.INT32], ndim=[1, 1, 1, 0]
        )
        images = fn.decoders.image_slice(
            encoded,
            start=start,
            end=end,
            axis_names="HW",
            device="mixed" if cuda else "cpu",
            output_type=types.RGB,
            jpeg_fancy_upsampling=True,  # the upsampling of libjpeg, so that GPU and CPU see the same picture
        )
        images = fn.resize(
            images, resize_y=spec.size.height_px, resize_x=spec.size.width_px, interp_type=types.INTERP_LINEAR, antialias=True
        )
        return fn.flip(images, horizontal=flip)

    pipeline = decode_crop_resize(
        batch_size=spec.plan.num_slots(spec.world_size),
        num_threads=spec.workers,
        device_id=spec.device.index or 0 if cuda else None,
        prefetch_queue_depth=spec.prefetch,
    )
    pipeline.build()
    return pipeline


def _to_torch(output: Any, device: torch.device) -> torch.Tensor:
    """A copy of DALI's output buffer, which belongs to DALI again after release."""
    if device.type == "cpu":
        return torch.from_numpy(output.as_array().copy())
    from nvidia.dali.plugin.pytorch import feed_ndarray

    dense = output.as_tensor()
    images = torch.empty(dense.shape(), dtype=torch.uint8, device=device)
    feed_ndarray(dense, images, cuda_stream=torch.cuda.current_stream(device))
    return images
