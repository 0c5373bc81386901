"""The bodies of requests: how large, how slow, and how many of one address are in progress.

Linger ─► Bodies, which waits for the start of a body ─► uploads │ the page's questions │ the HTTP API, which read the rest
"""

import asyncio
import time
from collections import deque
from contextlib import AsyncExitStack

from fastfashion.predict.decoding import LARGE_BYTES
from fastfashion.predict.semaphore import FairSemaphore
from fastfashion.serve.addresses import ANSWER, body_bytes
from fastfashion.serve.asgi import App, GoneError, Message, Receive, RefusedError, Scope, Send, client, content_length, header, is_ours
from fastfashion.serve.limits import Limits

LEAST_BYTES, WINDOW_S = 10_000, 10.0  # of a body that must come in each window: a client of one byte a second is cut after the first
USUAL_BYTES_PER_S = 100_000  # a whole body may take as long as at this rate, plus a minute
START_BYTES = 65_536  # of a body, or all of a shorter one, must have arrived before it takes a place or room from others
MAX_WAITING = 256  # requests of one address that wait for room
LINGER_BYTES, LINGER_S = 4_000_000, 2.0


class Paced:
    """A body that has a deadline. Its methods raise RefusedError if it is too large or too slow, GoneError if the client left."""

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
        """The next ASGI message: a part of the body, or after its end what the client does."""
        if not self._start and not self.more:
            return await self._receive()
        data = self._start.popleft() if self._start else await self._part()
        return {"type": "http.request", "body": data, "more_body": bool(self._start) or self.more}

    async def _part(self) -> bytes:
        """The next part of the body. Only time spent waiting for the client counts."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(self._window_s, self._left_s))):
                message = await self._receive()
        except TimeoutError:
            text = f"the request arrived too slowly: expected {LEAST_BYTES / 1000:.0f} kB in {WINDOW_S:.0f} s"
            raise RefusedError(408, text) from None
        took_s = time.monotonic() - began_s
        if message["type"] != "http.request":
            raise GoneError("the client left")
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
    """Refuses bodies that are too large or too slow, and shares room and places for images among addresses, half of them for one.

    Requests of this machine take no share: they are its user's, or those of a proxy that does not say whose they are.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._bytes = FairSemaphore(limits.waiting_bytes, share=max(1, limits.waiting_bytes // 2), max_waiting=MAX_WAITING)
        self._places = FairSemaphore(2 * limits.queue, share=limits.queue, max_waiting=limits.queue // 2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = body_bytes(scope["path"], self._limits) if scope["method"] == "POST" else 0
        if not most:
            await self._app(scope, receive, send)
            return
        if content_length(scope) > most:
            raise _too_large(most)
        body = Paced(receive, most)
        await body.start()
        async with AsyncExitStack() as held:
            if scope["path"] == ANSWER and not is_ours(scope):
                await held.enter_async_context(self._places.taking(1, client(scope)))
                length = content_length(scope) or most
                if body.more and length > LARGE_BYTES:  # small ones do not wait behind large ones, and are bounded by their count
                    await held.enter_async_context(self._bytes.taking(length, client(scope)))
            await self._app(scope, body.message, send)


def _too_large(max_bytes: int) -> RefusedError:
    return RefusedError(413, f"a request of more than {max_bytes / 1e6:.0f} MB: send fewer images at once, or smaller ones")


class Linger:
    """Closes a connection whose body was not read to its end, after reading a little more: a reset would lose the response."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
