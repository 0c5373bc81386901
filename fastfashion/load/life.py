"""What all backends share: who may iterate a loader, and memory for its batches."""

import os
import sys
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np

from fastfashion.errors import ConfigError
from fastfashion.load.spec import Batch, LoaderSpec, Profile, Skipped

if TYPE_CHECKING:
    import torch

Batches = Generator[Batch, None, None]


class Backend:
    """What all Loaders share but `_steps`: one belongs to the process that opened it, and has one live iterator at a time."""

    def __init__(self, spec: LoaderSpec) -> None:
        self.num_steps = spec.plan.num_steps
        self.skipped: dict[int, Skipped] = {}  # by row, under on_bad="skip"
        self._spec, self._profile = spec, spec.profile or Profile()
        self._process, self._closed, self._live = os.getpid(), False, threading.Lock()

    def _steps(self, epoch: int, start: int) -> Batches:
        raise NotImplementedError

    @property
    def _may_clean_up(self) -> bool:
        """Whether threads and pipelines still answer: not in a forked child, and not while the interpreter exits."""
        return os.getpid() == self._process and not sys.is_finalizing()

    def close(self) -> None:
        """End all threads."""
        self._closed = True
        if self._spec.cache is not None:
            self._spec.cache.close()  # first: a thread may be waiting for a shard

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start`; with the last one in hand, a consumer may iterate again at once.

        Raises ConfigError in a forked child, while another iterator is neither finished nor closed, and after `close`.
        """
        self._check()
        if not self._live.acquire(blocking=False):
            raise ConfigError(
                "this loader has another live iterator, and batches of the two would be mixed: finish that one, close it "
                "(`batches.close()`), or open a second loader"
            )
        batches, ended = self._steps(epoch, start), False
        try:
            for left in range(self._spec.num_batches(start) - 1, -1, -1):
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
    """uint8 tensors of one shape on the CPU, at most `keep` of which are reused once nothing refers to them; for one thread.

    Slices and `.numpy()` refer to a tensor, too. Fresh memory costs page faults: for 64 images of 224x224 as much as resizing them.
    """

    def __init__(self, shape: tuple[int, ...], keep: int) -> None:
        self._shape, self._keep = shape, keep
        self._arrays: list[np.ndarray] = []

    def take(self) -> "torch.Tensor":
        """An uninitialised tensor."""
        import torch

        for array in self._arrays:
            if sys.getrefcount(array) == 3:  # the list, this variable and the argument; a tensor's storage would be one more
                return torch.from_numpy(array)
        array = np.empty(self._shape, dtype=np.uint8)
        if len(self._arrays) < self._keep:
            self._arrays.append(array)
        return torch.from_numpy(array)
