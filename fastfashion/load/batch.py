"""What a loader is, and what it yields."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, on the loader's device."""

    images: "torch.Tensor"  # uint8 (B, H, W, 3), RGB
    labels: "torch.Tensor"  # int64 (B, T), -1 for padding and for a row without that label
    rows: "torch.Tensor"  # int64 (B,), -1 for padding
    num_labelled: tuple[int, ...]  # T: labelled rows of the whole global batch, the divisor of a mean over all ranks
    partners: "torch.Tensor | None" = None  # int64 (B,): index in this batch of the image to mix with; None: no mixing
    shares: "torch.Tensor | None" = None  # float32 (B,): weight of the image itself in the mixture


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that is left out because of a decode error."""

    row: int
    where: str  # id, shard and offset
    reason: str


@dataclass(kw_only=True)
class Profile:
    """The time of loading in seconds, by what it is spent on: summed over threads, except `wait_s`."""

    read_s: float = 0.0  # bringing encoded bytes into memory
    decode_s: float = 0.0
    resize_s: float = 0.0  # cropping, resizing, flipping, and the other augmentations
    copy_s: float = 0.0  # from buffers of the loader to the batch and its device
    wait_s: float = 0.0  # of the consumer, for its next batch
    num_images: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def reset(self) -> None:
        self.read_s = self.decode_s = self.resize_s = self.copy_s = self.wait_s = 0.0
        self.num_images = 0

    def add(self, **values: float) -> None:
        """Add to several of the numbers at once, from any thread."""
        with self._lock:
            for name, value in values.items():
                setattr(self, name, getattr(self, name) + value)


class Loader(Protocol):
    """Batches of an epoch, `spec.micro_batches` of them a step, in the plan's order.

    It belongs to the process that opened it, and to one live iterator: `steps` raises ConfigError in a forked child, while another iterator
    is neither finished nor closed, and after `close`, which ends its threads.
    """

    num_steps: int
    skipped: dict[int, Skipped]  # by row, under on_bad="skip"

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...

    def close(self) -> None: ...
