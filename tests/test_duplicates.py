"""Near-duplicates: a fingerprint that outlives re-encoding and rescaling, and groups that hold every twin and few lookalikes."""

import hashlib
import io
from collections.abc import Callable

import numpy as np
import pytest
import scipy.fft
from conftest import smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fastfashion.catalog import Styles
from fastfashion.catalog.duplicates import NUM_BYTES, NUM_LUMA, duplicate_groups, fingerprint
from fastfashion.images.codec import decode_rgb
from fastfashion.sources import Source

Resampling = Image.Resampling


def signed(pixels: np.ndarray) -> np.ndarray:
    return np.frombuffer(fingerprint(pixels), np.int8).astype(int)


def grouped(*images: np.ndarray) -> list[int]:
    return duplicate_groups(np.frombuffer(b"".join(map(fingerprint, images)), np.uint8).reshape(-1, NUM_BYTES)).tolist()


def ramps() -> np.ndarray:
    y, x = np.mgrid[:80, :60]
    return np.stack([x * 4, y * 3, (x + y) % 256], axis=2).astype(np.uint8)


def waves() -> np.ndarray:
    y, x = np.mgrid[:613, :450]
    return np.stack([(x * x + 3 * y) % 256, (x * y) // 7 % 256, (y * 5 - x) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (
            ramps(),
            "f0a600f600fa00fc00800000000000000000000000000000ee00000000000000000000f4000000000000fa00009c18005a00000d80007f0000",
        ),
        (
            waves(),
            "fefefefefefefcfdfdfdfdfefefcfdfefdfefefefdfdfefefefefefcfdfefefcfdfdfefcfcfefcfcfefefefdfc000203030103000404030402",
        ),
        (
            (np.indices((3, 2, 3)).sum(axis=0) * 40).astype(np.uint8),
            "dcbfff07000501fe0089000000000000000000000000000000000000000000000000000a000000000000050000680000000000a00000000000",
        ),
    ],
    ids=["ramps", "waves", "3x2"],
)
def test_fingerprints_stay_what_they_were(pixels: np.ndarray, expected: str) -> None:
    assert fingerprint(pixels).hex() == expected


def test_a_plain_image_has_a_mean_and_nothing_else() -> None:
    grey = np.full((80, 60, 3), 138, np.uint8)
    assert signed(grey).tolist() == [10] + [0] * 56
    red = np.zeros((5, 7, 3), np.uint8)
    red[..., 0] = 255
    # JFIF: Y 76, Cb 85, Cr 255; chroma in quarters, as far as a byte goes
    assert signed(red)[[0, NUM_LUMA, NUM_LUMA + 6]].tolist() == [76 - 128, -128, 127]
    assert np.count_nonzero(signed(red)) == 3


def test_luma_is_the_cosine_transform_of_scipy() -> None:
    grey = np.random.default_rng(0).integers(90, 166, (16, 16), dtype=np.uint8)
    transform = scipy.fft.dctn(grey.astype(float), norm="ortho") / 16
    places = [(i, j) for i in range(9) for j in range(9) if i + j <= 8]
    expected = [transform[i, j] * (4 if i + j <= 4 else 8) for i, j in places[1:]]
    found = signed(np.stack([grey] * 3, axis=2))[1:NUM_LUMA]
    assert np.abs(found - np.clip(expected, -128, 127)).max() <= 0.65  # rounding, and cosines in 1024ths


@pytest.mark.parametrize(("height_px", "width_px"), [(1, 1), (1, 3000), (3000, 1), (15, 17), (601, 449)])
def test_every_size_gives_as_many_bytes(height_px: int, width_px: int) -> None:
    assert len(fingerprint(np.zeros((height_px, width_px, 3), np.uint8))) == 57


def test_the_layout_in_memory_does_not_matter() -> None:
    image = waves()
    assert fingerprint(np.asfortranarray(image)) == fingerprint(image)
    assert fingerprint(image[::2, ::-1]) == fingerprint(image[::2, ::-1].copy())


def saved_again(image: Image.Image, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return decode_rgb(buffer.getvalue())


@pytest.mark.parametrize("seed", range(8))
def test_another_scale_and_another_encoding_show_the_same_image(seed: int) -> None:
    large = smooth_image(seed, 900, 1200)
    encoded = io.BytesIO()
    large.save(encoded, "JPEG", quality=92)
    quarter = decode_rgb(encoded.getvalue(), min_height_px=300, min_width_px=225)
    assert quarter.shape == (300, 225, 3)
    small = large.resize((60, 80), Resampling.BICUBIC)
    assert grouped(np.asarray(large), quarter, saved_again(large, 60), np.asarray(small), saved_again(small, 75)) == [0] * 5


def test_a_grey_image_shows_the_same_in_one_channel_and_in_three() -> None:
    grey = smooth_image(3, 60, 80, mode="L")
    assert grouped(saved_again(grey, 90), saved_again(grey.convert("RGB"), 90)) == [0, 0]


@pytest.mark.parametrize("seed", range(8))
def test_a_mirrored_a_shifted_and_a_recoloured_image_are_others(seed: int) -> None:
    image = np.asarray(smooth_image(seed, 60, 80))
    others = [image[:, ::-1], image[::-1], np.roll(image, 4, axis=0), image[..., [2, 0, 1]], 255 - image]
    assert grouped(image, *others) == [0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def real_pixels(real_source: Source, real_styles: Styles) -> list[np.ndarray]:
    return [decode_rgb(real_source.read(identity)) for identity in real_styles.table["id"] if identity in real_source.images]


@pytest.fixture(scope="module")
def real_fingerprints(real_pixels: list[np.ndarray]) -> np.ndarray:
    return np.frombuffer(b"".join(map(fingerprint, real_pixels)), np.uint8).reshape(-1, NUM_BYTES)


def test_on_the_real_set_every_twin_is_found_and_groups_stay_small(real_pixels: list[np.ndarray], real_fingerprints: np.ndarray) -> None:
    first: dict[bytes, int] = {}
    twin = np.array([first.setdefault(hashlib.sha256(p.tobytes()).digest() + bytes(p.shape[:2]), i) for i, p in enumerate(real_pixels)])
    sizes = np.bincount(twin)
    assert ((sizes > 1).sum(), sizes[sizes > 1].sum()) == (653, 1433)  # as data/README.md counts them
    groups = duplicate_groups(real_fingerprints)
    np.testing.assert_array_equal(groups[twin], groups)
    sizes = np.bincount(groups)
    # 163 groups more, most of them one image of a lipstick or the like with its tip in other shades: 16 of them the largest group
    assert ((sizes > 1).sum(), sizes[sizes > 1].sum(), sizes.max()) == (816, 1840, 16)


# The least share of 556 real images that must be found again, a little below what was found.
@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda p: saved_again(p, 60), 0.90),
        (lambda p: saved_again(p, 75), 0.97),
        (lambda p: saved_again(p, 95), 0.995),
        (lambda p: np.asarray(p.resize((p.width * 7, p.height * 7), Resampling.BICUBIC)), 0.995),
        (lambda p: np.asarray(p.resize((p.width * 3 // 4, p.height * 3 // 4), Resampling.BICUBIC)), 0.97),
    ],
    ids=["quality 60", "quality 75", "quality 95", "seven times as large", "three quarters"],
)
def test_real_images_of_60x80_are_found_again(
    real_pixels: list[np.ndarray], change: Callable[[Image.Image], np.ndarray], least: float
) -> None:
    found = [grouped(pixels, change(Image.fromarray(pixels)))[1] == 0 for pixels in real_pixels[::80]]
    assert np.mean(found) >= least


def test_real_images_in_other_colours_or_mirrored_are_others(real_pixels: list[np.ndarray]) -> None:
    sample = [p for p in real_pixels[::80] if np.ptp(p.astype(int), axis=2).mean() > 8]  # there is colour to change
    assert len(sample) > 250
    assert [p for p in sample if grouped(p, p[..., [1, 2, 0]])[1] == 0] == []
    lopsided = [p for p in real_pixels[::80] if np.abs(p.astype(int) - np.asarray(ImageOps.mirror(Image.fromarray(p)))).mean() > 8]
    assert len(lopsided) > 250
    assert [p for p in lopsided if grouped(p, p[:, ::-1])[1] == 0] == []


def same_image(a: list[int], b: list[int]) -> bool:
    """The rule of shards/FORMAT.md, in whole numbers, for one pair."""
    luma = sum((x - y) ** 2 for x, y in zip(a[:45], b[:45], strict=True))
    chroma = sum((x - y) ** 2 for x, y in zip(a[45:], b[45:], strict=True))
    luma_to_see = min(sum(x * x for x in v[1:45]) for v in (a, b))
    chroma_to_see = min(sum(x * x for x in v[45:]) for v in (a, b))
    return luma <= min(max(luma_to_see // 25, 2), 49) and chroma <= min(max(chroma_to_see // 50, 16), 64)


def groups_by_hand(codes: np.ndarray) -> list[int]:
    rows, groups = codes.tolist(), []
    for i, row in enumerate(rows):
        groups.append(next((j for j in range(i) if groups[j] == j and same_image(rows[j], row)), i))
    return groups


@st.composite
def clustered(draw: st.DrawFn) -> np.ndarray:
    """int8 (N, 57): a few images, each several times with a little noise, of weak and of strong contrast, twins among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread, noise = draw(st.sampled_from([0, 3, 20, 90])), draw(st.sampled_from([0.3, 0.7, 1.0, 1.4]))
    centres = rng.normal(0, spread, (draw(st.integers(1, 8)), 57))
    codes = centres[rng.integers(0, len(centres), draw(st.integers(0, 60)))]
    codes = np.clip(np.rint(codes + rng.normal(0, noise, codes.shape)), -128, 127).astype(np.int8)
    return codes[rng.integers(0, len(codes), len(codes))] if len(codes) and draw(st.booleans()) else codes


@settings(max_examples=80, deadline=None)
@given(clustered())
def test_groups_are_those_of_comparing_every_pair(codes: np.ndarray) -> None:
    assert duplicate_groups(codes.view(np.uint8)).tolist() == groups_by_hand(codes)


@settings(max_examples=80, deadline=None)
@given(clustered())
def test_a_group_is_named_by_its_first_row_and_holds_all_that_is_identical(codes: np.ndarray) -> None:
    groups = duplicate_groups(codes.view(np.uint8))
    rows = np.arange(len(codes))
    assert groups.dtype == np.int64
    assert (groups <= rows).all()
    np.testing.assert_array_equal(groups[groups], groups)
    first: dict[bytes, int] = {}
    for row, code in enumerate(codes):
        assert groups[first.setdefault(code.tobytes(), row)] == groups[row]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_images_that_have_little_in_common_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 30, 100)
    codes = rng.integers(-100, 101, (30, 57))[cluster] + rng.integers(0, 2, (100, 57)) * (np.arange(57) % 4 == 0)
    order = rng.permutation(100)
    for placed, rows in ((cluster, codes), (cluster[order], codes[order])):
        groups = duplicate_groups(rows.astype(np.int8).view(np.uint8))
        _, first = np.unique(placed, return_index=True)
        np.testing.assert_array_equal(groups, first[np.searchsorted(np.unique(placed), placed)])


def test_a_chain_of_lookalikes_is_not_one_group() -> None:
    codes = np.zeros((6, 57), np.int8)
    codes[:, 10:20] = 50  # much to see
    codes[:, 30] = [0, 6, 12, 18, 24, 30]  # each is near the next, and 12 is too far
    assert duplicate_groups(codes.view(np.uint8)).tolist() == [0, 0, 2, 2, 4, 4]


def test_small_things_on_white_are_told_apart_by_what_there_is_to_see() -> None:
    faint, strong = np.zeros((2, 57), np.int8), np.zeros((2, 57), np.int8)
    faint[0, 10], faint[1, 20] = 4, 4
    strong[:, 30:40] = 60
    assert duplicate_groups(faint.view(np.uint8)).tolist() == [0, 1]
    assert duplicate_groups((faint + strong).view(np.uint8)).tolist() == [0, 0]


def test_twenty_thousand_rows_of_one_image_are_one_group_and_of_noise_none() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20_000, 57), dtype=np.uint8)
    assert not duplicate_groups(np.repeat(noise[:1], 20_000, axis=0)).any()
    np.testing.assert_array_equal(duplicate_groups(noise), np.arange(20_000))
    assert duplicate_groups(noise[:0]).tolist() == []


@pytest.mark.parametrize("wrong", [np.zeros((3, 56), np.uint8), np.zeros(57, np.uint8), np.zeros((3, 57), np.int64)])
def test_fingerprints_of_another_shape_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 57\)"):
        duplicate_groups(wrong)
