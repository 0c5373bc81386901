"""What decoding an image costs, by its header: pixels, and the most bytes of memory. No decoder reads the header.

    bytes ─► size, and bytes a pixel by format and kind ─► Cost

A header that lies gives a wrong cost: the decoding process is held to it (`decode_worker.py`), so that a lie is that image's error.
tests/test_decode_cost.py compares the figures with what a process takes for each format.
"""

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from fastfashion.errors import InputError
from fastfashion.images import jpeg_header
from fastfashion.images.jpeg_header import JpegHeader
from fastfashion.images.metadata import PNG_MAGIC
from fastfashion.load.crops import OVERSAMPLE, SCALES
from fastfashion.load.fit import DEFAULT_FIT, Fit

FIXED = 24 << 20  # bands under conversion, tables, what libraries keep
COPIES = 2  # of the encoded bytes, beside those that came
OUT, RESIZED = 3, 7  # bytes a pixel of the decoded array, and with Pillow's copy of it for the resize
# Pillow's image has 4 bytes a pixel; the array 3, turned by Exif 3 more.
PNG, PNG_OF_A_KEY = 10.0, 14.0
GIF, BMP = 8.0, 9.0
WEBP = 19.0  # two canvases, the frame, Pillow's image, the array
AVIF = 19.0  # planes of up to 12 bits, with alpha, at full chroma
TIFF, TIFF_WIDE, TIFF_FLOAT = 8.0, 10.0, 19.0  # beside the largest strip or tile; one sample of 16 bits, of more
MOST_A_PIXEL = 20  # of all formats; an odd TIFF needs more
MAX_PARTS = 10_000  # boxes, blocks or tags that are examined


class Cost(NamedTuple):
    """What one image takes; all but `num_bytes` is zero if the format is not known."""

    format: str
    height_px: int
    width_px: int
    num_bytes: int

    @property
    def pixels(self) -> int:
        return self.height_px * self.width_px


class _Size(NamedTuple):
    height_px: int
    width_px: int
    each: float  # bytes a pixel


def cost(data: bytes, height_px: int = 0, width_px: int = 0, fit: Fit = DEFAULT_FIT) -> Cost:
    """Cost of decoding for an output of this size, which a JPEG is scaled near to; 0: full size. Never raises."""
    name, size = "", _Size(0, 0, 0)
    with suppress(InputError, struct.error, IndexError):
        if data[:3] == jpeg_header.MAGIC:
            name, size = "JPEG", _jpeg(jpeg_header.read(data), height_px, width_px, fit)
        else:
            name, read = next(((name, read) for name, at, magics, read in _OTHERS if data.startswith(magics, at)), ("", None))
            size = read(data) if read else size
    return Cost(name, size.height_px, size.width_px, math.ceil(size.height_px * size.width_px * size.each) + COPIES * len(data) + FIXED)


def _jpeg(header: JpegHeader, height_px: int, width_px: int, fit: Fit) -> _Size:
    """Cost of a JPEG: with more than one scan all coefficients are kept, at any scale."""
    parts = header.sampling
    most = max((across for across, _ in parts), default=1) * max((down for _, down in parts), default=1) or 1
    samples = sum(across * down for across, down in parts) / most
    kept = 2 * samples if header.process != jpeg_header.BASELINE or header.first_scan != len(parts) else 0.0
    if jpeg_header.unlisted(header):
        return _Size(header.height_px, header.width_px, max(4 + kept, 10.0))
    turned = header.orientation.turn >= 5
    upright = (header.width_px, header.height_px) if turned else (header.height_px, header.width_px)
    needed = 8 * OVERSAMPLE * fit.scale(*upright, (height_px, width_px))
    eighths = next((scale for scale in SCALES if scale >= needed > 0), 8)
    return _Size(header.height_px, header.width_px, kept + RESIZED * (eighths / 8) ** 2)


def _png(data: bytes) -> _Size:
    width, height, bits, color = struct.unpack_from(">LLBB", data, 16)
    keyed = bits == 16 and color == 2 and data.find(b"tRNS", 0, 1 << 16) > 0
    return _Size(height, width, PNG_OF_A_KEY if keyed else PNG)


def _gif(data: bytes) -> _Size:
    """Cost of a GIF, by its screen, or by a first frame that exceeds it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    inside = False  # of an extension, whose blocks begin with their lengths; the last is empty
    for _ in range(MAX_PARTS):
        if inside:
            inside, at = data[at] > 0, at + 1 + data[at]
        elif data[at] == 0x21:
            inside, at = True, at + 2
        else:
            break
    if not inside and data[at] == 0x2C:
        left, top, wide, high = struct.unpack_from("<4H", data, at + 1)
        width, height = max(width, left + wide), max(height, top + high)
    return _Size(height, width, GIF)


def _bmp(data: bytes) -> _Size:
    (head,) = struct.unpack_from("<L", data, 14)
    width, height = struct.unpack_from("<HH" if head == 12 else "<ll", data, 18)
    return _Size(abs(height), abs(width), BMP)


def _webp(data: bytes) -> _Size:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<L", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return _Size(height, width, WEBP)


def _tiff(data: bytes) -> _Size:
    """Cost of the first image of a TIFF or BigTIFF; a strip, which may be all of it, is unpacked whole."""
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    tags: dict[int, int] = {}
    (start,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    first, length, value = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    for at in range(first, first + length * min(count, MAX_PARTS), length):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        (number,) = struct.unpack_from(order + ("Q" if big else "L"), data, at + 4)
        place = at + value
        if number > 1 and kind == 3 and 2 * number > length - value:  # of several numbers the first counts
            (place,) = struct.unpack_from(order + ("Q" if big else "L"), data, place)
        if kind in (3, 4, 16) and place + 8 <= len(data):
            (tags[tag],) = struct.unpack_from(order + {3: "H", 4: "L", 16: "Q"}[kind], data, place)
    width, height, bits, samples = tags.get(256, 0), tags.get(257, 0), tags.get(258, 1), tags.get(277, 1)
    strip = tags[322] * tags.get(323, 0) if 322 in tags else width * min(tags.get(278, height), height)
    each = TIFF if samples > 1 or bits <= 8 else TIFF_WIDE if bits <= 16 else TIFF_FLOAT
    unpacked = strip * max(4.0, samples * bits / 8) if tags.get(259, 1) != 1 else 0
    return _Size(height, width, each + unpacked / max(1, width * height))


def _avif(data: bytes) -> _Size:
    """Cost of an AVIF, by its largest item or track; parts of a grid are smaller than the grid."""
    sizes = [(0, 0)]
    for name, begin, end in _boxes(data):
        if name == b"ispe":
            width, height = struct.unpack_from(">LL", data, begin + 4)
            sizes.append((height, width))
        elif name == b"tkhd":
            width, height = struct.unpack_from(">LL", data, end - 8)
            sizes.append((height >> 16, width >> 16))
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    return _Size(height, width, AVIF)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each box's content (ISO 14496-12); nested boxes come after those that hold them."""
    ranges, left = [(0, len(data))], MAX_PARTS
    while ranges:
        at, end = ranges.pop()
        while at + 8 <= end and left:
            length, name = struct.unpack_from(">L4s", data, at)
            begin = at + 8
            if length == 1:
                (length,) = struct.unpack_from(">Q", data, begin)
                begin += 8
            last = min(end, at + length) if length else end
            if last <= begin:
                break
            yield name, begin, last
            if name in (b"meta", b"iprp", b"ipco", b"moov", b"trak"):
                ranges.append((begin + 4 * (name == b"meta"), last))
            at, left = last, left - 1


_OTHERS: tuple[tuple[str, int, tuple[bytes, ...], Callable[[bytes], _Size]], ...] = (  # where each has its magic bytes
    ("PNG", 0, (PNG_MAGIC,), _png),
    ("WEBP", 8, (b"WEBP",), _webp),
    ("GIF", 0, (b"GIF87a", b"GIF89a"), _gif),
    ("BMP", 0, (b"BM",), _bmp),
    ("TIFF", 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    ("AVIF", 4, (b"ftyp",), _avif),
)
