"""Our own JPEG decoder against libjpeg-turbo, on a zoo of files made by code: the same pixels, and the same answer to what is damaged."""

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_zoo import SAMPLINGS, Jpeg, by_pillow, by_simplejpeg, by_us, damaged, jpegs, pixels, zoo
from PIL import Image

from fastfashion.images import codec
from fastfashion.load import crops
from fastfashion.sources.source import Source
from fastfashion.sources.synth import write_synth

if not crops.is_native():
    pytest.skip("fastfashion.images._native was not built: it takes a C compiler and libjpeg-turbo's headers", allow_module_level=True)

from fastfashion.images import _native

SCALES = (1, 2, 4, 8)


def size_at(image: Jpeg, eighths: int) -> tuple[int, int]:
    return -(-image.height * eighths // 8), -(-image.width * eighths // 8)


def by_own(data: bytes, height: int, width: int, eighths: int = 8) -> np.ndarray | None:
    """RGB by our own decoder; None where it leaves the image to libjpeg-turbo."""
    out = np.full((height, width, 3), 99, np.uint8)
    return out if _native.decode_rgb(data, eighths, out) else None


def by_turbo(data: bytes, height: int = 0, width: int = 0) -> np.ndarray | None:
    """RGB by libjpeg-turbo, at the smallest scale that has this size; None where it has an error or a warning."""
    try:
        return simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except ValueError:
        return None


def check_rgb(image: Jpeg, name: str) -> None:
    for eighths in SCALES:
        height, width = size_at(image, eighths)
        if any(size_at(image, other) == (height, width) for other in range(1, 9) if other != eighths):
            continue  # simplejpeg chooses the scale by the size; fuzz_jpeg.c compares planes of all sizes
        own, turbo = by_own(image.data, height, width, eighths), by_turbo(image.data, height, width)
        assert (own is not None) == image.plain or not image.plain, f"{name}: our own decoder must take it"
        if own is not None:
            assert turbo is not None, f"{name}: libjpeg-turbo does not decode it"
            assert own.shape == turbo.shape and (np.array_equal(own, turbo) or not image.plain), f"{name} at {eighths}/8: other pixels"


@pytest.mark.parametrize("part", range(4))
def test_whole_images_are_those_of_libjpeg_turbo_bit_for_bit(part: int) -> None:
    for name, image in list(zoo().items())[part::4]:
        check_rgb(image, name)


@settings(max_examples=150, deadline=None)
@given(jpegs())
def test_any_whole_image_is_that_of_libjpeg_turbo_bit_for_bit(image: Jpeg) -> None:
    check_rgb(image, "drawn")


def small_ones() -> list[Jpeg]:
    drawn, gray = pixels("smooth", 17, 23), pixels("smooth", 17, 23, gray=True)
    return [
        *(by_simplejpeg(drawn, 85, sampling) for sampling in ("444", "422", "420")),
        by_simplejpeg(gray, 85, "gray"),
        by_pillow(drawn, restart_marker_blocks=1),
        by_us(drawn, luma=(2, 2), fill=2, restart=2),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_damaged_file_has_no_pixels_or_those_of_libjpeg_turbo(number: int) -> None:
    image, decoded, different = small_ones()[number], 0, 0
    for data in damaged(image, flips=1500, seed=number):
        own = by_own(data, image.height, image.width)
        if own is None:
            continue
        turbo = by_turbo(data)
        assert turbo is not None, "pixels where libjpeg-turbo has an error"
        decoded += 1
        different += not np.array_equal(own, turbo)
    # A wrong bit may make a coefficient above 8191, eight times the range, of which libjpeg's own functions make different pixels.
    assert decoded > 100 and different <= decoded // 200


@given(jpegs(most=30), st.data())
@settings(max_examples=100, deadline=None)
def test_a_file_cut_anywhere_is_left_to_libjpeg_turbo(image: Jpeg, data: st.DataObject) -> None:
    length = data.draw(st.integers(2, image.data.index(b"\xff\xd9")))
    assert by_own(image.data[:length], image.height, image.width) is None


@pytest.mark.parametrize("level", [0, 1])
def test_whole_images_are_the_same_with_all_vectors(level: int) -> None:
    images = [image for image in zoo().values()][level::3]
    widest = [by_own(image.data, *size_at(image, eighths), eighths) for image in images for eighths in SCALES]
    try:
        if _native.set_simd(level) != level:
            pytest.skip("this processor has no AVX2")
        narrow = [by_own(image.data, *size_at(image, eighths), eighths) for image in images for eighths in SCALES]
    finally:
        _native.set_simd(-1)
    for one, other in zip(widest, narrow, strict=True):
        np.testing.assert_array_equal(one, other)


# Crops.


def load(images: list[Jpeg], boxes: list[list[int]], size: tuple[int, int], decoder: str) -> tuple[np.ndarray, dict[int, str]]:
    out = np.full((len(images), *size, 3), 77, np.uint8)
    sizes, flips = np.array([image[1:3] for image in images], np.int32), np.arange(len(images)) % 2 == 1
    encoded = [np.frombuffer(image.data, np.uint8) for image in images]
    errors = crops.load_crops(encoded, np.array(boxes, np.int32), sizes, flips, out, np.zeros(3), decoder=decoder)
    return out, {i: str(error) for i, error in errors.items()}


def differences(images: list[Jpeg], size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Of both decoders, in grey levels, on any boxes; errors must be the same."""
    low = [(int(rng.integers(image.height)), int(rng.integers(image.width))) for image in images]
    pairs = zip(images, low, strict=True)
    boxes = [[y, x, int(rng.integers(y, image.height)) + 1, int(rng.integers(x, image.width)) + 1] for image, (y, x) in pairs]
    boxes[::3] = [[0, 0, image.height, image.width] for image in images[::3]]
    (own, own_errors), (turbo, turbo_errors) = (load(images, boxes, size, decoder) for decoder in ("own", "turbo"))
    assert own_errors == turbo_errors
    return np.abs(own.astype(np.int16) - turbo)


@pytest.mark.parametrize(("sampling", "most"), [("gray", 0), ("444", 0), ("422", 3), ("420", 3)])
def test_crops_of_colours_that_need_no_clipping_differ_by_rounding(sampling: str, most: int) -> None:
    """libjpeg-turbo's path clips before the resize; ours, of coarser chroma, after it."""
    rng, found = np.random.default_rng(3), []
    for seed in range(60):
        shapes, size = rng.integers(5, 71, (4, 2)).tolist(), tuple(rng.integers(6, 91, 2).tolist())
        drawn = [pixels("smooth", height, width, seed, gray=sampling == "gray") // 2 + 64 for height, width in shapes]
        found.append(differences([by_simplejpeg(one, int(rng.integers(60, 101)), sampling) for one in drawn], size, rng).ravel())
    levels = np.concatenate(found)
    assert (levels <= 2).mean() >= 0.9999 and levels.max() <= most, ((levels <= 2).mean(), levels.max())


def test_crops_of_drawn_products_are_those_of_libjpeg_turbo(tmp_path: Path) -> None:
    write_synth(tmp_path / "synth", rows=40, width_px=120, height_px=160)
    rng, drawn = np.random.default_rng(0), [np.asarray(Image.open(path).convert("RGB")) for path in (tmp_path / "synth/images").iterdir()]
    for sampling in SAMPLINGS:
        images = [by_simplejpeg(one, 90, sampling) for one in drawn]
        found = np.concatenate([differences(images, size, rng).ravel() for size in ((96, 80), (40, 30), (200, 150))])
        assert (found <= 2).mean() >= 0.999 and found.max() <= (0 if sampling == "444" else 40), (
            sampling,
            (found <= 2).mean(),
            found.max(),
        )


def test_crops_of_the_zoo_are_those_of_libjpeg_turbo() -> None:
    """Saturated noise and edges are the worst that clipping can do; black and white alone has no colours to clip."""
    rng, whole = np.random.default_rng(1), [image for image in zoo().values() if image.plain]
    found = np.concatenate([differences(whole, size, rng).ravel() for size in ((16, 24), (70, 50), (1, 1))])
    assert (found <= 2).mean() >= 0.97 and found.max() <= 128
    few = [image for name, image in zoo().items() if name.startswith("black and white")]
    assert differences(few, (31, 33), rng).max() <= 1
    differences([image for image in zoo().values() if not image.plain], (20, 20), rng)  # the same errors


@pytest.mark.parametrize("number", range(6))
def test_a_damaged_file_has_the_same_answer_with_both_decoders(number: int) -> None:
    image, rng = small_ones()[number], np.random.default_rng(number)
    files = [image._replace(data=data) for data in damaged(image, flips=300, seed=9 + number)]
    found = differences(files, (17, 23), rng)
    assert (found <= 2).mean() >= 0.9  # where a wrong bit makes saturated colours, clipping shows


# The real small set: 44,441 images of 60x80 pixels.


@pytest.fixture(scope="session")
def real_images(real_source: Source) -> list[Jpeg]:
    """Its baseline JPEGs."""
    found = []
    for identity in real_source.images:
        data = real_source.read(identity)
        shown = codec.probe(data)
        if shown.kind is not codec.Kind.OTHER and shown.is_baseline:
            found.append(Jpeg(data, shown.height_px, shown.width_px))
    return found


@pytest.mark.slow
def test_every_image_of_the_small_set_is_that_of_libjpeg_turbo_bit_for_bit(real_images: list[Jpeg]) -> None:
    assert len(real_images) > 40_000
    for number, image in enumerate(real_images):
        check_rgb(image, f"image {number}")


@pytest.mark.slow
def test_crops_of_the_small_set_are_those_of_libjpeg_turbo(real_images: list[Jpeg]) -> None:
    rng, counts, parts = np.random.default_rng(0), np.zeros(256, np.int64), range(0, len(real_images), 512)
    for begin in parts:
        counts += np.bincount(differences(real_images[begin : begin + 512], (80, 64), rng).ravel(), minlength=256)
    share, worst = counts[:3].sum() / counts.sum(), int(counts.nonzero()[0].max())
    print(f"{share:.5f} of the values differ by two grey levels or less, and none by more than {worst}")
    assert share >= 0.999 and worst <= 64  # ringing on white, of which libjpeg-turbo's path clips each pixel
    psnr_db = 10 * np.log10(255**2 * counts.sum() / (counts * np.arange(256) ** 2).sum())
    assert psnr_db > 55
