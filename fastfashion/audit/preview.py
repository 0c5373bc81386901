"""A contact sheet: images as they are packed, and beside each what the model sees of it in a few epochs.

plan of the chosen rows ─► open_loader, epoch by epoch ─► groups: packed │ epoch 0 │ epoch 1 │ epoch 2 ─► PNG
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.config import AugmentConfig, DataConfig, Size
from fastfashion.errors import ConfigError, DiskFullError, InputError
from fastfashion.files import publish
from fastfashion.images import codec
from fastfashion.load.batch import Loader
from fastfashion.load.loader import open_loader
from fastfashion.load.plan import Plan
from fastfashion.load.spec import LoaderSpec, choose_images, undecodable
from fastfashion.shards import PackedSet, Resolution, open_packed_set
from fastfashion.shards.tiles import clip
from fastfashion.words import why

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 512  # the sheet is then some 20,000 pixels high
VERSIONS = 3  # epochs shown of each image
GROUPS = 4  # groups of an image and its versions in a line
TILE_HEIGHT_PX, TILE_WIDTH_PX = 128, 112  # the model's input is scaled to fit
FONT_PX, LINE_PX, SMALL_FONT_PX, SMALL_LINE_PX = 13, 18, 11, 14
GAP_PX, GROUP_GAP_PX, MARGIN_PX = 4, 24, 20
INK, MUTED, FRAME = "#222222", "#777777", "#BBBBBB"


@dataclass(frozen=True, kw_only=True)
class PreviewRequest:
    """What to show, and where to write it."""

    shards: Path
    out: Path
    augment: AugmentConfig
    task: str = "subCategory"  # a label, several with commas between, or "all"
    resolution: str = "auto"
    size: str = "auto"
    backend: str = "threads"
    workers: int = 1
    count: int = 32  # images, drawn by seed from those with a label of one of the tasks
    rows: Sequence[int] | None = None  # these rows of the set instead
    seed: int = 0
    epoch: int = 0  # the first of those shown

    def __post_init__(self) -> None:
        num_images = self.count if self.rows is None else len(self.rows)
        if not 1 <= num_images <= MAX_IMAGES:
            raise ConfigError(f"images of a preview: expected 1 to {MAX_IMAGES}, found {num_images}")


@dataclass(frozen=True, kw_only=True)
class PreviewSummary:
    """What stands on the sheet."""

    out: str
    resolution: str
    size: str
    rows: tuple[int, ...]  # of the set, in reading order
    epochs: tuple[int, ...]
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class View:
    """An image as the model sees it in one epoch: uint8 (H, W, 3), and (share, label) of what it is mixed from, nothing if unmixed."""

    pixels: np.ndarray
    mixture: tuple[tuple[float, str], ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """An image's part of the sheet: title, the packed pixels, uint8 (H, W, 3), and a view an epoch."""

    title: str
    packed: np.ndarray
    views: list[View]


def preview(request: PreviewRequest) -> PreviewSummary:
    """Write the sheet as a PNG. Images, crops and mixtures come from a loader, so that it shows what training would see of these rows.

    Raises ConfigError for settings the set does not have, InputError for rows it does not have and for a place that cannot be written
    to, PackedSetError for damaged images.
    """
    packed = open_packed_set(request.shards)
    tasks = packed.vocab.chosen(DataConfig(shards="", task=request.task).tasks)
    images, size = choose_images(packed, request.resolution, request.size)
    labels = packed.vocab.codes(packed.table, tasks)
    plan = _plan(request, images, labels.max(axis=1))
    names = _label_texts([packed.vocab.names(task) for task in tasks], labels)
    epochs = tuple(range(request.epoch, request.epoch + VERSIONS))
    with closing(open_loader(_spec(request, images, plan, labels, size))) as loader:
        views = [read_views(loader, epoch, names) for epoch in epochs]
    tile = _tile_size(size)
    groups = [
        Group(
            title=f"{packed.table['id'].iloc[row]}  {names[row]}",
            packed=_packed_pixels(images, row, tile),
            views=[by_row[row] for by_row in views],
        )
        for row in plan.rows.tolist()
    ]
    sheet = draw_sheet(_header(request, packed, images, size), groups, epochs, tile)
    try:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        publish(request.out, lambda beside: sheet.save(beside, "PNG"))
    except DiskFullError:
        raise
    except OSError as error:
        raise InputError(f"{request.out}: cannot be written ({why(error)}); choose another --out") from error
    return PreviewSummary(
        out=str(request.out),
        resolution=images.name,
        size=str(size),
        rows=tuple(plan.rows.tolist()),
        epochs=epochs,
        width_px=sheet.width,
        height_px=sheet.height,
    )


def _label_texts(classes: Sequence[Sequence[str]], labels: np.ndarray) -> list[str]:
    """What is written over each row: its labels of all tasks. classes: the names of each task; labels: int64 (N, T)."""
    missing = "no label" if len(classes) == 1 else "-"
    return [", ".join(names[code] if code >= 0 else missing for names, code in zip(classes, row, strict=True)) for row in labels.tolist()]


def _plan(request: PreviewRequest, images: Resolution, codes: np.ndarray) -> Plan:
    """The plan of the rows to show, all in one step."""
    if request.rows is not None:
        rows = np.array(list(dict.fromkeys(request.rows)), dtype=np.int64)
        if outside := [row for row in rows.tolist() if not 0 <= row < len(codes)]:
            raise InputError(f"{request.shards}: no row {outside[0]}; expected 0 to {len(codes) - 1}")
    else:
        rows = np.flatnonzero(codes >= 0)
    plan = Plan(
        rows=rows,
        heights_px=images.height_px,
        widths_px=images.width_px,
        batch_size=len(rows),
        seed=request.seed,
        augment=request.augment,
    )
    if request.rows is None:
        plan = replace(plan, rows=np.sort(plan.order(0)[: request.count]))
    return replace(plan, batch_size=len(plan.rows))


def _spec(request: PreviewRequest, images: Resolution, plan: Plan, labels: np.ndarray, size: Size) -> LoaderSpec:
    import torch

    return LoaderSpec(
        images=images,
        plan=plan,
        labels=labels,
        size=size,
        device=torch.device("cpu"),
        backend=request.backend,
        workers=request.workers,
        prefetch=1,
    )


def read_views(loader: Loader, epoch: int, names: Sequence[str]) -> Mapping[int, View]:
    """What the model sees in an epoch, by row; names: the label of each row of the set."""
    views = {}
    for batch in loader.steps(epoch):
        rows = batch.rows.tolist()
        for slot, row in enumerate(rows):
            if row == -1:
                continue
            mixture: tuple[tuple[float, str], ...] = ()
            if batch.partners is not None and batch.shares is not None and (partner := int(batch.partners[slot])) != slot:
                share = float(batch.shares[slot])
                mixture = ((share, names[row]), (1 - share, names[rows[partner]]))
            views[row] = View(pixels=batch.images[slot].numpy(), mixture=mixture)
    return views


def _header(request: PreviewRequest, packed: PackedSet, images: Resolution, size: Size) -> list[str]:
    off = AugmentConfig(min_area=1, max_stretch=1, flip=0)
    chosen = {field.name: getattr(request.augment, field.name) for field in fields(AugmentConfig)}
    on = [f"{name} {value:g}" for name, value in chosen.items() if value != getattr(off, name)]
    return [
        f"{packed.path}, resolution {images.name}: what a model with input {size} (height x width) sees; "
        f"label: {request.task}; seed: {request.seed}",
        f"augmentation: {', '.join(on) or 'none'}",
    ]


def _tile_size(size: Size) -> tuple[int, int]:
    """Height and width of all tiles: the shape of the model's input."""
    scale = min(TILE_HEIGHT_PX / size.height_px, TILE_WIDTH_PX / size.width_px)
    return max(1, round(size.height_px * scale)), max(1, round(size.width_px * scale))


def _packed_pixels(images: Resolution, row: int, tile: tuple[int, int]) -> np.ndarray:
    """The whole packed image, as large as fits a tile: uint8 (H, W, 3)."""
    try:
        pixels = codec.decode_rgb(images.encoded(row), min_height_px=tile[0], min_width_px=tile[1])
    except InputError as error:
        raise undecodable(images, row, error) from error
    scale = min(tile[0] / pixels.shape[0], tile[1] / pixels.shape[1])
    return codec.resize(pixels, max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale)))


def draw_sheet(header: Sequence[str], groups: Sequence[Group], epochs: Sequence[int], tile: tuple[int, int]) -> "Image":
    """The sheet, RGB: a header, column titles, and GROUPS groups a line; tile: height and width in pixels."""
    from PIL import Image, ImageDraw, ImageFont

    height_px, width_px = tile
    mixed = any(view.mixture for group in groups for view in group.views)
    group_width_px = (1 + len(epochs)) * (width_px + GAP_PX) - GAP_PX
    line_height_px = LINE_PX + height_px + (2 * SMALL_LINE_PX + GAP_PX if mixed else 0) + MARGIN_PX
    titles_px = MARGIN_PX + len(header) * LINE_PX + MARGIN_PX
    top_px = titles_px + LINE_PX + GAP_PX
    sheet_width_px = 2 * MARGIN_PX + GROUPS * (group_width_px + GROUP_GAP_PX) - GROUP_GAP_PX
    num_lines = -(-len(groups) // GROUPS)
    sheet = Image.new("RGB", (sheet_width_px, top_px + num_lines * line_height_px), "white")
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX), ImageFont.load_default(SMALL_FONT_PX)

    def write(left_px: int, upper_px: int, text: str, width_px: int, *, fill: str = INK, font: Any = font) -> None:
        draw.text((left_px, upper_px), clip(text, font, width_px), fill=fill, font=font)

    for line, text in enumerate(header):
        write(MARGIN_PX, MARGIN_PX + line * LINE_PX, text, sheet_width_px - 2 * MARGIN_PX)
    for place, group in enumerate(groups):
        left_px = MARGIN_PX + place % GROUPS * (group_width_px + GROUP_GAP_PX)
        upper_px = top_px + place // GROUPS * line_height_px
        write(left_px, upper_px, group.title, group_width_px)
        titles = ["packed", *(f"epoch {epoch}" for epoch in epochs)]
        for column, pixels in enumerate([group.packed, *(view.pixels for view in group.views)]):
            x_px, y_px = left_px + column * (width_px + GAP_PX), upper_px + LINE_PX
            if place < GROUPS:
                write(x_px, titles_px, titles[column], width_px, fill=MUTED, font=small)
            fitted = codec.resize(pixels, height_px, width_px) if column else pixels
            sheet.paste(Image.fromarray(fitted), (x_px + (width_px - fitted.shape[1]) // 2, y_px + (height_px - fitted.shape[0]) // 2))
            draw.rectangle((x_px - 1, y_px - 1, x_px + width_px, y_px + height_px), outline=FRAME)
            for line, (share, label) in enumerate(group.views[column - 1].mixture if column else ()):
                text = f"{100 * share:.0f}% {label}"
                write(x_px, y_px + height_px + GAP_PX + line * SMALL_LINE_PX, text, width_px, fill=MUTED, font=small)
    return sheet
