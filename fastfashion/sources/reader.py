"""The bytes of members of a source: read from a disk, or fetched from a remote place with retries."""

import os
import stat
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastfashion.errors import InputError
from fastfashion.remote import is_remote
from fastfashion.retry import PATIENCE_S, Patience, describe, passes, refuses, retrying, say_waiting
from fastfashion.sources.listing import Member, kind_of_file
from fastfashion.sources.ranges import RemoteVersion, UnreachableError, read_part, tried_again
from fastfashion.sources.zips import DamagedError, check_method, packed_bytes, unpack
from fastfashion.terminal import printable
from fastfashion.untrusted import open_regular
from fastfashion.words import why

MAX_IMAGE_BYTES = 256 << 20  # a JPEG of 100 megapixels has some 50 MiB; a zip bomb unpacks to gigabytes
REQUESTS = 16  # to object storage at once: at 50 ms a request, 320 images a second
_ONE_AT_A_TIME = threading.Lock()  # to read at a place of a file, where the system has no call for it
UNKNOWN_PATIENCE_S = 10.0  # with an error that is known neither to pass nor to stay


@dataclass(frozen=True)
class Reader:
    """Bytes of members. Can be sent to other processes, where it opens its own file handle at the first read."""

    path: Path
    is_zip: bool
    version: RemoteVersion | None = None  # of a remote zip: every part has to be of it
    _file: list[BinaryIO] = field(default_factory=list, repr=False, compare=False)
    _said: list[bool] = field(default_factory=list, repr=False, compare=False)  # by one of many threads, that a server is waited for

    def read(self, member: Member, max_bytes: float = MAX_IMAGE_BYTES) -> bytes:
        """The bytes of one member.

        Raises InputError if it is missing, damaged, or larger than `max_bytes`, UnreachableError if a remote place is silent.
        """
        try:
            if member.problem:
                raise InputError(member.problem)
            if max(member.size, member.packed) > max_bytes:
                raise InputError(f"{max(member.size, member.packed)} bytes, more than an image may have ({max_bytes}): remove it")
            if self.is_zip:
                return self._read_zipped(member)
            if is_remote(self.path):
                return self._fetch_remote(self.path / member.name, 0, None, RemoteVersion(member.size))
            return _read_file(self.path / member.name, max_bytes)
        except UnreachableError:
            raise
        except (OSError, OverflowError, InputError) as error:
            raise InputError(f"cannot read {printable(member.name)}: {why(error)}") from error

    def read_many(self, members: Iterable[Member]) -> Iterator[bytes | InputError]:
        """The bytes of each member in turn, or why there are none. From remote places, several requests run ahead.

        Raises UnreachableError if a remote place stops answering.
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
        check_method(member)
        if not is_remote(self.path):
            return unpack(*packed_bytes(self._fetch, member), member)
        received: set[int] = set()

        def attempt() -> bytes:
            packed, has_header = packed_bytes(self._fetch, member)
            received.add(hash(packed))
            return unpack(packed, has_header, member)

        try:
            return tried_again(attempt, DamagedError)
        except DamagedError as error:
            if len(received) == 1:
                raise  # the zip itself is damaged
            raise UnreachableError(
                f"{self.path}: {member.name} returns different bytes each time ({error}); download the zip first, or run the same command "
                "again later"
            ) from error

    def _fetch(self, start: int, end: int) -> bytes:
        """Bytes of the zip from `start` to `end`; fewer if it ends before."""
        if is_remote(self.path):
            return self._fetch_remote(self.path, start, end, self.version)
        if not self._file:
            self._file.append(open_regular(self.path))
        data = _read_at(self._file[0], end - start, start)
        while len(data) < end - start and (more := _read_at(self._file[0], end - start - len(data), start + len(data))):
            data += more  # Linux reads 2 GiB at most at once, and a table may have more
        return data

    def _fetch_remote(self, path: Path, start: int, end: int | None, version: RemoteVersion | None) -> bytes:
        """Bytes of a remote file. A request that fails is retried, unless the answer is a refusal; then it raises UnreachableError."""
        patience = Patience(PATIENCE_S)

        def retry(error: Exception) -> bool:
            if not passes(error):
                patience.patience_s = min(patience.patience_s, UNKNOWN_PATIENCE_S)
            return not isinstance(error, FileNotFoundError | UnreachableError) and not refuses(error)

        def on_wait(error: Exception) -> None:
            if not self._said and passes(error):
                self._said.append(True)
                say_waiting(path, error, patience)

        try:
            data, _ = retrying(lambda: read_part(path, start, end, version), patience, retry, on_wait=on_wait)
        except UnreachableError:
            raise
        except Exception as error:  # every file system has its own: aiohttp's and botocore's are no OSError
            if isinstance(error, FileNotFoundError) and end is None:  # one image of a folder, not the zip that holds all
                raise
            raise UnreachableError(f"{path}: cannot be read any more ({describe(error)}); run the same command again later") from error
        self._said.clear()
        return data

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "is_zip": self.is_zip, "version": self.version, "_file": [], "_said": []}


def _read_at(file: BinaryIO, num_bytes: int, start: int) -> bytes:
    """Bytes at a place of a file that several threads may read."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), num_bytes, start)
    with _ONE_AT_A_TIME:  # Windows
        file.seek(start)
        return file.read(num_bytes)


def _read_file(path: Path, max_bytes: float) -> bytes:
    """A regular file; nothing else is opened, since a pipe would wait for a writer and a device may act."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{kind_of_file(found.st_mode)}, no regular file")
    if found.st_size > max_bytes:
        raise InputError(f"more bytes than an image may have ({max_bytes}): remove it")
    return path.read_bytes()
