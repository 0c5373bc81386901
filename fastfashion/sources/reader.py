"""The bytes of members of a source: read here, or fetched with patience from a remote place."""

import bz2
import lzma
import os
import stat
import struct
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastfashion.errors import InputError
from fastfashion.files import is_remote
from fastfashion.remote import PATIENCE_S, Patience, describe, passes, refuses, say_waiting
from fastfashion.sources.listing import ENCRYPTED, Member, kind_of_file
from fastfashion.sources.ranges import UnreachableError, Version, read_part, tried_again
from fastfashion.terminal import printable
from fastfashion.untrusted import open_regular
from fastfashion.words import why

MAX_IMAGE_BYTES = 256 << 20  # a JPEG of 100 megapixels has some 50 MiB; a zip bomb unpacks to gigabytes
REQUESTS = 16  # on their way to object storage at once: at 50 ms a request, 320 images a second
UNKNOWN_PATIENCE_S = 10.0  # with an error that says neither that it passes nor that it stays
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and the extra field (APPNOTE.TXT 4.3.7)
_EXTRA_BYTES = 64  # a guess at the extra field, so that header and image come with one read
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_LZMA_MIN_DICT = 4096


class DamagedError(InputError):
    """What is in a zip is not what its directory says."""


@dataclass(frozen=True)
class Reader:
    """Bytes of members. Goes to other processes, where it opens its own file handle at the first read."""

    path: Path
    is_zip: bool
    version: Version | None = None  # of a remote zip: every part has to be of it
    _file: list[BinaryIO] = field(default_factory=list, repr=False, compare=False)
    _told: list[bool] = field(default_factory=list, repr=False, compare=False)  # that a server is waited for: by one of many threads

    def read(self, member: Member, max_bytes: float = MAX_IMAGE_BYTES) -> bytes:
        """The bytes of one member.

        Raises InputError where it is missing, damaged, or larger than `max_bytes`, UnreachableError where a remote place is silent.
        """
        try:
            if member.problem:
                raise InputError(member.problem)
            if max(member.size, member.packed) > max_bytes:
                raise InputError(f"{max(member.size, member.packed)} bytes, more than an image may have ({max_bytes}): remove it")
            if self.is_zip:
                return self._read_zipped(member)
            if is_remote(self.path):
                return _patiently(self.path / member.name, 0, None, Version(member.size), self._told)
            return _read_file(self.path / member.name, max_bytes)
        except UnreachableError:
            raise
        except (OSError, OverflowError, InputError) as error:
            raise InputError(f"cannot read {printable(member.name)}: {why(error)}") from error

    def read_many(self, members: Iterable[Member]) -> Iterator[bytes | InputError]:
        """The bytes of each member in turn, or why there are none. From remote places, several requests run ahead.

        Raises UnreachableError where a remote place does not answer any more.
        """
        if not is_remote(self.path):
            yield from map(self._attempt, members)
            return
        pool = ThreadPoolExecutor(REQUESTS)
        try:
            ahead: deque[Future[bytes | InputError]] = deque()
            for member in members:
                ahead.append(pool.submit(self._attempt, member))
                if len(ahead) == REQUESTS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _attempt(self, member: Member) -> bytes | InputError:
        try:
            return self.read(member)
        except UnreachableError:
            raise
        except InputError as error:
            return error

    def _read_zipped(self, member: Member) -> bytes:
        """zipfile reads the whole central directory first, and takes 12 µs an image where this takes 2."""
        if member.method not in _METHODS:
            how = "encrypted" if member.method == ENCRYPTED else f"compressed by method {member.method}"
            raise InputError(f"it is {how}; expected stored, deflated, bzip2 or LZMA, write the zip anew")
        if not is_remote(self.path):
            return _unpacked(self._packed(member), member)
        came: set[int] = set()
        try:
            return tried_again(lambda: _unpacked(self._packed(member, came), member), DamagedError)
        except DamagedError as error:
            if len(came) > 1:
                raise UnreachableError(
                    f"{self.path}: {member.name} comes with other bytes each time ({error}); download the zip first, or run the same "
                    "command again later"
                ) from error
            raise  # it is so in the zip

    def _packed(self, member: Member, came: set[int] | None = None) -> bytes:
        """A member as it is in the zip, behind its header; a hash of what came is added to those of earlier tries."""
        guess = _LOCAL_HEADER.size + len(member.name.encode(errors="replace")) + _EXTRA_BYTES + member.packed
        data = head = self._fetch(member.offset, member.offset + guess)
        begins = head.startswith(b"PK\x03\x04") and len(head) >= _LOCAL_HEADER.size
        if begins:
            start = _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack_from(head)[1:])
            data = head[start : start + member.packed]
            if start + member.packed > guess:  # an extra field longer than guessed
                data = self._fetch(member.offset + start, member.offset + start + member.packed)
        if came is not None:
            came.add(hash(data))
        if not begins:
            raise DamagedError(f"no file header at byte {member.offset} of the zip; download it again")
        return data

    def _fetch(self, start: int, end: int) -> bytes:
        """Bytes of the zip from `start` to `end`; fewer where it ends before."""
        if is_remote(self.path):
            return _patiently(self.path, start, end, self.version, self._told)
        if not self._file:
            self._file.append(open_regular(self.path))
        data = os.pread(self._file[0].fileno(), end - start, start)
        while len(data) < end - start and (more := os.pread(self._file[0].fileno(), end - start - len(data), start + len(data))):
            data += more  # Linux gives 2 GiB at most in one go, and a table may have more
        return data

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "is_zip": self.is_zip, "version": self.version, "_file": [], "_told": []}


def _read_file(path: Path, max_bytes: float) -> bytes:
    """A regular file; nothing else is opened, since a pipe would wait for a writer and a device may act."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{kind_of_file(found.st_mode)}, no regular file")
    if found.st_size > max_bytes:
        raise InputError(f"more bytes than an image may have ({max_bytes}): remove it")
    return path.read_bytes()


def _unpacked(packed: bytes, member: Member) -> bytes:
    """The bytes of a member. Raises DamagedError for whatever is wrong with it: a byte more than there should be tells of a bomb."""
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
        raise DamagedError(f"{len(data)} bytes instead of {member.size}; download the zip again")
    if zlib.crc32(data) != member.crc32:
        raise DamagedError("Bad CRC-32; download the zip again")
    return data


_LZMA_HEAD = struct.Struct("<2xHBL")  # version, length of what follows, properties, bytes of the dictionary (APPNOTE.TXT 5.8.8)


def _lzma(packed: bytes, size: int) -> lzma.LZMADecompressor:
    """With no more memory for its dictionary than the image has bytes, whatever the stream asks for."""
    _, properties, dict_bytes = _LZMA_HEAD.unpack_from(packed)
    lc, lp, pb = properties % 9, properties // 9 % 5, properties // 45
    dict_bytes = max(_LZMA_MIN_DICT, min(dict_bytes, size))
    return lzma.LZMADecompressor(
        lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": dict_bytes, "lc": lc, "lp": lp, "pb": pb}]
    )


def _patiently(path: Path, start: int, end: int | None, version: Version | None, told: list[bool]) -> bytes:
    """Bytes of a remote file; a request that fails is repeated, as networks are, unless the answer is a refusal."""
    patience: Patience | None = None
    while True:
        try:
            data, _ = read_part(path, start, end, version)
            told.clear()
            return data
        except UnreachableError:
            raise
        except Exception as error:  # every file system has its own: aiohttp's and botocore's are no OSError
            missing = isinstance(error, FileNotFoundError)
            if missing and end is None:  # one image of a folder, not the zip that holds all
                raise
            patience = patience or Patience(PATIENCE_S if passes(error) else UNKNOWN_PATIENCE_S)
            wait_s = None if missing or refuses(error) else patience.next_wait_s(error)
            if wait_s is None:
                raise UnreachableError(
                    f"{path}: cannot be read any more ({describe(error)}); run the same command again when it can"
                ) from error
            if not told and passes(error):
                told.append(True)
                say_waiting(path, error, patience)
            time.sleep(wait_s)
