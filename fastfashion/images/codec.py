"""One image: probe, decode, resize, encode. Its pixels are defined here, for every use; docs/images.md describes them.

    bytes ─► jpeg_header: which kind? ─► a baseline JPEG: `_native`, where it was built             ┐
                                     ├► a usual one, or damaged: libjpeg-turbo (simplejpeg)         ├► sRGB ─► over white ─► upright
                                     └► all others: Pillow (pillow.py)                              ┘

A JPEG of a usual frame has the same pixels from all three, bit for bit. Of an animation the first frame counts. An ICC profile other
than sRGB is applied. Only this module decodes images of Kind.OTHER.

Pillow is imported when an image needs it: a loader of usual JPEGs does without.
"""

import sys
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import PurePosixPath

import numpy as np
import simplejpeg

from fastfashion.errors import InputError
from fastfashion.images import jpeg_header, metadata
from fastfashion.images.compiled import native as _native
from fastfashion.images.jpeg_header import Encoded, JpegHeader

# A progressive JPEG of this size takes 900 MB while it is decoded. Medium-format cameras reach it, product photographs do not.
MAX_PIXELS = 100_000_000
EIGHTHS = (1, 2, 4, 8)  # scales at which decoding is fast: libjpeg-turbo has SIMD for these, and `_native` has no others
# In this order: of several images with one id, the first counts.
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_UNSUPPORTED = {
    (".heic", ".heif", ".hif"): "an HEIF image, as phones take them",
    (".jxl",): "a JPEG XL image",
    (".jp2", ".j2k"): "a JPEG 2000 image",
    (".svg", ".svgz", ".eps", ".ai"): "a vector drawing",
    (".psd", ".psb", ".xcf"): "an image editor's document with layers",
    (".raw", ".cr2", ".cr3", ".nef", ".dng", ".arw", ".orf", ".rw2"): "a camera's raw file",
    (".pdf",): "a PDF document",
}
UNREAD_SUFFIXES = tuple(suffix for suffixes in _UNSUPPORTED for suffix in suffixes)

Box = tuple[float, float, float, float]


class Kind(IntEnum):
    """Which decoders may decode an image to the pixels that this module defines; a column of index.parquet."""

    OTHER = 0  # only this module
    GRAY = 1  # plain JPEG of one component: DALI's CPU decoder and the native one, too
    COLOR = 2  # plain JPEG of three: nvJPEG, too


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """The header of an encoded image; sizes are in pixels, as shown (turned upright)."""

    format: str
    height_px: int
    width_px: int
    turn: int = 1  # EXIF orientation: how to turn the stored pixels
    header: JpegHeader | None = field(default=None, repr=False, compare=False)  # of a JPEG, for `decode_rgb`

    @property
    def kind(self) -> Kind:
        return _kind(self.header) if self.header else Kind.OTHER

    @property
    def is_baseline(self) -> bool:
        return self.header is not None and self.header.process == jpeg_header.BASELINE


def kind(data: Encoded) -> Kind:
    """Kind of an encoded image, from its header; OTHER also for bytes that are not an image."""
    try:
        return _kind(jpeg_header.read(data))
    except InputError:
        return Kind.OTHER


def _kind(header: JpegHeader) -> Kind:
    if jpeg_header.unlisted(header) or not header.orientation.usual or not metadata.is_srgb(header.icc, header.mode):
        return Kind.OTHER
    return Kind.GRAY if header.mode == "L" else Kind.COLOR


def unsupported(name: str) -> str | None:
    """What to do about an image file of a format that is not read, by its name; None for every other file."""
    suffix = PurePosixPath(name).suffix.lower()
    what = next((words for suffixes, words in _UNSUPPORTED.items() if suffix in suffixes), None)
    return what and f"{suffix} is {what}, which is not read: convert it to JPEG or PNG"


def probe(data: Encoded, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read the header of an encoded image. Raises InputError for what is not an image, or one of more than `max_pixels`."""
    header = _jpeg_header(data)
    if header:
        height_px, width_px, name, turn = header.height_px, header.width_px, "JPEG", header.orientation.turn
    else:
        from fastfashion.images import pillow

        try:
            opened = pillow.open_image(data, None)
            width_px, height_px = opened.image.size
            name, turn = opened.image.format or "unknown", opened.turn
        except Exception as error:
            raise InputError(_unreadable(data, error)) from error
    _check_pixels(height_px, width_px, max_pixels)
    if turn >= 5:
        width_px, height_px = height_px, width_px
    return ImageInfo(format=name, height_px=height_px, width_px=width_px, turn=turn, header=header)


def check_size(data: Encoded, height_px: int, width_px: int) -> ImageInfo:
    """As `probe`; raises InputError also if the image is of another size than its set's index says."""
    info = probe(data, max_pixels=sys.maxsize)
    if (info.height_px, info.width_px) != (height_px, width_px):
        raise InputError(f"expected {width_px}x{height_px} pixels as the index says, found {info.width_px}x{info.height_px}")
    return info


def decode_rgb(
    data: Encoded,
    *,
    min_height_px: int = 0,
    min_width_px: int = 0,
    max_pixels: int = MAX_PIXELS,
    info: ImageInfo | None = None,
    own: bool = True,
) -> np.ndarray:
    """Decode to uint8 RGB (H, W, 3), upright, in sRGB, transparency over white; `info`, from `probe`, saves reading the header again.

    A JPEG of a usual frame is decoded at a DCT scale of libjpeg (1/8 to 6/8, or 8/8) that gives at least the minimum size; 0 is full
    size. Not `own`: libjpeg-turbo decodes it even where `_native` could, to the same pixels, for benchmarks to compare with. Raises
    InputError if the bytes do not decode completely, or, before decoding, hold more than `max_pixels`.
    """
    header = info.header if info else _jpeg_header(data)
    if header:
        _check_pixels(header.height_px, header.width_px, max_pixels)
        if jpeg_header.unlisted(header) is None:
            pixels = _fast_jpeg(data, header, min_height_px, min_width_px, own)
            if pixels is not None:
                return pixels
    from fastfashion.images import pillow

    try:
        opened = pillow.open_image(data, header)
        with opened.image as image:
            _check_pixels(image.height, image.width, max_pixels)
            return _upright(pillow.to_rgb(opened), opened.turn)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_unreadable(data, error)) from error


def _fast_jpeg(data: Encoded, header: JpegHeader, min_height_px: int, min_width_px: int, own: bool) -> np.ndarray | None:
    """Decode a JPEG of a usual frame with `_native` or libjpeg-turbo; None if both refuse."""
    turn = header.orientation.turn
    if turn >= 5:
        min_height_px, min_width_px = min_width_px, min_height_px
    # libjpeg-turbo has SIMD only for 1/8, 1/4, 1/2 and 1: with the resize that follows, 7/8 takes longer than full size (bench/LOG.md).
    if 4 * min_height_px > 3 * header.height_px or 4 * min_width_px > 3 * header.width_px:
        min_height_px = min_width_px = 0
    pixels = _native_jpeg(data, header, min_height_px, min_width_px) if own else None
    if pixels is None:
        try:
            pixels = simplejpeg.decode_jpeg(data, min_height=min_height_px, min_width=min_width_px)
        except ValueError:
            return None  # strict decoding also refuses harmless oddities: Pillow decides, and refuses truncation
    if not metadata.is_srgb(header.icc, header.mode):
        from PIL import Image

        from fastfashion.images import pillow

        lines = max(1, pillow.BAND_PIXELS // pixels.shape[1])
        for top in range(0, len(pixels), lines):
            band = pixels[top : top + lines]
            stored = Image.fromarray(np.ascontiguousarray(band[..., 0]) if header.mode == "L" else band)
            band[...] = np.asarray(metadata.to_srgb(stored, header.icc))
    return _upright(pixels, turn)


def _native_jpeg(data: Encoded, header: JpegHeader, min_height_px: int, min_width_px: int) -> np.ndarray | None:
    """The pixels that simplejpeg would return, from the decoder of our own; None if simplejpeg must decode, or say what is wrong."""
    if _native is None or header.process != jpeg_header.BASELINE:
        return None
    eighths, size = 8, (header.height_px, header.width_px)
    if min_height_px > 0 or min_width_px > 0:
        sizes = [(-(-size[0] * n // 8), -(-size[1] * n // 8)) for n in range(1, 9)]
        eighths = next((n for n, (height, width) in enumerate(sizes, 1) if height >= min_height_px and width >= min_width_px), 8)
        if eighths not in EIGHTHS or sizes.count(sizes[eighths - 1]) > 1:  # of a few pixels: simplejpeg chooses among scales of one size
            return None
        size = sizes[eighths - 1]
    pixels = np.empty((*size, 3), dtype=np.uint8)
    try:
        return pixels if _native.decode_rgb(data, eighths, pixels) else None
    except MemoryError:
        return None


def _jpeg_header(data: Encoded) -> JpegHeader | None:
    """None for what is not a JPEG, or one whose header makes no sense: Pillow then says why."""
    try:
        header = jpeg_header.read(data)
    except InputError:
        return None
    return header if header.height_px and header.width_px else None


def _check_pixels(height_px: int, width_px: int, max_pixels: int) -> None:
    if height_px * width_px > max_pixels:
        raise InputError(
            f"{width_px}x{height_px} pixels, more than --max-pixels {max_pixels}: shrink the image, or raise the limit "
            "(a worker needs 3 to 9 bytes of memory a pixel)"
        )


def _upright(image: np.ndarray, turn: int) -> np.ndarray:
    """Apply EXIF orientation 1..8 (CIPA DC-008, table 6) to an (H, W, 3) array."""
    if turn >= 5:
        image = image.transpose(1, 0, 2)
    if turn in (2, 3, 6, 7):
        image = image[:, ::-1]
    if turn in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _unreadable(data: Encoded, error: Exception) -> str:
    if len(data) == 0:
        return "empty file"
    if isinstance(error, MemoryError):
        return "does not decode: not enough memory for it"
    if bytes(data[:200]).lstrip()[:1] == b"<":
        return "not an image: begins like an HTML or XML page"
    from PIL import Image

    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image: no known image format in {len(data)} bytes"
    return f"does not decode: {error}"


def fit_short_side(height_px: int, width_px: int, short_px: int) -> tuple[int, int]:
    """(height, width) with the shorter side at `short_px`, of the same shape; an image is never enlarged."""
    short = min(height_px, width_px)
    if short <= short_px:
        return height_px, width_px
    return max(1, round(height_px * short_px / short)), max(1, round(width_px * short_px / short))


def scaled_size(info: ImageInfo, short_px: float) -> tuple[int, int]:
    """(height, width) at the smallest of `EIGHTHS` that leaves `short_px` on the shorter side, else of all of it: for `decode_rgb`."""
    height, width = info.height_px, info.width_px
    eighths = next((n for n in EIGHTHS if min(height, width) * n >= 8 * short_px), 8)
    return -(-height * eighths // 8), -(-width * eighths // 8)


def content_box(image: np.ndarray, info: ImageInfo) -> Box:
    """(left, upper, right, lower) of the true image in a scaled decode (H, W, 3) of it, in pixels of that decode.

    libjpeg rounds sizes up: 427 lines at 3/8 are 160.125, and it returns 161, which read as such shift the image by up to a pixel.
    """
    height, width = image.shape[:2]
    eighths = next((n for n in range(8, 0, -1) if (-(-info.height_px * n // 8), -(-info.width_px * n // 8)) == (height, width)), 8)
    inner_height, inner_width = (info.height_px * eighths / 8, info.width_px * eighths / 8)
    left = width - inner_width if info.turn in (2, 3, 6, 7) else 0
    upper = height - inner_height if info.turn in (3, 4, 7, 8) else 0
    return left, upper, left + inner_width, upper + inner_height


def resize(image: np.ndarray, height_px: int, width_px: int, box: Box | None = None) -> np.ndarray:
    """Antialiased bicubic resize (Pillow's) of uint8 (H, W, 3), or of a box of it, to (height_px, width_px, 3)."""
    whole = (0, 0, image.shape[1], image.shape[0])
    if image.shape[:2] == (height_px, width_px) and box in (None, whole):
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width_px, height_px), Image.Resampling.BICUBIC, box=box))


def encode_pnm(image: np.ndarray) -> bytes:
    """Encode uint8 RGB (H, W, 3) as a binary PPM, which stores the pixels as they are."""
    return b"P6\n%d %d\n255\n" % (image.shape[1], image.shape[0]) + image.tobytes()


def encode_jpeg(image: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Encode uint8 RGB (H, W, 3) as baseline JPEG; `subsampling` is "420", "422" or "444"."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling=subsampling)
