"""Convolutions that CPUs train fast, and without harm.

oneDNN (3.7 in torch 2.15) has two slow paths. A convolution over a few positions, as in a ResNet's last stage on small images, takes up
to four times as long, forward and backward, as a matrix product of the same sums; so it becomes one. The gradients of depthwise
convolutions take up to eighty times as long in bfloat16 as in float32. Figures: bench/LOG.md, "Convolutions on a CPU".
"""

import torch
from torch import nn
from torch.nn import functional

from fastfashion.model.net import Classifier

# Where the product is faster: up to so many positions of the output, with at least so many pairs of channels.
MAX_POSITIONS, MIN_PAIRS = 20, 256 * 256
MIN_STRIDED_CHANNELS = 16


def use_fast_convolutions(model: Classifier) -> Classifier:
    """The model with each convolution computed the faster way while it trains; the same parameters under the same names."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_unsafe(module):
            module.__class__ = _SlicedConv2d
        elif type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            # Changing the class keeps what a module holds.
            pairs = module.in_channels * module.out_channels // module.groups
            if module.groups == 1 and module.kernel_size != (1, 1) and module.dilation == (1, 1) and pairs >= MIN_PAIRS:
                module.__class__ = _ProductConv2d
            elif module.groups == module.in_channels:
                module.__class__ = _DepthwiseConv2d
    return model


def _is_unsafe(conv: nn.Conv2d) -> bool:
    """oneDNN (3.7 in torch 2.15) writes outside its memory in the gradient of channels-last 1x1 convolutions of stride 2 over 2 to 15
    channels, which is how RepVGG, MobileOne and their kin begin; the process then ends in some later allocation."""
    few = conv.groups == 1 and conv.in_channels < MIN_STRIDED_CHANNELS
    return few and conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.stride != (1, 1)


class _SlicedConv2d(nn.Conv2d):
    """A strided 1x1 convolution, as one without a stride over every second pixel: the same sums."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        down, right = self.stride
        return functional.conv2d(input[:, :, ::down, ::right], self.weight, self.bias)


class _ProductConv2d(nn.Conv2d):
    """In training, a matrix product over patches where there are few of them."""

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
