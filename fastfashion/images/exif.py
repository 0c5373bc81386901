"""EXIF orientation, read by ourselves: the same in every format, no warning, and bounded work whatever the bytes."""

import struct
from typing import NamedTuple

PREFIX = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
_BYTE, _SHORT, _LONG = 1, 3, 4
_VALUE_FORMATS = {_BYTE: "B", _SHORT: "H", _LONG: "L"}


class Orientation(NamedTuple):
    """What an EXIF block says: 1 (upright) to 8, and whether it says so in the one way that all decoders read alike."""

    turn: int
    usual: bool


UPRIGHT = Orientation(1, usual=True)
_DAMAGED = Orientation(1, usual=False)


def read_orientation(block: bytes) -> Orientation:
    """Orientation of an EXIF block (TIFF structure, with or without the prefix `Exif`); upright where it does not say, or is damaged."""
    while block.startswith(PREFIX):  # JPEG demands it, some writers of WebP and PNG add it
        block = block[len(PREFIX) :]
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
