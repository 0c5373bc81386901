"""Memory for batches on the CPU, used again when nobody holds the batch any more.

Fresh memory costs a page fault every 4 KB: for 64 images of 224x224 as much as resizing them.
"""

import sys

import numpy as np
import torch


class Buffers:
    """Hands out uint8 tensors of one shape. Whatever still refers to one, a slice or `.numpy()` of it too, keeps it from being reused.

    At most `keep` of them are kept for reuse. For one thread.
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
