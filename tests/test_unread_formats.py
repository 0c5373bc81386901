"""Files that are images of a format that is not read are named for what they are; JPEG has more suffixes than two."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import COLUMNS, table_row
from odd_images import drawn, saved

from fastfashion.errors import InputError
from fastfashion.images.codec import SUFFIXES, unsupported
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import open_packed_set

JPEG = saved(drawn(), "JPEG")


def shop(folder: Path, texts: list[str], files: list[str]) -> Path:
    (folder / "images").mkdir(parents=True)
    with (folder / "styles.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *([text, *table_row(1)[1:]] for text in texts)])
    for name in files:
        (folder / "images" / name).write_bytes(JPEG if name.lower().endswith(SUFFIXES) else b"not read")
    return folder


def packed(source: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    pack(PackRequest(source=source, out=out, resolutions=("full",), max_rejected=10))
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return open_packed_set(out).table["id"].tolist(), {line["id"]: line["reason"] for line in csv.DictReader(file)}


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jif", ".JFIF", ".Jpe"])
def test_other_suffixes_of_jpeg_are_images(suffix: str, tmp_path: Path) -> None:
    source = shop(tmp_path / "set", ["1", "2"], ["1.jpg", f"2{suffix}"])
    assert packed(source, tmp_path / "out") == (["1", "2"], {})
    assert np.array_equal(open_packed_set(tmp_path / "out").open("full").encoded(1), np.frombuffer(JPEG, np.uint8))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("photo.heic", "HEIF"),
        ("photo.HEIF", "HEIF"),
        ("photo.jxl", "JPEG XL"),
        ("logo.svg", "vector drawing"),
        ("logo.eps", "vector drawing"),
        ("photo.psd", "layers"),
        ("photo.cr2", "raw file"),
        ("photo.NEF", "raw file"),
        ("photo.dng", "raw file"),
        ("sheet.pdf", "PDF"),
        ("folder.jpg/photo.heic", "HEIF"),
    ],
)
def test_an_image_that_is_not_read_is_named_for_what_it_is(name: str, words: str) -> None:
    said = unsupported(name)
    assert said is not None and words in said and "convert it to JPEG or PNG" in said


@pytest.mark.parametrize("name", ["a.jpg", "a.jfif", "notes.txt", "heic", ".heic", "a.heic.jpg", "", "styles.csv", "a.heic/b.png"])
def test_everything_else_is_not(name: str) -> None:
    assert unsupported(name) is None


@pytest.mark.parametrize("text", ["photo", "photo.heic", "images/photo.heic", "photo.HEIC", "photo.jpg"])
def test_a_row_that_has_only_such_a_file_says_so(text: str, tmp_path: Path) -> None:
    name = "photo.HEIC" if text == "photo.HEIC" else "photo.heic"
    kept, rejected = packed(shop(tmp_path / "set", ["1", text], ["1.jpg", name]), tmp_path / "out")
    assert kept == ["1"]
    assert list(rejected) == [text]
    assert ".heic is an HEIF image, as phones take them, which is not read: convert it to JPEG or PNG" in rejected[text]


def test_where_a_jpeg_has_the_same_name_it_is_taken(tmp_path: Path) -> None:
    assert packed(shop(tmp_path / "set", ["1", "photo"], ["1.jpg", "photo.heic", "photo.jpg"]), tmp_path / "out") == (["1", "photo"], {})


def test_a_source_of_nothing_else_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it holds images/a.heic: .heic is an HEIF image"):
        packed(shop(tmp_path / "set", ["a", "b"], ["a.heic", "b.heic"]), tmp_path / "out")
