"""Where the model looked: class activation maps (Zhou et al. 2016) of any backbone whose last features are a map.

    image ─► forward_features ─► (C, h, w) ─► each position alone through pooling and head ─► what it says for the class ─► overlay

Pooling is a mean, so a class's logit is the mean of what the positions say; if a backbone has more between its map and its head (a
norm, a hidden layer), the positions take that way one by one. Maps of few positions, which small inputs have, are averaged over shifted
copies of the image.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from fastfashion.model.net import Classifier

FEW_POSITIONS = 30
SHIFTS = (-3 / 8, -1 / 8, 1 / 8, 3 / 8)  # of the distance between two positions
LEAST_POSITIONS = 2
# Stops of the overlay's colours, from what speaks for the class least to most: red, green, blue, opacity.
RAMP = np.array([[20, 30, 90, 0.55], [20, 30, 90, 0.45], [255, 170, 40, 0.35], [235, 40, 30, 0.55]])


class NoMapError(ValueError):
    """This backbone has no map to show, and why."""


@torch.inference_mode()
def activation_maps(model: Classifier, image_HWC: torch.Tensor, codes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """For each task, how much every place of an image, uint8 (H, W, 3), speaks for a class: float32 (H, W), 0 to 1.

    Raises NoMapError if the backbone gives no map of at least two positions at this size.
    """
    height, width = image_HWC.shape[:2]
    first = _feature_map(model, image_HWC[None])
    rows, columns = first.shape[1:3]
    if rows * columns < LEAST_POSITIONS:
        raise NoMapError(f"at {height}x{width} pixels the last feature map of this backbone has a single position")
    if rows * columns > FEW_POSITIONS:
        offsets, maps_BhwC = [(0, 0)], first
    else:
        steps = height / rows, width / columns
        offsets = [(round(down * steps[0]), round(right * steps[1])) for down in SHIFTS for right in SHIFTS]
        maps_BhwC = _feature_map(model, torch.stack([_shifted(image_HWC, *offset) for offset in offsets]))
    features_BhwF = _pooled_alone(model, maps_BhwC)
    found = {}
    for task, code in codes.items():
        said_Bhw = features_BhwF @ model.head(task).weight[code]
        large_BHW = functional.interpolate(said_Bhw[:, None].float(), size=(height, width), mode="bilinear")[:, 0]
        mean_HW = torch.stack([_shifted(one, -down, -right) for one, (down, right) in zip(large_BHW, offsets, strict=True)]).mean(dim=0)
        low, high = mean_HW.aminmax()
        found[task] = ((mean_HW - low) / (high - low).clamp_min(1e-6)).cpu().numpy()
    return found


def _feature_map(model: Classifier, images_BHWC: torch.Tensor) -> torch.Tensor:
    """Features by position, (B, h, w, C)."""
    backbone: Any = model.backbone
    if not callable(getattr(backbone, "forward_features", None)) or not callable(getattr(backbone, "forward_head", None)):
        raise NoMapError("this backbone does not show its features")
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(model.mean.dtype)
    features = backbone.forward_features((images_BCHW - model.mean) / model.std)
    if not isinstance(features, torch.Tensor) or features.ndim != 4:
        raise NoMapError("the features of this backbone are not a map")
    return features if _keeps_channels_last(model) else features.permute(0, 2, 3, 1)


def _pooled_alone(model: Classifier, maps_BhwC: torch.Tensor) -> torch.Tensor:
    """The output of the pooling and of all layers after it for each position alone, (B, h, w, F)."""
    alone = maps_BhwC.reshape(-1, 1, 1, maps_BhwC.shape[3])
    backbone: Any = model.backbone
    pooled = backbone.forward_head(alone if _keeps_channels_last(model) else alone.permute(0, 3, 1, 2))
    return pooled.reshape(*maps_BhwC.shape[:3], -1)


def _keeps_channels_last(model: Classifier) -> bool:
    """Whether the backbone's own maps are (B, h, w, C), as Swin's are."""
    return str(getattr(model.backbone, "output_fmt", "NCHW")).upper().endswith("NHWC")


def _shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """An image (H, W, …) moved by whole pixels; the edge is repeated."""
    rows = (torch.arange(image.shape[0], device=image.device) - down).clamp(0, image.shape[0] - 1)
    columns = (torch.arange(image.shape[1], device=image.device) - right).clamp(0, image.shape[1] - 1)
    return image[rows][:, columns]


def overlay(image_HWC: np.ndarray, map_HW: np.ndarray) -> np.ndarray:
    """The image, uint8 (H, W, 3), tinted by a map of the same size: dark blue where nothing speaks for the class, red where most does."""
    stops = np.linspace(0, 1, len(RAMP))
    tint = np.stack([np.interp(map_HW, stops, RAMP[:, channel]) for channel in range(4)], axis=2)
    opacity = tint[:, :, 3:]
    return np.round(image_HWC * (1 - opacity) + tint[:, :, :3] * opacity).astype(np.uint8)
