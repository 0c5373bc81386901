"""The resampler: NumPy and native code make the same bytes, and what Pillow, torch and the definition make, to within a grey level."""

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastfashion.images import resampling
from fastfashion.images.resampling import Box, Kernel, Plane, resize_planes, resize_rgb, resize_rgb_slowly

try:
    from fastfashion.images import _native
except ImportError:
    _native = None  # type: ignore[assignment]

needs_native = pytest.mark.skipif(_native is None, reason="fastfashion.images._native was not built: it takes a C compiler and libjpeg-dev")
LEVELS = {"plain": 0, "AVX2": 1, "AVX-512": 2}
SIDES = st.integers(1, 70)
KERNELS = st.sampled_from(Kernel)


@pytest.fixture(autouse=True)
def any_vectors() -> Iterator[None]:
    yield
    if _native is not None:
        _native.set_simd(-1)


def use_vectors(name: str) -> None:
    if _native.set_simd(LEVELS[name]) != LEVELS[name]:
        pytest.skip(f"this processor has no {name}")


@st.composite
def parts(draw: st.DrawFn, height: int, width: int) -> Box:
    """A box with whole or fractional ends, or all."""
    ends = []
    for side in (height, width):
        sort = draw(st.sampled_from(["all", "whole", "fraction"]))
        if sort == "all":
            ends.append((0.0, float(side)))
        elif sort == "whole":
            start = draw(st.integers(0, side - 1))
            ends.append((float(start), float(draw(st.integers(start + 1, side)))))
        else:
            start, end = sorted(draw(st.floats(0, side)) for _ in range(2))
            ends.append((start, end) if end - start > 1e-3 else (0.0, side / 3))
    (y0, y1), (x0, x1) = ends
    return y0, x0, y1, x1


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Extremes and all between: what shows rounding and overflow."""
    image = np.random.default_rng(seed).integers(-200, 456, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def native_planes(planes: list[Plane], box: Box, height: int, width: int, kernel: Kernel, flip: bool = False) -> np.ndarray:
    out = np.empty((height, width, 3), np.uint8)
    described = [
        (p.pixels, *p.pixels.shape, p.top, p.left, p.full_height, p.full_width, p.scale_y, p.scale_x, p.fancy_y, p.fancy_x) for p in planes
    ]
    _native.resize_planes(described, box, out, height, width, flip, kernel)
    return out


@needs_native
@pytest.mark.parametrize("vectors", LEVELS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), height=SIDES, width=SIDES, out=st.tuples(SIDES, SIDES), kernel=KERNELS)
def test_native_code_makes_numpys_bytes(vectors: str, data: Any, height: int, width: int, out: tuple[int, int], kernel: Kernel) -> None:
    use_vectors(vectors)
    box = data.draw(parts(height, width))
    image = noise(height, width)
    np.testing.assert_array_equal(resize_rgb(image, box, *out, kernel), resize_rgb_slowly(image, box, *out, kernel))


@needs_native
@pytest.mark.parametrize("vectors", LEVELS)
@pytest.mark.parametrize("size", [(300, 224), (224, 224), (33, 500), (1, 1), (128, 7)])
def test_native_code_makes_numpys_bytes_of_larger_images(vectors: str, size: tuple[int, int]) -> None:
    use_vectors(vectors)
    image = noise(299, 224)
    for kernel in Kernel:
        for box in ((0.0, 0.0, 299.0, 224.0), (3.25, 5.5, 280.75, 203.0)):
            np.testing.assert_array_equal(resize_rgb(image, box, *size, kernel), resize_rgb_slowly(image, box, *size, kernel))


def a_plane(draw: st.DrawFn, box: Box, size: tuple[int, int], halves: tuple[bool, bool], fancy: bool) -> Plane:
    """The part of a component of an image of this size that a box needs, with or without a margin, and noise in it."""
    scales = [0.5 if half else 1.0 for half in halves]
    full = [-(-side // 2) if half else side for side, half in zip(size, halves, strict=True)]
    ends = []
    for scale, side, start, end in zip(scales, full, box[:2], box[2:], strict=True):
        margin = draw(st.integers(1, 9))
        ends.append((max(int(start * scale) - margin, 0), min(int(np.ceil(end * scale)) + margin, side)))
    (top, bottom), (left, right) = ends
    pixels = noise(bottom - top, right - left, seed=draw(st.integers(0, 99)))[..., 0].copy()
    return Plane(pixels, top, left, full[0], full[1], scales[0], scales[1], fancy and halves[0], fancy and halves[1])


@st.composite
def components(draw: st.DrawFn) -> tuple[list[Plane], Box]:
    size = draw(SIDES), draw(SIDES)
    box = draw(parts(*size))
    halves = draw(st.sampled_from([(False, False), (False, True), (True, True)]))
    fancy = draw(st.booleans())
    planes = [a_plane(draw, box, size, half, fancy) for half in ((False, False), halves, halves)]
    return planes[: draw(st.sampled_from([1, 3]))], box


@needs_native
@pytest.mark.parametrize("vectors", LEVELS)
@settings(max_examples=150, deadline=None)
@given(found=components(), out=st.tuples(SIDES, SIDES), kernel=KERNELS)
def test_native_planes_are_numpys_and_mirrored_if_asked(
    vectors: str, found: tuple[list[Plane], Box], out: tuple[int, int], kernel: Kernel
) -> None:
    use_vectors(vectors)
    planes, box = found
    expected = resize_planes(planes, box, *out, kernel)
    np.testing.assert_array_equal(native_planes(planes, box, *out, kernel), expected)
    np.testing.assert_array_equal(native_planes(planes, box, *out, kernel, flip=True), expected[:, ::-1])


def upsampled(values: np.ndarray, axis: int) -> np.ndarray:
    """libjpeg's triangle upsampling, without its rounding: 3/4 of the nearer and 1/4 of the farther pixel, ends replicate."""
    moved = np.moveaxis(values.astype(float), axis, 0)
    before, after = moved[np.maximum(np.arange(len(moved)) - 1, 0)], moved[np.minimum(np.arange(len(moved)) + 1, len(moved) - 1)]
    both = np.stack([0.75 * moved + 0.25 * before, 0.75 * moved + 0.25 * after], axis=1)
    return np.moveaxis(both.reshape(2 * len(moved), *moved.shape[1:]), 0, axis)


def by_definition(values: np.ndarray, start: float, end: float, size: int, kernel: Kernel, axis: int) -> np.ndarray:
    """Pillow's convention in floating point, along one axis."""
    scale = (end - start) / size
    support = max(scale, 1.0)
    pixels = np.arange(int(np.floor(start)), int(np.ceil(end)))
    t = np.abs(pixels + 0.5 - (start + (np.arange(size)[:, None] + 0.5) * scale)) / support
    if kernel == Kernel.TRIANGLE:
        weights = np.maximum(1 - t, 0)
    else:
        weights = np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, np.where(t < 2, ((-0.5 * t + 2.5) * t - 4) * t + 2, 0))
    weights /= weights.sum(axis=1, keepdims=True)
    moved = np.moveaxis(values.astype(float), axis, 0)[pixels]
    return np.moveaxis(np.tensordot(weights, moved, 1), 0, axis)


@settings(max_examples=100, deadline=None)
@given(found=components(), out=st.tuples(SIDES, SIDES), kernel=KERNELS)
def test_planes_are_upsampled_resized_and_converted_by_definition(
    found: tuple[list[Plane], Box], out: tuple[int, int], kernel: Kernel
) -> None:
    planes, box = found
    levels = []
    for plane in planes:
        # Pixels beyond the part that was decoded are not needed: the margin covers what upsampling looks at.
        whole = np.zeros((plane.full_height, plane.full_width))
        (height, width), top, left = plane.pixels.shape, plane.top, plane.left
        whole[top : top + height, left : left + width] = plane.pixels
        down, across = plane.scale_y, plane.scale_x
        if down < 1:
            whole, down = upsampled(whole, 0) if plane.fancy_y else whole.repeat(2, 0), 1
        if across < 1:
            whole, across = upsampled(whole, 1) if plane.fancy_x else whole.repeat(2, 1), 1
        lines = by_definition(whole, box[0] * down, box[2] * down, out[0], kernel, 0)
        levels.append(by_definition(lines, box[1] * across, box[3] * across, out[1], kernel, 1))
    if len(levels) == 1:
        levels += [np.full(out, 128.0)] * 2
    y, cb, cr = levels[0], levels[1] - 128, levels[2] - 128
    expected = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2).clip(0, 255)
    assert np.abs(resize_planes(planes, box, *out, kernel) - expected).max() <= 1


@settings(max_examples=100, deadline=None)
@given(data=st.data(), height=SIDES, width=SIDES, out=st.tuples(SIDES, SIDES), kernel=KERNELS)
def test_any_box_is_resized_as_pillow_does(data: Any, height: int, width: int, out: tuple[int, int], kernel: Kernel) -> None:
    box = data.draw(parts(height, width))
    # Pillow clips what a cubic overshoots between the axes, and we do not: its images are smooth.
    image = noise(height, width) if kernel == Kernel.TRIANGLE else np.asarray(smooth_image(5, width, height)) // 2 + 64
    resample = Image.Resampling.BILINEAR if kernel == Kernel.TRIANGLE else Image.Resampling.BICUBIC
    # Pillow looks at pixels around the box, too: they are cut away.
    top, left = int(box[0]), int(box[1])
    inside = Image.fromarray(np.ascontiguousarray(image[top : int(np.ceil(box[2])), left : int(np.ceil(box[3]))]))
    shown = inside.resize(out[::-1], resample, box=(box[1] - left, box[0] - top, box[3] - left, box[2] - top))
    expected = np.asarray(shown).astype(int)
    assert np.abs(resize_rgb(image, box, *out, kernel) - expected).max() <= 1


@pytest.mark.parametrize("kernel", Kernel)
@pytest.mark.parametrize("size", [(40, 30), (150, 200), (3, 2), (91, 70), (1, 250)])
def test_whole_images_are_resized_as_torch_does(kernel: Kernel, size: tuple[int, int]) -> None:
    image = noise(91, 70)
    mode = "bilinear" if kernel == Kernel.TRIANGLE else "bicubic"
    floats = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(floats, size, mode=mode, antialias=True)[0].permute(1, 2, 0).clamp(0, 255).numpy()
    difference = resize_rgb(image, (0.0, 0.0, 91.0, 70.0), *size, kernel) - expected
    assert np.abs(difference).max() < 0.75 and abs(difference.mean()) < 0.05  # 0.5 is perfect; rounding leans to no side


@pytest.mark.parametrize("kernel", Kernel)
@pytest.mark.parametrize("level", [1, 100, 254])
def test_a_plain_colour_stays_what_it_is(kernel: Kernel, level: int) -> None:
    image = np.full((1000, 1500, 3), level, dtype=np.uint8)
    for size in ((1, 1), (7, 5), (90, 130), (1003, 1511)):
        assert (resize_rgb(image, (0.0, 0.0, 1000.0, 1500.0), *size, kernel) == level).all()


@needs_native
def test_nothing_past_the_last_pixel_is_read() -> None:
    """The image ends where memory is closed."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    all_of_it = np.frombuffer(memory, dtype=np.uint8)
    address = all_of_it.ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mprotect") or libc.mprotect(ctypes.c_void_p(address + 2 * page), ctypes.c_size_t(page), 0):
        pytest.skip("memory cannot be closed here")
    for height, width in ((9, 7), (5, 11), (3, 61), (1, 1), (40, 33)):
        image = all_of_it[2 * page - height * width * 3 : 2 * page].reshape(height, width, 3)
        image[:] = noise(height, width)
        for kernel in Kernel:
            for size in ((8, 8), (height, 20), (20, width), (2, 1)):
                box = (0.0, 0.0, float(height), float(width))
                np.testing.assert_array_equal(resize_rgb(image, box, *size, kernel), resize_rgb_slowly(image, box, *size, kernel))
    libc.mprotect(ctypes.c_void_p(address + 2 * page), ctypes.c_size_t(page), 3)


@pytest.mark.parametrize("box", [(0.0, 0.0, 91.0, 70.0), (5.0, 5.0, 5.0, 9.0), (-1.0, 0.0, 4.0, 4.0), (0.0, 0.0, float("nan"), 4.0)])
def test_a_box_outside_of_the_image_is_refused(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="box: expected 0 <= y0 < y1 <= 90"):
        resize_rgb(noise(90, 70), box, 8, 8)
    monkeypatch.setattr(resampling, "_native", None)
    with pytest.raises(ValueError, match="box: expected 0 <= y0 < y1 <= 90"):
        resize_rgb(noise(90, 70), box, 8, 8)


def test_without_native_code_numpy_makes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image, box = noise(60, 50), (1.5, 0.0, 60.0, 47.25)
    expected = resize_rgb(image, box, 33, 21)
    monkeypatch.setattr(resampling, "_native", None)
    np.testing.assert_array_equal(resize_rgb(image, box, 33, 21), expected)
