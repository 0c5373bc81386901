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

try:
    from fastfashion.images import _native
except ImportError:  # built without a C compiler, or without libjpeg-turbo's headers
    _native = None  # type: ignore[assignment]

FEW_TAPS = 12  # source pixels of an output pixel, a side, from which on products are not rounded one by one
WEIGHT_BITS, LINE_BITS, SHOWN_BITS, PLACE_BITS, KERNEL_BITS, SHARE_BITS = 14, 6, 5, 32, 16, 4

Box = tuple[float, float, float, float]  # y0, x0, y1, x1


class Kernel(IntEnum):
    """Pillow's BILINEAR and BICUBIC (Keys, a = -1/2)."""

    TRIANGLE = 0
    CUBIC = 1


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
    fancy: bool = False
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

    JFIF's colour conversion, after the resize. Chroma of half the resolution is first interpolated as libjpeg does, where it says `fancy`.
    """
    levels = []
    for plane in planes:
        down, across = plane.scale_y * (1 + plane.fancy_y), plane.scale_x * (1 + plane.fancy_x)
        (height, width), top, left = plane.pixels.shape, plane.top, plane.left
        rows = Axis(box[0] * down, box[2] * down, height_px, top, top + height, kernel, plane.fancy_y, plane.full_height)
        columns = Axis(box[1] * across, box[3] * across, width_px, left, left + width, kernel, plane.fancy_x, plane.full_width)
        lines = blend_rows(plane.pixels[..., None], *find_taps(rows), top)
        levels.append(blend_columns(lines, *find_taps(columns), left)[..., 0])
    if len(levels) == 1:
        return _shown(np.repeat(levels[0][..., None], 3, axis=2))
    y, cb, cr = levels[0], levels[1] - (128 << SHOWN_BITS), levels[2] - (128 << SHOWN_BITS)
    red = y + cr + _times(cr, 13173)
    green = y - _times(cb, 11277) - _times(cr, 23401)
    blue = y + 2 * cb - _times(cb, 7471)
    return _shown(np.stack([red, green, blue], axis=2))


def find_taps(axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """First source pixels, int64 (size,), and weights, int64 (size, n), of each output pixel; weights sum to 2^14."""
    one, half = 1 << PLACE_BITS, 1 << (PLACE_BITS - 1)
    step = int((axis.end - axis.start) * float(one) / axis.size)
    support = max(step, one)
    reach = support * (2 if axis.kernel == Kernel.CUBIC else 1)
    first, last = math.floor(axis.start), math.ceil(axis.end)
    if not axis.fancy:
        first = min(max(first, axis.low), axis.high - 1)
        last = min(max(last, first + 1), axis.high)
    centres = int(axis.start * float(one)) + step // 2 + np.arange(axis.size, dtype=np.int64) * step
    starts = np.maximum(((centres - reach - half) >> PLACE_BITS) + 1, first)
    ends = np.minimum((centres + reach + half - 1) >> PLACE_BITS, last)
    none = ends <= starts  # the nearest pixel
    starts[none] = np.minimum(starts[none], last - 1)
    ends[none] = starts[none] + 1
    pixels = starts[:, None] + np.arange((ends - starts).max())
    distances = np.abs((pixels << PLACE_BITS) + half - centres[:, None]) * ((1 << KERNEL_BITS) / support)
    values = _kernel(distances.astype(np.int64), axis.kernel)
    values[none, 0] = 1 << KERNEL_BITS
    values[pixels >= ends[:, None]] = 0
    return _weigh(*(_fold(axis, pixels, ends, values) if axis.fancy else (starts, values, ends - starts)))


def blend_rows(image: np.ndarray, starts: np.ndarray, weights: np.ndarray, top: int) -> np.ndarray:
    """Grey levels times 64, int32 (size, W, C), of uint8 (H, W, C), whose first line is line `top` of the taps."""
    count = weights.shape[1]
    if count == 1:
        return image[starts - top].astype(np.int32) << LINE_BITS
    if count <= FEW_TAPS:
        levels = image.astype(np.int32) << (WEIGHT_BITS - LINE_BITS - 1)
        places = np.minimum(starts[:, None] - top + np.arange(count), len(image) - 1)  # past the last, weights are 0
        return sum(_times(levels[places[:, k]], weights[:, k, None, None].astype(np.int32)) for k in range(count))  # type: ignore[return-value]
    sums = _sums(image, starts - top, weights, np.float32)  # below 2^24: exact
    return (sums.astype(np.int32) + (1 << (WEIGHT_BITS - LINE_BITS - 1))) >> (WEIGHT_BITS - LINE_BITS)


def blend_columns(lines: np.ndarray, starts: np.ndarray, weights: np.ndarray, left: int) -> np.ndarray:
    """Grey levels times 32, int32 (H, size, C), of grey levels times 64, (H, W, C), whose first column is column `left` of the taps."""
    count, columns = weights.shape[1], lines.transpose(1, 0, 2)
    if count == 1:
        return lines[:, starts - left] >> 1
    if count <= FEW_TAPS:
        places = np.minimum(starts[:, None] - left + np.arange(count), len(columns) - 1)
        levels = sum(_times(columns[places[:, k]], weights[:, k, None, None].astype(np.int32)) for k in range(count))
    else:
        sums = _sums(columns, starts - left, weights, np.float64)
        levels = (sums.astype(np.int32) + (1 << WEIGHT_BITS)) >> (WEIGHT_BITS + 1)
    return levels.transpose(1, 0, 2)  # type: ignore[union-attr]


def _sums(image: np.ndarray, starts: np.ndarray, weights: np.ndarray, dtype: type) -> np.ndarray:
    """Exact sums of pixels (H, ...) times weights, (size, ...), in a floating-point type that holds them."""
    flat: np.ndarray = np.ascontiguousarray(image.reshape(len(image), -1), dtype=dtype)
    heavy: np.ndarray = weights.astype(dtype)
    sums: np.ndarray = np.empty((len(starts), flat.shape[1]), dtype=dtype)
    for i, start in enumerate(starts.tolist()):
        some = flat[start : start + weights.shape[1]]  # past the last, weights are 0
        np.matmul(heavy[i, : len(some)], some, out=sums[i])
    return sums.reshape(len(starts), *image.shape[1:])


def _kernel(t: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The kernel at distances t >= 0, both in units of 2^-16; cubic: 1 - 5/2 t^2 + 3/2 t^3 below 1, 2 - 4 t + 5/2 t^2 - 1/2 t^3 below 2."""
    one = 1 << KERNEL_BITS
    if kernel == Kernel.TRIANGLE:
        return one - t
    square = t * t >> KERNEL_BITS
    near = one + ((3 * t - 5 * one) * square >> (KERNEL_BITS + 1))
    far = 2 * one - 4 * t + ((5 * one - t) * square >> (KERNEL_BITS + 1))
    return np.where(t < one, near, far)


def _fold(axis: Axis, pixels: np.ndarray, ends: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From pixels of twice the component's resolution to the component's: 2 j is 3/4 of j and 1/4 of j - 1, 2 j + 1 of j and j + 1."""
    low, high = axis.low, min(axis.high, axis.full) - 1
    starts = np.clip((pixels[:, 0] - 1) >> 1, low, high)
    counts = np.clip(ends >> 1, low, high) - starts + 1
    folded = np.zeros((axis.size, int(counts.max())), dtype=np.int64)
    near = pixels >> 1
    for part, share in ((near, 3), (np.where(pixels & 1, near + 1, near - 1), 1)):
        places = np.clip(part, low, high) - starts[:, None]
        inside = pixels < ends[:, None]
        np.add.at(folded, (np.nonzero(inside)[0], places[inside]), share * values[inside])
    return starts, folded, counts


def _weigh(starts: np.ndarray, values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights that sum to 2^14 from values of the kernel; what rounding leaves goes to the heaviest."""
    values = values[:, : counts.max()]
    sums = values.sum(axis=1)
    shares = np.divide(float(1 << (WEIGHT_BITS + SHARE_BITS)), sums, out=np.zeros(len(sums)), where=sums > 0)
    weights = ((values * shares[:, None]).astype(np.int64) + (1 << (SHARE_BITS - 1))) >> SHARE_BITS
    heaviest = values.argmax(axis=1)
    weights[np.arange(len(weights)), heaviest] += (1 << WEIGHT_BITS) - weights.sum(axis=1)
    return starts, weights


def _times(a: np.ndarray, b: np.ndarray | int) -> np.ndarray:
    """a * b * 2^-15, rounded to nearest, halves up."""
    return (a * b + (1 << 14)) >> 15


def _shown(levels: np.ndarray) -> np.ndarray:
    """Grey levels of levels times 32, rounded to nearest."""
    return np.clip((levels + (1 << (SHOWN_BITS - 1))) >> SHOWN_BITS, 0, 255).astype(np.uint8)
