"""Every kind of image that is accepted has the pixels that were drawn, and is distinguished from plain ones."""

import io
import struct
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_images import drawn, gray_drawn, odd_images, saved, three, turned
from odd_writers import ADOBE_GAMMA, ADOBE_XYZ, P3_XYZ, SRGB_XYZ, exif_block, gray_profile, lab_to_srgb, png, png_chunk, rgb_profile, tiff
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from fastfashion.errors import InputError
from fastfashion.images import metadata, pillow
from fastfashion.images.codec import Kind, decode_rgb, kind, probe
from fastfashion.load import crops


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
    odd = odd_images()[name]
    with Image.open(io.BytesIO(odd.data)) as image:
        shown = image if "xmp" in name else ImageOps.exif_transpose(image)
        np.testing.assert_array_equal(decode_rgb(odd.data), np.asarray(shown.convert("RGB")))


def test_pillows_settings_which_hold_for_the_whole_process_stay_as_they_are() -> None:
    def settings() -> tuple[object, ...]:
        texts = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        return (
            *texts,
            ImageFile.LOAD_TRUNCATED_IMAGES,
            Image.MAX_IMAGE_PIXELS,
            list(Image.OPEN),
            warnings.filters[:],
            sys.getrecursionlimit(),
        )

    decode_rgb(odd_images()["png with a large packed text"].data)
    before = settings()
    for name in odd_images():
        decode_rgb(odd_images()[name].data)
    assert settings() == before


@pytest.mark.filterwarnings("error")
def test_no_image_causes_a_warning() -> None:
    for odd in odd_images().values():
        decode_rgb(odd.data)


GRAY = gray_drawn()
REFUSED = {
    "floats to 255": (GRAY.astype(np.float32), r"floating-point values from \d+ to \d+; expected 0 \(black\) to 1 \(white\)"),
    "floats below 0": (GRAY / np.float32(255) - np.float32(0.5), "floating-point values from -0"),
    "no number": (np.full((4, 4), np.nan, np.float32), "floating-point values from nan"),
    "infinite": (np.full((4, 4), np.inf, np.float32), "floating-point values from inf"),
    "negative int16": (GRAY.astype(np.int16) - 128, "signed values from -"),
    "negative int8": (GRAY.view(np.int8), "signed values from -"),
    "negative int32": ((GRAY.astype(np.int32) - 128) << 22, "signed values from -"),
    "bytes in int32": (GRAY.astype(np.int32), "31 bits, whose range is 0 to 2147483647: all one grey"),
    "bytes in uint32": (GRAY.astype(np.uint32), "32 bits, whose range is 0 to 4294967295: all one grey"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tiff_whose_values_have_no_brightness_is_refused_with_them(name: str) -> None:
    samples, reason = REFUSED[name]
    with pytest.raises(InputError, match=reason):
        decode_rgb(tiff(samples))


@pytest.mark.parametrize("dtype", [np.float64, np.uint64, np.float16])
def test_a_tiff_that_pillow_does_not_know_is_no_unknown_format(dtype: type) -> None:
    with pytest.raises(InputError, match="begins like TIFF: unknown pixel mode"):
        decode_rgb(tiff(np.zeros((4, 4), dtype)))


def test_other_tiffs_are_shown_by_their_range() -> None:
    np.testing.assert_array_equal(decode_rgb(tiff((GRAY >> 1).view(np.int8))), three(GRAY >> 1 << 1))
    np.testing.assert_array_equal(decode_rgb(tiff(1 - GRAY / np.float32(255), photometric=0)), three(GRAY))
    np.testing.assert_array_equal(decode_rgb(tiff(255 - GRAY, photometric=0)), three(GRAY))
    a_little_beyond = np.linspace(-0.001, 1.001, 96, dtype=np.float32).reshape(8, 12)
    np.testing.assert_array_equal(decode_rgb(tiff(a_little_beyond)), three(np.rint(np.clip(a_little_beyond, 0, 1) * 255).astype(np.uint8)))
    np.testing.assert_array_equal(decode_rgb(tiff(turned(GRAY, 6) / np.float32(255), extra=[(274, 3, 6)])), three(GRAY))
    np.testing.assert_array_equal(decode_rgb(tiff(np.zeros((4, 4), np.uint32))), np.zeros((4, 4, 3)))  # black it is
    big_endian = saved(Image.fromarray((GRAY.astype(np.uint16) * 257).astype(">u2")), "TIFF")
    assert big_endian.startswith(b"MM")
    np.testing.assert_array_equal(decode_rgb(big_endian), three(GRAY))
    alpha = np.full_like(GRAY, 51)
    half_seen = decode_rgb(tiff(np.dstack([drawn(), alpha]).astype(np.uint16) * 257, extra=[(338, 3, 2)]))
    assert np.abs(half_seen.astype(int) - (drawn() * 0.2 + 255 * 0.8)).max() <= 1
    inks = np.dstack([255 - drawn(), np.zeros_like(GRAY)]).astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_rgb(tiff(inks, photometric=5)), drawn())
    lab = np.full((8, 8, 3), (153, 20, 256 - 30), np.uint8)  # L 0 to 100 as 0 to 255, a and b as they are
    assert np.abs(decode_rgb(tiff(lab, photometric=8)).astype(int) - lab_to_srgb(np.array([60.0, 20.0, -30.0]))).max() <= 2


def test_the_key_of_16_bits_is_found_in_a_png_that_comes_in_seven_passes() -> None:
    """Adam7 by hand: pass 1 has every eighth pixel, and each pass is an image of its own (W3C PNG, 8.2)."""
    wide = drawn()[:16, :16].astype(np.uint16) * 256 + np.arange(16, dtype=np.uint16)[None, :, None]
    raw = b""
    for top, left, down, across in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):
        raw += b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide[top::down, left::across])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 1))
    key = png_chunk(b"tRNS", wide[3, 5].astype(">u2").tobytes())
    data = metadata.PNG_MAGIC + header + key + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    expected = np.where((wide == wide[3, 5]).all(axis=-1, keepdims=True), 255, wide >> 8)
    assert (expected == 255).all(axis=-1).sum() == 1
    np.testing.assert_array_equal(decode_rgb(data), expected)


TAKEN_APART = [png(drawn(), 2), png(drawn(), 2, png_chunk(b"eXIf", exif_block(6))), odd_images()["png display p3"].data]


@given(st.sampled_from(TAKEN_APART), st.data())
def test_any_bytes_of_a_png_are_taken_apart(data: bytes, choose: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(choose.draw(st.integers(0, 5))):
        damaged[choose.draw(st.integers(8, min(len(data) - 1, 300)))] = choose.draw(st.integers(0, 255))
    found = metadata.read_png(bytes(damaged[: choose.draw(st.integers(8, len(data)))]))
    assert found.data.startswith(metadata.PNG_MAGIC) and len(found.data) <= len(data)


@given(st.binary(max_size=300))
def test_any_chunks_are_taken_apart(tail: bytes) -> None:
    assert len(metadata.read_png(metadata.PNG_MAGIC + tail).data) <= 8 + len(tail)


def test_what_pixels_depend_on_is_still_checked() -> None:
    good = png(drawn(), 2)
    at = good.index(b"IDAT") + 40
    for wrong in (good[:-30], good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], good[: good.index(b"IDAT")]):
        with pytest.raises(InputError, match="does not decode"):
            decode_rgb(wrong)


@pytest.mark.parametrize("crc", [0, 1])
def test_orientation_and_profile_of_a_png_count_only_whole(crc: int) -> None:
    chunks = png_chunk(b"eXIf", exif_block(6), crc) + png_chunk(b"iCCP", b"p\0\0" + zlib.compress(rgb_profile(P3_XYZ)), crc)
    np.testing.assert_array_equal(decode_rgb(png(drawn(), 2, chunks)), drawn())


PROFILES = {
    "sRGB by its numbers": (rgb_profile(SRGB_XYZ, name="x"), True),
    "LittleCMS's own": (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), True),
    "Display P3": (rgb_profile(P3_XYZ, name="sRGB IEC61966-2.1"), False),  # a name says nothing
    "Adobe RGB": (rgb_profile(ADOBE_XYZ, ADOBE_GAMMA), False),
    "sRGB with a gamma of 1.8": (rgb_profile(SRGB_XYZ, 1.8), False),
    "grey": (gray_profile(1.8), True),  # of another kind of image: counts as none
    "cut": (rgb_profile(P3_XYZ)[:200], True),
    "no profile at all": (b"x" * 500, True),
    "empty": (b"", True),
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_srgb_where_it_changes_nothing(name: str) -> None:
    profile, same = PROFILES[name]
    assert metadata.is_srgb(profile, "RGB") is same
    color = png(drawn(), 2, png_chunk(b"iCCP", b"p\0\0" + zlib.compress(profile)))
    assert np.array_equal(decode_rgb(color), drawn()) is same
    assert kind(saved(drawn(), "JPEG", icc_profile=profile)) is (Kind.COLOR if same else Kind.OTHER)


def test_a_red_of_display_p3_is_the_red_that_was_meant() -> None:
    """Published pairs (CSS Color 4, color(display-p3 …)): the red of sRGB is (234, 51, 35) in Display P3."""
    pixels = np.full((8, 8, 3), (234, 51, 35), np.uint8)
    shown = decode_rgb(png(pixels, 2, png_chunk(b"iCCP", b"p\0\0" + zlib.compress(rgb_profile(P3_XYZ)))))
    assert np.abs(shown.astype(int) - (255, 0, 0)).max() <= 3


def test_a_jpeg_with_a_profile_is_converted_when_it_is_decoded_small_too() -> None:
    large = np.kron(np.full((8, 8, 1), 1, np.uint8), np.full((64, 64, 3), (234, 51, 35), np.uint8))
    data = saved(large, "JPEG", quality=100, subsampling=0, icc_profile=rgb_profile(P3_XYZ))
    small = decode_rgb(data, min_height_px=64, min_width_px=64)
    assert small.shape == (64, 64, 3)
    assert np.abs(small.astype(int) - (255, 0, 0)).max() <= 6


def test_threads_share_what_is_known_of_profiles() -> None:
    names = ["tiff adobe rgb", "png display p3", "jpeg gray of gamma 1.8"]
    alone = {name: decode_rgb(odd_images()[name].data) for name in names}
    wrong: list[str] = []

    def work(first: int) -> None:
        for turn in range(30):
            name = names[(first + turn) % len(names)]
            if not np.array_equal(decode_rgb(odd_images()[name].data), alone[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_more_profiles_than_are_kept_are_no_trouble() -> None:
    for number in range(metadata._CACHED_PROFILES + 10):
        assert metadata.is_srgb(rgb_profile(SRGB_XYZ, name=str(number)), "RGB")
    assert len(metadata._transforms) <= metadata._CACHED_PROFILES


@pytest.mark.parametrize("name", ["4:1:1", "4:4:0", "4:1:0", "rgb", "rgb by its letters", "cmyk", "cmyk without adobe's marker", "ycck"])
def test_the_compiled_loader_leaves_rare_frames_to_us_whatever_an_index_says(name: str) -> None:
    """One of them cut into parts has other pixels. `lying` is an index that calls it plain."""
    if not crops.is_native():
        pytest.skip("fastfashion.images._native was not built: it takes a C compiler and libjpeg-turbo's headers (libjpeg-dev)")
    data = np.frombuffer(odd_images()[f"jpeg {name}"].data, np.uint8)
    height, width = odd_images()[f"jpeg {name}"].expected.shape[:2]
    out, left = np.zeros((1, height, width, 3), np.uint8), np.ones(1, np.uint8)
    boxes, sizes, flips = np.array([[0, 0, height, width]], np.int32), np.array([[height, width]], np.int32), np.zeros(1, bool)
    crops._native.load_crops([data], boxes, sizes, flips, out, height, width, 1.5, left, np.zeros(3))
    assert left[0] == 1
    lying = np.array([Kind.COLOR], np.int8)
    assert crops.load_crops([data], boxes, sizes, flips, out, np.zeros(3), lying) == {}
    np.testing.assert_array_equal(out[0], decode_rgb(data))


@pytest.mark.parametrize("name", odd_images())
def test_an_image_that_is_converted_in_bands_has_the_same_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode_rgb(odd_images()[name].data)
    monkeypatch.setattr(pillow, "BAND_PIXELS", 7 * whole.shape[1])
    np.testing.assert_array_equal(decode_rgb(odd_images()[name].data), whole)
