"""How an image of any shape becomes one of the model's size: squashed, cropped, or padded to the size's shape. Pure numpy.

    squash:  the whole image ─► stretched to the size            (the default)
    crop:    the largest centred box of the size's shape ─► resized
    pad:     the whole image ─► resized to fit inside ─► in the middle of an image of one colour

A box is what is taken of an image; a place is where it is shown. Both are whole pixels y0, x0, y1, x1, the ends exclusive.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastfashion.config import DEFAULT_PAD_COLOR, DataConfig, parse_color

SQUASH, CROP, PAD = "squash", "crop", "pad"


@dataclass(frozen=True)
class Padding:
    """Where output images show their boxes, int32 (n, 4) in pixels of the output, and the colour of the rest, RGB in grey levels."""

    places: np.ndarray
    color: tuple[int, int, int]

    def __getitem__(self, chosen: slice | np.ndarray) -> "Padding":
        return Padding(self.places[chosen], self.color)

    def fill(self, index: int, out: np.ndarray) -> np.ndarray:
        """Paint what is around place `index` of uint8 `out` (H, W, 3); returns the part of `out` inside the place."""
        y0, x0, y1, x1 = self.places[index].tolist()
        out[:y0], out[y1:], out[y0:y1, :x0], out[y0:y1, x1:] = (self.color,) * 4
        return out[y0:y1, x0:x1]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The settings data.fit, data.crop_pct and data.pad_color; raises ConfigError for values that they do not take."""

    mode: str = SQUASH
    crop_pct: float = 1.0
    pad_color: tuple[int, int, int] = parse_color(DEFAULT_PAD_COLOR)

    def __post_init__(self) -> None:
        DataConfig(**self.settings())

    @classmethod
    def of(cls, data: DataConfig) -> "Fit":
        """The fit of a run's settings; those that its mode does not use are left at their defaults."""
        used: dict[str, dict[str, Any]] = {CROP: {"crop_pct": data.crop_pct}, PAD: {"pad_color": parse_color(data.pad_color)}}
        return cls(mode=data.fit, **used.get(data.fit, {}))

    def whole(self, heights_px: np.ndarray, widths_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """What evaluation takes of whole images: boxes, int32 (n, 4); shape: height and width of the model's input.

        For "crop", the box of the size's shape with `crop_pct` of the longest sides that fit, in the middle; its sides are rounded to the
        nearest whole pixel and are at least 1, its upper left corner is rounded down.
        """
        if self.mode != CROP:
            return np.stack([np.zeros_like(heights_px), np.zeros_like(widths_px), heights_px, widths_px], axis=1).astype(np.int32)
        high, wide = longest_sides(heights_px, widths_px, shape, 1.0)
        sides = [whole_sides(self.crop_pct * longest, side) for longest, side in ((high, heights_px), (wide, widths_px))]
        y0, x0 = (heights_px - sides[0]) // 2, (widths_px - sides[1]) // 2
        return np.stack([y0, x0, y0 + sides[0], x0 + sides[1]], axis=1).astype(np.int32)

    def places(self, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray | None:
        """Where boxes, (n, 4), are shown: int32 (n, 4); None for "squash" and "crop": everywhere.

        The same arithmetic as Pillow's ImageOps.pad, which enlarges small images, too; a side is at least 1 pixel.
        """
        if self.mode != PAD:
            return None
        height_px, width_px = shape
        heights, widths = (boxes[:, 2:] - boxes[:, :2]).astype(np.int64).T
        wide, high = widths * height_px > heights * width_px, widths * height_px < heights * width_px
        shown_heights = np.where(wide, np.maximum(np.rint(heights / widths * width_px), 1), height_px)
        shown_widths = np.where(high, np.maximum(np.rint(widths / heights * height_px), 1), width_px)
        y0, x0 = np.rint((height_px - shown_heights) * 0.5), np.rint((width_px - shown_widths) * 0.5)
        return np.stack([y0, x0, y0 + shown_heights, x0 + shown_widths], axis=1).astype(np.int32)

    def scale(self, height_px: int, width_px: int, shape: tuple[int, int]) -> float:
        """Pixels of the output for one of a whole image, along the axis that has more of them."""
        if self.mode == SQUASH:
            return max(shape[0] / height_px, shape[1] / width_px)
        boxes = self.whole(np.array([height_px]), np.array([width_px]), shape)
        places = self.places(boxes, shape)
        shown = np.array(shape) if places is None else places[0, 2:] - places[0, :2]
        return float((shown / (boxes[0, 2:] - boxes[0, :2])).max())

    def settings(self) -> dict[str, Any]:
        """The fields of DataConfig that `of` makes it from."""
        return {"fit": self.mode, "crop_pct": self.crop_pct, "pad_color": ",".join(map(str, self.pad_color))}

    def to_dict(self) -> dict[str, Any]:
        """What model.json and exports say of it."""
        return {"mode": self.mode, "crop_pct": self.crop_pct, "pad_color": list(self.pad_color)}

    def padding(self, places: np.ndarray | None, chosen: slice = slice(None)) -> Padding | None:
        """Some of a step's places, and what backends paint around them; None: nothing."""
        return None if places is None else Padding(places[chosen], self.pad_color)


DEFAULT_FIT = Fit()


def longest_sides(
    heights_px: np.ndarray, widths_px: np.ndarray, shape: tuple[int, int], stretch: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Height and width, float64 (n,) each, of the largest box in an image whose height : width is the shape's times `stretch`."""
    high, wide = shape[0] * np.sqrt(stretch), shape[1] / np.sqrt(stretch)
    scale = np.minimum(heights_px / high, widths_px / wide)
    return scale * high, scale * wide


def whole_sides(sides: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Sides in whole pixels, int64 (n,): the nearest, at least 1 and at most `most`."""
    whole: np.ndarray = np.clip(np.rint(sides), 1, most).astype(np.int64)
    return whole
