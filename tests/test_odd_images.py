"""Every kind of image that is accepted has the pixels that were drawn, and is told apart from plain ones."""

import io

import numpy as np
import pytest
from odd_images import odd_images
from PIL import Image

from fastfashion.image import Kind, decode_rgb, kind, probe


@pytest.mark.parametrize("name", odd_images())
def test_an_image_of_every_kind_has_the_pixels_that_were_drawn(name: str) -> None:
    odd = odd_images()[name]
    for data in (odd.data, memoryview(odd.data), np.frombuffer(odd.data, np.uint8)):
        pixels = decode_rgb(data)
        assert pixels.shape == odd.expected.shape
        assert np.abs(pixels.astype(int) - odd.expected).max() <= odd.tolerance
        found = probe(data)
        assert (found.height_px, found.width_px) == odd.expected.shape[:2]


@pytest.mark.parametrize("name", odd_images())
def test_only_plain_jpegs_are_for_other_decoders(name: str) -> None:
    odd = odd_images()[name]
    for data in (odd.data, memoryview(odd.data), np.frombuffer(odd.data, np.uint8)):
        assert kind(data) is Kind[odd.kind]


@pytest.mark.parametrize("name", [name for name, odd in odd_images().items() if odd.kind != "OTHER"])
def test_pillow_shows_a_plain_jpeg_alike_but_for_its_orientation(name: str) -> None:
    """What any other reader does with it, and nothing of ours."""
    from PIL import ImageOps

    odd = odd_images()[name]
    with Image.open(io.BytesIO(odd.data)) as picture:
        shown = picture if "xmp" in name else ImageOps.exif_transpose(picture)
        np.testing.assert_array_equal(decode_rgb(odd.data), np.asarray(shown.convert("RGB")))
