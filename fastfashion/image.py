"""One picture: probe, scaled decode, resize, encode.

JPEG goes through libjpeg-turbo (simplejpeg), whose pixels equal Pillow's bit for bit; everything else, and every JPEG that
libjpeg-turbo will not turn into RGB (CMYK, odd markers), goes through Pillow. Of an animation the first frame counts; an ICC profile
is not applied, because no reader of the `full` bytes (DALI, webdataset) applies it either.
"""

import io
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import PurePosixPath
from typing import cast

import numpy as np
import simplejpeg
from PIL import Image

from fastfashion import jpeg_header
from fastfashion.errors import InputError

JPEG_MAGIC = b"\xff\xd8\xff"
# A progressive JPEG of so many takes 900 MB while it is decoded. Medium-format cameras reach it, product photographs do not.
MAX_PIXELS = 100_000_000
# What people have as pictures. Pillow knows fifty formats more, of which EPS starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Of several images with one id, the first counts.
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
_ORIENTATION_TAG = 0x0112

Encoded = bytes | memoryview | np.ndarray
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What the header of an encoded picture says; sizes are in pixels, as shown (turned upright)."""

    format: str
    height_px: int
    width_px: int
    turn: int = 1  # EXIF orientation: how the stored pixels are to be turned


class Kind(IntEnum):
    """Who may decode an image to the pixels that this module defines; a column of index.parquet."""

    OTHER = 0  # this module alone
    GRAY = 1  # plain JPEG of one component: DALI's CPU decoder and the native one, too
    COLOR = 2  # plain JPEG of three: nvJPEG, too


def kind(data: Encoded) -> Kind:
    """Kind of an encoded image, from its header alone; OTHER also for what is no image at all."""
    try:
        header = jpeg_header.read(data)
    except InputError:
        return Kind.OTHER
    if jpeg_header.unlisted(header) or not header.orientation.usual or header.icc:
        return Kind.OTHER
    return Kind.GRAY if len(header.components) == 1 else Kind.COLOR


def unsupported(name: str) -> str | None:
    """What a file is that is an image but none of ours, by its name, and what to do; None for everything else."""
    suffix = PurePosixPath(name).suffix.lower()
    for suffixes, words in _UNSUPPORTED.items():
        if suffix in suffixes:
            return f"{suffix} is {words}, which is not read: convert it to JPEG or PNG, or add a JPEG of the same name"
    return None


def probe(data: Encoded, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Format, shown size and orientation of an encoded picture, from its header.

    Raises InputError where the bytes are no picture, or one of more than `max_pixels`.
    """
    if header := _jpeg_header(data):
        height_px, width_px, _ = header
        name, turn = "JPEG", orientation(data)
    else:
        try:
            with _open(data) as picture:
                width_px, height_px = picture.size
                name, turn = picture.format or "unknown", _turn(picture, data)
        except Exception as error:
            raise InputError(_unreadable(data, error)) from error
    _check_size(height_px, width_px, max_pixels)
    if turn >= 5:
        width_px, height_px = height_px, width_px
    return ImageInfo(format=name, height_px=height_px, width_px=width_px, turn=turn)


def decode_rgb(data: Encoded, *, min_height_px: int = 0, min_width_px: int = 0, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode to uint8 RGB (H, W, 3), upright, transparency laid over white.

    A JPEG is decoded at a DCT scale of libjpeg (1/8 to 6/8, or 8/8) that is at least the minimum asked for; 0 is full size.
    Raises InputError where the bytes do not decode completely, or hold more than `max_pixels`, which is found before any is decoded.
    """
    if header := _jpeg_header(data):
        height_px, width_px, colorspace = header
        _check_size(height_px, width_px, max_pixels)
        turn = orientation(data)
        if turn >= 5:
            min_height_px, min_width_px = min_width_px, min_height_px
        # libjpeg-turbo has SIMD for 1/8, 1/4, 1/2 and 1 alone. 1800x2400 of 690 KB, milliseconds at 1/8 to 8/8: 5.4 5.9 7.6 6.7 11.8
        # 13.9 17.3 8.7. With the resize that follows to half the size asked for, 7/8 is the only one that loses (39.6 against 36.4).
        if 4 * min_height_px > 3 * height_px or 4 * min_width_px > 3 * width_px:
            min_height_px = min_width_px = 0
        if colorspace not in ("CMYK", "YCCK"):
            try:
                return _upright(simplejpeg.decode_jpeg(data, min_height=min_height_px, min_width=min_width_px), turn)
            except ValueError:
                pass  # strict decoding also refuses harmless oddities: Pillow decides below, and refuses truncation
    try:
        with _open(data) as picture:
            _check_size(picture.height, picture.width, max_pixels)
            turn = _turn(picture, data)
            return _upright(np.asarray(_over_white(picture)), turn)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_unreadable(data, error)) from error


def _jpeg_header(data: Encoded) -> tuple[int, int, str] | None:
    """(height, width, colour space) as stored; None where libjpeg-turbo does not take it for a JPEG."""
    if bytes(data[:3]) != JPEG_MAGIC:
        return None
    try:
        height_px, width_px, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return height_px, width_px, colorspace


def is_gray_jpeg(data: Encoded) -> bool:
    """Whether it is a JPEG of one component, by its header."""
    header = _jpeg_header(data)
    return header is not None and header[2] == "Gray"


def _check_size(height_px: int, width_px: int, max_pixels: int) -> None:
    if height_px * width_px > max_pixels:
        raise InputError(
            f"{width_px}x{height_px} pixels, more than --max-pixels {max_pixels}: shrink the picture, or raise the limit "
            "(a worker needs 3 to 9 bytes of memory a pixel)"
        )


def orientation(data: Encoded) -> int:
    """EXIF orientation of a JPEG, 1 to 8; 1 (upright) where it does not say, or says it in damaged Exif."""
    view, at = memoryview(cast(bytes, data)), 2
    while at + 4 <= len(view) and view[at] == 0xFF:
        marker, length = view[at + 1], view[at + 2] << 8 | view[at + 3]
        if marker == 0xE1 and bytes(view[at + 4 : at + 10]) == b"Exif\0\0":
            try:
                tags = Image.Exif()
                tags.load(bytes(view[at + 4 : at + 2 + length]))
                value = tags.get(_ORIENTATION_TAG, 1)
            except Exception:  # whatever Pillow stumbles over in damaged tags: the pixels are unharmed
                return 1
            return value if value in range(1, 9) else 1
        if marker <= 0xDA:  # frame, Huffman tables or scan: Exif stands before them
            return 1
        at += 2 + length
    return 1


def _open(data: Encoded) -> Image.Image:
    """The picture as Pillow knows it from its header.

    Image.open without its limit on pixels, which holds for the whole process and would stand in the way of a higher --max-pixels.
    """
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory and accept and accept(bytes(data[:16])) is True:  # a text in place of True: this Pillow was built without
            try:
                return factory(io.BytesIO(bytes(data)), "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # what Image.open takes for "another format"
                raise Image.UnidentifiedImageError from error
    raise Image.UnidentifiedImageError


def _turn(picture: Image.Image, data: Encoded) -> int:
    """EXIF orientation of a picture that is not decoded yet."""
    if picture.format in ("JPEG", "MPO"):
        return orientation(data)
    if picture.format == "TIFF":
        return 1  # Pillow turns these itself
    value = Image.Image.getexif(picture).get(_ORIENTATION_TAG, 1)  # PNG's own getexif decodes all pixels to look behind them
    return value if value in range(1, 9) else 1


def _over_white(picture: Image.Image) -> Image.Image:
    """The picture in RGB: 16 bits scaled to 8, transparency laid over white."""
    if picture.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8 rather than scale them
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture.load()
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture.convert("RGB")


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
    if bytes(data[:200]).lstrip()[:1] == b"<":
        return "not a picture: begins like an HTML or XML page"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not a picture: no known image format in {len(data)} bytes"
    return f"does not decode: {error}"


def fit_short_side(height_px: int, width_px: int, short_px: int) -> tuple[int, int]:
    """(height, width) with the shorter side at `short_px`, the shape kept; a picture is never enlarged."""
    short = min(height_px, width_px)
    if short <= short_px:
        return height_px, width_px
    return max(1, round(height_px * short_px / short)), max(1, round(width_px * short_px / short))


def content_box(image: np.ndarray, info: ImageInfo) -> Box:
    """(left, upper, right, lower) of what is picture in a scaled decode (H, W, 3) of it, in pixels of that decode.

    libjpeg rounds sizes up: 427 lines at 3/8 are 160.125, and come as 161. Taken for 161, everything is shifted by up to a pixel:
    photographs of 640x427 shrunk to 80 lines have 32 dB PSNR against full decode + bicubic instead of 50.
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
    return np.asarray(Image.fromarray(image).resize((width_px, height_px), Image.Resampling.BICUBIC, box=box))


def encode_pnm(image: np.ndarray) -> bytes:
    """uint8 RGB (H, W, 3) as a binary PPM: a header, and the pixels as they are."""
    return b"P6\n%d %d\n255\n" % (image.shape[1], image.shape[0]) + image.tobytes()


def encode_jpeg(image: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Encode uint8 RGB (H, W, 3) as baseline JPEG; `subsampling` is "420", "422" or "444"."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling=subsampling)
