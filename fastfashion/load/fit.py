"""How an image of any shape becomes one of the model's size: squashed, cropped, or padded to the size's shape. Pure numpy.

    squash:  the whole image ─► stretched to the size            (the default)
    crop:    the largest centred box of the size's shape ─► resized
    pad:     the whole image ─► resized to fit inside ─► in the middle of an image of one colour

A box is what is taken of an image; a place is where it is shown. Both are whole pixels y0, x0, y1, x1, the ends exclusive.
"""

from dataclasses import dataclass

import numpy as np

from fastfashion.config import DEFAULT_PAD_COLOR, DataConfig, Size, parse_color

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
        DataConfig(fit=self.mode, crop_pct=self.crop_pct, pad_color=",".join(map(str, self.pad_color)))

    @classmethod
    def of(cls, data: DataConfig) -> "Fit":
        return cls(mode=data.fit, crop_pct=data.crop_pct, pad_color=parse_color(data.pad_color))

    def whole(self, heights_px: np.ndarray, widths_px: np.ndarray, size: Size | None) -> np.ndarray:
        """What evaluation takes of whole images: boxes, int32 (n, 4).

        For "crop", the box of the size's shape with `crop_pct` of the longest sides that fit, in the middle; its sides are rounded to the
        nearest whole pixel and are at least 1, its upper left corner is rounded down.
        """
        if self.mode != CROP:
            return np.stack([np.zeros_like(heights_px), np.zeros_like(widths_px), heights_px, widths_px], axis=1).astype(np.int32)
        assert size is not None  # Plan checks it
        high, wide = longest_sides(heights_px, widths_px, size, 1.0)
        sides = [whole_sides(self.crop_pct * longest, side) for longest, side in ((high, heights_px), (wide, widths_px))]
        y0, x0 = (heights_px - sides[0]) // 2, (widths_px - sides[1]) // 2
        return np.stack([y0, x0, y0 + sides[0], x0 + sides[1]], axis=1).astype(np.int32)

    def places(self, boxes: np.ndarray, size: Size | None) -> np.ndarray | None:
        """Where boxes, (n, 4), are shown: int32 (n, 4); None for "squash" and "crop": everywhere.

        The same arithmetic as Pillow's ImageOps.pad, which enlarges small images, too; a side is at least 1 pixel.
        """
        if self.mode != PAD:
            return None
        assert size is not None  # Plan checks it
        height_px, width_px = size.height_px, size.width_px
        heights, widths = (boxes[:, 2:] - boxes[:, :2]).astype(np.int64).T
        wide, high = widths * height_px > heights * width_px, widths * height_px < heights * width_px
        shown_heights = np.where(wide, np.maximum(np.rint(heights / widths * width_px), 1), height_px)
        shown_widths = np.where(high, np.maximum(np.rint(widths / heights * height_px), 1), width_px)
        y0, x0 = np.rint((height_px - shown_heights) * 0.5), np.rint((width_px - shown_widths) * 0.5)
        return np.stack([y0, x0, y0 + shown_heights, x0 + shown_widths], axis=1).astype(np.int32)

    def padding(self, places: np.ndarray | None) -> Padding | None:
        """What backends paint around places; None: nothing."""
        return None if places is None else Padding(places, self.pad_color)


DEFAULT_FIT = Fit()


def longest_sides(heights_px: np.ndarray, widths_px: np.ndarray, size: Size, stretch: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Height and width, float64 (n,) each, of the largest box in an image whose height : width is the size's times `stretch`."""
    high, wide = size.height_px * np.sqrt(stretch), size.width_px / np.sqrt(stretch)
    scale = np.minimum(heights_px / high, widths_px / wide)
    return scale * high, scale * wide


def whole_sides(sides: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Sides in whole pixels, int64 (n,): the nearest, at least 1 and at most `most`."""
    whole: np.ndarray = np.clip(np.rint(sides), 1, most).astype(np.int64)
    return whole
