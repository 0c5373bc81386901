"""A contact sheet of images as they are packed, each beside what the model sees of it in a few epochs.

plan of the chosen rows ─► Loader, epoch by epoch ─► groups: packed │ epoch 0 │ epoch 1 │ epoch 2 ─► PNG
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastfashion import dist
from fastfashion.catalog import views as catalog_views
from fastfashion.catalog.views import NO_VIEW
from fastfashion.config import AugmentConfig, DataConfig, Size
from fastfashion.errors import ConfigError, InputError
from fastfashion.fields import Result
from fastfashion.files import writing_to
from fastfashion.images.sheets import TILE_HEIGHT_PX, TILE_WIDTH_PX, Group, Tile, draw_sheet, write_sheet
from fastfashion.load import Loader, LoaderSpec, Selection, make_spec
from fastfashion.load.fit import DEFAULT_FIT, Fit
from fastfashion.shards import PackedSet, Resolution, open_packed_set

MAX_IMAGES = 512  # the sheet is then some 27,000 pixels high
VERSIONS = 3  # epochs shown of each image
GROUPS = 4  # groups of an image and its versions in a line


@dataclass(frozen=True, kw_only=True)
class PreviewRequest:
    """What to show, and where to write it."""

    shards: Path
    out: Path
    augment: AugmentConfig
    task: str = "subCategory"  # a label, several with commas between, or "all"
    resolution: str = "auto"
    size: str = "auto"
    fit: Fit = DEFAULT_FIT
    backend: str = "threads"
    decoder: str = "own"
    workers: int = 1
    count: int = 32  # images, drawn by seed from those with a label of one of the tasks
    rows: Sequence[int] | None = None  # these rows of the set instead
    seed: int = 0
    epoch: int = 0  # the first of those shown
    view: catalog_views.View = NO_VIEW

    def __post_init__(self) -> None:
        num_images = self.count if self.rows is None else len(self.rows)
        if not 1 <= num_images <= MAX_IMAGES:
            raise ConfigError(f"images of a preview: expected 1 to {MAX_IMAGES}, found {num_images}")


@dataclass(frozen=True, kw_only=True)
class PreviewSummary(Result):
    """What the sheet shows."""

    out: str
    resolution: str
    size: str
    rows: tuple[int, ...]  # of the set, in reading order
    epochs: tuple[int, ...]
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class View:
    """An image as the model sees it in one epoch, uint8 (H, W, 3); `mixture` has (share, label) of its two sources, or nothing."""

    pixels: np.ndarray
    mixture: tuple[tuple[float, str], ...]


def preview(request: PreviewRequest) -> PreviewSummary:
    """Write the sheet as a PNG. Images, crops and mixtures come from a loader: it shows what training would see of these rows.

    Raises ConfigError for settings, InputError for rows that the set does not have and a bad `out`, PackedSetError for damaged images.
    """
    packed = open_packed_set(request.shards).viewed(request.view)
    tasks = packed.vocab.chosen(DataConfig(shards="", task=request.task).tasks)
    labels = packed.vocab.codes(packed.table, tasks)
    spec = _spec(request, packed, tasks, labels)
    images, size = spec.images, spec.size
    classes, missing = [packed.vocab.names(task) for task in tasks], "no label" if len(tasks) == 1 else "-"
    names = [", ".join(known[code] if code >= 0 else missing for known, code in zip(classes, row, strict=True)) for row in labels.tolist()]
    epochs = tuple(range(request.epoch, request.epoch + VERSIONS))
    with closing(Loader(spec)) as loader:
        views = {epoch: read_views(loader, epoch, names) for epoch in epochs}
    groups = []
    for row in spec.plan.rows.tolist():
        packed_tile = Tile(pixels=images.tile(row).pixels, lines=["packed"])
        seen = [view_tile(views[epoch][row], epoch) for epoch in epochs]
        groups.append(Group(tiles=[packed_tile, *seen], title=f"{packed.table['id'].iloc[row]}  {names[row]}"))
    scale = min(TILE_HEIGHT_PX / size.height_px, TILE_WIDTH_PX / size.width_px)
    height_px, width_px = max(1, round(size.height_px * scale)), max(1, round(size.width_px * scale))
    header = _header(request, packed, images, size)
    sheet = draw_sheet(groups, columns=GROUPS, header=header, height_px=height_px, width_px=width_px)
    with writing_to(request.out):
        request.out.parent.mkdir(parents=True, exist_ok=True)
        write_sheet(request.out, sheet)
    return PreviewSummary(
        out=str(request.out),
        resolution=images.name,
        size=str(size),
        rows=tuple(spec.plan.rows.tolist()),
        epochs=epochs,
        width_px=sheet.width,
        height_px=sheet.height,
    )


def view_tile(view: View, epoch: int) -> Tile:
    """What the model sees of an image, with the shares of the labels it is mixed from."""
    return Tile(pixels=view.pixels, lines=[f"epoch {epoch}", *(f"{100 * share:.0f}% {label}" for share, label in view.mixture)])


def _spec(request: PreviewRequest, packed: PackedSet, tasks: tuple[str, ...], labels: np.ndarray) -> LoaderSpec:
    """How to load the rows to show, all in one step."""
    import torch

    if request.rows is not None:
        rows = np.array(list(dict.fromkeys(request.rows)), dtype=np.int64)
        if outside := [row for row in rows.tolist() if not 0 <= row < len(labels)]:
            raise InputError(f"{request.shards}: no row {outside[0]}; expected 0 to {len(labels) - 1}")
    else:
        rows = np.flatnonzero(labels.max(axis=1) >= 0)
    chosen = Selection(rows=rows, batch_size=max(1, len(rows)), tasks=tasks, labels=labels, seed=request.seed, augment=request.augment)
    how: dict[str, Any] = {name: getattr(request, name) for name in ("resolution", "size", "backend", "decoder", "workers")}
    data = DataConfig(**how, **request.fit.settings())
    spec = make_spec(packed, chosen, data, dist.World(device=torch.device("cpu")))
    plan = spec.plan
    if request.rows is None:
        plan = replace(plan, rows=np.sort(plan.order(0)[: request.count]))
    return replace(spec, plan=replace(plan, batch_size=len(plan.rows)), prefetch=1)


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
        f"{packed.path}, resolution {images.name}: what a model with input {size} (height x width), fit {request.fit.mode}, sees; "
        f"label: {request.task}; seed: {request.seed}",
        f"augmentation: {', '.join(on) or 'none'}",
    ]
