"""The page of a Space, which has none of our code, shows the model the pixels that everybody else sees."""

import io

import numpy as np
import pytest
from odd_images import odd_images
from PIL import Image

from fastfashion.export.space_app import upright

# A Space opens files with Pillow as it is: these it refuses, or shows otherwise.
PILLOWS_OWN = {
    "png 16 bits gray with a key",
    "png 16 bits rgb with a key",
    "png 4 bits gray with a key",
    "png with a large packed text",
    "png with a large text behind",
    "png with a bad crc in a text",
    "tiff 16 bits, white is zero",
    "tiff 12 bits",
    "tiff float",
    "tiff int16",
    "tiff int32",
    "tiff uint32",
    "jpeg orientation in xmp alone",
    "tiff orientation in xmp alone",
}


@pytest.mark.parametrize("name", sorted(odd_images().keys() - PILLOWS_OWN))
def test_a_space_sees_the_pixels_that_were_drawn(name: str) -> None:
    odd = odd_images()[name]
    with Image.open(io.BytesIO(odd.data)) as image:
        pixels = np.asarray(upright(image))
    assert pixels.shape == odd.expected.shape
    assert np.abs(pixels.astype(int) - odd.expected).max() <= odd.tolerance


@pytest.mark.parametrize("name", ["tiff float", "tiff int16", "tiff int32", "tiff uint32"])
def test_what_it_would_show_black_or_white_it_refuses(name: str) -> None:
    with Image.open(io.BytesIO(odd_images()[name].data)) as image, pytest.raises(ValueError, match="save it with 8"):
        upright(image)
