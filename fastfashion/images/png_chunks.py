"""The chunks of a PNG that its pixels depend on (W3C PNG, third edition), taken out before Pillow sees the file.

Pillow refuses a PNG for a text that is large once unpacked or has a wrong checksum, and its limits hold for the whole process. Pixels
depend on no text: what remains has critical chunks and transparency alone, which makes an animation its first frame.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import cast

from fastfashion.images.exif import UPRIGHT, Orientation, read_orientation
from fastfashion.images.icc import MAX_PROFILE_BYTES

MAGIC = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">L4s")
_GRAY, _RGB = 0, 2  # colour types
_KEY_BYTES = {_GRAY: 2, _RGB: 6}  # of the one colour that is transparent
_ANCILLARY = 0x20  # a small first letter: a decoder may do without


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
    orientation, profile, key, bits, color = UPRIGHT, None, None, 0, -1
    at = len(MAGIC)
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
            said = struct.unpack(f">{length // 2}H", body)
            if bits == 16:
                key = said
            else:
                kept.append(_scaled_key(said[0], bits) if color == _GRAY else chunk)
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
    """The transparent gray of a PNG of fewer than 16 bits as Pillow compares it: with what is 0 to 255 already."""
    most = (1 << bits) - 1 if bits in (2, 4, 8) else 0
    body = b"tRNS" + struct.pack(">H", (key & most) * 255 // most if most else key)
    return struct.pack(">L", 2) + body + struct.pack(">L", zlib.crc32(body))


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
