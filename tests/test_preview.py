"""The contact sheet: which images it shows, where, and under what name."""

import shutil
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PackedSmall
from PIL import Image

from fastfashion.audit.preview import PreviewRequest, PreviewSummary, View, preview, read_views, view_tile
from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.images.sheets import Group, Tile, draw_sheet
from fastfashion.load import Loader, LoaderSpec, Plan
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import shard_name

MIXING = AugmentConfig(brightness=0.3, saturation=0.5, erase=0.3, mixup=0.4, cutmix=1.0)


def make(packed_small: PackedSmall, out: Path, **changes: Any) -> tuple[PreviewSummary, Image.Image]:
    settings = {"shards": packed_small.out, "out": out, "augment": AugmentConfig(), "count": 6, "workers": 2}
    summary = preview(PreviewRequest(**(settings | changes)))
    with Image.open(out) as sheet:
        return summary, sheet.convert("RGB")


@pytest.mark.parametrize("augment", [AugmentConfig(), MIXING], ids=["plain", "mixing"])
def test_the_sheet_is_a_png_of_the_said_size_with_labelled_rows_and_the_same_again(
    packed_small: PackedSmall, tmp_path: Path, augment: AugmentConfig
) -> None:
    summary, sheet = make(packed_small, tmp_path / "new" / "a.png", augment=augment, task="season")
    assert (summary.width_px, summary.height_px) == sheet.size
    assert (summary.resolution, summary.size, summary.epochs) == ("full", "80x64", (0, 1, 2))
    packed = open_packed_set(packed_small.out)
    assert len(set(summary.rows)) == 6
    assert set(packed.table["season"].iloc[list(summary.rows)]) <= {"Summer", "Winter"}
    again, _ = make(packed_small, tmp_path / "new" / "b.png", augment=augment, task="season")
    assert again.rows == summary.rows
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "new" / "b.png").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]
    assert make(packed_small, tmp_path / "c.png", augment=augment, task="season", seed=1)[0].rows != summary.rows


def test_chosen_rows_are_shown_in_their_order_with_label_or_without(packed_small: PackedSmall, tmp_path: Path) -> None:
    summary, _ = make(packed_small, tmp_path / "a.png", rows=[5, 0, 5, 18], task="season", size="32x32")
    assert summary.rows == (5, 0, 18)  # rows 5 and 18 have no season
    assert (summary.resolution, summary.size) == ("32", "32x32")


def test_more_images_than_there_are_is_all_that_have_a_label(packed_small: PackedSmall, tmp_path: Path) -> None:
    without = {5, 18, 31, 44, 57}
    assert make(packed_small, tmp_path / "a.png", count=500, task="season")[0].rows == tuple(r for r in range(60) if r not in without)


def test_tiles_are_in_a_line_in_the_order_of_the_epochs_at_one_size() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 0, 250)]
    seen = [np.full((40, 30, 3), colour, np.uint8) for colour in colours[1:]]
    packed = Tile(pixels=np.full((60, 45, 3), colours[0], np.uint8))
    views = [view_tile(View(pixels=pixels, mixture=()), epoch) for epoch, pixels in enumerate(seen, 4)]
    group = Group(title="1  Topwear", tiles=[packed, *views])
    sheet = np.asarray(draw_sheet([group], header=["header"], height_px=60, width_px=45))
    places = [np.argwhere((sheet == colour).all(axis=2)) for colour in colours]
    tops, lefts = zip(*(place.min(axis=0) for place in places), strict=True)
    assert len(set(tops)) == 1
    assert list(lefts) == sorted(lefts)
    assert len({right - left for left, right in pairwise(lefts)}) == 1
    assert [tuple(np.ptp(place, axis=0) + 1) for place in places] == [(60, 45)] * 4  # no frame or text over them


def test_a_mixed_image_names_both_its_labels_and_its_partner_the_same_two(packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    images = packed.open("32")
    rows = np.arange(21)
    plan = Plan(rows=rows, heights_px=images.height_px, widths_px=images.width_px, batch_size=21, augment=AugmentConfig(mixup=0.5))
    labels = packed.vocab.codes(packed.table, ["subCategory"])
    names = [f"label of {row}" for row in range(60)]
    spec = LoaderSpec(images=images, plan=plan, labels=labels, size=Size(32, 32), device=torch.device("cpu"), backend="threads")
    with closing(Loader(spec)) as loader:
        views = read_views(loader, 0, names)
    assert sorted(views) == rows.tolist()
    assert sum(view.mixture == () for view in views.values()) == 1  # 21 is odd
    for row, view in views.items():
        if view.mixture:
            (share, own), (rest, other) = view.mixture
            assert own == names[row] != other and share + rest == pytest.approx(1)
            (theirs, partner), (_, mine) = views[names.index(other)].mixture
            assert (partner, mine, theirs) == (other, own, share)


def test_long_names_stay_inside_their_tile() -> None:
    pixels = np.zeros((40, 30, 3), np.uint8)
    mixed = view_tile(View(pixels=pixels, mixture=((0.5, "W" * 300), (0.5, "W" * 300))), 0)
    groups = [Group(title="W" * 300, tiles=[mixed, mixed]), Group(tiles=[mixed, Tile(pixels=pixels)])]
    sheet = np.asarray(draw_sheet(groups, columns=2, header=["W" * 999], height_px=60, width_px=45))
    assert (sheet[:, :15] == 255).all() and (sheet[:, -15:] == 255).all()
    assert (sheet[60:, 120:135] == 255).all()  # between the groups: 20 pixels, a frame in each
    assert (sheet[124:, 195:] == 255).all()  # under the last image, which has no text


def test_what_cannot_be_shown_says_why_and_leaves_no_file(packed_small: PackedSmall, tmp_path: Path) -> None:
    wrong = [
        ({"count": 0}, ConfigError, "1 to 512, found 0"),
        ({"rows": [3, 60]}, InputError, "no row 60; expected 0 to 59"),
        ({"task": "colour"}, ConfigError, "unknown task 'colour'"),
        ({"size": "8"}, ConfigError, "16 to 4096"),
    ]
    for changes, kind, said in wrong:
        with pytest.raises(kind, match=said):
            make(packed_small, tmp_path / "a.png", **changes)
    with pytest.raises(InputError, match="cannot be written"):
        make(packed_small, packed_small.source / "styles.csv" / "a.png")
    broken = tmp_path / "broken"
    shutil.copytree(packed_small.out, broken)
    offset = int(open_packed_set(broken).open("full").offset[30])
    with (broken / "full" / shard_name(1)).open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 64)
    with pytest.raises(PackedSetError, match=rf"00001\.tar.* {offset}"):
        make(packed_small, tmp_path / "a.png", shards=broken, rows=[29, 30])
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_the_sheet_shows_the_fit_of_the_settings(packed_small: PackedSmall, tmp_path: Path) -> None:
    """Through the function that the command calls: a letterbox in blue is blue where no image is."""
    import fastfashion as ff

    blue = {"data.fit": "pad", "data.pad_color": "0,0,255", "augment.brightness": 0.5}
    sheets = {}
    for name, settings in (("plain", {}), ("blue", blue)):
        ff.preview(packed_small.out, rows=3, out=tmp_path / f"{name}.png", size="64x128", settings=settings, workers=1)
        with Image.open(tmp_path / f"{name}.png") as sheet:
            sheets[name] = (np.asarray(sheet.convert("RGB")) == (0, 0, 255)).all(axis=2).mean()
    assert sheets["plain"] == 0 and sheets["blue"] > 0.1
