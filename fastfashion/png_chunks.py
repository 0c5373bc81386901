"""The chunks of a PNG that its pixels depend on (W3C PNG, third edition), taken out before Pillow sees the file.

Pillow refuses a PNG for a text that is large once unpacked or has a wrong checksum, and its limits hold for the whole process. Pixels
depend on no text: what remains has critical chunks and transparency alone, which makes an animation its first frame.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import cast

from fastfashion.exif import UPRIGHT, Orientation, read_orientation
from fastfashion.icc import MAX_PROFILE_BYTES

MAGIC = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">L4s")
_GRAY, _RGB = 0, 2  # colour types


@dataclass(frozen=True, kw_only=True)
class PngFile:
    """A PNG in parts; `key` is the transparent colour of one of 16 bits, of one or three samples, and is not in `data` then."""

    data: bytes
    orientation: Orientation
    profile: bytes | None
    key: tuple[int, ...] | None


def read(data: bytes | memoryview) -> PngFile:
    """Take a PNG apart; what is damaged stays as it is, for Pillow to refuse."""
    view = memoryview(cast(bytes, data))
    kept: list[bytes | memoryview] = [view[: len(MAGIC)]]
    orientation, profile, key, wide = UPRIGHT, None, None, None
    at = len(MAGIC)
    while at + 12 <= len(view):
        length, name = _CHUNK.unpack_from(view, at)
        end = at + 12 + length
        body = view[at + 8 : end - 4]
        if end > len(view):
            break
        if name == b"IHDR" and length == 13:
            wide = body[9] if body[8] == 16 and body[9] in (_GRAY, _RGB) else None
        if name == b"tRNS" and wide is not None and _is_whole(view[at:end]) and length == (2 if wide == _GRAY else 6):
            key = struct.unpack(f">{length // 2}H", body)
        elif name == b"eXIf" and orientation is UPRIGHT and _is_whole(view[at:end]):
            orientation = read_orientation(bytes(body))
        elif name == b"iCCP" and profile is None and _is_whole(view[at:end]):
            profile = _unpacked(bytes(body))
        elif name == b"tRNS" or not name[0] & 0x20:  # a capital first letter: critical
            kept.append(view[at:end])
        at = end
        if name == b"IEND":
            break
    else:
        kept.append(view[at:])
        at = len(view)
    if at < len(view) and name != b"IEND":
        kept.append(view[at:])
    return PngFile(data=b"".join(kept), orientation=orientation, profile=profile, key=key)


def _is_whole(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _unpacked(body: bytes) -> bytes | None:
    """The profile behind its name, a zero, and a zero for deflate."""
    _, _, packed = body.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= MAX_PROFILE_BYTES else None
