"""Writers of image files that Pillow does not write: each byte from the format's own description, none from the code under test."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


JFIF = jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform: int) -> bytes:
    return jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


# ITU-T T.81, table K.3: length and code of each category of a DC difference.
_DC_CODES = ("00", "010", "011", "100", "101", "110", "1110", "11110", "111110", "1111110", "11111110", "111111110")


def block_jpeg(
    height: int,
    width: int,
    components: Sequence[tuple[int, int, int, np.ndarray]],
    segments: bytes = JFIF,
    apart: bool = False,
    restart: int = 0,
) -> bytes:
    """A baseline JPEG of blocks of one colour each.

    Components are (number, across, down, value of each block uint8 (rows, columns)); `apart` writes a scan a component.
    """
    most = max(c[1] for c in components), max(c[2] for c in components)
    frame = struct.pack(">BHHB", 8, height, width, len(components))
    frame += b"".join(bytes([number, across << 4 | down, 0]) for number, across, down, _ in components)
    data = b"\xff\xd8" + segments + jpeg_segment(0xDB, b"\0\x08" + bytes([1] * 63)) + jpeg_segment(0xC0, frame)
    data += jpeg_segment(0xC4, b"\0\0\1\5\1\1\1\1\1\1" + bytes(7) + bytes(range(12)))
    data += jpeg_segment(0xC4, b"\x10\1" + bytes(15) + b"\0")  # one code: end of block
    if restart:
        data += jpeg_segment(0xDD, struct.pack(">H", restart))
    for together in [[c] for c in components] if apart else [list(components)]:
        scan = bytes([len(together)]) + b"".join(bytes([c[0], 0]) for c in together) + b"\0\x3f\0"
        data += jpeg_segment(0xDA, scan) + _scan(height, width, most, together, restart)
    return data + b"\xff\xd9"


def _scan(height: int, width: int, most: tuple[int, int], components: list[tuple[int, int, int, np.ndarray]], restart: int) -> bytes:
    alone = len(components) == 1
    if alone:
        ((_, across, down, _),) = components
        units = -(-height * down // (8 * most[1])), -(-width * across // (8 * most[0]))
    else:
        units = -(-height // (8 * most[1])), -(-width // (8 * most[0]))
    bits, out, last = "", b"", [0] * len(components)
    for unit in range(units[0] * units[1]):
        if restart and unit and unit % restart == 0:
            out += _packed(bits) + bytes([0xFF, 0xD0 + (unit // restart - 1) % 8])
            bits, last = "", [0] * len(components)
        y, x = divmod(unit, units[1])
        for i, (_, across, down, values) in enumerate(components):
            for block in range(1 if alone else across * down):
                row = min(y if alone else y * down + block // across, values.shape[0] - 1)
                column = min(x if alone else x * across + block % across, values.shape[1] - 1)
                value = int(values[row, column]) - 128
                difference, last[i] = value - last[i], value
                size = abs(difference).bit_length()
                low = difference if difference >= 0 else difference + (1 << size) - 1
                bits += _DC_CODES[size] + (f"{low:0{size}b}" if size else "") + "0"
    return out + _packed(bits)


def _packed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return (int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b"").replace(b"\xff", b"\xff\0")


def png_chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) if crc is None else crc)


def png(samples: np.ndarray, color_type: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """PNG of uint8 or uint16 (H, W, channels), with chunks before and after the pixels."""
    height, width = samples.shape[:2]
    bits = 8 * samples.dtype.itemsize
    rows = samples.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + png_chunk(b"IDAT", zlib.compress(raw)) + after + png_chunk(b"IEND", b"")


def exif_block(turn: int, order: str = "<") -> bytes:
    """A TIFF structure that says nothing but the orientation."""
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}LHHHLHHL", 8, 1, 0x0112, 3, 1, turn, 0, 0)


def tiff(samples: np.ndarray, *, photometric: int | None = None, extra: Sequence[tuple[int, int, int]] = (), bits: int = 0) -> bytes:
    """Little-endian TIFF of one strip, of any dtype; `extra` are (tag, type, value), `bits` below the dtype's."""
    samples = np.ascontiguousarray(samples if samples.ndim == 3 else samples[..., None])
    height, width, channels = samples.shape
    bits = bits or 8 * samples.dtype.itemsize
    raw = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    if bits == 12:
        text = "".join(f"{value:012b}" for value in samples.ravel().tolist())
        raw = int(text, 2).to_bytes(len(text) // 8, "big")
    form = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    photometric = photometric if photometric is not None else 2 if channels >= 3 else 1
    arrays, tags = raw + b"\0" * (len(raw) % 2), {}
    for tag, value in ((258, bits), (339, form)):
        tags[tag] = (3, channels, value if channels == 1 else value | value << 16 if channels == 2 else 8 + len(arrays))
        arrays += struct.pack(f"<{channels}H", *[value] * channels) if channels > 2 else b""
        arrays += b"\0" * (len(arrays) % 2)
    tags |= {256: (3, 1, width), 257: (3, 1, height), 259: (3, 1, 1), 262: (3, 1, photometric), 273: (4, 1, 8)}
    tags |= {277: (3, 1, channels), 278: (3, 1, height), 279: (4, 1, len(raw))}
    tags |= {tag: (kind, 1, value) for tag, kind, value in extra}
    entries = b"".join(struct.pack("<HHLL", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<L", 8 + len(arrays)) + arrays + struct.pack("<H", len(tags)) + entries + bytes(4)


def bmp(
    pixels: bytes, height: int, width: int, bits: int, *, compression: int = 0, masks: Sequence[int] = (), palette: bytes = b""
) -> bytes:
    """BMP of rows as they are (the lowest first); with masks a V4 header, which alone may have an alpha mask."""
    size = 108 if masks else 40
    start = 14 + size + len(palette)
    info = struct.pack("<LllHHLLllLL", size, width, height, 1, bits, compression, len(pixels), 2835, 2835, len(palette) // 4, 0)
    if masks:
        info += struct.pack("<4L", *masks) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<LHHL", start + len(pixels), 0, 0, start) + info + palette + pixels


# ICC.1:2001-04. Colorants are XYZ under D50, as the standards' own profiles have them.
SRGB_XYZ = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3_XYZ = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_XYZ = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
WHITE_XYZ = (0.9642, 1.0, 0.8249)
ADOBE_GAMMA = 2.19921875


def srgb_curve(value: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: a value to light."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def srgb_value(light: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: light to a value."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def icc_profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    body, table, at = b"", struct.pack(">I", len(tags)), 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    white = b"".join(map(_number, WHITE_XYZ))
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x02400000, kind, space, connection)
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + white
    return head.ljust(128, b"\0") + table + body


def _texts(name: str) -> dict[bytes, bytes]:
    text = name.encode() + b"\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    return {b"desc": described, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": b"XYZ " + bytes(4) + b"".join(map(_number, WHITE_XYZ))}


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    values = np.rint(srgb_curve(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + values.tobytes()


def rgb_profile(colorants: Sequence[tuple[float, float, float]], gamma: float | None = None, name: str = "drawn") -> bytes:
    """Profile of three colorants with one curve: a gamma, or sRGB's."""
    tags = _texts(name)
    for letter, xyz in zip(b"rgb", colorants, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ " + bytes(4) + b"".join(map(_number, xyz))
        tags[bytes([letter]) + b"TRC"] = _curve(gamma)
    return icc_profile(b"RGB ", tags)


def gray_profile(gamma: float) -> bytes:
    return icc_profile(b"GRAY", _texts("drawn gray") | {b"kTRC": _curve(gamma)})


def cmyk_profile(corners: np.ndarray) -> bytes:
    """Profile of four inks by the Lab colour (2, 2, 2, 2, 3) of each mixture of full and no ink; between them it is interpolated."""
    lab = np.stack([corners[..., 0] / 100 * 65280, (corners[..., 1] + 128) * 256, (corners[..., 2] + 128) * 256], axis=-1)
    ramp = struct.pack(">2H", 0, 65535)
    matrix = b"".join(map(_number, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + struct.pack(">2H", 2, 2)
    table += ramp * 4 + np.rint(lab).astype(">u2").tobytes() + ramp * 3
    tags = _texts("drawn inks") | {b"A2B0": table, b"A2B1": table, b"A2B2": table}
    return icc_profile(b"CMYK", tags, kind=b"prtr", connection=b"Lab ")


def in_space(image: np.ndarray, colorants: Sequence[tuple[float, float, float]], gamma: float | None = None) -> np.ndarray:
    """The same colours, sRGB uint8 (..., 3), as values of another space of three colorants, which must hold them."""
    light = srgb_curve(image / 255) @ np.array(SRGB_XYZ) @ np.linalg.inv(np.array(colorants))
    assert light.min() > -1e-4 and light.max() < 1 + 1e-4
    values = srgb_value(light) if gamma is None else np.clip(light, 0, 1) ** (1 / gamma)
    return np.rint(values * 255).astype(np.uint8)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """CIE Lab under D50 (..., 3) to sRGB uint8, what sRGB cannot show clipped (CIE 15, IEC 61966-2-1)."""
    middle = (lab[..., 0] + 16) / 116
    scaled = np.stack([middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200], axis=-1)
    xyz = np.where(scaled > 6 / 29, scaled**3, 3 * (6 / 29) ** 2 * (scaled - 4 / 29)) * np.array(WHITE_XYZ)
    return np.rint(srgb_value(xyz @ np.linalg.inv(np.array(SRGB_XYZ))) * 255).astype(np.uint8)
