"""From encoded images to crops: the compiled path, the one in Python, and Pillow's crop and resize agree, whatever comes in."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import psnr_db, smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastfashion.load import crops
from fastfashion.load.crops import load_crops, resize_crops
from fastfashion.load.resident import resize_on_device

PATHS = ["native", "python"]
SIZE_PX = (90, 70)


def use(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "python":
        monkeypatch.setattr(crops, "_native", None)
    elif not crops.is_native():
        pytest.skip("fastfashion.images._native was not built: it takes a C compiler and libjpeg-turbo's headers (libjpeg-dev)")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    use(request.param, monkeypatch)
    yield request.param


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, form, **({"quality": 90} | options if form == "JPEG" else options))
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def pillow(data: np.ndarray, box: list[int], flip: bool, size: tuple[int, int]) -> np.ndarray:
    """Another implementation: decode all, crop, resize."""
    y0, x0, y1, x1 = box
    shown = Image.open(io.BytesIO(data.tobytes())).convert("RGB").crop((x0, y0, x1, y1))
    shown = shown.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(shown)[:, ::-1] if flip else np.asarray(shown)


def load(datas: list[np.ndarray], boxes: Any, flips: Any, size: tuple[int, int], full: Any = SIZE_PX) -> tuple[np.ndarray, dict[int, Any]]:
    out = np.full((len(datas), *size, 3), 77, dtype=np.uint8)
    sizes = np.tile(np.array(full, dtype=np.int32), (len(datas), 1))
    wrong = load_crops(datas, np.array(boxes, dtype=np.int32), sizes, np.array(flips, dtype=bool), out, np.zeros(3))
    return out, wrong


@st.composite
def boxes(draw: st.DrawFn, height: int = SIZE_PX[0], width: int = SIZE_PX[1]) -> list[int]:
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return [y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width))]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@settings(max_examples=60, deadline=None)
@given(box=boxes(), flip=st.booleans(), size=st.tuples(st.integers(1, 120), st.integers(1, 120)))
def test_any_box_at_any_size_is_what_pillow_makes_of_it(
    path: str, subsampling: int, box: list[int], flip: bool, size: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use(path, patch)
        patch.setattr(crops, "OVERSAMPLE", 1e9)  # decode in full: what scaled decoding costs is another test's
        data = encoded(smooth_image(3, SIZE_PX[1], SIZE_PX[0]), subsampling=subsampling)
        out, wrong = load([data], [box], [flip], size)
    assert not wrong
    difference = np.abs(out[0].astype(int) - pillow(data, box, flip, size))
    # Pillow rounds between the axes and we do not. Chroma at the edge of a partial decode lacks a neighbour farther than the margin.
    assert difference.max() <= 2


def test_a_box_that_is_not_resized_has_the_decoders_own_pixels(path: str) -> None:
    data = encoded(smooth_image(1, SIZE_PX[1], SIZE_PX[0]))
    out, _ = load([data], [[17, 13, 57, 53]], [False], (40, 40))
    np.testing.assert_array_equal(out[0], np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))[17:57, 13:53])


def test_decoding_at_a_smaller_scale_costs_little(path: str) -> None:
    rng = np.random.default_rng(0)
    height, width = 1203, 905  # no multiple of 8
    datas = [encoded(smooth_image(seed, width, height)) for seed in range(4)]
    found = [[int(y), int(x), int(y) + 1001, int(x) + 777] for y, x in rng.integers(0, 120, (4, 2))]
    out, _ = load(datas, found, [False, True] * 2, (96, 80), (height, width))
    for data, box, flip, image in zip(datas, found, [False, True] * 2, out, strict=True):
        assert psnr_db(image, pillow(data, box, flip, (96, 80))) > 48
        shifted = pillow(data, [box[0] + 8, box[1], box[2] + 8, box[3]], flip, (96, 80))  # two thirds of an output pixel
        assert psnr_db(image, shifted) < 45


def kinds() -> dict[str, np.ndarray]:
    image = smooth_image(2, SIZE_PX[1], SIZE_PX[0])
    sideways = Image.Exif()
    sideways[0x0112] = 1
    return {
        "gray": encoded(image.convert("L")),
        "cmyk": encoded(image.convert("CMYK")),
        "progressive": encoded(image, progressive=True),
        "restart markers": encoded(image, restart_marker_blocks=3),
        "upright by Exif": encoded(image, exif=sideways),
        "png named jpg": encoded(image, "PNG"),
        "webp": encoded(image, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_image_is_cropped_alike(path: str, kind: str) -> None:
    data, box = kinds()[kind], [5, 8, 85, 60]
    out, wrong = load([data], [box], [True], (60, 40))
    assert not wrong
    assert np.abs(out[0].astype(int) - pillow(data, box, True, (60, 40))).max() <= 2


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_box_of_a_turned_image_is_of_the_image_as_shown(path: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    shown = smooth_image(4, 70, 90)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's Transpose that makes the stored image of the shown one
    stored = shown.transpose(Image.Transpose(undo[turn])) if turn > 1 else shown
    out, _ = load([encoded(stored, exif=exif, quality=98, subsampling=0)], [[10, 5, 80, 65]], [False], (70, 60))
    assert psnr_db(out[0], np.asarray(shown.crop((5, 10, 65, 80)))) > 40


def test_what_does_not_decode_is_named_and_harms_nobody_else(path: str) -> None:
    whole = encoded(smooth_image(0, SIZE_PX[1], SIZE_PX[0]))
    other_size = encoded(smooth_image(0, 40, 40))
    datas = [whole, np.zeros(500, dtype=np.uint8), whole, whole[: len(whole) // 2], whole[:0], other_size, whole]
    out, wrong = load(datas, [[0, 0, 90, 70]] * 7, [False] * 7, (32, 32))
    assert sorted(wrong) == [1, 3, 4, 5]
    assert "expected 70x90 pixels as the index says, found 40x40" in str(wrong[5])
    np.testing.assert_array_equal(out[2], out[0])
    np.testing.assert_array_equal(out[6], out[0])
    assert not out[[1, 3, 4, 5]].any()


def test_damaged_bytes_end_neither_the_process_nor_the_chunk(path: str) -> None:
    rng = np.random.default_rng(8)
    whole = [encoded(smooth_image(0, SIZE_PX[1], SIZE_PX[0]), **options) for options in ({}, {"progressive": True}, {"subsampling": 0})]
    damaged = []
    for number in range(300):
        data = whole[number % 3].copy()
        data[rng.integers(2, len(data), rng.integers(1, 8))] = rng.integers(0, 256)
        damaged.append(data[: rng.integers(4, len(data))] if number % 5 == 0 else data)
    out, wrong = load([*damaged, whole[0]], [[3, 3, 80, 66]] * 301, [False] * 301, (24, 24))
    assert 30 < len(wrong) < 300 and 300 not in wrong
    np.testing.assert_array_equal(out[300], load([whole[0]], [[3, 3, 80, 66]], [False], (24, 24))[0][0])


def test_without_the_compiled_path_a_note_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    use("python", monkeypatch)
    assert "apt install gcc libjpeg-dev" in crops.slow_note()


@pytest.mark.parametrize("box", [[0, 0, 91, 70], [-1, 0, 90, 70], [5, 5, 5, 9], [0, 9, 90, 9], [0, 0, 90, 71]])
def test_a_box_outside_of_its_image_is_refused(box: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    use("native", monkeypatch)
    data = encoded(smooth_image(0, SIZE_PX[1], SIZE_PX[0]))
    with pytest.raises(ValueError, match="box 0: expected y0 < y1 <= 90"):
        load([data], [box], [False], (32, 32))
    with pytest.raises(ValueError, match="box 0: expected"):
        resize_crops(
            np.zeros((1, 90, 70, 3), np.uint8),
            np.zeros(1, int),
            np.array([box], np.int32),
            np.zeros(1, bool),
            np.zeros((1, 8, 8, 3), np.uint8),
        )


def test_arrays_of_the_wrong_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use("native", monkeypatch)
    data = encoded(smooth_image(0, SIZE_PX[1], SIZE_PX[0]))
    box, size, flip, out = (
        np.array([[0, 0, 90, 70]], np.int32),
        np.array([SIZE_PX], np.int32),
        np.zeros(1, bool),
        np.zeros((1, 8, 8, 3), np.uint8),
    )
    with pytest.raises(ValueError, match="boxes: expected 32 bytes, found 16"):
        load_crops([data, data], box, size, flip, np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3))
    with pytest.raises(ValueError, match="contiguous"):
        load_crops([data], box, size, flip, np.zeros((1, 8, 16, 3), np.uint8)[:, :, ::2], np.zeros(3))
    with pytest.raises(ValueError, match="index 0: expected 0 or more and below 1, found 1"):
        resize_crops(np.zeros((1, 90, 70, 3), np.uint8), np.ones(1, np.int64), box, flip, out)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes(), min_size=1, max_size=5), st.tuples(st.integers(1, 100), st.integers(1, 100)), st.data())
def test_resizing_kept_images_gives_the_same_on_every_device(found: list[list[int]], size: tuple[int, int], data: st.DataObject) -> None:
    flips = np.array([data.draw(st.booleans()) for _ in found])
    kept = np.stack([np.asarray(smooth_image(seed, SIZE_PX[1], SIZE_PX[0])) for seed in range(6)])
    places = np.array([data.draw(st.integers(0, 5)) for _ in found])
    cut = np.array(found, dtype=np.int32)
    out, by_python = (np.zeros((len(found), *size, 3), dtype=np.uint8) for _ in range(2))
    resize_crops(kept, places, cut, flips, out)
    with pytest.MonkeyPatch.context() as patch:
        use("python", patch)
        resize_crops(kept, places, cut, flips, by_python)
    by_torch = resize_on_device(torch.from_numpy(kept[places]), torch.from_numpy(cut), torch.from_numpy(flips), *size).numpy()
    for other in (by_python, by_torch):
        assert np.abs(out.astype(int) - other).max() <= 1
