"""Images of a packed set on tiles of one size, for contact sheets."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.errors import InputError, PackedSetError
from fastfashion.images import codec
from fastfashion.shards.reader import PackedSet, Resolution

if TYPE_CHECKING:
    from PIL.Image import Image

TILE_WIDTH_PX, TILE_HEIGHT_PX = 120, 160


def sharp_enough(packed: PackedSet) -> Resolution:
    """The smallest resolution that fills a tile, or the largest there is."""
    opened = [packed.open(name) for name in packed.resolutions]
    filling = (r for r in opened if np.median(np.minimum(r.height_px, r.width_px)) >= TILE_WIDTH_PX)
    return next(filling, opened[-1])


def tile(images: Resolution, row: int) -> "Image":
    """An image on a white tile, as large as fits, in the middle. Raises PackedSetError where it does not decode."""
    from PIL import Image

    try:
        pixels = codec.decode_rgb(images.read(row), min_height_px=TILE_HEIGHT_PX, min_width_px=TILE_WIDTH_PX)
    except InputError as error:
        raise PackedSetError(f"{images.where(row)}: {error}; run fastfashion verify on the set") from error
    height_px, width_px = pixels.shape[:2]
    scale = min(TILE_HEIGHT_PX / height_px, TILE_WIDTH_PX / width_px)
    fitted = codec.resize(pixels, max(1, round(height_px * scale)), max(1, round(width_px * scale)))
    blank = Image.new("RGB", (TILE_WIDTH_PX, TILE_HEIGHT_PX), "white")
    blank.paste(Image.fromarray(fitted), ((TILE_WIDTH_PX - fitted.shape[1]) // 2, (TILE_HEIGHT_PX - fitted.shape[0]) // 2))
    return blank


def clip(text: str, font: Any, width_px: int = TILE_WIDTH_PX) -> str:
    """The text, cut to a width."""
    if font.getlength(text) <= width_px:
        return text
    fits = next(n for n in range(len(text) - 1, -1, -1) if n == 0 or font.getlength(text[:n] + "…") <= width_px)
    return text[:fits] + "…"
