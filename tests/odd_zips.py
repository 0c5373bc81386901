"""Zips whose entries lie or are damaged, written by hand from APPNOTE.TXT: what our readers make of one odd entry among good ones."""

import bz2
import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class Entry:
    """One file of a zip; what is None is as it should be."""

    data: bytes  # the image
    name: bytes = b""
    packed: bytes | None = None
    method: int = zipfile.ZIP_STORED
    flags: int = 0x800
    version: int = 20
    crc32: int | None = None
    size: int | None = None
    packed_size: int | None = None
    offset: int | None = None
    extra: bytes = b""
    attributes: int = 0
    signature: bytes = b"PK\3\4"  # of the header before its bytes


def deflated(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


def lzma_of(data: bytes, dict_bytes: int = 1 << 16) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": 3, "lp": 0, "pb": 2}]
    return struct.pack("<BBHBL", 9, 4, 5, 93, dict_bytes) + lzma.compress(data, lzma.FORMAT_RAW, filters=filters)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def good_entries(data: bytes) -> dict[str, Entry]:
    """Every way in which an image may be in a zip."""
    return {
        "stored": Entry(data=data),
        "deflated": Entry(data=data, packed=deflated(data), method=8),
        "bzip2": Entry(data=data, packed=bz2.compress(data), method=12),
        "LZMA": Entry(data=data, packed=lzma_of(data), method=14),
        "LZMA that asks for 4 GB of memory": Entry(data=data, packed=lzma_of(data, 0xFFFFFFFF), method=14),
        "a patch, it says, but with the right checksum": Entry(data=data, flags=0x820),
        "an extra field that says it is longer": Entry(data=data, extra=struct.pack("<HH", 0xCAFE, 500) + b"12"),
        "sizes in 64 bits": Entry(
            data=data, size=0xFFFFFFFF, packed_size=0xFFFFFFFF, extra=struct.pack("<HHQQ", 1, 16, len(data), len(data)), version=45
        ),
    }


def odd_entries(data: bytes) -> dict[str, tuple[Entry, str]]:
    """Entries that cannot be read, and what is said of them: all for which zipfile raises, for the entry or for all of the zip."""
    packed, twelve = deflated(data), bz2.compress(data)
    damaged = "damaged in the zip|bytes, found|Bad CRC-32"
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "damaged stored": ({"packed": flipped(data, 50)}, "Bad CRC-32"),
        "damaged deflate": ({"packed": flipped(packed, 0), "method": 8}, damaged),
        "deflate that ends early": ({"packed": packed[:-20], "method": 8}, damaged),
        "damaged bzip2": ({"packed": flipped(twelve, 8), "method": 12}, damaged),
        "bzip2 that is none": ({"packed": b"nothing of the kind", "method": 12}, damaged),
        "damaged LZMA": ({"packed": flipped(lzma_of(data), 12), "method": 14}, damaged),
        "LZMA of impossible settings": ({"packed": flipped(lzma_of(data), 4), "method": 14}, damaged),
        "LZMA without its head": ({"packed": b"\x09\x04", "method": 14}, damaged),
        "LZMA of no bytes": ({"packed": b"", "method": 14}, damaged),
        "another checksum": ({"crc32": 7}, "Bad CRC-32"),
        "longer than it says": ({"size": len(data) - 9, "packed": packed, "method": 8}, "bytes, found"),
        "shorter than it says": ({"size": len(data) + 9, "packed": packed, "method": 8}, "bytes, found"),
        "of 4 GB, it says": ({"size": 0xFFFFFFFE}, "more than an image may have"),
        "beyond the end": ({"offset": 10_000_000}, "no file header"),
        "in the middle of another": ({"offset": 3}, "no file header"),
        "another header": ({"signature": b"PK\7\x08"}, "no file header"),
        "encrypted": ({"flags": 0x801}, "encrypted"),
        "strongly encrypted": ({"flags": 0x841}, "encrypted"),
        "method 97": ({"method": 97}, "compressed by method 97"),
        "AES": ({"method": 99, "flags": 0x801}, "encrypted"),
        "a newer version": ({"version": 99}, "version 9.9 of the zip format"),
        "64 bits that are not there": ({"size": 0xFFFFFFFF, "version": 45}, "sizes in the zip's directory are damaged"),
        "64 bits that are cut": ({"size": 0xFFFFFFFF, "extra": struct.pack("<HHL", 1, 16, 5), "version": 45}, "are damaged"),
        "a link": ({"attributes": 0o120777 << 16}, "a link in the zip"),
        "a name that is not UTF-8": ({"name": b"images/\xff\xfe.jpg"}, "its name is not UTF-8"),
    }
    return {what: (Entry(data=data, **changes), said) for what, (changes, said) in wrong.items()}


def write_zip(entries: list[Entry]) -> bytes:
    body, directory = bytearray(), bytearray()
    for entry in entries:
        packed = entry.data if entry.packed is None else entry.packed
        crc32 = zlib.crc32(entry.data) if entry.crc32 is None else entry.crc32
        size = len(entry.data) if entry.size is None else entry.size
        packed_size = len(packed) if entry.packed_size is None else entry.packed_size
        common = struct.pack(
            "<5H3L2H", entry.version, entry.flags, entry.method, 0, 33, crc32, packed_size, size, len(entry.name), len(entry.extra)
        )
        offset = len(body) if entry.offset is None else entry.offset
        system = 3 if entry.attributes else 0
        directory += (
            b"PK\1\2" + bytes([20, system]) + common + struct.pack("<3H2L", 0, 0, 0, entry.attributes, offset) + entry.name + entry.extra
        )
        body += entry.signature + common + entry.name + entry.extra + packed
    count = len(entries)
    return bytes(body + directory) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)


def odd_zip(data: bytes, more: list[Entry]) -> tuple[bytes, list[str], dict[str, str]]:
    """A zip of every good and every odd entry after `more`; the names of the good ones, and what is said of each odd one by its name."""
    good, odd = good_entries(data), odd_entries(data)
    for number, entry in enumerate([*good.values(), *(entry for entry, _ in odd.values())]):
        entry.name = entry.name or f"images/{number:02d}.jpg".encode()
    names = [entry.name.decode() for entry in good.values()]
    said = {entry.name.decode(errors="replace"): words for entry, words in odd.values()}
    return write_zip([*more, *good.values(), *(entry for entry, _ in odd.values())]), names, said
