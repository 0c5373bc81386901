"""The header of a JPEG, read by ourselves before any other decoder sees it, and the list of what they may see.

    bytes ─► read ─► JpegHeader ─► unlisted: None, or why only Pillow's ordinary decode may have it

Markers: ITU-T T.81, annex B; JFIF: T.871; Adobe: Adobe technical note 5116; profiles: ICC.1, annex B.4; Exif: CIPA DC-008.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from fastfashion.errors import InputError
from fastfashion.exif import PREFIX, UPRIGHT, Orientation, read_orientation

Encoded = bytes | memoryview | np.ndarray  # an array: uint8 (n,)

MAGIC = b"\xff\xd8\xff"
BASELINE, PROGRESSIVE = 0xC0, 0xC2
MAX_MARKERS = 10_000  # a phone's image with its depth map in XMP has a thousand
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # but for Huffman tables, reserved, arithmetic conditioning
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_ICC = b"ICC_PROFILE\0"
_FF, _NOT_FF = re.compile(b"\xff"), re.compile(b"[^\xff]")


class Component(NamedTuple):
    """One colour component of a frame: its number, and how often it is sampled across and down."""

    number: int
    across: int
    down: int


@dataclass(frozen=True, kw_only=True)
class JpegHeader:
    """What stands before the first scan; sizes are in pixels, as stored."""

    process: int  # second byte of the frame's marker: 0xC0 baseline, 0xC2 progressive, …
    precision: int  # bits a sample
    height_px: int
    width_px: int
    components: tuple[Component, ...]
    first_scan: int  # components in the first scan
    jfif: bool
    adobe: int | None  # transform of Adobe's marker: 0 none, 1 YCbCr, 2 YCCK; None without the marker
    icc: bytes | None  # profile; None where there is none, or not all of its chunks
    orientation: Orientation
    clean: bool  # no bytes between segments that do not belong there

    @property
    def sampling(self) -> tuple[tuple[int, int], ...]:
        return tuple((component.across, component.down) for component in self.components)


# What simplejpeg, the native decoder and DALI may be given. Everything else is decoded by Pillow, at full size, which decides on its own.
# - Processes: baseline and progressive. Extended, lossless, hierarchical and arithmetic-coded ones are not decoded by all of them.
# - Sampling: chroma 4:4:4, 4:2:2, 4:2:0. With the chroma four times as coarse, or finer than the brightness, reading a part of the
#   image gives other pixels than reading all of it (libjpeg-turbo 2.1.5); 4:4:0 is upsampled in other ways by older libraries; frames
#   that no encoder writes by itself are beyond what their buffers were made for (simplejpeg 1.9.0).
# - Colour: gray or YCbCr, said by JFIF or Adobe's marker, or by the numbers 1, 2, 3. What else three numbers mean, libraries guess.
_SAMPLINGS = {
    ((1, 1),): "gray",
    ((1, 1), (1, 1), (1, 1)): "4:4:4",
    ((2, 1), (1, 1), (1, 1)): "4:2:2",
    ((2, 2), (1, 1), (1, 1)): "4:2:0",
}
_NUMBERS = ((1, 2, 3), (0, 1, 2))


def unlisted(header: JpegHeader) -> str | None:
    """Why no decoder but Pillow's ordinary one may see this JPEG; None where all may."""
    if header.process not in (BASELINE, PROGRESSIVE):
        return f"coding process {header.process - 0xC0} (expected 0, baseline, or 2, progressive)"
    if header.precision != 8:
        return f"{header.precision} bits a sample (expected 8)"
    if not (header.height_px and header.width_px):
        return f"{header.width_px}x{header.height_px} pixels in its frame header"
    if header.sampling not in _SAMPLINGS:
        found = " ".join(f"{across}x{down}" for across, down in header.sampling)
        return f"sampling {found} (expected one component, 4:4:4, 4:2:2 or 4:2:0)"
    if not header.clean:
        return "stray bytes or markers before its first scan"
    if header.process == BASELINE and header.first_scan != len(header.components):
        return "components in scans of their own"
    return _unlisted_color(header) if len(header.components) == 3 else None


def _unlisted_color(header: JpegHeader) -> str | None:
    numbers = tuple(component.number for component in header.components)
    if numbers not in _NUMBERS:
        return f"components numbered {numbers} (expected 1, 2, 3)"
    if header.adobe not in (None, 1):
        return f"colour transform {header.adobe} in Adobe's marker (expected 1, YCbCr)"
    if numbers != _NUMBERS[0] and not header.jfif and header.adobe is None:
        return f"components numbered {numbers}, and neither JFIF nor Adobe's marker says their colours"
    return None


def read(data: Encoded) -> JpegHeader:
    """Header of a JPEG, of which only the part before the first scan is looked at.

    Raises InputError where the bytes are no JPEG, end before the first scan, or contradict themselves.
    """
    frame: _Segment | None = None
    jfif, adobe, clean = False, None, True
    exif: list[Orientation] = []
    chunks: list[bytes] = []
    for segment in _segments(memoryview(cast(bytes, data))):
        marker, body = segment.marker, segment.body
        clean &= not segment.stray
        if marker in _FRAMES:
            if frame:
                raise InputError("a JPEG of two frame headers")
            frame = segment
        elif marker == _APP0 and len(body) >= 14 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == _APP1 and body[:6] == PREFIX:
            turn, usual = read_orientation(body)
            exif.append(Orientation(turn, usual and not segment.filled and not frame))
        elif marker == _APP2 and len(body) >= 14 and body[:12] == _ICC:
            chunks.append(body)
        elif marker == _APP14 and len(body) >= 12 and body[:5] == b"Adobe":
            adobe = body[11]
        elif marker == _SOS:
            break
    else:
        raise InputError("a JPEG that ends before its first scan")
    if not frame or not body:
        raise InputError("a JPEG without a frame header before its first scan")
    return JpegHeader(
        jfif=jfif, adobe=adobe, clean=clean, first_scan=body[0], icc=_joined(chunks), orientation=_first(exif), **_frame(frame)
    )


class _Segment(NamedTuple):
    marker: int
    body: bytes  # behind the length
    stray: bool  # bytes that belong to no segment stand before it
    filled: bool  # its marker begins with more than one 0xFF


def _segments(view: memoryview) -> Iterator[_Segment]:
    """Segments up to the header of the first scan, or to where the bytes make no sense any more."""
    if view[:3] != MAGIC:
        raise InputError("not a JPEG")
    at, stray = 2, False
    for _ in range(MAX_MARKERS):
        first = _FF.search(cast(bytes, view), at)
        last = first and _NOT_FF.search(cast(bytes, view), first.end())
        if not first or not last:
            return
        marker = view[last.start()]
        stray |= first.start() > at
        at = last.end()
        if marker == 0 or marker in _WITHOUT_LENGTH:
            stray = True
            continue
        length = view[at] << 8 | view[at + 1] if at + 2 <= len(view) else 0
        if marker in (_SOI, _EOI) or length < 2 or at + length > len(view):
            return
        yield _Segment(marker, bytes(view[at + 2 : at + length]), stray, last.start() > first.end())
        at, stray = at + length, False
    raise InputError(f"a JPEG of more than {MAX_MARKERS} markers before its first scan")


def _frame(segment: _Segment) -> dict[str, Any]:
    body = bytes(segment.body)
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise InputError(f"a JPEG whose frame header has {len(body)} bytes; expected 6, and 3 a component")
    precision, height_px, width_px, _ = struct.unpack_from(">BHHB", body)
    components = tuple(Component(body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, len(body), 3))
    return {"process": segment.marker, "precision": precision, "height_px": height_px, "width_px": width_px, "components": components}


def _joined(chunks: list[bytes]) -> bytes | None:
    """The profile, where each chunk came exactly once (number and count are bytes 13 and 14 of each)."""
    if not chunks or {chunk[13] for chunk in chunks} != {len(chunks)}:
        return None
    ordered = sorted(chunks, key=lambda chunk: chunk[12])
    if [chunk[12] for chunk in ordered] != list(range(1, len(chunks) + 1)):
        return None
    return b"".join(chunk[14:] for chunk in ordered)


def _first(exif: list[Orientation]) -> Orientation:
    """The first block counts; where there are several, decoders differ."""
    return Orientation(exif[0].turn, exif[0].usual and len(exif) == 1) if exif else UPRIGHT
