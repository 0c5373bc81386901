"""Image quality: what is damaged is found, and sound products on white are left alone, at any size."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import PackedSmall
from PIL import Image

import fastfashion as ff
from fastfashion.audit.quality import CHECKS, _percentile, judge, measure
from fastfashion.catalog import Columns
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import open_packed_set


def product(
    height: int = 80, width: int = 60, colour: tuple[int, int, int] = (120, 60, 40), ground: int = 255, seed: int = 0
) -> np.ndarray:
    """A product with shades and texture on a plain ground, drawn large and scaled, as a photograph is."""
    drawn = np.random.default_rng(seed)
    big = np.full((height * 4, width * 4, 3), ground, dtype=np.float64)
    texture = cv2.resize(drawn.normal(0, 1, (height // 3, width // 3, 1)), (width * 2, height * 2), interpolation=cv2.INTER_LINEAR)[
        ..., None
    ]
    shade = np.linspace(0.5, 1.6, width * 2)[None, :, None]
    body = np.clip(np.array(colour) * shade * (1 + 0.15 * texture), 0, 255)
    big[height : height * 3, width : width * 3] = body
    return cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def found(*images: np.ndarray) -> list[set[str]]:
    stack = np.stack(images)
    checks = judge(measure(stack), np.full(len(stack), stack.shape[1]), np.full(len(stack), stack.shape[2]))
    return [{check for check, flags in checks.items() if flags[i]} for i in range(len(stack))]


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (120, 90), (64, 64)])
def test_what_is_damaged_is_found_and_what_is_sound_is_not(size: tuple[int, int]) -> None:
    sound = product(*size)
    blurred = cv2.GaussianBlur(sound, (0, 0), size[0] / 40)
    dark, blackened = (sound * 0.3).astype(np.uint8), np.where(sound.min(2, keepdims=True) >= 240, sound, (sound * 0.2).astype(np.uint8))
    bleached = (255 - 0.2 * (255.0 - sound)).astype(np.uint8)
    results = found(sound, blurred, dark, blackened, bleached, np.full_like(sound, 255), np.full_like(sound, 90))
    assert results == [set(), {"blurry"}, {"dark"}, {"dark"}, {"light"}, {"blank"}, {"blank"}]


def test_products_that_are_black_white_small_or_on_another_ground_are_sound() -> None:
    black = product(colour=(55, 52, 58))
    white = product(colour=(175, 178, 180))
    small = np.full((80, 60, 3), 255, dtype=np.uint8)
    small[36:44, 26:34] = product()[30:38, 24:32]
    grounded = product(ground=200)
    assert [each & {"dark", "light", "blurry", "blank"} for each in found(black, white, small, grounded)] == [set()] * 4


def test_gray_is_judged_by_colour_and_not_by_the_number_of_channels() -> None:
    sound = product()
    gray = np.repeat(sound.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert found(sound, gray) == [set(), {"gray"}]


def test_shape_and_size_are_odd_beside_the_others() -> None:
    images = np.stack([product(seed=seed) for seed in range(9)])
    heights, widths = np.full(9, 800), np.full(9, 600)
    heights[2], widths[2], heights[5], widths[5] = 900, 300, 80, 60
    checks = judge(measure(images), heights, widths)
    assert np.flatnonzero(checks["odd shape"]).tolist() == [2] and np.flatnonzero(checks["odd size"]).tolist() == [5]


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 101))
    histograms = np.stack([np.bincount(line, minlength=256) for line in values])
    for share in (0.01, 0.5, 0.9, 0.99):
        np.testing.assert_array_equal(_percentile(histograms, share), np.quantile(values, share, axis=1, method="inverted_cdf"))


def test_the_sharpness_of_a_step_is_one_and_falls_with_blur() -> None:
    step = np.full((1, 60, 60, 3), 255, dtype=np.uint8)
    step[:, :, 30:] = 55
    blurred = [np.stack([cv2.GaussianBlur(step[0], (0, 0), sigma)]) for sigma in (0.7, 1.0, 1.5, 2.0)]
    values = [float(measure(each)["sharpness"][0]) for each in (step, *blurred)]
    assert values[0] == 1 > values[1] > 0.6 > max(values[2:])


def test_the_command_lists_rows_and_draws_sheets(tmp_path: Path) -> None:
    images = {f"sound{n}": product(160, 120, seed=n) for n in range(8)}
    images |= {"blur": cv2.GaussianBlur(images["sound0"], (0, 0), 4), "dark": (images["sound1"] * 0.3).astype(np.uint8)}
    images |= {"blank": np.full((160, 120, 3), 255, dtype=np.uint8), "wide": product(120, 360)}
    source = tmp_path / "shop"
    (source / "images").mkdir(parents=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(source / "images" / f"{name}.png")
    (source / "styles.csv").write_text("id,kind\n" + "".join(f"{name},a\n" for name in images))
    pack(PackRequest(source=source, out=tmp_path / "packed", resolutions=("full",), columns=Columns(labels=("kind",)), workers=1))
    report = ff.audit(tmp_path / "packed", out=tmp_path / "audit")
    assert report.quality["images"] == 12 and report.quality["not_decoded"] == []
    assert {check: count for check, count in report.quality["checks"].items() if count} == {
        "dark": 1,
        "blurry": 1,
        "blank": 1,
        "odd shape": 1,
    }
    with (tmp_path / "audit/quality.csv").open() as file:
        listed = {(line["id"], line["check"]) for line in csv.DictReader(file)}
    assert listed == {("blur", "blurry"), ("dark", "dark"), ("blank", "blank"), ("wide", "odd shape")}
    table = pd.read_parquet(tmp_path / "audit/quality.parquet")
    assert len(table) == 12 and table.set_index("id").loc["dark", "dark"] and table["sharpness"].between(0, 1).all()
    sheets = {path.name for path in (tmp_path / "audit").glob("quality_*.png")}
    assert sheets == {"quality_dark.png", "quality_blurry.png", "quality_blank.png", "quality_odd_shape.png"}
    assert ff.audit(tmp_path / "packed", quality=False).quality is None


def test_of_the_small_hand_made_set_nothing_is_blank(packed_small: PackedSmall) -> None:
    quality = ff.audit(packed_small.out).quality
    assert quality["images"] == len(open_packed_set(packed_small.out)) and set(quality["checks"]) == set(CHECKS)
    assert quality["checks"]["blank"] == quality["checks"]["dark"] == 0
