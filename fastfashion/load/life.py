"""Whose a loader is: it belongs to the process that opened it, and to one iteration at a time."""

import os
import sys
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from fastfashion.errors import ConfigError

if TYPE_CHECKING:
    from fastfashion.load.batch import Batch

Batches = Generator["Batch", None, None]


class Life:
    """A loader's own: who may iterate it now. A spec is a plain value, which a forked child may open a loader of its own from."""

    def __init__(self) -> None:
        self._process, self._closed, self._live = os.getpid(), False, threading.Lock()

    @property
    def may_clean_up(self) -> bool:
        """Whether threads and pipelines still answer: not in a forked child, and not while the interpreter is taken apart."""
        return os.getpid() == self._process and not sys.is_finalizing()

    def close(self) -> None:
        self._closed = True

    def hand_out(self, batches: Batches, count: int) -> Iterator["Batch"]:
        """`batches`, `count` of them. Raises ConfigError in another process, after `close`, and beside another live iteration.

        The last one is handed out when `batches` has ended, so that who takes `count` batches and no more may iterate again at once.
        """
        self._check()
        if not self._live.acquire(blocking=False):
            raise ConfigError(
                "this loader has another live iterator, and batches of the two would be mixed: finish that one, close it "
                "(`batches.close()`), or open a second loader"
            )
        ended = False
        try:
            for left in range(count - 1, -1, -1):
                batch = next(batches)
                if not left:
                    assert next(batches, None) is None, "the loader has more batches than the epoch"
                    self._live.release()
                    ended = True
                yield batch
                self._check()
        finally:
            if not ended:
                batches.close()
                self._live.release()

    def _check(self) -> None:
        """Threads do not live on in a forked process, so that waiting for them would never end."""
        if os.getpid() != self._process:
            raise ConfigError("this loader was opened by the parent of this process: open one in the process that uses it")
        if self._closed:
            raise ConfigError("this loader is closed: open another one")
