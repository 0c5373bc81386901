"""The header of a JPEG, read here before any decoder sees the file, and the list of JPEGs that every decoder may see.

    bytes ─► read ─► JpegHeader ─► unlisted: None, or why only Pillow may decode it

Markers: ITU-T T.81, annex B; JFIF: T.871; Adobe: Adobe technical note 5116; profiles: ICC.1, annex B.4; Exif: CIPA DC-008.
"""

import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np

from fastfashion.errors import InputError
from fastfashion.images.metadata import EXIF_PREFIX, UPRIGHT, Orientation, read_orientation

Encoded = bytes | memoryview | np.ndarray  # an array: uint8 (n,)

MAGIC = b"\xff\xd8\xff"
BASELINE, PROGRESSIVE = 0xC0, 0xC2
MAX_MARKERS = 10_000  # a phone's image with its depth map in XMP has a thousand
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # without Huffman tables, reserved, arithmetic conditioning
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_READ = _FRAMES | {_SOS, _APP0, _APP1, _APP2, _APP14}
_ICC = b"ICC_PROFILE\0"
_FF, _NOT_FF = re.compile(b"\xff"), re.compile(b"[^\xff]")


class Component(NamedTuple):
    """A colour component of a frame: its number, and its sampling factors."""

    number: int
    across: int
    down: int


class JpegHeader(NamedTuple):
    """What comes before the first scan; sizes are in pixels, as stored."""

    process: int  # second byte of the frame's marker: 0xC0 baseline, 0xC2 progressive, …
    precision: int  # bits a sample
    height_px: int
    width_px: int
    components: tuple[Component, ...]
    first_scan: int = 0  # components in the first scan
    jfif: bool = False
    adobe: int | None = None  # transform of Adobe's marker: 0 none, 1 YCbCr, 2 YCCK; None without the marker
    icc: bytes | None = None  # profile; None if there is none, or a chunk of it is missing
    orientation: Orientation = UPRIGHT
    clean: bool = True  # no stray bytes between segments

    @property
    def mode(self) -> str:
        """Pillow's mode of its pixels, if every decoder may see it."""
        return "L" if len(self.components) == 1 else "RGB"

    @property
    def sampling(self) -> tuple[tuple[int, int], ...]:
        return tuple([component[1:] for component in self.components])


# What simplejpeg, the native decoder and DALI may decode. Pillow decodes everything else, at full size.
# - Processes: baseline and progressive. Not every decoder reads extended, lossless, hierarchical and arithmetic-coded ones.
# - Sampling: chroma 4:4:4, 4:2:2, 4:2:0. With chroma four times as coarse, or finer than the brightness, reading a part of the
#   image gives other pixels than reading all of it (libjpeg-turbo 2.1.5); older libraries upsample 4:4:0 in other ways; frames
#   that no encoder writes by default overflow their buffers (simplejpeg 1.9.0).
# - Colour: gray or YCbCr, according to JFIF or Adobe's marker, or the numbers 1, 2, 3. Libraries guess what other numbers mean.
_SAMPLINGS = {
    ((1, 1),),  # gray
    ((1, 1), (1, 1), (1, 1)),  # 4:4:4
    ((2, 1), (1, 1), (1, 1)),  # 4:2:2
    ((2, 2), (1, 1), (1, 1)),  # 4:2:0
}
_NUMBERS = ((1, 2, 3), (0, 1, 2))


def unlisted(header: JpegHeader) -> str | None:
    """Why only Pillow may decode this JPEG; None if every decoder may."""
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
    if len(header.components) == 1:
        return None
    numbers = tuple([component.number for component in header.components])
    if numbers not in _NUMBERS:
        return f"components numbered {numbers} (expected 1, 2, 3)"
    if header.adobe not in (None, 1):
        return f"colour transform {header.adobe} in Adobe's marker (expected 1, YCbCr)"
    if numbers != _NUMBERS[0] and not header.jfif and header.adobe is None:
        return f"components numbered {numbers}, and neither JFIF nor Adobe's marker says their colours"
    return None


def read(data: Encoded) -> JpegHeader:
    """Read a JPEG up to its first scan. Raises InputError if it is not a JPEG, ends before that, or contradicts itself."""
    frame: JpegHeader | None = None
    jfif, adobe, clean = False, None, True
    exif: list[Orientation] = []
    chunks: list[bytes] = []
    for marker, body, stray, filled in _segments(data if isinstance(data, bytes) else memoryview(cast(bytes, data))):
        clean &= not stray
        if marker == _APP0:
            jfif |= len(body) >= 14 and body[:5] == b"JFIF\0"
        elif marker in _FRAMES:
            if frame:
                raise InputError("a JPEG with two frame headers")
            frame = _frame(marker, body)
        elif marker == _SOS:
            break
        elif marker == _APP1 and body[:4] == b"Exif":
            turn, usual = read_orientation(body)
            exif.append(Orientation(turn, usual and body[:6] == EXIF_PREFIX and not filled and not frame))
        elif marker == _APP2 and len(body) >= 14 and body[:12] == _ICC:
            chunks.append(body)
        elif marker == _APP14 and len(body) >= 12 and body[:5] == b"Adobe":
            adobe = body[11]
    else:
        raise InputError("a JPEG that ends before its first scan")
    if not frame or not body:
        raise InputError("a JPEG without a frame header before its first scan")
    header = frame._replace(jfif=jfif, adobe=adobe, clean=clean, first_scan=body[0])
    if exif:  # the first block counts; if there are several, decoders differ
        header = header._replace(orientation=exif[0]._replace(usual=exif[0].usual and len(exif) == 1))
    return header._replace(icc=_joined(chunks)) if chunks else header


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, bytes, bool, bool]]:
    """Segments up to the header of the first scan, or up to bytes that make no sense.

    (marker, body, empty where nobody reads it, whether stray bytes precede it, whether more than one 0xFF precedes its marker).
    """
    if data[:3] != MAGIC:
        raise InputError("not a JPEG")
    at, end, stray, filled = 2, len(data), False, False
    for _ in range(MAX_MARKERS):
        if at + 4 > end:
            return
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0, 0xFF):  # rare: find the next marker
            first = _FF.search(cast(bytes, data), at)
            last = first and _NOT_FF.search(cast(bytes, data), first.end())
            if not first or not last:
                return
            stray |= first.start() > at
            filled = last.start() > first.end()
            at, marker = last.start() - 1, data[last.start()]
        if marker == 0 or marker in _WITHOUT_LENGTH:
            at, stray = at + 2, True
            continue
        length = data[at + 2] << 8 | data[at + 3] if at + 4 <= end else 0
        if marker in (_SOI, _EOI) or length < 2 or at + 2 + length > end:
            return
        yield marker, bytes(data[at + 4 : at + 2 + length]) if marker in _READ else b"", stray, filled
        at, stray, filled = at + 2 + length, False, False
    raise InputError(f"a JPEG with more than {MAX_MARKERS} markers before its first scan")


@lru_cache(maxsize=256)  # a shop's images have few sizes
def _frame(marker: int, body: bytes) -> JpegHeader:
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise InputError(f"a JPEG whose frame header has {len(body)} bytes; expected 6, and 3 a component")
    precision, height_px, width_px, _ = struct.unpack_from(">BHHB", body)
    components = tuple(Component(body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, len(body), 3))
    return JpegHeader(marker, precision, height_px, width_px, components)


def _joined(chunks: list[bytes]) -> bytes | None:
    """The ICC profile if each of its chunks came exactly once; bytes 12 and 13 of a chunk are its number and their count."""
    ordered = sorted(chunks, key=lambda chunk: chunk[12])
    numbers = [(chunk[12], chunk[13]) for chunk in ordered]
    if numbers != [(number, len(chunks)) for number in range(1, len(chunks) + 1)]:
        return None
    return b"".join(chunk[14:] for chunk in ordered)
