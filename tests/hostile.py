"""Hostile files, drawn by code: small, and harmless to anybody's software. Headers that lie are for our own parsers.

bytes of a good file ─► cut_short, with_bits_flipped, patched ─► damaged ones
values of a good JSON document ─► wrong_json ─► one document for each way in which each value can be wrong
"""

import io
import json
import os
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from odd_writers import exif_block, jpeg_segment, png_chunk
from PIL import Image

# Of every kind that a terminal acts on: a colour, a title (OSC), a lone ESC, CSI and NEL of C1, DEL, a line's end, right-to-left override.
CONTROLS = "\x1b[31m\x1b]0;title\x07\x1b\x9b1m\x85\x7f\r\n\t\b\u202e\u2066"
FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1")  # what a spreadsheet would calculate


def cut_short(data: bytes, step: int = 1) -> Iterator[bytes]:
    """Every prefix of it, the empty one too, but not the whole."""
    yield from (data[:length] for length in range(0, len(data), step))


def with_bits_flipped(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` copies, each with one bit of it the other way, at places that depend on `seed` alone."""
    for bit in np.random.default_rng(seed).integers(0, 8 * len(data), count).tolist():
        yield patched(data, bit // 8, bytes([data[bit // 8] ^ 1 << bit % 8]))


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """The same with `new` at a place, of the same length; a negative place counts from the end."""
    at %= len(data)
    return data[:at] + new + data[at + len(new) :]


def encoded(form: str, height_px: int = 12, width_px: int = 16, **options: Any) -> bytes:
    """A good image of a few bytes."""
    file = io.BytesIO()
    ramp = np.arange(height_px * width_px * 3, dtype=np.uint32).reshape(height_px, width_px, 3) % 251
    Image.fromarray(ramp.astype(np.uint8)).save(file, form, **options)
    return file.getvalue()


# Headers without an image behind them.


def frame(
    height_px: int, width_px: int, *, marker: int = 0xC0, bits: int = 8, parts: bytes = b"\1\x11\0", count: int | None = None
) -> bytes:
    """A frame header of a JPEG; `parts` are three bytes a component, of which it says there are `count`."""
    body = bytes([bits]) + height_px.to_bytes(2, "big") + width_px.to_bytes(2, "big") + bytes([len(parts) // 3 if count is None else count])
    return jpeg_segment(marker, body + parts)


def jpeg_of(*segments: bytes, scan: bytes = b"\1\1\0\0\x3f\0") -> bytes:
    """A JPEG of these segments that ends where its first scan would begin."""
    return b"\xff\xd8" + b"".join(segments) + jpeg_segment(0xDA, scan)


def hostile_jpegs() -> dict[str, bytes]:
    good, long = frame(8, 8), b"\xff\xfe\xff\xff"  # a comment that says that it is as long as can be
    exif = b"Exif\0\0II*\0"
    chunk = jpeg_segment(0xE2, b"ICC_PROFILE\0\2\2" + b"x" * 200)
    return {
        "only a start": b"\xff\xd8\xff",
        "a start and an end": b"\xff\xd8\xff\xd9",
        "fill bytes alone": b"\xff\xd8" + b"\xff" * 5000,
        "zeros alone": b"\xff\xd8\xff" + b"\0" * 5000,
        "100,000 markers without a length": b"\xff\xd8" + b"\xff\x01" * 100_000,
        "100,000 empty comments": b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000,
        "pairs of 0xff and 0": b"\xff\xd8\xff\xe0" + b"\xff\0" * 50_000,
        "a length of zero": b"\xff\xd8\xff\xe0\0\0" + good,
        "a length of one": b"\xff\xd8\xff\xe0\0\1" + good,
        "a length past the end": b"\xff\xd8" + good + long,
        "no frame before the scan": jpeg_of(),
        "two frames": jpeg_of(good, good),
        "0x0 pixels": jpeg_of(frame(0, 0)),
        "65535x65535 pixels": jpeg_of(frame(65535, 65535)),
        "no components": jpeg_of(frame(8, 8, parts=b"")),
        "255 components": jpeg_of(frame(8, 8, parts=b"\1\x11\0" * 255)),
        "255 components, one there": jpeg_of(frame(8, 8, count=255)),
        "sampled 15 by 15": jpeg_of(frame(8, 8, parts=b"\1\xff\0")),
        "sampled 0 by 0": jpeg_of(frame(8, 8, parts=b"\1\0\0")),
        "0 bits a sample": jpeg_of(frame(8, 8, bits=0)),
        "a scan without a body": b"\xff\xd8" + good + b"\xff\xda\0\2",
        "exif cut short": jpeg_of(good, jpeg_segment(0xE1, exif)),
        "exif of 65535 entries": jpeg_of(good, jpeg_segment(0xE1, exif + b"\x08\0\0\0\xff\xff" + b"\0" * 12)),
        "exif that starts past its end": jpeg_of(good, jpeg_segment(0xE1, exif + b"\xff\xff\xff\xff")),
        "exif in exif": jpeg_of(good, jpeg_segment(0xE1, b"Exif\0\0" * 5000 + exif_block(6))),
        "profile chunks 2 of 2 alone": jpeg_of(good, chunk),
        "profile chunk 0 of 0": jpeg_of(good, jpeg_segment(0xE2, b"ICC_PROFILE\0\0\0")),
        "300 profile chunks of one number": jpeg_of(good, chunk * 300),
    }


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_header(height_px: int, width_px: int, bits: int = 8, color: int = 2) -> bytes:
    return png_chunk(b"IHDR", width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big") + bytes([bits, color, 0, 0, 0]))


def hostile_pngs() -> dict[str, bytes]:
    head, end = png_header(4, 4), png_chunk(b"IEND", b"")
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * 13 * 4))
    return {
        "a signature alone": png_of(),
        "no header": png_of(pixels, end),
        "no pixels": png_of(head, end),
        "no end": png_of(head, pixels),
        "0x0 pixels": png_of(png_header(0, 0), pixels, end),
        "4294967295 pixels each way": png_of(png_header(2**32 - 1, 2**32 - 1), pixels, end),
        "60000x60000 pixels": png_of(png_header(60_000, 60_000), pixels, end),
        "3 bits a sample": png_of(png_header(4, 4, bits=3), pixels, end),
        "colour type 200": png_of(png_header(4, 4, color=200), pixels, end),
        "a length past the end": png_of(head, b"\xff\xff\xff\xff" + pixels[4:], end),
        "a length of zero for a full chunk": png_of(head, b"\0\0\0\0" + pixels[4:], end),
        "a wrong checksum": png_of(head, patched(pixels, -1, b"\0"), end),
        "a palette that is none": png_of(png_header(4, 4, color=3), pixels, end),
        "pixels that are not deflated": png_of(head, png_chunk(b"IDAT", b"x" * 60), end),
        "fewer pixels than said": png_of(head, png_chunk(b"IDAT", zlib.compress(b"\0" * 5)), end),
        "20,000 empty texts": png_of(head, png_chunk(b"tEXt", b"") * 20_000, pixels, end),
        "a profile of 64 MiB, deflated": png_of(head, png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(64 << 20), 9)), pixels, end),
        "a profile that is not deflated": png_of(head, png_chunk(b"iCCP", b"p\0\0xyz"), pixels, end),
        "a profile without a name's end": png_of(head, png_chunk(b"iCCP", b"p"), pixels, end),
        "exif cut short": png_of(head, png_chunk(b"eXIf", b"II*\0\xff"), pixels, end),
        "transparency of no length": png_of(head, png_chunk(b"tRNS", b""), pixels, end),
        "an empty chunk name": png_of(head, png_chunk(b"\0\0\0\0", b""), pixels, end),
    }


def hostile_others() -> dict[str, bytes]:
    """Beginnings of the other formats, and of what is none."""
    riff = b"RIFF\xff\xff\xff\xffWEBP"
    return {
        "nothing": b"",
        "one byte": b"\xff",
        "a page": b"<!DOCTYPE html><p>not found",
        "zeros": bytes(4096),
        "webp: a signature alone": riff,
        "webp: a chunk past the end": riff + b"VP8 \xff\xff\xff\x7f",
        "webp: 16384x16384 without pixels": riff + b"VP8X\x0a\0\0\0\x10\0\0\0\xff\x3f\0\xff\x3f\0",
        "gif: a signature alone": b"GIF89a",
        "gif: 65535x65535 without pixels": b"GIF89a\xff\xff\xff\xff\0\0\0;",
        "bmp: a signature alone": b"BM",
        "bmp: a header size of 2^32-1": b"BM" + b"\0" * 12 + b"\xff\xff\xff\xff" + b"\0" * 40,
        "bmp: negative sizes": b"BM" + b"\0" * 12 + b"\x28\0\0\0" + b"\x01\0\0\x80" * 2 + b"\1\0\x18\0" + b"\0" * 24,
        "tiff: a signature alone": b"II*\0",
        "tiff: a directory past the end": b"II*\0\xff\xff\xff\x7f",
        "tiff: a directory that is the header": b"II*\0\0\0\0\0" + b"\0" * 16,
        "tiff: 65535 entries, none there": b"II*\0\x08\0\0\0\xff\xff",
        "ico: a signature alone": b"\0\0\1\0",
        "ico: 65535 images, none there": b"\0\0\1\0\xff\xff",
        "avif: a box past the end": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1\xff\xff\xff\xffmeta",
    }


# Archives.


def zip_of(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, compression)
    return file.getvalue()


def member_place(data: bytes, name: str) -> slice:
    """Where in a zip the (compressed) bytes of a member are."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = archive.getinfo(name)
    start = found.header_offset
    name_bytes, extra_bytes = (int.from_bytes(data[start + at : start + at + 2], "little") for at in (26, 28))
    begin = start + 30 + name_bytes + extra_bytes
    return slice(begin, begin + found.compress_size)


def tar_of(members: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar of files, and of what else a TarInfo can be: a link, a device, a FIFO."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


# Data.

WRONG_VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "-1": "-1",
    "half": "0.5",
    "2^64": str(2**64),
    "a number of 5,000 digits": "9" * 5000,
    "1e999": "1e999",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "a text": '"\\u001b[31m../../etc"',
    "a list": "[[]]",
    "an object": '{"": {}}',
}
_HOLE = "\0hole\0"


def wrong_json(document: Any, depth: int = 3) -> Iterator[tuple[str, str]]:
    """(what is wrong, text): each value of a document, down to `depth` levels, left out or put wrong, one at a time.

    Of a list, the first item. Not every change must be refused (a -1 may be allowed somewhere): the caller knows which.
    """

    def texts(value: Any, where: str, left: int, put: Callable[[Any], Any]) -> Iterator[tuple[str, str]]:
        whole = json.dumps(put(_HOLE))
        for name, text in WRONG_VALUES.items():
            if text != json.dumps(value):
                yield f"{where or 'all'}: {name}", whole.replace(json.dumps(_HOLE), text)
        if not left:
            return
        keys = list(value) if isinstance(value, dict) else list(range(min(1, len(value)))) if isinstance(value, list) else []
        for key in keys:
            if isinstance(value, dict):
                yield f"{where}.{key}: missing", json.dumps(put({other: value[other] for other in value if other != key}))

            def put_here(new: Any, key: Any = key) -> Any:
                if isinstance(value, dict):
                    return put(value | {key: new})
                return put([*value[:key], new, *value[key + 1 :]])

            yield from texts(value[key], f"{where}.{key}", left - 1, put_here)

    yield from texts(document, "", depth, lambda new: new)


def wrong_texts(document: Any) -> dict[str, bytes]:
    """What is not a JSON document, or not in UTF-8."""
    good = json.dumps(document).encode()
    return {
        "empty": b"",
        "zeros": bytes(100),
        "half": good[: len(good) // 2],
        "twice": good * 2,
        "10,000 levels deep": b"[" * 10_000 + b"]" * 10_000,
        "latin-1": '{"é": 1}'.encode("latin-1"),
        "utf-16": json.dumps(document).encode("utf-16"),
    }


def special_files(folder: Path) -> dict[str, Path]:
    """What has a name and is not a file: to open one of these without a check is to wait, or to read forever."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("fifo", "link to a fifo", "link to a device", "socket", "folder", "link to itself", "link to nothing")
    found = {name: folder / name.replace(" ", "-") for name in names}
    os.mkfifo(found["fifo"])
    found["link to a fifo"].symlink_to("fifo")
    found["link to a device"].symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as waiting:
        here = os.open(folder, os.O_RDONLY)  # a socket's path has a hundred bytes at most
        waiting.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    found["folder"].mkdir()
    found["link to itself"].symlink_to("link-to-itself")
    found["link to nothing"].symlink_to("gone")
    return found
