"""Files that somebody else may have written: opened only where they are files, read only as far as they may be long, checked by a schema.

A schema is a dataclass whose annotations say types and ranges: `num_rows: Count`, `sha256: Sha256`. docs/security.md says what is promised.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import msgspec

from fastfashion.errors import FastfashionError, InputError
from fastfashion.files import is_remote

T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


def open_regular(path: Path) -> BinaryIO:
    """A file opened for reading. Raises InputError at once for a FIFO, a device or a socket, whatever links lead to it; OSError as `open`.

    An open file is asked, not the name, which another process may change in between. O_NONBLOCK keeps a FIFO from waiting.
    """
    if is_remote(path):
        return path.open("rb")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise InputError(f"{path}: not a regular file, but a pipe, a device or a socket: name a file")


def read_limited(path: Path, max_bytes: int) -> bytes:
    """All bytes of a file. Raises InputError where it has more than `max_bytes`, or is no regular file; OSError as `open`."""
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(f"{path}: more than {max_bytes} bytes, the most that such a file may have")
    return data


def parse_json(data: bytes | str, schema: type[T], where: str, refuse: type[FastfashionError], advice: str) -> T:
    """JSON as an instance of `schema`. Raises `refuse` with the place and what was expected: numbers are finite, unknown fields pass."""
    try:
        return msgspec.json.decode(data, type=schema)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse(f"{where}: not as expected ({error}); {advice}") from error
