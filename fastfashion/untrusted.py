"""Files that somebody else may have written: opened only if they are files, read only as far as they may be long, checked by a schema.

A schema is a dataclass whose annotations say types and ranges: `num_rows: Count`, `sha256: Sha256`. docs/security.md says what is promised.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar, cast

import msgspec

from fastfashion.errors import FastfashionError, InputError
from fastfashion.files import plain
from fastfashion.remote import is_remote, read

T = TypeVar("T")
_SMALL = 1 << 20
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))  # Windows has the last alone
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


def open_regular(path: Path) -> BinaryIO:
    """A file opened for reading. Raises InputError at once for a FIFO, a device or a socket, whatever links lead to it; OSError as `open`.

    An open file is asked, not the name, which another process may change in between. O_NONBLOCK keeps a FIFO from waiting.
    """
    if is_remote(path):
        return path.open("rb")
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise InputError(f"{path}: not a regular file, but a pipe, a device or a socket: name a file")


def read_limited(path: Path, max_bytes: int) -> bytes:
    """All bytes of a file. Raises InputError above `max_bytes` and if it is not a regular file; OSError as `open`, or as `remote.read`."""
    if is_remote(path):
        return read(path, max_bytes)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(min(max_bytes, max(size, _SMALL)) + 1)  # Python reserves as many bytes at once
    if len(data) > max_bytes:
        raise InputError(f"{path}: more than {max_bytes} bytes, the limit for such a file")
    return data


def parse_json(data: bytes | bytearray | str, schema: type[T], where: str, refuse: type[FastfashionError], advice: str) -> T:
    """JSON as an instance of `schema`. Raises `refuse` with the place and what was expected: numbers are finite, unknown fields pass."""
    try:
        return msgspec.json.decode(data, type=schema)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse(f"{where}: not as expected ({error}); {advice}") from error


SEAL = "description_sha256"  # of all else that a description says


@dataclass(frozen=True)
class Format:
    """What a description of ours calls itself. From `sealed` on it holds its own checksum, which covers that of the file beside it."""

    name: str
    oldest: int
    newest: int
    sealed: int


@dataclass(frozen=True)
class _Head:
    format: Any = None
    version: Any = None


def described(form: Format, values: Mapping[str, Any]) -> dict[str, Any]:
    """What to write as a description of the newest version."""
    said = plain({"format": form.name, "version": form.newest, **values})
    return said | {SEAL: _seal(said)}


def read_version(data: bytes, form: Format, where: str, refuse: type[FastfashionError], advice: str) -> int:
    """The version of a description. Raises `refuse` for another format or an unknown version."""
    head = parse_json(data, _Head, where, refuse, advice)
    if head.format != form.name or head.version not in range(form.oldest, form.newest + 1):
        known = " to ".join(map(str, sorted({form.oldest, form.newest})))
        if form.newest == form.oldest + 1:
            known = f"{form.oldest} or {form.newest}"
        raise refuse(f"{where}: expected {form.name} version {known}, found {head.format!r} version {head.version!r}; {advice}")
    return int(head.version)


def parse_description(data: bytes, form: Format, schema: type[T], where: str, refuse: type[FastfashionError], advice: str) -> T:
    """What `described` made, as an instance of `schema`. Raises `refuse` for another format, an unknown version, and a wrong checksum."""
    version = read_version(data, form, where, refuse, advice)
    said = parse_json(data, dict[str, Any], where, refuse, advice)
    if (SEAL in said or version >= form.sealed) and said.get(SEAL) != _seal(said):
        raise refuse(f"{where}: damaged: its checksum is not that of what it says; {advice}")
    return parse_json(data, schema, where, refuse, advice)


def _seal(values: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != SEAL}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Raises OSError, and InputError if it is not a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()
