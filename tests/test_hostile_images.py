"""Every hostile image is pixels or one InputError: from the header, from the decoders in a worker, and from the native one."""

import csv
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile import cut_short, encoded, frame, hostile_jpegs, hostile_others, hostile_pngs, jpeg_of, with_bits_flipped
from PIL import Image, features

from fastfashion.catalog.styles import Columns
from fastfashion.errors import InputError
from fastfashion.images import codec
from fastfashion.load.crops import load_crops
from fastfashion.pack import PackRequest, pack
from fastfashion.predict.decoding import Decoders

MAX_PIXELS = 1_000_000
BOUND_S = 20.0  # of one image in the worker, by the kernel's timer, on a machine that is busy; each takes under a millisecond alone
READABLE = {
    "png: no end", "png: a length past the end", "png: a wrong checksum", "png: a palette that is none", "png: 20,000 empty texts",
    "png: a profile of 64 MiB, deflated", "png: a profile that is not deflated", "png: a profile without a name's end",
    "png: exif cut short",
}  # fmt: skip
HOSTILE = (
    {f"jpeg: {name}": data for name, data in hostile_jpegs().items()}
    | {f"png: {name}": data for name, data in hostile_pngs().items()}
    | hostile_others()
)
FORMS = {
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "webp": ("WEBP", {}),
} | ({"avif": ("AVIF", {})} if features.check("avif") else {})


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    one = Decoders(1, timeout_s=BOUND_S)
    yield one
    one.close()


def outcome(decoders: Decoders, data: bytes) -> str | tuple[int, ...]:
    """The shape of its pixels, or why there are none; fails where a question about it ends otherwise."""
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about tags
        try:
            codec.probe(data, MAX_PIXELS)
        except InputError as error:
            said.append(str(error))
    assert codec.kind(data) in codec.Kind
    try:
        pixels = decoders.decode_rgb(data, max_pixels=MAX_PIXELS)
    except InputError as error:
        assert "crashed the decoding process" not in str(error)
        assert "does not decode within" not in str(error)
        return str(error)
    assert not said, "what has no header has no pixels"
    assert pixels.dtype == np.uint8
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
    return pixels.shape


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_is_pixels_or_one_error(decoders: Decoders, name: str) -> None:
    found = outcome(decoders, HOSTILE[name])
    assert isinstance(found, tuple) == (name in READABLE), found


@pytest.mark.parametrize("name", FORMS)
def test_an_image_cut_short_anywhere_is_pixels_or_one_error(decoders: Decoders, name: str) -> None:
    form, options = FORMS[name]
    good = encoded(form, **options)
    assert outcome(decoders, good) == (12, 16, 3)
    found = [outcome(decoders, data) for data in cut_short(good)]
    assert {one for one in found if isinstance(one, tuple)} <= {(12, 16, 3)}
    assert found[0] == "empty file"
    assert all(isinstance(one, str) for one in found[: len(good) // 2])


@pytest.mark.parametrize("name", FORMS)
def test_an_image_with_one_bit_wrong_is_pixels_or_one_error(decoders: Decoders, name: str) -> None:
    form, options = FORMS[name]
    for data in with_bits_flipped(encoded(form, **options), 150):
        outcome(decoders, data)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["4:2:0", "progressive", "4:4:4"])
def test_the_loader_gives_a_damaged_jpeg_pixels_or_an_error_and_its_neighbours_theirs(options: dict) -> None:
    """As a set is read whose index says of every file that it is a plain JPEG of 12x16: through the native decoder where it is built."""
    good = encoded("JPEG", **options)
    files = [good, *cut_short(good, 3), *with_bits_flipped(good, 150), *hostile_jpegs().values(), good]
    arrays = [np.frombuffer(data, np.uint8) for data in files]
    sizes = np.tile(np.array([12, 16], np.int32), (len(files), 1))
    boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    out = np.full((len(files), 6, 8, 3), 77, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        errors = load_crops(
            arrays, boxes, sizes, np.zeros(len(files), bool), out, np.zeros(3), np.full(len(files), codec.Kind.COLOR, np.int8)
        )
    assert 1 in errors
    assert {0, len(files) - 1}.isdisjoint(errors)
    np.testing.assert_array_equal(out[0], out[-1])
    with Image.open(io.BytesIO(good)) as image:
        expected = np.asarray(image.convert("RGB").resize((8, 6), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(out[0] - expected).mean() < 8
    assert all(isinstance(error, InputError) for error in errors.values())


@pytest.mark.parametrize(("height_px", "width_px"), [(1001, 1000), (65535, 65535), (1, 65535), (65535, 1)])
def test_what_a_header_says_is_refused_before_any_pixel_where_it_is_too_much(height_px: int, width_px: int) -> None:
    data = jpeg_of(frame(height_px, width_px))
    assert codec.probe(data, height_px * width_px).height_px == height_px
    with pytest.raises(InputError, match="more than --max-pixels"):
        codec.probe(data, height_px * width_px - 1)
    with pytest.raises(InputError, match="more than --max-pixels"):
        codec.decode_rgb(data, max_pixels=height_px * width_px - 1)


def test_a_source_of_hostile_images_is_packed_without_them_and_each_is_listed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    for number, data in enumerate(HOSTILE.values()):
        (source / "images" / f"{number}.jpg").write_bytes(data)
    (source / "table.csv").write_text("id,kind\n" + "".join(f"{number},a\n" for number in range(len(HOSTILE))))
    columns = Columns.parse("id", "kind")
    done = pack(PackRequest(source=source, out=tmp_path / "set", columns=columns, resolutions=("full",), max_pixels=MAX_PIXELS))
    assert (done.kept, done.rejected) == (len(READABLE), len(HOSTILE) - len(READABLE))
    with (tmp_path / "set" / "rejected.csv").open(newline="", encoding="utf-8") as file:
        reasons = {list(HOSTILE)[int(line["id"])]: line["reason"] for line in csv.DictReader(file)}
    assert set(reasons) == set(HOSTILE) - READABLE
    assert all(reasons.values())
