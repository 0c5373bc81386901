"""A small JPEG encoder for what no library writes: odd tables, long codes, coefficients and markers as they come (ITU-T T.81)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
from odd_writers import JFIF, jpeg_segment

EOI = b"\xff\xd9"
ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
DC_VALUES = tuple(range(12))
AC_VALUES = (0x00, 0xF0, *(run << 4 | size for size in range(1, 11) for run in range(16)))


class Huffman(NamedTuple):
    """How many codes there are of each length, 1 to 16, and their values, shortest code first."""

    counts: tuple[int, ...]
    values: tuple[int, ...]

    def codes(self) -> dict[int, str]:
        """The bits of each value (annex C.2)."""
        found, code, at = {}, 0, 0
        for length, count in enumerate(self.counts, 1):
            for value in self.values[at : at + count]:
                found.setdefault(value, f"{code:0{length}b}")
                code += 1
            at, code = at + count, code << 1
        return found

    def body(self, place: int) -> bytes:
        return bytes([place, *self.counts, *self.values])


def comb(values: Sequence[int], teeth: int) -> Huffman:
    """One code of each length up to `teeth`; all others have 16 bits, and none is all ones."""
    assert len(values) - teeth < 1 << (16 - teeth)
    counts = [1] * teeth + [0] * (16 - teeth)
    counts[15] += len(values) - teeth
    return Huffman(tuple(counts), tuple(values))


def flat(values: Sequence[int]) -> Huffman:
    """All codes of one length."""
    counts = [0] * 16
    counts[len(values).bit_length() - 1] = len(values)
    return Huffman(tuple(counts), tuple(values))


@cache
def usual_tables() -> dict[int, Huffman]:
    """Tables K.3 to K.6 by the byte that says class and place, as Pillow writes them."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data, at, found = file.getvalue(), 2, {}
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xC4:
            body = data[at + 4 : at + 2 + length]
            found[body[0]] = Huffman(tuple(body[1:17]), tuple(body[17:]))
        at += 2 + length
    return found


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a JPEG is written; without arguments as most encoders do."""

    luma: tuple[int, int] = (1, 1)  # across, down; chroma is 1, 1
    numbers: tuple[int, ...] = (1, 2, 3)  # one a component
    steps: tuple[tuple[int, ...], ...] = ((16,) * 64, (20,) * 64)  # quantisation in zigzag order: luma's, chroma's
    tables: dict[int, Huffman] = field(default_factory=usual_tables)
    restart: int = 0  # MCUs
    fill: int = 0  # bytes 0xFF before each marker of the scan
    fill_before: int = 0  # and of the header
    before: bytes = JFIF  # segments
    tail: bytes = EOI
    together: bool = False  # all tables of a kind in one segment
    twice: bool = False  # other tables first, which the later ones replace
    frame: int = 0xC0
    wide_steps: bool = False  # quantisation tables of 16 bits
    chroma_place: int = 1  # of chroma's tables


def blocks_of(form: Form, height: int, width: int) -> list[tuple[int, int]]:
    """(rows, columns) of blocks of each component; a lone one has no more than it needs."""
    across, down = form.luma
    if len(form.numbers) == 1:
        return [(-(-height // 8), -(-width // 8))]
    rows, columns = -(-height // (8 * down)), -(-width // (8 * across))
    return [(rows * down, columns * across), (rows, columns), (rows, columns)]


def coefficients(pixels: np.ndarray, form: Form) -> list[np.ndarray]:
    """Quantised coefficients, int (rows, columns, 64) in zigzag order a component, of RGB or gray uint8 pixels."""
    height, width = pixels.shape[:2]
    parts = pixels.astype(float) - 128
    if pixels.ndim == 3:
        to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
        planes = list(np.moveaxis(pixels @ to_ycc.T, -1, 0) - np.array([128, 0, 0])[:, None, None])
    else:
        planes = [parts]
    cosines = np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    found = []
    for i, (plane, (rows, columns)) in enumerate(zip(planes, blocks_of(form, height, width), strict=True)):
        across, down = (1, 1) if i == 0 else form.luma
        full = np.pad(plane, ((0, rows * 8 * down - height), (0, columns * 8 * across - width)), "edge")
        small = full.reshape(rows * 8, down, columns * 8, across).mean((1, 3))
        spectrum = cosines @ small.reshape(rows, 8, columns, 8).swapaxes(1, 2) @ cosines.T
        found.append(np.rint(spectrum.reshape(rows, columns, 64)[..., ZIGZAG] / np.array(form.steps[min(i, 1)])).astype(int))
    return found


def write(parts: Sequence[np.ndarray], height: int, width: int, form: Form) -> bytes:
    """A baseline JPEG with these coefficients, which may be any that its tables have codes for."""
    fill, fill_before = b"\xff" * form.fill, b"\xff" * form.fill_before
    across, down = form.luma if len(parts) > 1 else (1, 1)
    frame = struct.pack(">BHHB", 8, height, width, len(parts))
    for i, number in enumerate(form.numbers):
        frame += bytes([number, across << 4 | down if i == 0 else 0x11, 0 if i == 0 else form.chroma_place])
    segments = [(0xC4, body) for body in _bodies([table.body(at) for at, table in form.tables.items()], form)]
    segments += [(0xDB, body) for body in _bodies([_step_body(at, form) for at in {0, form.chroma_place}], form)]
    segments.append((form.frame, frame))
    if form.restart:
        segments.append((0xDD, struct.pack(">H", form.restart)))
    scan = bytes([len(parts)])
    for i, number in enumerate(form.numbers):
        scan += bytes([number, 0 if i == 0 else form.chroma_place * 0x11])
    segments.append((0xDA, scan + b"\0\x3f\0"))
    head = b"\xff\xd8" + form.before + b"".join(fill_before + jpeg_segment(marker, body) for marker, body in segments)
    return head + _scan(parts, form, fill) + fill + form.tail


def _bodies(bodies: list[bytes], form: Form) -> list[bytes]:
    if form.twice:  # first those of the neighbour, of the same class
        by_place = {body[0]: body for body in bodies}
        bodies = [body[:1] + by_place.get(body[0] ^ 1, body)[1:] for body in bodies] + bodies
    return [b"".join(bodies)] if form.together else bodies


def _step_body(place: int, form: Form) -> bytes:
    steps = form.steps[1 if place else 0]
    return bytes([0x10 | place]) + struct.pack(">64H", *steps) if form.wide_steps else bytes([place, *steps])


def _scan(parts: Sequence[np.ndarray], form: Form, fill: bytes) -> bytes:
    across, down = form.luma if len(parts) > 1 else (1, 1)
    codes = {place: table.codes() for place, table in form.tables.items()}
    rows, columns = parts[0].shape[0] // down, parts[0].shape[1] // across
    bits: list[str] = []
    out, last = b"", [0] * len(parts)
    for unit in range(rows * columns):
        if form.restart and unit and unit % form.restart == 0:
            out += packed("".join(bits)) + fill + bytes([0xFF, 0xD0 + (unit // form.restart - 1) % 8])
            bits, last = [], [0] * len(parts)
        y, x = divmod(unit, columns)
        for i, part in enumerate(parts):
            place = 0 if i == 0 else form.chroma_place
            wide, high = (across, down) if i == 0 else (1, 1)
            for block in range(wide * high):
                values = part[y * high + block // wide, x * wide + block % wide].tolist()
                bits += _block(values, last[i], codes[place], codes[0x10 | place])
                last[i] = values[0]
    return out + packed("".join(bits))


def _block(values: list[int], last: int, dc: dict[int, str], ac: dict[int, str]) -> list[str]:
    size, low = _extra(values[0] - last)
    bits, run = [dc[size], low], 0
    for value in values[1:]:
        if value == 0:
            run += 1
            continue
        bits += [ac[0xF0]] * (run // 16)
        size, low = _extra(value)
        bits += [ac[run % 16 << 4 | size], low]
        run = 0
    return [*bits, ac[0]] if run else bits


def _extra(value: int) -> tuple[int, str]:
    """Category of a value, and the bits that follow its code (F.1.2)."""
    size = abs(value).bit_length()
    return size, f"{value if value >= 0 else value + (1 << size) - 1:0{size}b}" if size else ""


def packed(bits: str) -> bytes:
    """Bytes of these bits, padded with ones, and stuffed."""
    bits += "1" * (-len(bits) % 8)
    return (int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b"").replace(b"\xff", b"\xff\0")
