"""A number of bytes that many share: who asks for some waits in line until they are free, in a thread or in an event loop."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager


class Room:
    """First come, first served, so that nobody waits for ever; who asks for more than there is gets all of it, alone."""

    def __init__(self, total: int) -> None:
        self._total, self._free = total, total
        self._line: deque[tuple[int, Future[None]]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Wait in this thread."""
        amount, place = self._ask(amount)
        place.result()
        try:
            yield
        finally:
            self._give_back(amount)

    @asynccontextmanager
    async def taking(self, amount: int) -> AsyncIterator[None]:
        """Wait in this event loop, and hold no thread."""
        amount, place = self._ask(amount)
        try:
            await asyncio.wrap_future(place)
        except BaseException:
            if not place.cancel():  # it was given in the meantime
                self._give_back(amount)
            raise
        try:
            yield
        finally:
            self._give_back(amount)

    def _ask(self, amount: int) -> tuple[int, "Future[None]"]:
        amount, place = min(amount, self._total), Future[None]()
        with self._lock:
            self._line.append((amount, place))
        self._give_back(0)
        return amount, place

    def _give_back(self, amount: int) -> None:
        given = []
        with self._lock:
            self._free += amount
            while self._line and (self._line[0][0] <= self._free or self._line[0][1].cancelled()):
                wanted, place = self._line.popleft()
                if place.set_running_or_notify_cancel():  # no longer to be cancelled
                    self._free -= wanted
                    given.append(place)
        for place in given:
            place.set_result(None)
