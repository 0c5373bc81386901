"""The zip format: its directory, an entry at a time, and the bytes of a member.

zipfile refuses a whole archive for one name that is not UTF-8, one extra field that is cut, or one entry of a newer version; here an odd
entry costs itself alone. It also reads the whole directory in every process, and takes 12 µs per image instead of 2.
"""

import bz2
import contextlib
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fastfashion.errors import InputError
from fastfashion.remote import ask, is_remote
from fastfashion.sources.listing import ENCRYPTED, Member, kind_of_file
from fastfashion.sources.ranges import RemoteVersion, read_part
from fastfashion.untrusted import open_regular

# APPNOTE.TXT 4.3.16, 4.3.15, 4.3.14, 4.3.12
_END, _LOCATOR, _END64, _ENTRY = (struct.Struct(f"<4s{form}") for form in ("4H2LH", "LQL", "Q2H2L4Q", "4B4H3L5H2L"))
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and the extra field (4.3.7)
_LZMA_HEAD = struct.Struct("<2xHBL")  # version, length of what follows, properties, bytes of the dictionary (5.8.8)
_UTF8, _ENCRYPTED = 0x800, 1  # flags of an entry
_UNIX = 3  # "made by": the upper bits of its attributes are a mode
_NEWEST = 63  # ten times the version of the format that a reader has to know
_MAX_COMMENT = 0xFFFF
_LONGEST_ENTRY = _ENTRY.size + 3 * 0xFFFF
_EXTRA_BYTES = 64  # a guess at the extra field, so that header and image come with one read
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_LZMA_MIN_DICT = 4096
CHUNK_BYTES = 4 << 20  # of a directory, held at once
MOST_BYTES = 256 << 20  # of a directory: its entries are kept, those of 2,000,000 images with names of 80 bytes
AGAIN = "write the zip again"

Read = Callable[[int, int], bytes]  # bytes of the zip from here to there; fewer if it ends before


class DamagedError(InputError):
    """The content of a zip does not match its directory."""


def read_entries(path: Path, version: RemoteVersion | None = None) -> Iterator[Member]:
    """The entries of a zip, here or, of one `version`, at a remote place. Raises as `read_directory`, `read_part` and `remote.ask`."""
    if is_remote(path):
        known = version or version_of(path)
        yield from read_directory(lambda start, end: ask(path, lambda: read_part(path, start, end, known)[0]), known.size)
        return
    with open_regular(path) as file:

        def read(start: int, end: int) -> bytes:
            file.seek(start)
            return file.read(end - start)

        yield from read_directory(read, file.seek(0, os.SEEK_END))


def version_of(path: Path) -> RemoteVersion:
    """The version that a remote file has now. Raises as `read_part` and `remote.ask`."""
    return ask(path, lambda: read_part(path, 0, 1))[1]


def read_directory(read: Read, size: int) -> Iterator[Member]:
    """Every entry but folders, in the archive's order, with names as they are written; one that cannot be read has a `problem`.

    Raises zipfile.BadZipFile if there is no directory, or it is cut.
    """
    tail_at = max(0, size - _END.size - _MAX_COMMENT - _LOCATOR.size - _END64.size)
    tail = read(tail_at, size)
    at, before, num_bytes = _find_directory(tail, tail_at)
    if num_bytes > MOST_BYTES:
        raise zipfile.BadZipFile(f"its directory has {num_bytes} bytes, more than {MOST_BYTES}: pack its images into several zips")
    end = at + num_bytes
    held = b""
    while at < end or held:
        if len(held) < _LONGEST_ENTRY and at < end:
            more = tail[at - tail_at : end - tail_at] if at >= tail_at else read(at, min(at + CHUNK_BYTES, end))
            if not more:
                raise zipfile.BadZipFile("Truncated central directory")
            held, at = held + more, at + len(more)
            continue
        view, place = memoryview(held), 0
        while len(held) - place >= _LONGEST_ENTRY or (at >= end and place < len(held)):
            member, place = _entry(view, place, before)
            if member is not None:
                yield member
        held = held[place:]


def _find_directory(tail: bytes, tail_at: int) -> tuple[int, int, int]:
    """Where the directory begins, how many bytes are before the archive in the file, and the directory's length."""
    at = tail.rfind(b"PK\5\6", max(0, len(tail) - _END.size - _MAX_COMMENT - 1))
    if at < 0 or at + _END.size > len(tail):
        raise zipfile.BadZipFile("File is not a zip file")
    num_bytes, offset = _END.unpack_from(tail, at)[5:7]
    end = at
    locator, record = at - _LOCATOR.size, at - _LOCATOR.size - _END64.size
    if record >= 0 and tail.startswith(b"PK\6\7", locator) and tail.startswith(b"PK\6\6", record):
        num_bytes, offset = _END64.unpack_from(tail, record)[8:10]
        end = record
    before = tail_at + end - num_bytes - offset
    if offset + before < 0:
        raise zipfile.BadZipFile("Bad offset for central directory")
    return offset + before, before, num_bytes


def _entry(view: memoryview, at: int, before: int) -> tuple[Member | None, int]:
    """The entry at a place, None for a folder's, and where the next begins."""
    if len(view) - at < _ENTRY.size:
        raise zipfile.BadZipFile("Truncated central directory")
    signature, _, system, version, _, flags, method, _, _, crc32, packed, size, *rest = _ENTRY.unpack_from(view, at)
    name_bytes, extra_bytes, comment_bytes, _, _, attributes, offset = rest
    if signature != b"PK\1\2":
        raise zipfile.BadZipFile("Bad magic number for central directory")
    at += _ENTRY.size
    after = at + name_bytes + extra_bytes + comment_bytes
    if after > len(view):
        raise zipfile.BadZipFile("Truncated central directory")
    name, problem = _name(bytes(view[at : at + name_bytes]), flags)
    if name.endswith(("/", "\\")):
        return None, after
    if 0xFFFFFFFF in (size, packed, offset):
        sizes = _sizes64(bytes(view[at + name_bytes : at + name_bytes + extra_bytes]), size, packed, offset)
        problem = problem or ("its sizes in the zip's directory are damaged" if sizes is None else "")
        size, packed, offset = sizes or (0, 0, 0)
    if version > _NEWEST:
        problem = problem or f"it needs version {version / 10} of the zip format; {AGAIN}"
    kind = stat.S_IFMT(attributes >> 16)
    if system == _UNIX and kind not in (0, stat.S_IFREG):  # a link is stored as the path that it leads to
        problem = problem or f"{kind_of_file(kind)} in the zip, which holds no data: write the zip with the files themselves"
    method = ENCRYPTED if flags & _ENCRYPTED else method
    return Member(name, offset + before, packed, size, method, crc32, problem), after


def _name(written: bytes, flags: int) -> tuple[str, str]:
    """A name, read as UTF-8 even if the zip does not declare that, as macOS writes it; and what is wrong with it."""
    written = written.partition(b"\0")[0]
    with contextlib.suppress(UnicodeDecodeError):
        return written.decode("utf-8"), ""
    if flags & _UTF8:
        return written.decode("utf-8", "replace"), f"its name is not UTF-8, although the zip declares it so; {AGAIN}"
    return written.decode("cp437"), ""


def _sizes64(extra: bytes, *sizes: int) -> tuple[int, ...] | None:
    """The sizes that do not fit into 32 bits, from the zip64 field (APPNOTE.TXT 4.5.3); None if that is cut."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{min(length, len(extra) - 4) // 8}Q", extra, 4))
            found = [next(wide, -1) if size == 0xFFFFFFFF else size for size in sizes]
            return None if -1 in found else tuple(found)
        extra = extra[4 + length :]
    return None


def check_method(member: Member) -> None:
    """Raises InputError for a member that is encrypted, or compressed in a way that is not read."""
    if member.method not in _METHODS:
        how = "encrypted" if member.method == ENCRYPTED else f"compressed by method {member.method}"
        raise InputError(f"it is {how}; expected stored, deflated, bzip2 or LZMA, {AGAIN}")


def packed_bytes(read: Read, member: Member) -> tuple[bytes, bool]:
    """A member's bytes as they are in the zip, and whether a file header precedes them; without one, the bytes in its place."""
    guess = _LOCAL_HEADER.size + len(member.name.encode(errors="replace")) + _EXTRA_BYTES + member.packed
    head = read(member.offset, member.offset + guess)
    if not head.startswith(b"PK\x03\x04") or len(head) < _LOCAL_HEADER.size:
        return head, False
    start = _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack_from(head)[1:])
    if start + member.packed > guess:  # an extra field longer than guessed
        return read(member.offset + start, member.offset + start + member.packed), True
    return head[start : start + member.packed], True


def unpack(packed: bytes, has_header: bool, member: Member) -> bytes:
    """The bytes of a member; a zip bomb is recognised by one byte more than declared. Raises DamagedError if anything is wrong."""
    if not has_header:
        raise DamagedError(f"no file header at byte {member.offset} of the zip; download it again")
    most = member.size + 1
    try:
        if member.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
        elif member.method == zipfile.ZIP_BZIP2:
            data = bz2.BZ2Decompressor().decompress(packed, most)
        elif member.method == zipfile.ZIP_LZMA:
            data = _lzma(packed, member.size).decompress(packed[_LZMA_HEAD.size :], most)
        else:
            data = packed
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError, struct.error) as error:
        raise DamagedError(f"damaged in the zip ({error or type(error).__name__}); download the zip again") from error
    if len(data) != member.size:
        raise DamagedError(f"expected {member.size} bytes, found {len(data)}; download the zip again")
    if zlib.crc32(data) != member.crc32:
        raise DamagedError("Bad CRC-32; download the zip again")
    return data


def _lzma(packed: bytes, size: int) -> lzma.LZMADecompressor:
    """Decompress LZMA with a dictionary of at most as many bytes as the image has, whatever the stream asks for."""
    _, properties, dict_bytes = _LZMA_HEAD.unpack_from(packed)
    lc, lp, pb = properties % 9, properties // 9 % 5, properties // 45
    dict_bytes = max(_LZMA_MIN_DICT, min(dict_bytes, size))
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": dict_bytes, "lc": lc, "lp": lp, "pb": pb}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
