"""What an image file says besides its pixels: orientation (Exif), colours (an ICC profile), the chunks of a PNG.

Read here and not by the libraries: the same in every format, without warnings, and with bounded work whatever the bytes.
"""

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageCms

EXIF_PREFIX = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
_BYTE, _SHORT, _LONG = 1, 3, 4
_VALUE_FORMATS = {_BYTE: "B", _SHORT: "H", _LONG: "L"}

MAX_PROFILE_BYTES = 16 << 20  # profiles of presses have up to 10 MiB
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # ICC.1, table 19, by Pillow's mode
_CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")  # device links and lists of named colours are not for images
_CACHED_PROFILES = 64
_SAME_LEVELS = 1

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">L4s")
_GRAY, _RGB = 0, 2  # colour types of a PNG
_KEY_BYTES = {_GRAY: 2, _RGB: 6}  # size of the one colour that is transparent
_ANCILLARY = 0x20  # a lower-case first letter: a decoder may ignore the chunk


class Orientation(NamedTuple):
    """EXIF orientation, 1 (upright) to 8, and whether it is written in the one way that all decoders read alike."""

    turn: int
    usual: bool


UPRIGHT = Orientation(1, usual=True)
_DAMAGED = Orientation(1, usual=False)


def read_orientation(block: bytes) -> Orientation:
    """Orientation of an EXIF block (TIFF structure, with or without the prefix `Exif`); upright if it has none or is damaged."""
    while block.startswith(EXIF_PREFIX):  # JPEG requires it, some writers of WebP and PNG add it
        block = block[len(EXIF_PREFIX) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return _DAMAGED
    (start,) = struct.unpack_from(f"{order}L", block, 4)
    if start + 2 > len(block):
        return _DAMAGED
    (count,) = struct.unpack_from(f"{order}H", block, start)
    complete = start + 2 + 12 * count <= len(block)
    for at in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, number = struct.unpack_from(f"{order}HHL", block, at)
        if tag != _ORIENTATION_TAG:
            continue
        if number != 1 or kind not in _VALUE_FORMATS:
            return _DAMAGED
        (value,) = struct.unpack_from(order + _VALUE_FORMATS[kind], block, at + 8)
        return Orientation(value, usual=complete and kind == _SHORT) if 1 <= value <= 8 else _DAMAGED
    return UPRIGHT if complete else _DAMAGED


_transforms: dict[tuple[bytes, str], "ImageCms.ImageCmsTransform | None"] = {}


def is_srgb(profile: bytes | None, mode: str) -> bool:
    """Whether an image of Pillow's `mode` ("L", "RGB", "CMYK") with this ICC profile needs no conversion."""
    return not profile or _transform(profile, mode) is None


def to_srgb(image: "Image.Image", profile: bytes | None) -> "Image.Image":
    """Convert an image of mode "L", "RGB" or "CMYK" to sRGB, of mode "RGB"; the same image if its profile changes nothing.

    Relative colorimetric, through LittleCMS: what sRGB lacks is clipped, all else stays. A damaged profile, or one for another kind of
    image, counts as none.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image
    return transform.apply(image if image.mode == transform.input_mode else image.convert(transform.input_mode))


def _transform(profile: bytes, mode: str) -> "ImageCms.ImageCmsTransform | None":
    """From the profile to sRGB, None if there is nothing to do; built once for each profile, which takes 4 to 47 ms."""
    key = hashlib.sha256(profile).digest(), mode
    try:
        return _transforms[key]
    except KeyError:  # without a lock, which a fork could leave locked: at worst two threads build the same
        transform = _build_transform(profile, mode)
    if len(_transforms) >= _CACHED_PROFILES:
        _transforms.clear()
    _transforms[key] = transform
    return transform


def _build_transform(profile: bytes, mode: str) -> "ImageCms.ImageCmsTransform | None":
    space = _SPACES.get(profile[16:20])
    suits = space == mode or (space, mode) == ("RGB", "L")
    if space is None or not suits or profile[12:16] not in _CLASSES or profile[36:40] != b"acsp" or len(profile) > MAX_PROFILE_BYTES:
        return None
    from PIL import Image, ImageCms  # few images have a profile

    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, space, "RGB", renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (OSError, ImageCms.PyCMSError):
        return None
    if space == "CMYK":
        return transform
    # A profile that changes no sample by more than a grey level is sRGB, whatever its name.
    samples = np.arange(256, dtype=np.uint8).repeat(3).reshape(-1, 1, 3)  # all greys
    if mode != "L":
        levels = np.arange(0, 256, 51, dtype=np.uint8)
        samples = np.concatenate([samples, np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)])
    converted = np.asarray(transform.apply(Image.fromarray(samples).convert(space)))
    return transform if np.abs(converted.astype(int) - samples).max() > _SAME_LEVELS else None


@dataclass(frozen=True, kw_only=True)
class PngFile:
    """A PNG in parts. `key` is the transparent colour of a PNG of 16 bits, of one or three samples; `data` then lacks it."""

    data: bytes
    orientation: Orientation
    profile: bytes | None
    key: tuple[int, ...] | None


def read_png(data: bytes | memoryview) -> PngFile:
    """Keep the chunks of a PNG that its pixels depend on (W3C PNG, third edition); damaged ones stay, for Pillow to refuse.

    Pillow refuses a PNG for a text that is large once unpacked or has a wrong checksum. Without other chunks an animation is one frame.
    """
    view = memoryview(cast(bytes, data))
    kept: list[bytes | memoryview] = [view[: len(PNG_MAGIC)]]
    orientation, profile, key, bits, color = UPRIGHT, None, None, 0, -1
    at = len(PNG_MAGIC)
    while at + 12 <= len(view):
        length, name = _CHUNK.unpack_from(view, at)
        end = at + 12 + length
        if end > len(view):
            break
        chunk, body = view[at:end], view[at + 8 : end - 4]
        at = end
        if name == b"IHDR" and length == 13:
            bits, color = body[8], body[9]
        if name == b"tRNS" and _is_whole(chunk) and length == _KEY_BYTES.get(color):
            samples = struct.unpack(f">{length // 2}H", body)
            if bits == 16:
                key = samples
            else:
                kept.append(_scaled_key(samples[0], bits) if color == _GRAY else chunk)
        elif name == b"eXIf" and orientation is UPRIGHT and _is_whole(chunk):
            orientation = read_orientation(bytes(body))
        elif name == b"iCCP" and profile is None and _is_whole(chunk):
            profile = _unpacked(bytes(body))
        elif name == b"tRNS" or not name[0] & _ANCILLARY:
            kept.append(chunk)
        if name == b"IEND":
            at = len(view)
    kept.append(view[at:])
    return PngFile(data=b"".join(kept), orientation=orientation, profile=profile, key=key)


def _scaled_key(key: int, bits: int) -> bytes:
    """A chunk with the transparent gray of a PNG of fewer than 16 bits in the range that Pillow compares: 0 to 255."""
    most = (1 << bits) - 1 if bits in (2, 4, 8) else 0
    body = b"tRNS" + struct.pack(">H", (key & most) * 255 // most if most else key)
    return struct.pack(">L", 2) + body + struct.pack(">L", zlib.crc32(body))


def _is_whole(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _unpacked(body: bytes) -> bytes | None:
    """The profile of an iCCP chunk, after its name and two zeros; None if it does not unpack or is too large."""
    _, _, packed = body.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= MAX_PROFILE_BYTES else None
