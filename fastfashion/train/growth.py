"""Images that grow to their size over the first epochs of training, so that those cost less."""

import torch
from torch.nn import functional

from fastfashion.config import Size, TrainConfig

GROWING = 0.8  # of the epochs, in which images grow to their size


def size_in(epoch: int, size: Size, config: TrainConfig) -> Size:
    """The size of images in an epoch: sides are multiples of 16 px, or at last their own."""
    share = min(1.0, config.first_size + (1 - config.first_size) * epoch / max(1, round(config.epochs * GROWING)))
    sides = (side if share == 1 else min(side, max(16, round(share * side / 16) * 16)) for side in (size.height_px, size.width_px))
    return Size(*sides)


def grown(images: torch.Tensor, epoch: int, config: TrainConfig) -> torch.Tensor:
    """Images, uint8 (B, H, W, 3), at the size that they have in an epoch."""
    full = Size(*images.shape[1:3])
    size = size_in(epoch, full, config)
    if size == full:
        return images
    small = functional.interpolate(images.permute(0, 3, 1, 2).float(), [size.height_px, size.width_px], mode="bilinear", antialias=True)
    return small.round().to(torch.uint8).permute(0, 2, 3, 1)
