"""Batch norm over the batch of all processes together: then it does not matter among how many a batch is divided."""

from typing import cast

import torch
from torch import nn
from torch.distributed.nn.functional import all_reduce

from fastfashion.model.net import Classifier


def synchronise_batch_norm(model: Classifier, device: torch.device) -> Classifier:
    """The model with each batch norm made global; the same parameters under the same names. Needs a process group."""
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return cast(Classifier, convert_sync_batchnorm(model))
    # torch's own runs on GPUs alone (torch 2.15). Changing the class keeps what subclasses add.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = type(module.__class__.__name__, (_GlobalStatistics, module.__class__), {})
    return model


class _GlobalStatistics(nn.BatchNorm2d):
    """In training, normalises with mean and variance over all processes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        sums = torch.stack([input.sum(dim=(0, 2, 3)), input.square().sum(dim=(0, 2, 3))])
        count = torch.tensor(input.numel() / input.shape[1])
        torch.distributed.all_reduce(count)
        mean_C, square_C = all_reduce(sums) / count
        variance_C = square_C - mean_C.square()
        self._track(mean_C.detach(), variance_C.detach() * count / (count - 1))
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        normalised = input * scale_C[:, None, None] + (self.bias - mean_C * scale_C)[:, None, None]
        # timm's BatchNormAct2d, which EfficientNets are made of, has an activation in it.
        after = [getattr(self, name) for name in ("drop", "act") if hasattr(self, name)]
        return nn.Sequential(*after)(normalised)

    def _track(self, mean_C: torch.Tensor, variance_C: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, momentum)
        self.running_var.lerp_(variance_C, momentum)
