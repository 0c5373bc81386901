"""The image sizes that a timm model takes: tried on torch's meta device, where a forward pass computes nothing and is fast."""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import nn

from fastfashion.config import Size

STEPS_PX = (8, 16, 28, 32, 48, 56, 64, 96, 112, 128)  # sides are multiples of these: strides times patches or windows of known models
MAX_TRIED = 60  # sizes; a number and not a time, so that all ranks come to the same answer
MAX_COMPUTED = 12  # sizes where the meta device fails and a forward pass is computed
MIN_PX, MAX_PX = 16, 4096


def create_backbone(name: str, size: Size, **more: Any) -> nn.Module:
    """A timm model without a head, built for the size if it is built for one. Raises what timm raises."""
    import timm

    if has_fixed_size(name):
        try:
            return timm.create_model(name, num_classes=0, img_size=(size.height_px, size.width_px), **more)
        except TypeError as error:  # some are built for one size and accept no other
            if "img_size" not in str(error):
                raise
    return timm.create_model(name, num_classes=0, **more)


def has_fixed_size(name: str) -> bool:
    """Whether a timm model is built for one size of images, as most vision transformers are."""
    import timm

    default = timm.models.get_pretrained_cfg(name)
    return default is not None and bool(default.fixed_input_size)


def nearest_size(name: str, size: Size) -> Size:
    """The size itself if the model takes it, or takes none that is tried; otherwise the nearest that it takes."""
    return size if takes(name, size) else next(iter(sizes_taken(name, size, 1)), size)


def takes(name: str, size: Size) -> bool:
    """Whether a forward pass of the model, with random weights, succeeds."""
    trial, own = _Trial(name, "meta"), own_sizes(name)
    error = trial.error(size)
    if error is not None and own and trial.error(own[0]) is not None:
        error = _Trial(name, "cpu").error(size)
    return error is None


def sizes_taken(name: str, size: Size, count: int = 3) -> list[Size]:
    """Up to `count` sizes that the model takes, the nearest to `size` first; empty if it takes none of those tried."""
    found: list[Size] = []
    trial, tried = _Trial(name, "meta"), MAX_TRIED
    own = own_sizes(name)
    if own and trial.error(own[0]) is not None:  # its code needs values, which the meta device does not have
        trial, tried = _Trial(name, "cpu"), MAX_COMPUTED
    for other in near(size, own, tried):
        if trial.error(other) is None:
            found.append(other)
            if len(found) == count:
                break
    return found


def own_sizes(name: str) -> list[Size]:
    """The size of the training of a model's published weights, and its smallest size if timm knows one."""
    import timm

    default = timm.models.get_pretrained_cfg(name)
    known = [] if default is None else [default.input_size, default.min_input_size]
    return [Size(*each[1:]) for each in known if each is not None and min(each[1:]) >= MIN_PX]


def near(size: Size, own: list[Size], count: int) -> list[Size]:
    """`count` sizes whose sides are multiples of the same step, including squares and `own`; the nearest to `size` first."""
    sides = size.height_px, size.width_px

    def multiples(side: float) -> Iterator[tuple[int, int]]:
        for step in STEPS_PX:
            yield from {(step, math.floor(side / step) * step), (step, math.ceil(side / step) * step)}

    found = set(own)
    for scale in (1.0, 1.5, 2.0, 3.0):
        high, wide = (list(multiples(side * scale)) for side in sides)
        pairs = [(height, width) for (step, height), (other, width) in product(high, wide) if step == other]
        found |= {Size(*pair) for pair in pairs + [(side, side) for _, side in high + wide] if min(pair) >= MIN_PX and max(pair) <= MAX_PX}

    def distance(other: Size) -> tuple[float, int, int]:
        ratios = other.height_px / sides[0], other.width_px / sides[1]
        return sum(abs(math.log(ratio)) for ratio in ratios), other.height_px, other.width_px

    others = sorted(found - set(own), key=distance)[: count - len(own)]
    return sorted({*others, *own} - {size}, key=distance)


class _Trial:
    """A backbone with random weights on a device, rebuilt for each size only if it has a fixed one."""

    def __init__(self, name: str, device: str) -> None:
        self._name, self._device = name, device
        self._backbone: nn.Module | None = None

    def error(self, size: Size) -> Exception | None:
        """The error of a forward pass of two images in training, if any."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                with torch.device(self._device):
                    if self._backbone is None or has_fixed_size(self._name):
                        self._backbone = create_backbone(self._name, size).train()
                    self._backbone(torch.zeros(2, 3, size.height_px, size.width_px))
            except Exception as error:
                return error
        return None


def explain(name: str, size: Size, reason: str) -> str:
    """Say why a model does not take a size, which sizes it takes, and what to do."""
    found = sizes_taken(name, size)
    if not found:
        return f"model {name} fails in its first step with images of {size} ({reason}), and with every other size tried; choose another"
    own = f"; its published weights were trained at {known[0]}" if (known := own_sizes(name)) else ""
    return (
        f"model {name} does not take images of {size} ({reason}). Near it, it takes {', '.join(map(str, found))}{own}. "
        f"Choose the nearest with --size {found[0]}, or leave it to --size auto"
    )
