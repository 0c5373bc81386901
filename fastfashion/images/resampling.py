"""Resize in whole numbers: what the native resampler does, bit for bit, with NumPy; slower, for where there is no compiler and for tests.

    RGB, or Y, Cb and Cr ─► blend lines (grey levels times 64) ─► blend columns (times 32) ─► colour ─► uint8

Kernels are those of Pillow's BILINEAR and BICUBIC: as wide as an output pixel, at least as a source pixel. The arithmetic is described in
native/resample.c and native/taps.c. Sides are below 2^28 pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from fastfashion.images.compiled import native as _native

FEW_TAPS = 12  # source pixels of an output pixel, a side, from which on products are not rounded one by one
WEIGHT_BITS, LINE_BITS, SHOWN_BITS, PLACE_BITS, DISTANCE_BITS = 14, 6, 5, 32, 27

Box = tuple[float, float, float, float]  # y0, x0, y1, x1


class Kernel(IntEnum):
    """Pillow's BILINEAR and BICUBIC (Keys, a = -1/2)."""

    TRIANGLE = 0
    CUBIC = 1


class Upsampling(IntEnum):
    """How a component comes to luma's resolution: not at all, by libjpeg's triangle, or each pixel twice."""

    NONE = 0
    FANCY = 1
    REPLICATED = 2


@dataclass(frozen=True)
class Plane:
    """A component, or the part of it that is decoded, as native.h describes it: uint8 (h, w) from pixel (top, left) on."""

    pixels: np.ndarray
    top: int
    left: int
    full_height: int
    full_width: int
    scale_y: float  # component pixels per pixel of the whole image
    scale_x: float
    fancy_y: bool
    fancy_x: bool


@dataclass(frozen=True)
class Axis:
    """One axis of a resize: the box [start, end) of source pixels, of which [low, high) exist, to `size` pixels.

    If fancy, the box counts in pixels of twice the component's resolution, of which the component has `full`.
    """

    start: float
    end: float
    size: int
    low: int
    high: int
    kernel: Kernel
    fancy: Upsampling = Upsampling.NONE
    full: int = 0


def resize_rgb(image: np.ndarray, box: Box, height_px: int, width_px: int, kernel: Kernel = Kernel.CUBIC) -> np.ndarray:
    """Resize a box (y0, x0, y1, x1; it may end inside of pixels) of uint8 (H, W, 3) to uint8 (height_px, width_px, 3).

    Pixels that the box does not touch have no influence. The same bytes with and without the native code, which lets other threads run.
    Raises ValueError for a box that is empty or outside of the image.
    """
    if not (0 <= box[0] < box[2] <= image.shape[0] and 0 <= box[1] < box[3] <= image.shape[1]):
        raise ValueError(f"box: expected 0 <= y0 < y1 <= {image.shape[0]} and 0 <= x0 < x1 <= {image.shape[1]}, found {box}")
    if _native is None:
        return resize_rgb_slowly(image, box, height_px, width_px, kernel)
    out = np.empty((height_px, width_px, 3), dtype=np.uint8)
    _native.resize_rgb(np.ascontiguousarray(image), image.shape[0], image.shape[1], box, out, height_px, width_px, kernel)
    return out


def resize_rgb_slowly(image: np.ndarray, box: Box, height_px: int, width_px: int, kernel: Kernel) -> np.ndarray:
    """As `resize_rgb`, without the native code."""
    rows = Axis(box[0], box[2], height_px, 0, math.ceil(box[2]), kernel)
    columns = Axis(box[1], box[3], width_px, 0, math.ceil(box[3]), kernel)
    levels = blend_columns(blend_rows(image, *find_taps(rows), 0), *find_taps(columns), 0)
    return _shown(levels)


def resize_planes(planes: Sequence[Plane], box: Box, height_px: int, width_px: int, kernel: Kernel) -> np.ndarray:
    """Resize a box (y0, x0, y1, x1; pixels of the whole image) of Y, Cb and Cr, or of Y alone, to RGB, uint8 (height_px, width_px, 3).

    JFIF's colour conversion, after the resize. Chroma of half the resolution is first interpolated as libjpeg does, where it says `fancy`;
    else each pixel counts twice.
    """
    levels = []
    for plane in planes:
        twice_y, twice_x = 2 * plane.scale_y == planes[0].scale_y, 2 * plane.scale_x == planes[0].scale_x
        by_y, by_x = _upsampling(plane.fancy_y, twice_y), _upsampling(plane.fancy_x, twice_x)
        down, across = plane.scale_y * (2 if by_y else 1), plane.scale_x * (2 if by_x else 1)
        (height, width), top, left = plane.pixels.shape, plane.top, plane.left
        rows = Axis(box[0] * down, box[2] * down, height_px, top, top + height, kernel, by_y, plane.full_height)
        columns = Axis(box[1] * across, box[3] * across, width_px, left, left + width, kernel, by_x, plane.full_width)
        lines = blend_rows(plane.pixels[..., None], *find_taps(rows), top)
        levels.append(blend_columns(lines, *find_taps(columns), left)[..., 0])
    if len(levels) == 1:
        return _shown(np.repeat(levels[0][..., None], 3, axis=2))
    y, cb, cr = levels[0], levels[1] - (128 << SHOWN_BITS), levels[2] - (128 << SHOWN_BITS)
    red = y + cr + _times(cr, 13173)
    green = y - _times(cb, 11277) - _times(cr, 23401)
    blue = y + 2 * cb - _times(cb, 7471)
    return _shown(np.stack([red, green, blue], axis=2))


def _upsampling(fancy: bool, is_half: bool) -> Upsampling:
    return Upsampling.FANCY if fancy else Upsampling.REPLICATED if is_half else Upsampling.NONE


def find_taps(axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """First source pixels, int64 (size,), and weights, int32 (size, n), of each output pixel; weights sum to 2^14."""
    one, half = 1 << PLACE_BITS, 1 << (PLACE_BITS - 1)
    step = int((axis.end - axis.start) * float(one) / axis.size)
    support = max(step, one)
    reach = support * (2 if axis.kernel == Kernel.CUBIC else 1)
    first, last = math.floor(axis.start), math.ceil(axis.end)
    if not axis.fancy:
        first = min(max(first, axis.low), axis.high - 1)
        last = min(max(last, first + 1), axis.high)
    centres = int(axis.start * float(one)) + step // 2 + np.arange(axis.size, dtype=np.int64) * step
    starts = np.clip(((centres - reach - half) >> PLACE_BITS) + 1, first, last - 1)
    ends = np.clip((centres + reach + half - 1) >> PLACE_BITS, starts + 1, last)
    end = last
    if axis.fancy:  # pixel 2 j is made of j and j - 1, pixel 2 j + 1 of j and j + 1
        end = min(axis.high, axis.full)
        starts = np.clip((starts - 1) >> 1, axis.low, end - 1)
        ends = np.clip(ends >> 1, axis.low, end - 1) + 1
    count = int((ends - starts).max())
    starts = np.minimum(starts, end - count)
    shift = max(PLACE_BITS // 2, reach.bit_length() - DISTANCE_BITS)
    narrowing = np.float32((1 << shift) / support)
    pixels = starts[:, None] + np.arange(count)
    if axis.fancy:
        pixels = 2 * starts[:, None] - 1 + np.arange(2 * count + 2)
    seen = np.clip(pixels, 0, 2 * axis.full - 1) if axis.fancy else pixels
    far = 1 << (DISTANCE_BITS + 2 + shift)  # only a box far from all pixels that exist is that far
    distances = np.abs(np.clip((seen << PLACE_BITS) + half - centres[:, None], -far, far) >> shift)
    values = _kernel(distances, narrowing, (reach >> shift) // 2, axis.kernel)
    if axis.fancy:  # four times 3/4 of pixels 2 j and 2 j + 1, and 1/4 of their neighbours
        values[(seen < first) | (seen >= last)] = 0
        replicated = values[:, 1:-1:2] + values[:, 2::2]
        values = (
            replicated
            if axis.fancy == Upsampling.REPLICATED
            else (values[:, :-2:2] + values[:, 3::2]) + np.float32(3) * (values[:, 1:-1:2] + values[:, 2::2])
        )
    return starts, _weigh(values)


def blend_rows(image: np.ndarray, starts: np.ndarray, weights: np.ndarray, top: int) -> np.ndarray:
    """Grey levels times 64, int32 (size, W, C), of uint8 (H, W, C), whose first line is line `top` of the taps."""
    count = weights.shape[1]
    if count == 1:
        return image[starts - top].astype(np.int32) << LINE_BITS
    if count <= FEW_TAPS:
        return _rounded_sums(image, starts - top, weights, WEIGHT_BITS - LINE_BITS)
    sums = _sums(image, starts - top, weights, np.float32)  # below 2^24: exact
    return (sums.astype(np.int32) + (1 << (WEIGHT_BITS - LINE_BITS - 1))) >> (WEIGHT_BITS - LINE_BITS)


def blend_columns(lines: np.ndarray, starts: np.ndarray, weights: np.ndarray, left: int) -> np.ndarray:
    """Grey levels times 32, int32 (H, size, C), of grey levels times 64, (H, W, C), whose first column is column `left` of the taps."""
    count, columns = weights.shape[1], lines.transpose(1, 0, 2)
    if count == 1:
        return lines[:, starts - left] >> 1
    if count <= FEW_TAPS:
        levels = _rounded_sums(columns, starts - left, weights, WEIGHT_BITS + 1)
    else:
        sums = _sums(columns, starts - left, weights, np.float64)
        levels = (sums.astype(np.int32) + (1 << WEIGHT_BITS)) >> (WEIGHT_BITS + 1)
    return levels.transpose(1, 0, 2)


def _rounded_sums(image: np.ndarray, starts: np.ndarray, weights: np.ndarray, bits: int) -> np.ndarray:
    """Sums of products of pixels (H, ...) and weights, each divided by 2^bits and rounded to nearest, halves up: int32 (size, ...)."""
    flat, heavy = np.ascontiguousarray(image.reshape(len(image), -1)), weights.astype(np.int32)[..., None]
    sums = np.empty((len(starts), flat.shape[1]), dtype=np.int32)
    products = np.empty((weights.shape[1], flat.shape[1]), dtype=np.int32)  # of one output line: they stay in the cache
    for i, start in enumerate(starts.tolist()):
        some = flat[start : start + len(products)]  # past the last, weights are 0
        part = products[: len(some)]
        np.multiply(some, heavy[i, : len(some)], out=part)
        part += 1 << (bits - 1)
        part >>= bits
        part.sum(axis=0, out=sums[i])
    return sums.reshape(len(starts), *image.shape[1:])


def _sums(image: np.ndarray, starts: np.ndarray, weights: np.ndarray, dtype: type) -> np.ndarray:
    """Exact sums of pixels (H, ...) times weights, (size, ...), in a floating-point type that holds them."""
    flat: np.ndarray = np.ascontiguousarray(image.reshape(len(image), -1), dtype=dtype)
    heavy: np.ndarray = weights.astype(dtype)
    sums: np.ndarray = np.empty((len(starts), flat.shape[1]), dtype=dtype)
    for i, start in enumerate(starts.tolist()):
        some = flat[start : start + weights.shape[1]]  # past the last, weights are 0
        np.matmul(heavy[i, : len(some)], some, out=sums[i])
    return sums.reshape(len(starts), *image.shape[1:])


def _kernel(distances: np.ndarray, narrowing: np.float32, one: int, kernel: Kernel) -> np.ndarray:
    """The kernel, float32, at distances that `narrowing` brings to its argument; `one` is half the cubic's reach, as a distance."""
    if kernel == Kernel.TRIANGLE:
        return np.maximum(np.float32(1) - distances.astype(np.float32) * narrowing, np.float32(0))
    inner = np.minimum(distances, one)
    t, u = inner.astype(np.float32) * narrowing, np.minimum(distances - inner, one).astype(np.float32) * narrowing
    near = (np.float32(1.5) * t - np.float32(2.5)) * (t * t) + np.float32(1)
    return near - np.float32(0.5) * u * ((1 - u) * (1 - u))


def _weigh(values: np.ndarray) -> np.ndarray:
    """Weights that sum to 2^14 from values of the kernel; what rounding leaves goes to the first of the heaviest."""
    one, sums = 1 << WEIGHT_BITS, values[:, 0].copy()
    for k in range(1, values.shape[1]):  # in one order: floating-point sums depend on it
        sums += values[:, k]
    shares = np.float32(one) / np.maximum(sums, np.float32(1 / 256))
    weights = (values * shares[:, None] + np.float32(one + 0.5)).astype(np.int32) - np.int32(one)
    weights[np.arange(len(weights)), values.argmax(axis=1)] += one - weights.sum(axis=1, dtype=np.int32)
    return weights


def _times(a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    """a * b * 2^-15, rounded to nearest, halves up."""
    return (a * b + (1 << 14)) >> 15


def _shown(levels: np.ndarray) -> np.ndarray:
    """Grey levels of levels times 32, rounded to nearest."""
    return np.clip((levels + (1 << (SHOWN_BITS - 1))) >> SHOWN_BITS, 0, 255).astype(np.uint8)
