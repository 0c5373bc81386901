"""Colour, erasing and mixing by the numbers that the plan drew: OpenCV on the CPU, torch elsewhere, at most 1 grey level apart.

OpenCV is imported by the first image that needs it.

images ─► apply: colour matrix, inside the place ─► erased box ─► mix: with the partner ─► what the model sees
"""

import numpy as np
import torch

from fastfashion.load.plan import Part

# An erased box is painted with ImageNet's mean in grey levels, as in timm and torchvision: the backbone's normalisation makes it 0.
MEAN_RGB = (124, 116, 104)
_IDENTITY = np.eye(3, 4, dtype=np.float32)


def apply_one(image: np.ndarray, colour: np.ndarray | None, erased: np.ndarray | None, place: np.ndarray | None = None) -> None:
    """Change colours, then paint over the erased box, in place; OpenCV releases the GIL.

    image: uint8 (H, W, 3), contiguous; colour: float32 (3, 4), an affine transform of RGB in grey levels, of the pixels inside the place,
    int32 (4,), y0, x0, y1, x1, so that padding keeps its colour; erased: float32 (4,), y0, x0, y1, x1 as shares of height and width. None,
    the identity and an empty box change nothing; without a place all pixels are inside.
    """
    if colour is not None and not np.array_equal(colour, _IDENTITY):
        import cv2

        y0, x0, y1, x1 = (0, 0, *image.shape[:2]) if place is None else place.tolist()
        inside = image[y0:y1, x0:x1]
        cv2.transform(inside, colour, dst=inside)
    if erased is not None:
        y0, x0, y1, x1 = pixel_boxes(erased, image.shape[0], image.shape[1])
        image[y0:y1, x0:x1] = MEAN_RGB


def apply(images: torch.Tensor, part: Part) -> None:
    """`apply_one` for a whole batch, uint8 (B, H, W, 3), in place and on its device."""
    if images.device.type != "cpu":
        apply_torch(images, part)
    elif part.colours is not None or part.erased is not None:
        for i, image in enumerate(images.numpy()):
            apply_slot(image, part, i)


def apply_slot(image: np.ndarray, part: Part, slot: int) -> None:
    """`apply_one` with the numbers of one slot."""
    apply_one(image, *(None if values is None else values[slot] for values in (part.colours, part.erased, part.places)))


def apply_torch(images: torch.Tensor, part: Part) -> None:
    """`apply` in torch: float32 arithmetic on any device, without waiting for it."""
    if part.colours is not None and (part.colours != _IDENTITY).any():
        # Products of single channels: TF32 and autocast would make a matrix product coarser.
        rgb, colours = images.float(), _move(part.colours, images)[:, None, None]
        changed = colours[..., 3].expand_as(rgb)
        for channel in range(3):
            changed = torch.addcmul(changed, rgb[..., channel, None], colours[..., channel])
        changed = changed.round_().clamp_(0, 255)
        images.copy_(changed if part.places is None else torch.where(inside_boxes(part.places, images)[..., None], changed, rgb))
    if part.erased is not None and (part.erased > 0).any():
        inside = _inside_shares(part.erased, images)
        for channel, grey in enumerate(MEAN_RGB):
            images[..., channel].masked_fill_(inside, grey)


def mix(images: torch.Tensor, part: Part) -> torch.Tensor:
    """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019) of uint8 (B, H, W, 3); a new tensor, or `images` if nothing is mixed.

    Mixup: the weighted mean of both, rounded; cutmix, if `pasted` is not all 0: the partner's pixels inside that box.
    """
    if part.partners is None or (part.partners == np.arange(len(part.partners))).all():
        return images
    return _mix_cv2(images, part) if images.device.type == "cpu" else mix_torch(images, part)


def mix_torch(images: torch.Tensor, part: Part) -> torch.Tensor:
    """`mix` in torch, on any device, without waiting for it."""
    assert part.partners is not None and part.shares is not None and part.pasted is not None
    cut = _move(part.pasted.max(axis=1) > 0, images)[:, None, None]
    shares = _move(part.shares, images)[:, None, None]
    own = torch.where(cut, (~_inside_shares(part.pasted, images)).float(), shares)  # (B, H, W): weight of the own image
    partners = images[_move(part.partners, images)]
    return torch.lerp(partners.float(), images.float(), own[..., None]).round_().to(torch.uint8)


def _mix_cv2(images: torch.Tensor, part: Part) -> torch.Tensor:
    assert part.partners is not None and part.shares is not None and part.pasted is not None
    mixed = torch.empty_like(images)
    import cv2

    source, out = images.numpy(), mixed.numpy()
    for i, partner in enumerate(part.partners):
        if partner != i and not part.pasted[i].any():
            cv2.addWeighted(source[i], float(part.shares[i]), source[partner], 1 - float(part.shares[i]), 0, dst=out[i])
            continue
        y0, x0, y1, x1 = pixel_boxes(part.pasted[i], images.shape[1], images.shape[2])
        out[i] = source[i]
        out[i, y0:y1, x0:x1] = source[partner, y0:y1, x0:x1]
    return mixed


def pixel_boxes(boxes: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Boxes of whole pixels, int64 (..., 4), the ends exclusive, of boxes y0, x0, y1, x1 in shares of height and width (0..1)."""
    return np.rint(boxes.astype(np.float64) * (height_px, width_px, height_px, width_px)).astype(np.int64)


def _inside_shares(boxes: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """`inside_boxes` of boxes in shares of height and width."""
    return inside_boxes(pixel_boxes(boxes, images.shape[1], images.shape[2]), images)


def inside_boxes(boxes: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """bool (B, H, W): the pixels of `images` inside their image's box, given in pixels, any integer (B, 4)."""
    y0, x0, y1, x1 = _move(boxes.T[:, :, None], images)  # (B, 1) each
    y, x = (torch.arange(side, device=images.device) for side in images.shape[1:3])
    return ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None]


def _move(values: np.ndarray, images: torch.Tensor) -> torch.Tensor:
    """A few small values on the images' device; a pinned copy would cost more than it saves."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(images.device, non_blocking=images.is_cuda)
