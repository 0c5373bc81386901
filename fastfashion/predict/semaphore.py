"""A fair semaphore for an amount that many share, such as bytes of memory or places in a queue, with a share for each address.

One class for all of the server's sharing. A thread waits in `take`, an event loop in `taking`; both may share one semaphore.
"""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from fastfashion.errors import FastfashionError


class BusyError(FastfashionError):
    """Too many requests wait already; try again in a moment."""


@dataclass(eq=False)
class _Asked:
    address: str
    amount: int
    granted: "Future[None]" = field(default_factory=Future)


class FairSemaphore:
    """First come, first served, so that nobody waits forever; a request for more than the whole gets all of it, alone.

    With `share`, one address holds no more than that: its further requests wait, and those of others pass them. At most `max_waiting`
    requests of an address wait; 0 means that nobody does.
    """

    def __init__(self, total: int, *, share: int = sys.maxsize, max_waiting: int = sys.maxsize) -> None:
        self._total, self._free, self._share, self._max_waiting = total, total, share, max_waiting
        self._held = Counter[str]()  # by address
        self._line: list[_Asked] = []
        self._lock = threading.Lock()

    @contextmanager
    def take(self, amount: int = 1, address: str = "") -> Iterator[None]:
        """Wait in this thread. Raises BusyError if too many wait."""
        asked = self._ask(amount, address)
        try:
            asked.granted.result()
            yield
        finally:
            self._leave(asked)

    @asynccontextmanager
    async def taking(self, amount: int = 1, address: str = "") -> AsyncIterator[None]:
        """Wait in this event loop, and hold no thread. Raises BusyError if too many wait."""
        asked = self._ask(amount, address)
        try:
            if not asked.granted.done():
                await asyncio.wrap_future(asked.granted)
            yield
        finally:
            self._leave(asked)

    def _ask(self, amount: int, address: str) -> _Asked:
        asked = _Asked(address, min(amount, self._share, self._total))
        with self._lock:
            self._line.append(asked)
            self._grant()
            if asked in self._line and sum(one.address == address for one in self._line) > self._max_waiting:
                self._line.remove(asked)
                count, whose = (self._max_waiting, " of this address") if self._max_waiting else (self._total, "")
                raise BusyError(f"{count} requests{whose} are waiting already: try again in a moment")
        return asked

    def _leave(self, asked: _Asked) -> None:
        with self._lock:
            if asked in self._line:  # it was canceled while it waited
                self._line.remove(asked)
            else:
                self._free += asked.amount
                self._held[asked.address] -= asked.amount
                if not self._held[asked.address]:
                    del self._held[asked.address]
            self._grant()

    def _grant(self) -> None:
        for asked in list(self._line):
            if self._held[asked.address] + asked.amount > self._share:
                continue
            if asked.amount > self._free:
                return  # those behind it wait as well, or a large amount would never be free
            self._line.remove(asked)
            self._free -= asked.amount
            self._held[asked.address] += asked.amount
            if asked.granted.set_running_or_notify_cancel():
                asked.granted.set_result(None)
