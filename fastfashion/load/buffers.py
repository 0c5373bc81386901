"""Memory for batches, and whether a backend's threads still answer."""

import os
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


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


class Owner:
    """The process that started a backend's threads and pipelines."""

    _pid, _exits = staticmethod(os.getpid), staticmethod(sys.is_finalizing)  # kept: while the interpreter exits, names of modules go

    def __init__(self) -> None:
        self._process = self._pid()

    @property
    def is_here(self) -> bool:
        """Whether it is this process, not a forked child."""
        return self._pid() == self._process

    @property
    def may_clean_up(self) -> bool:
        """Whether they still answer: not in a forked child, and not while the interpreter exits."""
        return self.is_here and not self._exits()
