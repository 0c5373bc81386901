"""The bodies of requests: how large, how slow, and how many of one address are under way.

Linger ─► Bodies, which waits for the start of a body ─► uploads │ the page's questions │ the HTTP API, which read the rest
"""

import asyncio
import time
from collections import deque
from contextlib import AsyncExitStack

from fastfashion.errors import InputError
from fastfashion.predict.decoding import LARGE_BYTES
from fastfashion.serve.asgi import App, Message, Receive, Scope, Send, client, content_length, header, host, is_loopback, refuse
from fastfashion.serve.errors import RefusedError
from fastfashion.serve.limits import BusyError, Limits
from fastfashion.serve.routes import ANSWER, body_bytes
from fastfashion.serve.shares import Shares

LEAST_BYTES, WINDOW_S = 10_000, 10.0  # of a body, in every such time: a client of one byte a second is cut after the first
USUAL_BYTES_PER_S = 100_000  # a whole body may take as long as at this rate, and a minute more
START_BYTES = 65_536  # of a body, or all of a shorter one, are there before it takes a place or room from others
MAX_WAITING = 256  # requests of one address that wait for room
LINGER_BYTES, LINGER_S = 4_000_000, 2.0
RETRY_AFTER = (b"retry-after", b"2")


class GoneError(InputError):
    """The client went before its request was whole."""


class TooSlowError(TimeoutError):
    """A body that does not come."""


class Paced:
    """A body that has a deadline. Raises RefusedError where it is too large, GoneError, and TooSlowError."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive, self._max_bytes = receive, max_bytes
        self._left_s, self._window_s, self._window_bytes = 60 + max_bytes / USUAL_BYTES_PER_S, WINDOW_S, 0
        self._start: deque[bytes] = deque()
        self.num_bytes, self.more = 0, True

    async def start(self) -> None:
        """Wait for the first bytes, and keep them."""
        while self.more and self.num_bytes < START_BYTES:
            self._start.append(await self._part())

    async def message(self) -> Message:
        """As an application receives a body; after it comes what the client does."""
        if not self._start and not self.more:
            return await self._receive()
        data = self._start.popleft() if self._start else await self._part()
        return {"type": "http.request", "body": data, "more_body": bool(self._start) or self.more}

    async def _part(self) -> bytes:
        """The time between two calls is not the client's, and does not count."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(self._window_s, self._left_s))):
                message = await self._receive()
        except TimeoutError:
            raise TooSlowError(f"the request came too slowly: expected {LEAST_BYTES / 1000:.0f} kB in {WINDOW_S:.0f} s") from None
        took_s = time.monotonic() - began_s
        if message["type"] != "http.request":
            raise GoneError("the client went")
        data: bytes = message.get("body", b"")
        self.more = message.get("more_body", False)
        self.num_bytes += len(data)
        if self.num_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._left_s -= took_s
        self._window_s -= took_s
        self._window_bytes += len(data)
        if self._window_bytes >= LEAST_BYTES:
            self._window_s, self._window_bytes = WINDOW_S, 0
        return data


class Bodies:
    """Refuses bodies that are too large or too slow, and shares room and places for images among addresses.

    Requests of this machine take no share: they are its user's, or those of a proxy that does not say whose they are.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._bytes, self._places = Shares(limits.waiting_bytes, MAX_WAITING), Shares(2 * limits.queue, limits.queue // 2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = body_bytes(scope["path"], self._limits) if scope["type"] == "http" and scope["method"] == "POST" else 0
        if not most:
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as held:
            try:
                if content_length(scope) > most:
                    raise _too_large(most)
                body = Paced(receive, most)
                await body.start()
                if scope["path"] == ANSWER and not is_loopback(host(scope)):
                    await held.enter_async_context(self._places.take(client(scope)))
                    length = content_length(scope) or most
                    if body.more and length > LARGE_BYTES:  # others do not wait behind large ones, and are bounded by their count
                        await held.enter_async_context(self._bytes.take(client(scope), length))
                await self._app(scope, body.message, send)
            except (GoneError, RefusedError, BusyError, TooSlowError) as error:
                await refuse_body(send, error)


async def refuse_body(send: Send, error: Exception) -> None:
    """The answer for what went wrong with a body; raises it again where it is nothing of that."""
    match error:
        case GoneError():
            return
        case RefusedError():
            await refuse(send, error.status, str(error))
        case BusyError():
            await refuse(send, 503, str(error), RETRY_AFTER)
        case TooSlowError():
            await refuse(send, 408, str(error))
        case InputError():
            await refuse(send, 400, str(error))
        case _:
            raise error


def _too_large(max_bytes: int) -> RefusedError:
    return RefusedError(413, f"a request of more than {max_bytes / 1e6:.0f} MB: send fewer images at once, or smaller ones")


class Linger:
    """Ends a connection whose body nobody read to its end, after reading a little more: an answer that a reset follows is lost."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        whole = header(scope, b"content-length") in (b"", b"0") and not header(scope, b"transfer-encoding")
        closing = False

        async def received() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal closing
            if message["type"] == "http.response.start" and not whole:
                closing = True
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            elif closing and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _drain(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, received, sent)


async def _drain(receive: Receive) -> None:
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
