"""data.fit: the boxes and places of the plan, and what the CPU paths make of them; Pillow and torchvision do the same."""

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch
from conftest import smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import v2

from fastfashion.config import AugmentConfig, DataConfig, Size, parse_color
from fastfashion.errors import ConfigError
from fastfashion.load import Plan, crops
from fastfashion.load.augment import apply_one, apply_torch
from fastfashion.load.crops import load_crops, resize_crops
from fastfashion.load.fit import CROP, PAD, SQUASH, Fit, Padding
from fastfashion.load.plan import Step
from fastfashion.load.resident import resize_on_device

SHAPES = np.array([[80, 60], [60, 80], [1, 500], [500, 1], [1, 1], [333, 211], [64, 48], [81, 61]])  # height, width
SIZE = Size(64, 48)
WHOLE = [[0, 0, height, width] for height, width in SHAPES.tolist()]
# What checkpoints and kept models rely on: fit, crop_pct, augmented -> boxes and places by row.
GOLDEN: dict[tuple[str, float, bool], tuple[list[list[int]], list[list[int]] | None]] = {
    (SQUASH, 1.0, False): (WHOLE, None),
    (SQUASH, 1.0, True): (
        [
            [2, 0, 74, 58],
            [0, 3, 50, 80],
            [0, 13, 1, 464],
            [52, 0, 492, 1],
            [0, 0, 1, 1],
            [5, 0, 323, 211],
            [10, 4, 60, 44],
            [6, 5, 79, 61],
        ],
        None,
    ),
    (CROP, 1.0, False): (
        [
            [0, 0, 80, 60],
            [0, 17, 60, 62],
            [0, 249, 1, 250],
            [249, 0, 250, 1],
            [0, 0, 1, 1],
            [26, 0, 307, 211],
            [0, 0, 64, 48],
            [0, 0, 81, 61],
        ],
        None,
    ),
    (CROP, 0.875, False): (
        [
            [5, 4, 75, 56],
            [4, 20, 56, 59],
            [0, 249, 1, 250],
            [249, 0, 250, 1],
            [0, 0, 1, 1],
            [43, 13, 289, 198],
            [4, 3, 60, 45],
            [5, 4, 76, 57],
        ],
        None,
    ),
    (CROP, 0.875, True): (
        [
            [2, 1, 71, 57],
            [0, 26, 54, 73],
            [0, 137, 1, 138],
            [433, 0, 434, 1],
            [0, 0, 1, 1],
            [25, 3, 288, 209],
            [11, 4, 60, 43],
            [6, 5, 78, 61],
        ],
        None,
    ),
    (PAD, 1.0, False): (
        WHOLE,
        [
            [0, 0, 64, 48],
            [14, 0, 50, 48],
            [32, 0, 33, 48],
            [0, 24, 64, 25],
            [8, 0, 56, 48],
            [0, 4, 64, 45],
            [0, 0, 64, 48],
            [0, 0, 64, 48],
        ],
    ),
    (PAD, 1.0, True): (
        [
            [2, 0, 74, 58],
            [0, 3, 50, 80],
            [0, 13, 1, 464],
            [52, 0, 492, 1],
            [0, 0, 1, 1],
            [5, 0, 323, 211],
            [10, 4, 60, 44],
            [6, 5, 79, 61],
        ],
        [
            [2, 0, 62, 48],
            [16, 0, 47, 48],
            [32, 0, 33, 48],
            [0, 24, 64, 25],
            [8, 0, 56, 48],
            [0, 3, 64, 45],
            [2, 0, 62, 48],
            [0, 0, 63, 48],
        ],
    ),
}
SIDES = st.integers(1, 700)


def one_step(fit: Fit, shapes: np.ndarray, size: Size | None = SIZE, augment: AugmentConfig | None = None, seed: int = 1) -> Step:
    """The step of all images, in the order of their rows."""
    plan = Plan(
        rows=np.arange(len(shapes)),
        heights_px=shapes[:, 0],
        widths_px=shapes[:, 1],
        batch_size=len(shapes),
        seed=seed,
        augment=augment,
        fit=fit,
        size=size,
    )
    step = plan.step(2, 0)
    return step.part(0, 1, len(shapes)) if augment is None else step  # type: ignore[return-value]


@pytest.mark.parametrize(("mode", "crop_pct", "augmented"), GOLDEN)
def test_boxes_and_places_are_the_same_on_every_machine_and_version(mode: str, crop_pct: float, augmented: bool) -> None:
    step = one_step(Fit(mode=mode, crop_pct=crop_pct), SHAPES, augment=AugmentConfig() if augmented else None)
    by_row = np.argsort(step.rows)
    places = None if step.places is None else step.places[by_row].tolist()
    assert (step.boxes[by_row].tolist(), places) == GOLDEN[mode, crop_pct, augmented]
    assert step.boxes.dtype == np.int32 and (step.places is None or step.places.dtype == np.int32)


def test_the_fit_changes_neither_order_nor_flips_nor_any_other_draw() -> None:
    augment = AugmentConfig(brightness=0.2, erase=0.5, mixup=0.3, cutmix=0.3)
    first, *others = (one_step(Fit(mode=mode), SHAPES, augment=augment) for mode in (SQUASH, CROP, PAD))
    for other in others:
        for name in ("rows", "flips", "colours", "erased", "partners", "shares", "pasted"):
            np.testing.assert_array_equal(getattr(other, name), getattr(first, name), err_msg=name)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=20), st.integers(16, 300), st.integers(16, 300), st.integers(0, 2**31))
def test_crops_have_the_shape_of_the_size_and_places_that_of_their_box(
    shapes: list[tuple[int, int]], height: int, width: int, seed: int
) -> None:
    sizes, size = np.array(shapes), Size(height, width)
    for augment in (None, AugmentConfig(min_area=0.3, max_stretch=1.5)):
        step = one_step(Fit(mode=CROP), sizes, size, augment, seed)
        y0, x0, y1, x1 = step.boxes.T
        assert ((y0 >= 0) & (y0 < y1) & (y1 <= sizes[step.rows, 0]) & (x0 >= 0) & (x0 < x1) & (x1 <= sizes[step.rows, 1])).all()
        stretch = 1.5 if augment else 1.0
        # Both sides are rounded to whole pixels, and are at least 1.
        assert ((y1 - y0 - 1) * width <= stretch * (x1 - x0 + 1) * height).all()
        assert ((x1 - x0 - 1) * height <= stretch * (y1 - y0 + 1) * width).all()
        step = one_step(Fit(mode=PAD), sizes, size, augment, seed)
        assert step.places is not None
        tall, wide = (step.places[:, 2:] - step.places[:, :2]).T
        high, across = (step.boxes[:, 2:] - step.boxes[:, :2]).T
        assert ((tall == height) | (wide == width)).all() and (tall >= 1).all() and (wide >= 1).all()
        assert (np.abs(tall * across - wide * high) <= np.maximum(high, across)).all()  # to the nearest pixel, or one pixel
        margins = step.places[:, :2], np.array([height, width]) - step.places[:, 2:]
        assert (np.abs(margins[0] - margins[1]) <= 1).all() and (margins[0] >= 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_random_crops_take_a_share_of_the_largest_crop(seed: int) -> None:
    shapes = np.tile([300, 100], (4000, 1))
    step = one_step(Fit(mode=CROP), shapes, Size(64, 64), AugmentConfig(min_area=0.5, max_stretch=1), seed)
    y0, x0, y1, x1 = step.boxes.T.astype(float)
    area = (y1 - y0) * (x1 - x0) / 100**2  # uniform on [0.5, 1], as test_plan.py has it for whole images
    assert abs(area.mean() - 0.75) < 0.014 and 0.48 < area.min() < 0.52 and area.max() > 0.98
    assert abs(((y0 + y1) / 2).mean() - 150) < 5 and y0.min() < 3 and y1.max() > 297  # all over the image


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, st.integers(16, 90), st.integers(16, 90))
def test_places_are_pillows(height: int, width: int, out_height: int, out_width: int) -> None:
    places = Fit(mode=PAD).places(np.array([[0, 0, height, width]]), (out_height, out_width))
    assert places is not None
    y0, x0, y1, x1 = places[0].tolist()
    image = Image.new("RGB", (width, height), (255, 255, 255))
    if min(round(height / width * out_width), round(width / height * out_height)) == 0:
        return  # Pillow refuses what becomes thinner than a pixel
    shown = np.asarray(ImageOps.pad(image, (out_width, out_height), Image.Resampling.NEAREST, color=(0, 0, 0)))
    expected = np.zeros((out_height, out_width, 3), dtype=np.uint8)
    expected[y0:y1, x0:x1] = 255
    np.testing.assert_array_equal(shown, expected)


def encode(image: Image.Image, form: str = "JPEG") -> np.ndarray:
    file = io.BytesIO()
    image.save(file, form, **({"quality": 92} if form == "JPEG" else {}))
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def fitted(fit: Fit, datas: list[np.ndarray], shapes: np.ndarray, size: Size, flip: bool = False) -> np.ndarray:
    """Encoded images by `load_crops`, as evaluation sees them."""
    step = one_step(fit, shapes, size)
    out = np.full((len(datas), size.height_px, size.width_px, 3), 77, dtype=np.uint8)
    sizes, flips = shapes.astype(np.int32), np.full(len(datas), flip)
    assert load_crops(datas, step.boxes, sizes, flips, out, np.zeros(3), padding=fit.padding(step.places)) == {}
    return out


@pytest.fixture(params=["native", "python"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(crops, "_native", None)
    elif not crops.is_native():
        pytest.skip("fastfashion.images._native was not built: it takes a C compiler and libjpeg-turbo's headers (libjpeg-dev)")
    return str(request.param)


ODD_SHAPES = [(80, 60), (61, 83), (97, 31), (30, 120), (16, 300), (300, 16), (17, 17)]


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("size", [Size(64, 48), Size(33, 57)], ids=str)
def test_padded_images_are_pillows(path: str, shape: tuple[int, int], size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "OVERSAMPLE", 1e9)  # decode in full: what scaled decoding costs is another test's
    data = encode(smooth_image(3, shape[1], shape[0]))
    whole = Image.open(io.BytesIO(data.tobytes())).convert("RGB")
    color = (250, 7, 90)
    expected = ImageOps.pad(whole, (size.width_px, size.height_px), Image.Resampling.BILINEAR, color=color)
    found = fitted(Fit(mode=PAD, pad_color=color), [data], np.array([shape]), size)
    assert np.abs(found[0].astype(int) - np.asarray(expected)).max() <= 2
    mirrored = fitted(Fit(mode=PAD, pad_color=color), [data], np.array([shape]), size, flip=True)
    places = Fit(mode=PAD).places(np.array([[0, 0, *shape]]), (size.height_px, size.width_px))
    assert places is not None
    y0, x0, y1, x1 = places[0].tolist()
    assert np.abs(mirrored[0, y0:y1, x0:x1].astype(int) - found[0, y0:y1, x0:x1][:, ::-1]).max() <= 1  # the place stays, odd margins too
    found[0, y0:y1, x0:x1] = mirrored[0, y0:y1, x0:x1] = color
    assert (found == color).all() and (mirrored == color).all()


@pytest.mark.parametrize("shape", [(80, 60), (61, 83), (97, 31), (30, 120), (190, 130)], ids=str)
@pytest.mark.parametrize("size", [Size(64, 48), Size(33, 57), Size(32, 32)], ids=str)
def test_crops_are_nearer_to_pillows_fit_than_a_shift_of_one_pixel_of_the_image(path: str, shape: tuple[int, int], size: Size) -> None:
    """ImageOps.fit crops between pixels; here a box has whole ones."""
    image, out = smooth_image(3, shape[1], shape[0]), (size.width_px, size.height_px)
    found = fitted(Fit(mode=CROP), [encode(image, "PNG")], np.array([shape]), size)[0].astype(int)
    y0, x0, y1, x1 = one_step(Fit(mode=CROP), np.array([shape]), size).boxes[0].tolist()

    def away(down: int, right: int) -> float:
        moved = image.crop((x0 + right, y0 + down, x1 + right, y1 + down)).resize(out, Image.Resampling.BILINEAR)
        return float(np.abs(found - np.asarray(moved)).mean())

    assert away(0, 0) < 0.5
    expected = np.asarray(ImageOps.fit(image, out, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found - expected).mean() < min(away(0, 1), away(1, 0))


@pytest.mark.parametrize(("crop_pct", "resized"), [(1.0, 64), (0.875, 73)])
@pytest.mark.parametrize("shape", [(80, 60), (200, 300), (333, 211)], ids=str)
def test_crops_are_torchvisions_resize_and_centre_crop_to_half_a_pixel_of_the_output(
    path: str, shape: tuple[int, int], crop_pct: float, resized: int
) -> None:
    """torchvision rounds to whole pixels after the resize, of the longer side and of the crop's place."""
    image = smooth_image(7, shape[1], shape[0])
    found = fitted(Fit(mode=CROP, crop_pct=crop_pct), [encode(image, "PNG")], np.array([shape]), Size(64, 64))[0].astype(int)
    steps = [v2.Resize(resized, v2.InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop(64)]
    expected = np.asarray(v2.Compose(steps)(image)).astype(int)

    def away(down: int, right: int) -> float:
        return float(np.abs(found - np.roll(expected, (down, right), (0, 1)))[2:-2, 2:-2].mean())

    assert away(0, 0) < 0.6 * min(away(0, 2), away(0, -2), away(2, 0), away(-2, 0))  # a shift by 1.5 to 2.5 pixels


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(1, 5),
    st.tuples(st.integers(16, 99), st.integers(16, 99)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_the_compiled_path_python_and_torch_agree_on_any_place(
    shape: tuple[int, int], count: int, size: tuple[int, int], letterboxed: bool, seed: int
) -> None:
    """One-pixel boxes, very wide and very tall images, any place: noise, of which Pillow rounds sums and we each of up to 120 products."""
    rng, shapes = np.random.default_rng(seed), np.tile(shape, (count, 1))
    kept = rng.integers(0, 256, (count, *shape, 3), dtype=np.uint8)
    boxes = any_boxes(rng, shapes)
    places = Fit(mode=PAD).places(boxes, size) if letterboxed else any_boxes(rng, np.tile(size, (count, 1)))
    assert places is not None
    padding, flips, index = Padding(places, (1, 255, 3)), rng.random(count) < 0.5, rng.permutation(count)
    out, by_python = (np.full((count, *size, 3), filled, dtype=np.uint8) for filled in (77, 78))
    resize_crops(kept, index, boxes, flips, out, padding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "_native", None)
        resize_crops(kept, index, boxes, flips, by_python, padding)
    cut, mirrored = torch.from_numpy(boxes), torch.from_numpy(flips)
    by_torch = resize_on_device(torch.from_numpy(kept[index]), cut, mirrored, *size, padding).numpy()
    for other in (by_python, by_torch):
        assert np.abs(out.astype(int) - other).max() <= 2


def any_boxes(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """Boxes inside of these heights and widths, (n, 2): int32 (n, 4)."""
    ends = rng.integers(1, shapes + 1)
    starts = (rng.random(shapes.shape) * ends).astype(np.int64)
    return np.concatenate([starts, ends], axis=1).astype(np.int32)


@pytest.mark.parametrize("place", [[0, 0, 9, 8], [-1, 0, 8, 8], [5, 5, 5, 8], [0, 3, 8, 3], [0, 0, 8, 9]])
def test_a_place_outside_of_its_output_is_refused(place: list[int]) -> None:
    if not crops.is_native():
        pytest.skip("fastfashion.images._native was not built: it takes a C compiler and libjpeg-turbo's headers (libjpeg-dev)")
    data, box = encode(smooth_image(0, 70, 90)), np.array([[0, 0, 90, 70]], np.int32)
    out, flips, padding = np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, bool), Padding(np.array([place], np.int32), (0, 0, 0))
    with pytest.raises(ValueError, match="place 0: expected y0 < y1 <= 8 and x0 < x1 <= 8"):
        load_crops([data], box, np.array([[90, 70]], np.int32), flips, out, np.zeros(3), padding=padding)
    with pytest.raises(ValueError, match="place 0: expected y0 < y1 <= 8 and x0 < x1 <= 8"):
        resize_crops(np.zeros((1, 90, 70, 3), np.uint8), np.zeros(1, int), box, flips, out, padding)


def test_what_does_not_decode_is_black_padding_too_and_harms_nobody_else(path: str) -> None:
    whole, shapes, fit = encode(smooth_image(0, 70, 90)), np.tile([90, 70], (4, 1)), Fit(mode=PAD)
    step = one_step(fit, shapes, Size(32, 64))
    out = np.full((4, 32, 64, 3), 77, dtype=np.uint8)
    datas = [whole, whole[: len(whole) // 2], encode(smooth_image(0, 70, 90), "PNG"), np.zeros(500, dtype=np.uint8)]
    wrong = load_crops(datas, step.boxes, shapes.astype(np.int32), step.flips, out, np.zeros(3), padding=fit.padding(step.places))
    assert sorted(wrong) == [1, 3] and not out[[1, 3]].any()
    for good in (0, 2):
        assert (out[good][:, :19] == fit.pad_color).all() and (out[good][:, 45:] == fit.pad_color).all() and out[good].std() > 20


def test_colours_change_inside_the_place_alone_and_erasing_paints_over_both() -> None:
    rng = np.random.default_rng(0)
    images, part = rng.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8), one_step(Fit(mode=SQUASH), np.tile([20, 30], (3, 1)))
    colours = np.tile(np.array([[0.5, 0, 0, 9], [0, 0.5, 0, 9], [0, 0, 0.5, 9]], np.float32), (3, 1, 1))
    places = np.array([[0, 5, 20, 25], [3, 0, 18, 30], [0, 0, 20, 30]], np.int32)
    erased = np.array([[0, 0, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    by_cv2, by_torch = images.copy(), torch.from_numpy(images.copy())
    for i, image in enumerate(by_cv2):
        apply_one(image, colours[i], erased[i], places[i])
    apply_torch(by_torch, dataclasses.replace(part, colours=colours, erased=erased, places=places))  # type: ignore[arg-type]
    assert np.abs(by_cv2.astype(int) - by_torch.numpy()).max() <= 1
    outside = np.ones((3, 20, 30), dtype=bool)
    for i, (y0, x0, y1, x1) in enumerate(places.tolist()):
        outside[i, y0:y1, x0:x1] = False
    outside[0, :10, :15] = False
    np.testing.assert_array_equal(by_cv2[outside], images[outside])
    assert (by_cv2[0, :10, :15] == (124, 116, 104)).all()
    assert np.abs(by_cv2[2].astype(float) - (images[2] * 0.5 + 9)).max() <= 0.51


@pytest.mark.parametrize(
    ("given", "expected"), [("255", (255, 255, 255)), ("124, 116,104", (124, 116, 104)), ("0,0,0", (0, 0, 0))], ids=str
)
def test_a_colour_is_one_number_or_three(given: str, expected: tuple[int, int, int]) -> None:
    assert parse_color(given) == Fit.of(DataConfig(fit=PAD, pad_color=given)).pad_color == expected


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fit": "stretch"}, "data.fit: expected squash, crop or pad, found 'stretch'"),
        ({"crop_pct": 0.0}, "data.crop_pct: expected above 0, at most 1"),
        ({"crop_pct": 1.1}, "data.crop_pct: expected above 0, at most 1"),
        ({"pad_color": "256"}, "data.pad_color: expected R,G,B or one number, each 0 to 255, found '256'"),
        ({"pad_color": "1,2"}, "data.pad_color"),
        ({"pad_color": "white"}, "data.pad_color"),
        ({"pad_color": ""}, "data.pad_color"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DataConfig(**wrong)


@pytest.mark.parametrize("mode", [CROP, PAD])
def test_a_fit_without_the_size_it_depends_on_is_refused(mode: str) -> None:
    with pytest.raises(ConfigError, match=f"fit {mode}: expected the size"):
        one_step(Fit(mode=mode), SHAPES, size=None)
