"""A total that all who ask take from, of which one address may hold half: whoever asks for more waits, and the others pass."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastfashion.serve.limits import BusyError


@dataclass(eq=False)
class _Asked:
    address: str
    amount: int
    granted: asyncio.Future[None]


class Shares:
    """Bytes in memory, or places in a queue; of one event loop. `max_waiting` requests of an address may wait."""

    def __init__(self, total: int, max_waiting: int) -> None:
        self._free, self._share, self._max_waiting = total, max(1, total // 2), max_waiting
        self._held: Counter[str] = Counter()
        self._waiting: deque[_Asked] = deque()

    @asynccontextmanager
    async def take(self, address: str, amount: int = 1) -> AsyncIterator[None]:
        """Hold an amount, a share at most, as soon as there is so much. Raises BusyError where too many wait already."""
        asked = _Asked(address, min(amount, self._share), asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._grant()
        if asked in self._waiting and sum(one.address == address for one in self._waiting) > self._max_waiting:
            self._waiting.remove(asked)
            raise BusyError(f"{self._max_waiting} requests of this address are waiting already: ask again in a moment")
        try:
            await asked.granted
            yield
        finally:
            if asked in self._waiting:
                self._waiting.remove(asked)
            else:
                self._free += asked.amount
                self._held[address] -= asked.amount
                if not self._held[address]:
                    del self._held[address]
            self._grant()

    def _grant(self) -> None:
        for asked in list(self._waiting):
            if self._held[asked.address] + asked.amount > self._share:
                continue
            if asked.amount > self._free:
                break  # those behind it wait as well, or a large amount would never be free
            self._waiting.remove(asked)
            self._free -= asked.amount
            self._held[asked.address] += asked.amount
            if not asked.granted.done():
                asked.granted.set_result(None)
