"""Whole JPEGs in RGB from the native decoder: what libjpeg-turbo returns, bit for bit, or its answer where something is wrong."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from jpeg_zoo import Jpeg, damaged, jpegs, zoo

from fastfashion.errors import InputError
from fastfashion.images import codec

pytest.importorskip("fastfashion.images._native", reason="built without a C compiler")
ZOO = zoo()


def answer(decode: Callable[[], np.ndarray]) -> np.ndarray | str:
    try:
        return decode()
    except InputError as error:
        return str(error)


def check_same(data: bytes, height_px: int, width_px: int, has_sense: bool = True) -> None:
    """The same pixels, or an error from both, at each scale and between two; the same size alone for data without sense, where
    coefficients out of all bounds may overflow in another way."""
    for n in (8, 4, 3, 2, 1):
        least = {"min_height_px": -(-height_px * n // 8), "min_width_px": -(-width_px * n // 8)} if n < 8 else {}
        found = answer(lambda least=least: codec.decode_rgb(data, **least))  # type: ignore[misc]
        expected = answer(lambda least=least: codec.decode_rgb(data, **least, own=False))  # type: ignore[misc]
        if isinstance(found, str) or isinstance(expected, str) or has_sense:
            np.testing.assert_array_equal(found, expected, err_msg=f"{n} eighths")
        assert np.shape(found) == np.shape(expected)


@pytest.mark.parametrize("name", ZOO)
def test_each_jpeg_of_the_zoo_has_libjpegs_pixels_at_every_scale(name: str) -> None:
    check_same(*ZOO[name][:3])


@pytest.mark.parametrize("name", [name for name in ZOO if "quality" in name])
def test_plain_jpegs_are_not_left_to_libjpeg(name: str) -> None:
    data, height_px, width_px, _ = ZOO[name]
    out = np.empty((height_px, width_px, 3), np.uint8)
    assert codec._native.decode_rgb(data, 8, out)


@given(jpeg=jpegs())
def test_any_jpeg_has_libjpegs_pixels(jpeg: Jpeg) -> None:
    check_same(*jpeg[:3])


@pytest.mark.parametrize("name", list(ZOO)[::7])
def test_a_damaged_jpeg_has_the_answer_of_libjpeg(name: str) -> None:
    whole = ZOO[name]
    for data in damaged(whole, flips=10, step=max(1, len(whole.data) // 20)):
        try:
            info = codec.probe(data, max_pixels=1 << 20)
        except InputError:
            continue
        check_same(data, info.height_px, info.width_px, has_sense=len(data) < len(whole.data))


def test_a_version_of_jfif_that_libjpeg_warns_of_has_its_answer() -> None:
    data, height_px, width_px, _ = ZOO["smooth 48x36 quality 90 420"]
    at = data.index(b"JFIF") + 5
    check_same(data[:at] + b"\2" + data[at + 1 :], height_px, width_px)


def test_sizes_and_scales_that_do_not_fit_are_refused() -> None:
    data, height_px, width_px, _ = ZOO[next(iter(ZOO))]
    with pytest.raises(ValueError, match="eighths: expected 1, 2, 4 or 8, found 3"):
        codec._native.decode_rgb(data, 3, np.empty((height_px, width_px, 3), np.uint8))
    assert not codec._native.decode_rgb(data, 8, np.empty((height_px + 1, width_px, 3), np.uint8))
    with pytest.raises((TypeError, BufferError, ValueError)):
        codec._native.decode_rgb(data, 8, b"read-only")
