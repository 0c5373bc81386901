"""The life of a loader: who may iterate it, and memory for its batches."""

import os
import sys
import threading
from collections.abc import Generator, Iterator

import numpy as np
import torch

from fastfashion.errors import ConfigError
from fastfashion.load.batch import Batch

Batches = Generator[Batch, None, None]


class Life:
    """A loader belongs to the process that opened it, and to one iteration at a time. A forked child may open another from the spec."""

    def __init__(self) -> None:
        self._process, self._closed, self._live = os.getpid(), False, threading.Lock()

    @property
    def may_clean_up(self) -> bool:
        """Whether threads and pipelines still answer: not in a forked child, and not while the interpreter exits."""
        return os.getpid() == self._process and not sys.is_finalizing()

    def close(self) -> None:
        self._closed = True

    def hand_out(self, batches: Batches, count: int) -> Iterator[Batch]:
        """Yield `count` batches. Raises ConfigError in another process, after `close`, and during another live iteration.

        `batches` has ended when the last one is yielded, so that a consumer of `count` batches may iterate again at once.
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
        if os.getpid() != self._process:  # whose threads do not exist here: waiting for them would never end
            raise ConfigError("this loader was opened by the parent of this process: open one in the process that uses it")
        if self._closed:
            raise ConfigError("this loader is closed: open another one")


class Buffers:
    """uint8 tensors of one shape on the CPU, reused once nothing refers to one any more; slices and `.numpy()` refer to it, too.

    Fresh memory costs a page fault every 4 KB: for 64 images of 224x224 as much as resizing them. At most `keep` tensors are kept for
    reuse. For one thread.
    """

    def __init__(self, shape: tuple[int, ...], keep: int) -> None:
        self._shape, self._keep = shape, keep
        self._arrays: list[np.ndarray] = []

    def take(self) -> torch.Tensor:
        """An uninitialised tensor."""
        for array in self._arrays:
            if sys.getrefcount(array) == 3:  # the list, this variable and the argument; a tensor's storage would be one more
                return torch.from_numpy(array)
        array = np.empty(self._shape, dtype=np.uint8)
        if len(self._arrays) < self._keep:
            self._arrays.append(array)
        return torch.from_numpy(array)
