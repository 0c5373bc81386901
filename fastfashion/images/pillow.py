"""Images through Pillow: every format, and JPEGs that the faster decoders must not see (codec.py).

bytes ─► open_image: header, orientation, profile ─► to_rgb: 8 bits, sRGB, over white
"""

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fastfashion.errors import InputError
from fastfashion.images.jpeg_header import Encoded, JpegHeader
from fastfashion.images.metadata import PNG_MAGIC, PngFile, read_orientation, read_png, to_srgb

# The formats that people have. Pillow knows fifty more, of which EPS starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
BAND_PIXELS = 1 << 18
_BITS_TAG, _WHITE_IS_TAG, _SAMPLES_TAG = 258, 262, 339  # TIFF 6.0
_UNSIGNED, _SIGNED = 1, 2
_ROUNDED = 1 / 512  # half a grey level: what arithmetic may leave beyond 0 and 1
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class NotThisKindError(Exception):
    """The bytes begin like a format, but are of a kind that is not read."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An image with its header read, not decoded yet."""

    image: Image.Image
    turn: int  # EXIF orientation, 1 to 8
    profile: bytes | None
    png: PngFile | None


def open_image(data: Encoded, header: JpegHeader | None) -> Opened:
    """Read the header of any format; `header`: a JPEG's, if it could be read. Raises UnidentifiedImageError or NotThisKindError."""
    raw = bytes(data)
    png = read_png(raw) if raw.startswith(PNG_MAGIC) else None
    image = _identified(png.data if png else raw)
    profile = image.info.get("icc_profile")
    if png:
        turn, profile = png.orientation.turn, png.profile
    elif header:
        turn, profile = header.orientation.turn, header.icc
    elif image.format in ("WEBP", "AVIF"):
        turn = read_orientation(image.info.get("exif", b"")).turn
    else:
        turn = 1
        image.info.pop("xmp", None)  # Pillow itself turns a TIFF, also by what XMP says, and keeps the size from before
    return Opened(image=image, turn=turn, profile=profile, png=png)


def _identified(raw: bytes) -> Image.Image:
    """Image.open without its limit on pixels, which holds for the whole process and would override a higher --max-pixels."""
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory and accept and accept(raw[:16]) is True:  # a text in place of True: this Pillow was built without it
            try:
                return factory(io.BytesIO(raw), "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # for Image.open this means another format
                raise NotThisKindError(f"begins like {name}: {error}") from error
    raise Image.UnidentifiedImageError


def to_rgb(opened: Opened) -> np.ndarray:
    """Pixels, uint8 (H, W, 3), in sRGB and over white, not turned yet. Raises what Pillow raises if they do not decode.

    Each step of a conversion is a copy; working in bands keeps little more in memory than the decoded image and the pixels.
    """
    key, layers = opened.png.key if opened.png else None, [opened.image]
    if opened.image.format == "TIFF":
        layers = [_eight_bits_tiff(opened.image)]
    elif opened.png and key and len(key) == 3:
        low = _identified(opened.png.data)  # Pillow keeps the high byte of a sample: in the other byte order it keeps the low one
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # type: ignore[attr-defined]
        layers.append(low)
    for layer in layers:
        layer.load()
    width, height = layers[0].size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    lines = max(1, BAND_PIXELS // width)
    for top in range(0, height, lines):
        box = (0, top, width, min(top + lines, height))
        band = _eight_bits([layer.crop(box) if lines < height else layer for layer in layers], key)
        pixels[top : box[3]] = np.asarray(_band_rgb(band, opened.profile))
    return pixels


def _band_rgb(band: Image.Image, profile: bytes | None) -> Image.Image:
    gray = band.mode in ("1", "L", "LA", "La")
    alpha = None
    if band.mode in _WITH_ALPHA or "transparency" in band.info:
        whole = band.convert("RGBA")
        alpha = whole.getchannel("A")
        band = whole.getchannel("R") if gray else whole.convert("RGB")
    elif band.mode not in ("RGB", "L", "CMYK"):
        band = band.convert("L" if gray else "RGB")
    band = to_srgb(band, profile).convert("RGB")
    if alpha:
        band.putalpha(alpha)
        band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB")
    return band


def _eight_bits(bands: list[Image.Image], key: tuple[int, ...] | None) -> Image.Image:
    """A band with 8 bits a sample, scaled by the range of its samples: Pillow would clip them to 255.

    `key` is the transparent colour of a PNG of 16 bits, which Pillow compares only after it has dropped half of each sample.
    """
    if key is None:
        return Image.fromarray((np.asarray(bands[0]) >> 8).astype(np.uint8)) if bands[0].mode.startswith("I;16") else bands[0]
    if len(key) == 1:
        wide = np.asarray(bands[0])
        return Image.merge("LA", [Image.fromarray(plane.astype(np.uint8)) for plane in (wide >> 8, 255 * (wide != key[0]))])
    high_bytes, low_bytes = (np.asarray(band) for band in bands)
    differs = ((high_bytes != np.array(key) >> 8) | (low_bytes != np.array(key) & 255)).any(axis=-1)
    return Image.fromarray(np.dstack([high_bytes, np.where(differs, 255, 0).astype(np.uint8)]))


def _eight_bits_tiff(image: Image.Image) -> Image.Image:
    """Convert one sample a pixel of more than 8 bits, signed, or float: 0 to the largest value of its type (a float's 1) is 0 to 255."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    form, bits = int(tags.get(_SAMPLES_TAG, (_UNSIGNED,))[0]), int(tags.get(_BITS_TAG, (1,))[0])
    mode, white_is_zero = image.mode, tags.get(_WHITE_IS_TAG) == 0
    if mode == "F":
        values = np.asarray(image)
        if not (values.min() >= -_ROUNDED and values.max() <= 1 + _ROUNDED):
            raise InputError(
                f"a TIFF of floating-point values from {values.min():g} to {values.max():g}; expected 0 (black) to 1 (white): "
                "save it with 8 or 16 bits"
            )
        levels = np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8)
    elif mode.startswith("I") or (mode == "L" and form == _SIGNED):
        levels = _levels(np.asarray(image), form == _SIGNED, bits)
    else:
        return image
    return Image.fromarray(255 - levels if white_is_zero and mode != "L" else levels)


def _levels(values: np.ndarray, signed: bool, bits: int) -> np.ndarray:
    """Integers of `bits` bits as uint8 of the same shape: the eight highest bits, of signed ones those below the sign."""
    if signed:
        values = values.view(np.int8) if values.dtype == np.uint8 else values
        if values.min() < 0:
            raise InputError(
                f"a TIFF of signed values from {values.min()} to {values.max()}; negative brightness has no meaning: save it with 8 bits"
            )
        bits -= 1
    elif bits == 32:
        values = values.view(np.uint32)
    levels = values << (8 - bits) if bits < 8 else values >> (bits - 8)
    if bits > 16 and levels.min() == levels.max() and values.min() != values.max():
        raise InputError(
            f"a TIFF of {values.min()} to {values.max()}, of {bits} bits, whose range is 0 to {2**bits - 1}: all one grey; "
            "save it with 8 or 16 bits"
        )
    return levels.astype(np.uint8)
