"""What a loader yields, and what it lists and times beside it."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from fastfashion.errors import ConfigError

if TYPE_CHECKING:
    import torch

IGNORED = -100  # torch.nn.functional.cross_entropy's own ignore_index
SMALLEST_STD = 1e-6  # less is a mistake, and divides by 0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB in 0..1: most timm backbones expect these


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's share of a step, on the loader's device. Batches are equal if they are the same object."""

    images: "torch.Tensor"  # uint8 (B, H, W, 3), RGB
    labels: "torch.Tensor"  # int64 (B, T), -1 for padding and for a row without that label
    rows: "torch.Tensor"  # int64 (B,), -1 for padding
    num_labelled: tuple[int, ...]  # T: labelled rows of the whole global batch, the divisor of a mean over all ranks
    partners: "torch.Tensor | None" = None  # int64 (B,): index in this batch of the image to mix with; None: no mixing
    shares: "torch.Tensor | None" = None  # float32 (B,): weight of the image itself in the mixture
    tasks: tuple[str, ...] = ()  # T: names of the columns of `labels`
    num_classes: tuple[int, ...] = ()  # T
    epoch: int = 0
    samples: int = 0  # of the epoch, over all ranks, that are done once this batch is

    def target(self, task: str | None = None) -> "torch.Tensor":
        """The label codes of a task, int64 (B,), IGNORED for padding and rows without a label; the only task if none is named.

        With mixup or cutmix these are the labels of the images themselves: see `soft_target`. Raises ConfigError for an unknown task.
        """
        codes = self.labels[:, self._column(task)]
        return codes.masked_fill(codes < 0, IGNORED)

    def soft_target(self, task: str | None = None) -> "torch.Tensor":
        """Shares of the classes of a task, float32 (B, C): the image's own label and that of its partner in mixup or cutmix.

        A row sums to 1; to less if the image or its partner has no label, to 0 for padding. `cross_entropy(logits, soft_target)` is the
        loss of Zhang et al. 2018. Raises ConfigError for an unknown task.
        """
        import torch

        column = self._column(task)
        codes = self.labels[:, column]
        own = torch.zeros((len(codes), self.num_classes[column]), device=codes.device)
        own.scatter_(1, codes.clamp(min=0)[:, None], (codes >= 0).float()[:, None])
        if self.partners is None or self.shares is None:
            return own
        return self.shares[:, None] * own + (1 - self.shares[:, None]) * own[self.partners]

    def normalized(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, dtype: "torch.dtype | None" = None) -> "torch.Tensor":
        """(image / 255 - mean) / std as float (B, 3, H, W) in channels-last memory, on the batch's device; float32 by default.

        mean, std: of red, green and blue, in 0..1. For models that do not normalise; those of `ff.open_run` take `images`. Raises
        ConfigError for numbers outside of it, and for a dtype that is not a float.
        """
        import torch

        kind = torch.float32 if dtype is None else dtype
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            raise ConfigError(f"dtype: expected a floating-point one, such as torch.float16, found {dtype!r}")
        mean, std = _of_channels("mean", mean, 0), _of_channels("std", std, SMALLEST_STD)
        scale, shift = (
            torch.tensor(values, dtype=torch.float32, device=self.images.device)[:, None, None]
            for values in ([1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)])
        )
        return torch.addcmul(shift, self.images.permute(0, 3, 1, 2).float(), scale).to(kind, memory_format=torch.channels_last)

    def to(self, device: "str | torch.device", *, non_blocking: bool = False) -> "Batch":
        """The batch on another device; itself if it is there already."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from which `to(device, non_blocking=True)` copies beside other work; needs a GPU."""
        return self._each(lambda tensor: tensor.pin_memory())

    def __repr__(self) -> str:
        count, height_px, width_px, _ = self.images.shape
        tasks = ", ".join(f"{task} ({classes} classes)" for task, classes in zip(self.tasks, self.num_classes, strict=True)) or "none"
        where = f"epoch={self.epoch}, samples={self.samples}, device={self.images.device}"
        return f"Batch({count} images of {height_px}x{width_px}, tasks: {tasks}, {where})"

    def _each(self, change: "Callable[[torch.Tensor], torch.Tensor]") -> "Batch":
        """A batch of changed tensors; itself if none has changed."""
        import torch

        values = {each.name: getattr(self, each.name) for each in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return self if all(value is values[name] for name, value in changed.items()) else replace(self, **changed)

    def _column(self, task: str | None) -> int:
        if task is None and len(self.tasks) == 1:
            return 0
        if task not in self.tasks:
            expected = f"expected one of {', '.join(self.tasks)}" if self.tasks else "the loader was opened without one (task=None)"
            raise ConfigError(f"task: {expected}, found {task!r}")
        return self.tasks.index(task)


def _of_channels(name: str, values: Any, least: float) -> list[float]:
    """Three numbers from `least` to 1."""
    found = [float(value) for value in values] if isinstance(values, Iterable) else []
    if len(found) != 3 or not all(least <= value <= 1 for value in found):
        raise ConfigError(f"{name}: expected three numbers in 0..1, of red, green and blue, found {values!r}")
    return found


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
    enabled: bool = True  # False: nobody reads it, and nothing is added
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def reset(self) -> None:
        self.read_s = self.decode_s = self.resize_s = self.copy_s = self.wait_s = 0.0
        self.num_images = 0

    def add(self, **values: float) -> None:
        """Add to several of the numbers at once, from any thread."""
        if not self.enabled:
            return
        with self._lock:
            for name, value in values.items():
                setattr(self, name, getattr(self, name) + value)
