"""What a web server may send: no more bytes than were asked for, as they are, and not too slowly.

fsspec's file system for http(s) asks through this session, so that every answer passes here: files, ranges, listings, error pages.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from fastfashion.remote import most_bytes
from fastfashion.retry import LeastRate, NoAnswerError, UnexpectedBodyError

if TYPE_CHECKING:
    import aiohttp

SILENCE_S = 60.0  # of a connection, and the longest wait for the head of an answer, after which it is asked again
_PAST_RANGE = 1 << 20  # fsspec reads blocks of this size of an answer to a range request, and takes what it asked for


async def session(**options: Any) -> "aiohttp.ClientSession":
    """For fsspec's `get_client`: compression is not requested and never undone, so that a few bytes stay a few bytes."""
    import aiohttp

    return aiohttp.ClientSession(
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S),
        middlewares=(_bounded,),
        **options,
    )


async def _bounded(request: Any, send: Any) -> Any:
    """Send one request of aiohttp; the body of its answer is a `_Body`."""
    try:
        async with asyncio.timeout(SILENCE_S) as limit:  # a head of a byte a second would never be silent
            answer = await send(request)
    except TimeoutError as error:
        if limit.expired():
            raise NoAnswerError(f"no answer within {SILENCE_S:.0f} s") from error
        raise
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        answer.close()
        raise UnexpectedBodyError(
            f"the server sends it compressed (Content-Encoding: {encoding[:20]!r}), which was not requested; "
            "switch that off there, or download the file"
        )
    answer.content = _Body(answer.content, _range_bytes(request.headers.get("Range", "")))
    return answer


def _range_bytes(header: str) -> int | None:
    """How many bytes "bytes=5-9" asks for; None if it is not such a range."""
    first, dash, last = header.removeprefix("bytes=").partition("-")
    return int(last) - int(first) + 1 if dash and first.isdecimal() and last.isdecimal() else None


class _Body:
    """A body as aiohttp's StreamReader has it, counted."""

    def __init__(self, stream: Any, asked: int | None) -> None:
        self._stream, self._rate, self._num_bytes = stream, LeastRate(), 0
        self._asked = asked
        self._limit = most_bytes() if asked is None else asked + _PAST_RANGE

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, n: int = -1) -> bytes:
        if n >= 0:
            return self._counted(await self._stream.read(n))
        pieces = []
        while piece := await self.readany():
            pieces.append(piece)
        return b"".join(pieces)

    async def readany(self) -> bytes:
        return self._counted(await self._stream.readany())

    def _counted(self, data: bytes) -> bytes:
        self._num_bytes += len(data)
        if self._num_bytes > self._limit:
            if self._asked is not None:
                raise UnexpectedBodyError(f"the server sends more than the {self._asked} bytes requested (no range requests)")
            raise UnexpectedBodyError(f"the server sends more than {self._limit} bytes, the limit for such a file")
        if data:
            self._rate.add(len(data))
        return data
