"""From encoded or decoded images to crops of one size: the work that all CPU backends share.

    encoded, box ─► decode the part that the box needs, at the scale that it needs ─► triangle filter ─► flip ─► place in out

`_native` does it for whole chunks of plain JPEGs without Python's lock. `images/codec.py` does it, to within two grey levels, if `_native`
was not built, for plain JPEGs that `_native` returns (turned by Exif, damaged), and for all other images, which `_native` never sees.
"""

import math
import time
from collections.abc import Sequence

import numpy as np

from fastfashion.config import DECODERS
from fastfashion.errors import InputError
from fastfashion.images import codec
from fastfashion.images.compiled import INSTALL_AGAIN
from fastfashion.images.compiled import native as _native
from fastfashion.load.fit import Padding
from fastfashion.shards.seek import Marks, choose

OVERSAMPLE = 1.5  # decoded pixels for one output pixel, a side, that the decoder's own scaling must leave; bench/LOG.md compares others
OWN, TURBO = DECODERS
SCALES = (1, 2, 4, 8)  # eighths; libjpeg-turbo has SIMD only for these
HOW_TO_BUILD = f"fastfashion was installed without the native code; {INSTALL_AGAIN}"


def is_native() -> bool:
    """Whether the fast path was built."""
    return _native is not None


def decoder_name(decoder: str) -> str:
    """What decodes plain JPEGs on the CPU under data.decoder: `decoder`, or "python" (images/codec.py), if `_native` was not built."""
    return decoder if is_native() else "python"


def slow_note() -> str:
    """That the fast path is missing, and how to build it; "" if it is there."""
    return "" if is_native() else f"loading is slower than it could be: {HOW_TO_BUILD}"


def load_crops(
    encoded: Sequence[np.ndarray],
    boxes: np.ndarray,
    sizes: np.ndarray,
    flips: np.ndarray,
    out: np.ndarray,
    seconds: np.ndarray,
    kinds: np.ndarray | None = None,
    padding: Padding | None = None,
    decoder: str = OWN,
    marks: Marks | None = None,
) -> dict[int, InputError]:
    """Fill `out`, uint8 (n, H, W, 3), with boxes of encoded images; returns decode errors by index, whose images are black.

    boxes int32 (n, 4): y0, x0, y1, x1 in pixels of whole images, of height and width `sizes`, int32 (n, 2); flips bool (n,); kinds int8
    (n,), codec.Kind, by default read from each image; padding: the place of each box in its output, by default all of it; decoder:
    data.decoder; marks: of SeekTables.marks_of. The time for reading, decoding and resizing is added to `seconds`, float64 (3,).
    """
    left = np.ones(len(out), dtype=np.uint8)  # `_native` sets those that it could load to 0
    if _native is not None:
        plain = np.array([codec.kind(data) for data in encoded], dtype=np.int8) if kinds is None else kinds
        own, (height, width), some = decoder == OWN, out.shape[1:3], plain.nonzero()[0]  # of a kind other than OTHER, which is 0
        if len(some) == len(out):
            how = (*_arrays(padding), own, *(marks or (None, None)))
            _native.load_crops(list(encoded), boxes, sizes, flips, out, height, width, OVERSAMPLE, left, seconds, *how)
        elif len(some):
            crops, missed, data = np.empty((len(some), *out.shape[1:]), dtype=np.uint8), left[some], [encoded[i] for i in some.tolist()]
            chosen = boxes[some], sizes[some], flips[some]
            how = (*_arrays(None if padding is None else padding[some]), own, *(choose(marks, some) if marks else (None, None)))
            _native.load_crops(data, *chosen, crops, height, width, OVERSAMPLE, missed, seconds, *how)
            out[some], left[some] = crops, missed
    errors = {}
    for i in np.flatnonzero(left).tolist():
        try:
            shown = out[i] if padding is None else padding.fill(i, out[i])
            load_crop(encoded[i], boxes[i], (int(sizes[i, 0]), int(sizes[i, 1])), bool(flips[i]), shown, seconds)
        except InputError as error:
            errors[i] = error
            out[i] = 0
    return errors


def resize_crops(
    images: np.ndarray, index: np.ndarray, boxes: np.ndarray, flips: np.ndarray, out: np.ndarray, padding: Padding | None = None
) -> None:
    """As `load_crops`, from decoded images, uint8 (N, h, w, 3), those at `index`, int64 (n,)."""
    if _native is not None:
        (count, height, width), around = out.shape[:3], _arrays(padding)
        _native.resize_crops(images, images.shape[1], images.shape[2], index, boxes, flips, out, count, height, width, *around)
        return
    for i, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
        resize_crop(images[index[i]], (y0, x0, y1, x1), bool(flips[i]), out[i] if padding is None else padding.fill(i, out[i]))


def _arrays(padding: Padding | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Places and colour as `_native` takes them."""
    return (None, None) if padding is None else (np.ascontiguousarray(padding.places), np.array(padding.color, dtype=np.uint8))


def load_crop(data: np.ndarray, box: np.ndarray, size: tuple[int, int], flip: bool, out: np.ndarray, seconds: np.ndarray) -> None:
    """One image through `images/codec.py`, of any size. Raises InputError if it does not decode, or is of another size than `size`."""
    started = time.perf_counter()
    info = codec.check_size(data, *size)  # packing, opening a set and predict have limits of their own
    y0, x0, y1, x1 = (int(v) for v in box)
    needed = 8 * OVERSAMPLE * max(out.shape[0] / (y1 - y0), out.shape[1] / (x1 - x0))
    eighths = next((scale for scale in SCALES if scale >= needed), 8)
    height, width = (0, 0) if eighths == 8 else (math.ceil(side * eighths / 8) for side in size)
    image = codec.decode_rgb(data, min_height_px=height, min_width_px=width, max_pixels=size[0] * size[1], info=info)
    decoded = time.perf_counter()
    left, upper, right, lower = codec.content_box(image, info)
    down, across = (lower - upper) / size[0], (right - left) / size[1]
    resize_crop(image, (upper + y0 * down, left + x0 * across, upper + y1 * down, left + x1 * across), flip, out)
    seconds[1:] += decoded - started, time.perf_counter() - decoded


def resize_crop(image: np.ndarray, box: tuple[float, float, float, float], flip: bool, out: np.ndarray) -> None:
    """Resize a box (y0, x0, y1, x1) of uint8 (h, w, 3) to uint8 `out`; pixels outside of the box have no influence."""
    from PIL import Image

    y0, x0, y1, x1 = box
    top, left = math.floor(y0), math.floor(x0)
    inside = Image.fromarray(np.ascontiguousarray(image[top : math.ceil(y1), left : math.ceil(x1)]))
    shown = inside.resize((out.shape[1], out.shape[0]), Image.Resampling.BILINEAR, box=(x0 - left, y0 - top, x1 - left, y1 - top))
    out[...] = np.asarray(shown)[:, ::-1] if flip else np.asarray(shown)
