"""Real-world data: one case each, packed, with its outcome. Nothing is lost silently: kept + rejected is the number of rows."""

import csv
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COLUMNS, psnr_db, smooth_image, table_row, zip_folder
from PIL import Image, ImageCms

from fastfashion.errors import InputError
from fastfashion.images.codec import decode_rgb
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import open_packed_set

LABELS = table_row(1)[1:]


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def source_of(folder: Path, images: Iterable[tuple[str, bytes | None]]) -> Path:
    """A set with one row an image, in this order, after a plain one of id `plain`."""
    (folder / "images").mkdir(parents=True)
    with (folder / "styles.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for identity, data in [("plain", encoded(IMAGE)), *images]:
            writer.writerow([identity, *LABELS])
            if data is not None:
                (folder / "images" / f"{identity}.jpg").write_bytes(data)
    return folder


def packed_into(source: Path, out: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Pack; return id -> row of what was kept, and id -> reason of what was not."""
    summary = pack(PackRequest(source=source, out=out, resolutions=("full", "32"), max_rejected=10))
    kept = {identity: row for row, identity in enumerate(open_packed_set(out).table["id"])}
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        rejected = [(line["id"], line["reason"]) for line in csv.DictReader(file)]
    assert (summary.kept, summary.rejected) == (len(kept), len(rejected))
    assert summary.kept + summary.rejected == summary.num_rows
    return kept, dict(rejected)


IMAGE = smooth_image(7, 60, 80)
LYING = IMAGE.transpose(Image.Transpose.ROTATE_90)  # what orientation 6 turns upright
TURN = Image.Exif()
TURN[0x0112] = 6
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RAMP = np.linspace(0, 65_535, 60).astype(np.uint16)[None].repeat(80, axis=0)
HALF_SEEN = Image.merge("RGBA", [*IMAGE.split(), Image.new("L", IMAGE.size, 128)])


def over_white() -> Image.Image:
    """HALF_SEEN by hand: alpha 128 of 255 leaves 127/255 of white."""
    return Image.fromarray(np.round(np.asarray(IMAGE) * (128 / 255) + 127).astype(np.uint8))


# name -> (encoded image, what it shows)
KEPT: dict[str, tuple[bytes, Image.Image]] = {
    "gray JPEG": (encoded(IMAGE.convert("L")), IMAGE.convert("L").convert("RGB")),
    "CMYK JPEG": (encoded(IMAGE.convert("CMYK"), quality=95), IMAGE),
    "progressive JPEG": (encoded(IMAGE, quality=95, progressive=True), IMAGE),
    "JPEG with EXIF orientation": (encoded(LYING, quality=95, exif=TURN), IMAGE),
    "JPEG with an ICC profile": (encoded(IMAGE, quality=95, icc_profile=SRGB), IMAGE),
    "PNG of 8 bits": (encoded(IMAGE, "PNG"), IMAGE),
    "PNG of 16 bits": (encoded(Image.fromarray(RAMP), "PNG"), Image.fromarray((RAMP // 257).astype(np.uint8)).convert("RGB")),
    "PNG with alpha": (encoded(HALF_SEEN, "PNG"), over_white()),
    "WebP": (encoded(IMAGE, "WEBP", lossless=True), IMAGE),
    "GIF of two frames": (
        encoded(IMAGE.convert("L"), "GIF", save_all=True, append_images=[Image.new("L", IMAGE.size)]),
        IMAGE.convert("L").convert("RGB"),
    ),
    "one pixel": (encoded(Image.new("RGB", (1, 1), (200, 100, 50)), "PNG"), Image.new("RGB", (1, 1), (200, 100, 50))),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_image_is_kept_as_shown(name: str, tmp_path: Path) -> None:
    data, shown = KEPT[name]
    kept, rejected = packed_into(source_of(tmp_path / "set", [("odd", data)]), tmp_path / "out")
    assert (kept, rejected) == ({"plain": 0, "odd": 1}, {})
    packed = open_packed_set(tmp_path / "out")
    assert packed.open("full").encoded(1).tobytes() == data
    assert packed.table[["height", "width"]].iloc[1].tolist() == [shown.height, shown.width]
    # Measured 35 dB and more: quality 90 and halved chroma. Upside down or with its channels swapped it has 11.
    assert psnr_db(decode_rgb(packed.open("full").encoded(1)), np.asarray(shown)) > 33
    small = shown.resize((32, 43), Image.Resampling.BICUBIC) if name != "one pixel" else shown
    assert psnr_db(decode_rgb(packed.open("32").encoded(1)), np.asarray(small)) > 33


def png_bomb() -> bytes:
    """20,000x20,000 pixels, all black, in 400 KB."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(20_001)) for _ in range(20_000)) + rows.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)


REJECTED = {
    "truncated": (encoded(IMAGE, quality=95)[:-200], "does not decode: "),
    "zero bytes": (b"", "empty file"),
    "an HTML error page": (b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head></html>", "HTML or XML page"),
    "20,000x20,000": (png_bomb(), "20000x20000 pixels, more than --max-pixels 100000000"),
    "PostScript": (encoded(IMAGE, "EPS"), "no known image format"),
    "not there": (None, "no image"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_no_image_is_rejected_with_the_reason_and_the_rest_kept(name: str, tmp_path: Path) -> None:
    data, reason = REJECTED[name]
    kept, rejected = packed_into(source_of(tmp_path / "set", [("odd", data), ("last", encoded(IMAGE))]), tmp_path / "out")
    assert kept == {"plain": 0, "last": 1}
    assert list(rejected) == ["odd"]
    assert reason in rejected["odd"]


@pytest.mark.parametrize("zipped", [False, True])
def test_ids_with_spaces_and_other_letters_are_kept(zipped: bool, tmp_path: Path) -> None:
    names = ["two words", "Größe", "服装 42", "ёлка", " nbsp\u00a0inside "]
    source = source_of(tmp_path / "my set", [(name.strip(), encoded(IMAGE)) for name in names])
    kept, rejected = packed_into(zip_folder(source, tmp_path / "my set.zip") if zipped else source, tmp_path / "out put")
    assert list(kept) == ["plain", "two words", "Größe", "服装 42", "ёлка", "nbsp\u00a0inside"]
    assert rejected == {}


def test_of_the_same_id_twice_the_first_row_is_kept_and_the_second_rejected(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", [("twice", encoded(IMAGE)), ("other", encoded(IMAGE)), ("twice", encoded(IMAGE))])
    kept, rejected = packed_into(source, tmp_path / "out")
    assert kept == {"plain": 0, "twice": 1, "other": 2}
    assert rejected == {"twice": "its id is already in line 3"}


def test_an_id_that_is_a_path_is_rejected_and_nothing_written_outside(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", [("../x", None)])
    (source / "x.jpg").write_bytes(encoded(IMAGE))  # where images/../x.jpg leads
    kept, rejected = packed_into(source, tmp_path / "out")
    assert kept == {"plain": 0}
    assert list(rejected) == ["../x"]
    assert "no image: ../x is not below" in rejected["../x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


def test_members_of_a_zip_that_lead_out_of_it_are_ignored_and_nothing_written_outside(tmp_path: Path) -> None:
    archive = zip_folder(source_of(tmp_path / "deep" / "set", [("outside", None)]), tmp_path / "deep" / "set.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        for name in ("../images/outside.jpg", "/images/outside.jpg", "images/../../images/outside.jpg", "..\\images\\outside.jpg"):
            opened.writestr(name, encoded(IMAGE))
    before = set(tmp_path.rglob("*"))
    kept, rejected = packed_into(archive, tmp_path / "deep" / "out")
    assert (kept, rejected) == ({"plain": 0}, {"outside": "no image"})
    assert {path for path in tmp_path.rglob("*") if "out" not in path.relative_to(tmp_path).parts} == before


def test_a_nested_zip_is_refused_and_the_inner_one_named(tmp_path: Path) -> None:
    inner = zip_folder(source_of(tmp_path / "set", []), tmp_path / "archive.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(inner, "archive.zip")
    with pytest.raises(InputError, match=r"outer\.zip: .* holds archive\.zip: unpack that one and name it with --source"):
        packed_into(tmp_path / "outer.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["end record", "middle of the directory", "a hole in the directory"])
def test_a_zip_whose_central_directory_is_cut_is_refused(where: str, tmp_path: Path) -> None:
    path = zip_folder(source_of(tmp_path / "set", [(f"p{n}", encoded(IMAGE)) for n in range(9)]), tmp_path / "set.zip")
    data = path.read_bytes()
    directory, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    path.write_bytes(
        {
            "end record": data[:end],
            "middle of the directory": data[: (directory + end) // 2],
            "a hole in the directory": data[: directory + 100] + data[directory + 250 :],
        }[where]
    )
    with pytest.raises(InputError, match=r"set\.zip: not a readable zip .*download or copy it again"):
        packed_into(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_bomb_is_rejected_unread_and_the_rest_kept(tmp_path: Path) -> None:
    source = source_of(tmp_path / "set", [("bomb", None), ("last", encoded(IMAGE))])
    archive = zip_folder(source, tmp_path / "set.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as opened, opened.open("images/bomb.jpg", "w") as member:
        for _ in range(257):
            member.write(bytes(1 << 20))
    assert archive.stat().st_size < 4 << 20
    kept, rejected = packed_into(archive, tmp_path / "out")
    assert kept == {"plain": 0, "last": 1}
    assert list(rejected) == ["bomb"]
    assert "cannot read images/bomb.jpg: 269484032 bytes, more than an image may have (268435456)" in rejected["bomb"]


def test_decoding_odd_images_warns_nobody() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for data, _ in KEPT.values():
            decode_rgb(data)
    assert [str(warning.message) for warning in warned] == []
