"""The random parameters of a step's images: crop, colour, erased box, mixture. Pure functions of uniform random numbers.

The numbers come from the plan, float64 in [0, 1) of shape (k, L): one line for each parameter, one column for each image.
"""

import numpy as np

from fastfashion.config import AugmentConfig
from fastfashion.load.fit import longest_sides, whole_sides

MID_GREY = 127.5  # contrast scales about it, not about the image's mean: a plan knows no pixels
ERASED_AREAS = (0.02, 1 / 3)  # shares of the image, and aspect ratios against its own: Zhong et al. 2017 as torchvision and timm have it
ERASED_ASPECTS = (0.3, 1 / 0.3)

_LUMA = np.array([0.299, 0.587, 0.114])  # Y of YIQ, ITU-R BT.601
_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])  # I and Q of any grey are 0
_GREY = np.tile(_LUMA, (3, 1))  # RGB to the grey of its luma
_CHROMA = np.eye(3) - _GREY  # the rest
_CROSSED = np.linalg.inv(_YIQ) @ [[0, 0, 0], [0, 0, 1], [0, -1, 0]] @ _YIQ  # the same, a quarter of a turn further


def draw_crops(
    uniforms: np.ndarray, heights_px: np.ndarray, widths_px: np.ndarray, augment: AugmentConfig, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Boxes y0, x0, y1, x1 in pixels, int32 (L, 4), the ends exclusive; from four lines.

    A crop covers a share of the image uniform in [min_area, 1], its aspect ratio changed by a factor log-uniform in [1/max_stretch,
    max_stretch] against the image's own (torchvision's RandomResizedCrop draws an absolute one), at a place uniform over all that fit.
    With a `shape`, the aspect ratio is the shape's, changed by that factor, and the share is one of the largest box of it that fits: no
    crop is stretched more than drawn, however long the image is.
    """
    area_u, stretch_u, y_u, x_u = uniforms
    area = augment.min_area + (1 - augment.min_area) * area_u
    stretch = augment.max_stretch ** (2 * stretch_u - 1)
    if shape is None:
        high, wide = np.sqrt(area * stretch) * heights_px, np.sqrt(area / stretch) * widths_px
    else:
        high, wide = (np.sqrt(area) * longest for longest in longest_sides(heights_px, widths_px, shape, stretch))
    crop_heights, crop_widths = whole_sides(high, heights_px), whole_sides(wide, widths_px)
    y0 = (y_u * (heights_px - crop_heights + 1)).astype(np.int64)
    x0 = (x_u * (widths_px - crop_widths + 1)).astype(np.int64)
    return np.stack([y0, x0, y0 + crop_heights, x0 + crop_widths], axis=1).astype(np.int32)


def changes_colours(augment: AugmentConfig) -> bool:
    return any((augment.brightness, augment.contrast, augment.saturation, augment.hue, augment.grayscale))


def draw_colours(uniforms: np.ndarray, augment: AugmentConfig) -> np.ndarray | None:
    """Jitter, then grayscale with its probability, as `colour_matrices`: float32 (L, 3, 4), None if all are off; from five lines."""
    widths = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    if not changes_colours(augment):
        return None
    brightness, contrast, saturation, turns = (width * (2 * u - 1) for width, u in zip(widths, uniforms[:4], strict=True))
    coloured = uniforms[4] >= augment.grayscale
    return colour_matrices(1 + brightness, 1 + contrast, coloured * (1 + saturation), turns)


def colour_matrices(brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Affine transforms of RGB in grey levels, float32 (L, 3, 4): out = M[:, :3] @ rgb + M[:, 3]; each factor is float64 (L,).

    Brightness scales; contrast scales about MID_GREY; saturation blends with the luma of BT.601 (0 gives the luma); hue turns I and Q
    of YIQ by a share of the circle, in the direction and with the meaning of DALI's hsv and color_twist. The order matters only for the
    first two: hue and saturation do not change greys.
    """
    cosine, sine = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
    turned = cosine[:, None, None] * _CHROMA + sine[:, None, None] * _CROSSED
    scaled = (brightness * contrast)[:, None, None] * (_GREY + saturation[:, None, None] * turned)
    offsets = np.broadcast_to((MID_GREY * (1 - contrast))[:, None, None], (len(contrast), 3, 1))
    return np.concatenate([scaled, offsets], axis=2).astype(np.float32)


def draw_erased(uniforms: np.ndarray, augment: AugmentConfig) -> np.ndarray | None:
    """Random erasing (Zhong et al. 2017): y0, x0, y1, x1 as shares of height and width, float32 (L, 4); from five lines.

    With probability `erase` a box inside the image, else all 0; None if it is off. Its area is uniform in ERASED_AREAS, its aspect ratio
    against the image's own log-uniform in ERASED_ASPECTS, as far as the box fits, its place uniform over all that fit.
    """
    if not augment.erase:
        return None
    chosen_u, area_u, aspect_u, y_u, x_u = uniforms
    area = ERASED_AREAS[0] + (ERASED_AREAS[1] - ERASED_AREAS[0]) * area_u
    low, high = np.log(np.maximum(ERASED_ASPECTS[0], area)), np.log(np.minimum(ERASED_ASPECTS[1], 1 / area))
    aspect = np.exp(low + (high - low) * aspect_u)
    sides = np.minimum(np.sqrt([area * aspect, area / aspect]), 1)
    starts = np.stack([y_u, x_u]) * (1 - sides)
    boxes = np.concatenate([starts, np.minimum(starts + sides, 1)]).T
    return np.where((chosen_u < augment.erase)[:, None], boxes, 0).astype(np.float32)


def draw_mixing(uniforms: np.ndarray, augment: AugmentConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019) of neighbours 2i, 2i+1: partners, shares, pasted; from four lines.

    partners: int64 (L,), the other image of the pair, itself for the last of an odd number; shares: float32 (L,), weight of the image
    itself; pasted: float32 (L, 4), the box y0, x0, y1, x1, in shares of height and width, that shows the partner, all 0 for mixup. Both of
    a pair have the same share, drawn from Beta(alpha, alpha); for cutmix it is then exactly 1 - area of the box, clipped to the image.
    Pasting rounds the box to pixels, up to half a pixel an edge; the share stays.
    """
    size = uniforms.shape[1]
    kind_u, share_u, y_u, x_u = uniforms[:, ::2]  # both of a pair take the first one's draws
    cut = kind_u < 0.5 if augment.mixup and augment.cutmix else np.full(len(kind_u), bool(augment.cutmix))
    shares = np.empty(len(cut))
    for chosen, alpha in ((~cut, augment.mixup), (cut, augment.cutmix)):
        shares[chosen] = _beta(share_u[chosen], alpha)
    centres, halves = np.stack([y_u, x_u]), np.sqrt(1 - shares) / 2
    boxes = np.where(cut, np.clip(np.concatenate([centres - halves, centres + halves]), 0, 1), 0).T.astype(np.float32)
    y0, x0, y1, x1 = boxes.T.astype(np.float64)
    shares = np.where(cut, 1 - (y1 - y0) * (x1 - x0), shares).astype(np.float32)
    partners, shares, pasted = np.arange(size) ^ 1, shares.repeat(2)[:size], boxes.repeat(2, axis=0)[:size]
    if size % 2:
        partners[-1], shares[-1], pasted[-1] = size - 1, 1, 0
    return partners, shares, pasted


def _beta(uniforms: np.ndarray, alpha: float) -> np.ndarray:
    """Beta(alpha, alpha), by the inverse of its distribution function: one uniform a number."""
    if len(uniforms) == 0:
        return uniforms
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, uniforms)
