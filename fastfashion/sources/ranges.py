"""Parts of one version of a remote file, by which a source on a web server or on object storage is read.

The first answer says which version that is: its length, and its strong ETag or else its time of change. Every later answer has to be of
that version, and of the very bytes that were asked for; otherwise the request is retried.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastfashion.errors import InputError
from fastfashion.remote import as_remote, is_web
from fastfashion.retry import LeastRate, Patience, retrying, status_of

T = TypeVar("T")
CHANGED = "the source changed while it was read"
TRIES = 4  # of a request with a wrong answer: once, and three retries
_CHUNK_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "updated", "blob_id", "created")


class UnreachableError(InputError):
    """A remote place stops answering, or sends something else than was asked for. That says nothing about the image, so a run stops."""


class ChangedError(UnreachableError):
    """A source has changed since it was opened."""


class WrongAnswerError(Exception):
    """An answer that is not what was asked for; a retry may help."""


class RemoteVersion(NamedTuple):
    """Identifies the content of a remote file: equal versions mean equal bytes, as far as the place reports."""

    size: int
    tag: str = ""  # strong ETag, or time of change; empty if there is neither


@dataclass(frozen=True)
class _Answer:
    """The head of an answer, before its body is read."""

    whole: bool  # the server sends the whole file
    content_range: str
    length: int | None
    tag: str
    read: Callable[[int], Awaitable[bytes]]


def read_part(path: Path, start: int, end: int | None, known: RemoteVersion | None = None) -> tuple[bytes, RemoteVersion]:
    """Bytes of a remote file from `start` to `end` (None: all of it), fewer if it ends before, and the version that they are of.

    Raises ChangedError if it is not `known`, UnreachableError if the answer is wrong each time, and what its file system raises.
    """
    if known is not None and end is not None and start >= (end := min(end, known.size)):
        return b"", known
    try:
        return tried_again(lambda: _read(path, start, end, known), WrongAnswerError)
    except WrongAnswerError as error:
        raise UnreachableError(f"{path}: {error}, {TRIES} times; download it first, or run the same command again later") from error


def tried_again(ask: Callable[[], T], wrong: type[Exception]) -> T:
    """What `ask` returns, retried three times if it raises `wrong`."""
    left = iter(range(TRIES - 1))
    return retrying(ask, Patience(), lambda error: isinstance(error, wrong) and next(left, None) is not None)


def changed(path: Path, what: str = "") -> ChangedError:
    return ChangedError(f"{path}: {CHANGED}{what and f' ({what})'}; run the same command again when nobody writes there")


def stamp(info: dict[str, Any]) -> str:
    """What a file system reports that changes when a file is replaced, under the names of S3, GCS, HTTP, Hugging Face and memory."""
    return " ".join([str(info["size"]), *(str(info[name]) for name in _STAMPS if name in info)])


def _read(path: Path, start: int, end: int | None, known: RemoteVersion | None) -> tuple[bytes, RemoteVersion]:
    storage, name = as_remote(path).fs, as_remote(path).path
    transport = _from_web if is_web(path) else _from_s3 if "s3" in storage.protocol else None
    if transport is not None:
        asked = "" if end is None else f"bytes={start}-{end - 1}"
        reading = transport(storage, name, asked, lambda answer: _checked(path, answer, start, end, known))
        return asyncio.run_coroutine_threadsafe(reading, storage.loop).result()
    version = known
    if version is None:
        info = storage.info(name)
        version = RemoteVersion(info["size"], stamp(info))
    data = bytes(storage.cat_file(name, start=None if end is None else start, end=end))
    if len(data) != min(version.size, version.size if end is None else end) - start:
        if (now := storage.info(name)["size"]) != version.size:
            raise changed(path, f"{version.size} bytes at first, {now} now")
        raise WrongAnswerError(f"the storage gives {len(data)} bytes of {version.size}")
    return data, version


async def _checked(path: Path, answer: _Answer, start: int, end: int | None, known: RemoteVersion | None) -> tuple[bytes, RemoteVersion]:
    """The body of an answer, after its head was compared with the request and the `known` version."""
    size, expected, first, last = answer.length, end, start, None
    if not answer.whole:
        found = _CONTENT_RANGE.fullmatch(answer.content_range)
        if found is None:
            raise WrongAnswerError(f"the server does not say which bytes it sends (Content-Range: {answer.content_range[:40]!r})")
        first, last = int(found[1]), int(found[2])
        size = int(found[3]) if found[3] != "*" else known.size if known else None
    if known is not None and ((size is not None and size != known.size) or (known.tag and answer.tag != known.tag)):
        raise changed(path, _difference(known, RemoteVersion(known.size if size is None else size, answer.tag)))
    if end is None or (size is not None and size < end):
        expected = size
    if expected is None:
        raise WrongAnswerError("the server does not say how long it is (no Content-Length)")
    if answer.whole and end is not None and (start or (known is not None and end < known.size)):
        raise WrongAnswerError("the server sends the whole file instead of the requested part (no range requests)")
    if last is not None and (first, last + 1) != (start, expected):
        raise WrongAnswerError(f"the server sends {answer.content_range[:60]!r} instead of bytes {start} to {expected}")
    data = await _body(answer, expected - start + (not answer.whole or end is None))
    if len(data) != expected - start and not (answer.whole and size is None):
        more = len(data) > expected - start
        raise WrongAnswerError(f"the server sends {'more than ' * more}{len(data) - more} bytes instead of {expected - start}")
    return data, RemoteVersion(-1 if size is None else size, answer.tag)


async def _body(answer: _Answer, most: int) -> bytes:
    """The first `most` bytes of a body."""
    pieces, left, rate = [], most, LeastRate()
    while left > 0 and (piece := await answer.read(min(_CHUNK_BYTES, left))):
        rate.add(len(piece))
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _difference(known: RemoteVersion, found: RemoteVersion) -> str:
    if known.size != found.size:
        return f"{known.size} bytes at first, {found.size} now"
    return f"{known.tag or 'no version'} at first, {found.tag or 'no version'} now"


Take = Callable[[_Answer], Awaitable[tuple[bytes, RemoteVersion]]]


async def _from_web(storage: Any, name: str, asked: str, take: Take) -> tuple[bytes, RemoteVersion]:
    session = await storage.set_session()
    headers = {**storage.kwargs.get("headers", {})} | ({"Range": asked} if asked else {})
    async with session.get(storage.encode_url(name), **(storage.kwargs | {"headers": headers})) as answer:
        content_range, length = answer.headers.get("Content-Range", ""), answer.content_length
        if answer.status == 416:  # an empty file has no range at all
            found = re.fullmatch(r"bytes \*/([0-9]{1,19})", content_range)
            length = int(found[1]) if found else 0
        else:
            storage._raise_not_found_for_status(answer, name)
        etag = answer.headers.get("ETag", "W/")  # a weak one may be the same for other bytes
        tag = str(answer.headers.get("Last-Modified", "")) if etag.startswith("W/") else etag
        return await take(_Answer(answer.status != 206, content_range, length, tag, answer.content.read))


async def _from_s3(storage: Any, name: str, asked: str, take: Take) -> tuple[bytes, RemoteVersion]:
    bucket, key, version_id = storage.split_path(name)
    more = ({"Range": asked} if asked else {}) | ({"VersionId": version_id} if version_id else {})
    try:
        answer = await storage._call_s3("get_object", Bucket=bucket, Key=key, **more)
    except OSError as error:
        if status_of(error) != 416:
            raise

        async def nothing(num_bytes: int) -> bytes:
            return b""

        return await take(_Answer(True, "", 0, "", nothing))
    try:
        tag = answer.get("ETag") or str(answer.get("LastModified", ""))
        content_range = answer.get("ContentRange", "")
        return await take(_Answer(not content_range, content_range, answer.get("ContentLength"), tag, answer["Body"].read))
    finally:
        answer["Body"].close()
