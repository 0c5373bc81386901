"""A contact sheet: images of a packed set in a grid, each with lines of text under it."""

from collections.abc import Sequence
from pathlib import Path

from fastfashion.files import publish
from fastfashion.shards import PackedSet
from fastfashion.shards.tiles import TILE_HEIGHT_PX, TILE_WIDTH_PX, clip, sharp_enough, tile

COLUMNS = 8
TILE_GAP_PX, MARGIN_PX, FONT_PX, LINE_PX = 12, 20, 12, 15
INKS = ("#777777", "#222222", "#B03000", "#777777")  # of the lines: id, the label, the answer, the rest


def write_sheet(path: Path, packed: PackedSet, rows: Sequence[int], captions: Sequence[Sequence[str]], title: str) -> None:
    """Write the images of `rows` with up to four lines each as a PNG: in order of id, label, answer, and what else there is."""
    from PIL import Image, ImageDraw, ImageFont

    images = sharp_enough(packed)
    width_px, height_px = TILE_WIDTH_PX + TILE_GAP_PX, TILE_HEIGHT_PX + max(map(len, captions)) * LINE_PX + TILE_GAP_PX
    top_px, num_lines = 2 * MARGIN_PX + LINE_PX, -(-len(rows) // COLUMNS)
    size = (2 * MARGIN_PX + min(COLUMNS, max(4, len(rows))) * width_px - TILE_GAP_PX, top_px + num_lines * height_px)
    sheet = Image.new("RGB", size, "white")
    draw, font, large = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX), ImageFont.load_default(FONT_PX + 3)
    draw.text((MARGIN_PX, MARGIN_PX), clip(title, large, size[0] - 2 * MARGIN_PX), fill=INKS[1], font=large)
    for place, (row, lines) in enumerate(zip(rows, captions, strict=True)):
        left_px, upper_px = MARGIN_PX + place % COLUMNS * width_px, top_px + place // COLUMNS * height_px
        sheet.paste(tile(images, row), (left_px, upper_px))
        draw.rectangle((left_px - 1, upper_px - 1, left_px + TILE_WIDTH_PX, upper_px + TILE_HEIGHT_PX), outline="#DDDDDD")
        for line, (text, ink) in enumerate(zip(lines, INKS, strict=False)):
            draw.text((left_px, upper_px + TILE_HEIGHT_PX + 3 + line * LINE_PX), clip(text, font), fill=ink, font=font)
    publish(path, lambda beside: sheet.save(beside, "PNG"))
