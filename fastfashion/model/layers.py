"""Layers that compute the same in another way while a model trains: convolutions that CPUs train fast, batch norm over all processes.

Changing a module's class keeps what it holds, so that parameters keep their names.
"""

from typing import cast

import torch
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from fastfashion.model.net import Classifier

# The product is faster for at most this many output positions, with at least this many pairs of channels.
MAX_POSITIONS, MIN_PAIRS = 20, 256 * 256
MIN_STRIDED_CHANNELS = 16


def use_fast_convolutions(model: Classifier) -> Classifier:
    """Avoid the slow and the unsafe paths of oneDNN (3.7 in torch 2.15); the same parameters under the same names.

    Slow: a convolution over few positions takes four times as long as a matrix product of the same sums, the gradient of a depthwise one
    in bfloat16 eighty times as long as in float32 (bench/LOG.md, "Convolutions on a CPU"). Unsafe: the gradient of a channels-last 1x1
    convolution of stride 2 over 2 to 15 channels writes outside its memory, and a later allocation crashes (RepVGG, MobileOne).
    """
    for module in model.modules():
        if type(module) is not nn.Conv2d:
            continue
        pairs = module.in_channels * module.out_channels // module.groups
        pointwise = module.groups == 1 and module.kernel_size == (1, 1) and module.padding == (0, 0)
        if pointwise and module.in_channels < MIN_STRIDED_CHANNELS and module.stride != (1, 1):
            module.__class__ = _SlicedConv2d
        elif module.padding_mode != "zeros" or isinstance(module.padding, str):
            continue
        elif module.groups == 1 and module.kernel_size != (1, 1) and module.dilation == (1, 1) and pairs >= MIN_PAIRS:
            module.__class__ = _ProductConv2d
        elif module.groups == module.in_channels:
            module.__class__ = _DepthwiseConv2d
    return model


class _SlicedConv2d(nn.Conv2d):
    """A strided 1x1 convolution, computed without a stride over every second pixel: the same sums."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        down, right = self.stride
        return functional.conv2d(input[:, :, ::down, ::right], self.weight, self.bias)


class _ProductConv2d(nn.Conv2d):
    """In training, a matrix product over patches if there are few of them."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        assert not isinstance(self.padding, str)
        (high, wide), (down, right), (top, left) = self.kernel_size, self.stride, self.padding
        height, width = (input.shape[2] + 2 * top - high) // down + 1, (input.shape[3] + 2 * left - wide) // right + 1
        if not self.training or height * width > MAX_POSITIONS:
            return super().forward(input)
        padded_BHWC = functional.pad(input.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        ends = (height - 1) * down + 1, (width - 1) * right + 1
        shifted = [padded_BHWC[:, y : y + ends[0] : down, x : x + ends[1] : right] for y in range(high) for x in range(wide)]
        weight = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)
        return functional.linear(torch.cat(shifted, dim=3), weight, self.bias).permute(0, 3, 1, 2)


class _DepthwiseConv2d(nn.Conv2d):
    """In training, computed in float32 between bfloat16 layers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(torch.get_autocast_dtype("cpu"))


def synchronise_batch_norm(model: Classifier, device: torch.device) -> Classifier:
    """Normalise over the batch of all processes together, with the same parameters under the same names. Needs a process group."""
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return cast(Classifier, convert_sync_batchnorm(model))
    for module in model.modules():  # torch's own runs only on GPUs (torch 2.15)
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = type(module.__class__.__name__, (_GlobalBatchNorm2d, module.__class__), {})
    return model


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    """In training, normalises with mean and variance over all processes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(input)
        sums = torch.stack([input.sum(dim=(0, 2, 3)), input.square().sum(dim=(0, 2, 3))])
        count = torch.tensor(input.numel() / input.shape[1])
        torch.distributed.all_reduce(count)
        mean_C, square_C = all_reduce(sums) / count
        variance_C = square_C - mean_C.square()
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C.detach(), momentum)
            self.running_var.lerp_(variance_C.detach() * count / (count - 1), momentum)
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        normalised = input * scale_C[:, None, None] + (self.bias - mean_C * scale_C)[:, None, None]
        # timm's BatchNormAct2d, which EfficientNets are made of, includes an activation.
        after = [getattr(self, name) for name in ("drop", "act") if hasattr(self, name)]
        return nn.Sequential(*after)(normalised)
