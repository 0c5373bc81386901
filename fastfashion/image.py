"""One picture: probe, scaled decode, resize, encode.

JPEG goes through libjpeg-turbo (simplejpeg), whose pixels equal Pillow's bit for bit; everything else, and every JPEG that
libjpeg-turbo will not turn into RGB (CMYK, odd markers), goes through Pillow.
"""

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from fastfashion.errors import InputError

JPEG_MAGIC = b"\xff\xd8\xff"
_ORIENTATION_TAG = 0x0112
_EXIF_SEARCH_BYTES = 65_536  # Exif is the first or second segment, and a segment holds at most 64 KiB

Encoded = bytes | memoryview | np.ndarray


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What the header of an encoded picture says; sizes are in pixels, as shown (EXIF orientation applied)."""

    format: str
    height_px: int
    width_px: int


def _head(data: Encoded, num_bytes: int) -> bytes:
    return bytes(data[:num_bytes])


def orientation(data: Encoded) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where the picture does not say."""
    head = _head(data, _EXIF_SEARCH_BYTES)
    if b"Exif\0\0" not in head:
        return 1
    with Image.open(io.BytesIO(bytes(data))) as picture:
        value = picture.getexif().get(_ORIENTATION_TAG, 1)
    return value if value in range(1, 9) else 1


def probe(data: Encoded) -> ImageInfo:
    """Format and shown size of an encoded picture, from its header.

    Raises InputError where the bytes are no picture.
    """
    try:
        with Image.open(io.BytesIO(bytes(data))) as picture:
            width_px, height_px = picture.size
            name = picture.format or "unknown"
            turned = picture.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    except Exception as error:
        raise InputError(_unreadable(data, error)) from error
    if turned:
        width_px, height_px = height_px, width_px
    return ImageInfo(format=name, height_px=height_px, width_px=width_px)


def decode_rgb(data: Encoded, *, min_height_px: int = 0, min_width_px: int = 0) -> np.ndarray:
    """Decode to uint8 RGB (H, W, 3), upright.

    A JPEG is decoded at the smallest of libjpeg's DCT scales (1/8 to 8/8) that is at least the minimum asked for; 0 is full size.
    Raises InputError where the bytes do not decode completely.
    """
    if _head(data, 3) == JPEG_MAGIC:
        try:
            turn = orientation(data)
            if turn in (5, 6, 7, 8):
                min_height_px, min_width_px = min_width_px, min_height_px
            if simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK"):
                image = simplejpeg.decode_jpeg(data, min_height=min_height_px, min_width=min_width_px)
                return image if turn == 1 else _upright(image, turn)
        except (ValueError, OSError, Image.DecompressionBombError):
            pass  # strict decoding also refuses harmless oddities: Pillow decides below, and refuses truncation
    try:
        with Image.open(io.BytesIO(bytes(data))) as picture:
            shown = ImageOps.exif_transpose(picture)
            if shown.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8 rather than scale them
                shown = Image.fromarray((np.asarray(shown) >> 8).astype(np.uint8))
            if shown.mode in ("RGBA", "LA", "PA") or "transparency" in shown.info:
                shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA"))
            return np.asarray(shown.convert("RGB"))
    except Exception as error:
        raise InputError(_unreadable(data, error)) from error


def _upright(image: np.ndarray, turn: int) -> np.ndarray:
    """Apply EXIF orientation 2..8 (CIPA DC-008, table 6) to an (H, W, 3) array."""
    turned = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }[turn](image)
    return np.ascontiguousarray(turned)


def _unreadable(data: Encoded, error: Exception) -> str:
    if len(data) == 0:
        return "empty file"
    if _head(data, 200).lstrip()[:1] == b"<":
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


def resize(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Antialiased bicubic resize (Pillow's) of uint8 (H, W, 3) to (height_px, width_px, 3)."""
    if image.shape[:2] == (height_px, width_px):
        return image
    return np.asarray(Image.fromarray(image).resize((width_px, height_px), Image.Resampling.BICUBIC))


def encode_jpeg(image: np.ndarray, quality: int, subsampling: str) -> bytes:
    """Encode uint8 RGB (H, W, 3) as baseline JPEG; `subsampling` is "420", "422" or "444"."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling=subsampling)
