"""Contact sheets: groups of images in a grid, with a title over each group and lines of text under each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.files import publish
from fastfashion.images import codec

if TYPE_CHECKING:
    from PIL.Image import Image

TILE_HEIGHT_PX, TILE_WIDTH_PX = 160, 120
MARGIN_PX, TILE_GAP_PX, GROUP_GAP_PX = 20, 8, 20
TITLE_PX, LINE_PX, FONT_PX = 20, 15, 12
INKS = ("#777777", "#222222", "#B03000", "#777777")  # of a tile's lines
TITLE_INK, FRAME_INK = "#222222", "#DDDDDD"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """An image, uint8 (H, W, 3), and up to four lines of text: what it is (grey), its label (black), the answer (red), more (grey)."""

    pixels: np.ndarray
    lines: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images side by side, with a title over them."""

    tiles: Sequence[Tile]
    title: str = ""


def draw_sheet(
    groups: Sequence[Group],
    *,
    columns: int = 1,
    header: Sequence[str] = (),
    height_px: int = TILE_HEIGHT_PX,
    width_px: int = TILE_WIDTH_PX,
) -> "Image":
    """Draw groups, `columns` of them side by side; images are scaled to fit their tiles, and centred, text is cut where its room ends."""
    from PIL import Image, ImageDraw, ImageFont

    title_px = TITLE_PX if any(group.title for group in groups) else 0
    text_px = LINE_PX * max(len(tile.lines) for group in groups for tile in group.tiles)
    group_width_px = max(len(group.tiles) for group in groups) * (width_px + TILE_GAP_PX) - TILE_GAP_PX
    group_height_px = title_px + height_px + text_px
    top_px = MARGIN_PX + len(header) * TITLE_PX
    num_lines, num_columns = -(-len(groups) // columns), min(columns, len(groups))
    sheet_width_px = 2 * MARGIN_PX + num_columns * (group_width_px + GROUP_GAP_PX) - GROUP_GAP_PX
    sheet_height_px = top_px + num_lines * (group_height_px + GROUP_GAP_PX) - GROUP_GAP_PX + MARGIN_PX
    sheet = Image.new("RGB", (sheet_width_px, sheet_height_px), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)

    def write(text: str, left_px: int, upper_px: int, ink: str, room_px: int) -> None:
        draw.text((left_px, upper_px), _clip(text, font, room_px), fill=ink, font=font)

    for line, text in enumerate(header):
        write(text, MARGIN_PX, MARGIN_PX + line * TITLE_PX, TITLE_INK, sheet_width_px - 2 * MARGIN_PX)
    for number, group in enumerate(groups):
        left_px = MARGIN_PX + number % columns * (group_width_px + GROUP_GAP_PX)
        upper_px = top_px + number // columns * (group_height_px + GROUP_GAP_PX)
        write(group.title, left_px, upper_px, TITLE_INK, group_width_px)
        upper_px += title_px
        for tile in group.tiles:
            image = Image.fromarray(fit(tile.pixels, height_px, width_px))
            sheet.paste(image, (left_px + (width_px - image.width) // 2, upper_px + (height_px - image.height) // 2))
            draw.rectangle((left_px - 1, upper_px - 1, left_px + width_px, upper_px + height_px), outline=FRAME_INK)
            for line, (text, ink) in enumerate(zip(tile.lines, INKS, strict=False)):
                write(text, left_px, upper_px + height_px + 2 + line * LINE_PX, ink, width_px)
            left_px += width_px + TILE_GAP_PX
    return sheet


def write_sheet(path: Path, sheet: "Image") -> None:
    """Publish a sheet as a PNG."""
    publish(path, lambda beside: sheet.save(beside, "PNG"))


def fit(pixels: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Scale an image, uint8 (H, W, 3), to the largest size of its shape that fits."""
    scale = min(height_px / pixels.shape[0], width_px / pixels.shape[1])
    return codec.resize(pixels, max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale)))


def _clip(text: str, font: Any, room_px: int) -> str:
    if font.getlength(text) <= room_px:
        return text
    fits = next(n for n in range(len(text) - 1, -1, -1) if n == 0 or font.getlength(text[:n] + "…") <= room_px)
    return text[:fits] + "…"
