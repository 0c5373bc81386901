"""Our own JPEG decoder against libjpeg-turbo, on a zoo of files made by code: the same pixels, and the same answer to what is damaged."""

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_zoo import Jpeg, by_pillow, by_simplejpeg, by_us, damaged, jpegs, pixels, zoo

from fastfashion.load import crops

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
