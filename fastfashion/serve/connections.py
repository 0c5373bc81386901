"""Connections: closed if a request's head does not arrive or its answer is not taken; a limited number for each address."""

import time
from asyncio import Transport
from collections import Counter
from typing import TYPE_CHECKING

from fastfashion.serve.asgi import is_local, network

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 128  # of one address; a proxy on this machine, which has the clients of many, has no such limit
HEAD_S = 10.0  # for a request's head to arrive, at most twice that
TAKEN_S = 60.0  # for 48 kB of an answer to be taken


def protocol() -> "type[H11Protocol]":
    """uvicorn's HTTP/1.1 protocol with these limits, which it does not have itself."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    open_of: Counter[str] = Counter()

    class Connection(H11Protocol):
        _address, _was_silent, _full_since_s = "", False, 0.0

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            host = self.client[0] if self.client else ""
            self._address = network(host)
            open_of[self._address] += 1
            if open_of[self._address] > MAX_CONNECTIONS and not is_local(host):
                transport.abort()
            self._timer = self.loop.call_later(HEAD_S, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            open_of[self._address] -= 1
            if not open_of[self._address]:
                del open_of[self._address]
            super().connection_lost(exc)

        def _unsupported_upgrade_warning(self) -> None:
            """Do not log what to install for WebSockets: there are none here."""

        def pause_writing(self) -> None:
            self._full_since_s = time.monotonic()
            super().pause_writing()

        def resume_writing(self) -> None:
            self._full_since_s = 0.0
            super().resume_writing()

        def _look(self) -> None:
            silent = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None
            not_taken = self._full_since_s and time.monotonic() - self._full_since_s > TAKEN_S
            if (silent and self._was_silent) or not_taken:
                self.transport.abort()
                return
            self._was_silent = silent
            self._timer = self.loop.call_later(HEAD_S, self._look)

    return Connection
