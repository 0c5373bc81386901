"""Pictures and their table from a folder or straight from a zip, and what is said where there are none."""

import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_source, zip_folder

from fastfashion.catalog import open_source
from fastfashion.errors import InputError


def as_folder(folder: Path, home: Path) -> Path:
    return folder


def as_zip(folder: Path, home: Path) -> Path:
    return zip_folder(folder, home / "set.zip")


def as_nested_zip(folder: Path, home: Path) -> Path:
    return zip_folder(folder, home / "set.zip", prefix="archive/fashion small/")


def as_deflated_zip(folder: Path, home: Path) -> Path:
    return zip_folder(folder, home / "set.zip", compression=zipfile.ZIP_DEFLATED)


def as_zip_without_suffix(folder: Path, home: Path) -> Path:
    return zip_folder(folder, home / "download")


def as_folder_above(folder: Path, home: Path) -> Path:
    return home


def as_linked_images(folder: Path, home: Path) -> Path:
    (folder / "images").rename(home / "elsewhere")
    (folder / "images").symlink_to(home / "elsewhere")
    return folder


@pytest.mark.parametrize(
    "form",
    [as_folder, as_zip, as_nested_zip, as_deflated_zip, as_zip_without_suffix, as_folder_above, as_linked_images],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("name", ["plain", "two words", "Größe-服装"])
def test_every_form_gives_the_same_table_and_pictures(form: Callable[[Path, Path], Path], name: str, tmp_path: Path) -> None:
    home = tmp_path / name
    folder = make_source(home / "source", rows=5)
    table = (folder / "styles.csv").read_bytes()
    pictures = {f.stem: f.read_bytes() for f in (folder / "images").iterdir()}
    source = open_source(form(folder, home))
    assert source.read_table() == table
    assert {identity: source.read(identity) for identity in source.images} == pictures
    assert len(pictures) == 5


def test_a_relative_path_still_works_after_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(tmp_path / "set", rows=2)
    monkeypatch.chdir(tmp_path)
    source = open_source(Path("set"))
    monkeypatch.chdir("/")
    assert source.read_table().startswith(b"id,gender")


@pytest.mark.parametrize("form", [as_folder, as_zip], ids=lambda f: f.__name__)
def test_of_kaggles_two_copies_the_one_nearest_the_top_counts(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    folder = make_source(tmp_path / "both", rows=4)
    copy = make_source(folder / "myntradataset", rows=6)
    (copy / "styles.csv").write_text("id\nthe copy\n")
    source = open_source(form(folder, tmp_path))
    assert source.table == "styles.csv"
    assert len(source.images) == 4
    assert all(name.startswith("images/") for name in source.images.values())


def test_pictures_may_lie_in_the_other_copy_than_the_table(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=3)
    (folder / "myntradataset").mkdir()
    (folder / "images").rename(folder / "myntradataset" / "images")
    assert len(open_source(folder).images) == 3


def test_what_other_systems_leave_in_archives_is_no_picture(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=3)
    for junk in ("images/Thumbs.db", "images/notes.txt", "thumbs/9.jpg", "__MACOSX/images/._1163.jpg"):
        (folder / junk).parent.mkdir(exist_ok=True, parents=True)
        (folder / junk).write_bytes(b"junk")
    (folder / "images" / "42.PNG").write_bytes(b"png")
    assert len(open_source(zip_folder(folder, tmp_path / "set.zip")).images) == 4


def test_of_several_pictures_with_one_id_the_jpg_counts(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=1)
    (folder / "images" / "10000.png").write_bytes(b"other")
    assert open_source(folder).images == {"10000": "images/10000.jpg"}


def test_an_empty_zip_is_refused(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "set.zip", "w").close()
    with pytest.raises(InputError, match=r"set\.zip: the zip holds no file"):
        open_source(tmp_path / "set.zip")


def test_a_file_of_zero_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.zip").touch()
    with pytest.raises(InputError, match=r"set\.zip: the file is empty"):
        open_source(tmp_path / "set.zip")


@pytest.mark.parametrize("text", [b"hello\n", b"<!DOCTYPE html><html>Sign in</html>", b"PK\x03\x04" + bytes(400)])
def test_a_file_that_is_only_named_zip_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(text)
    with pytest.raises(InputError, match=r"set\.zip: not a readable zip"):
        open_source(tmp_path / "set.zip")


@pytest.mark.parametrize("keep", [0.2, 0.9, 0.999])
def test_a_truncated_zip_is_refused(keep: float, tmp_path: Path) -> None:
    data = as_zip(make_source(tmp_path / "set", rows=5), tmp_path).read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(InputError, match=r"cut\.zip: not a readable zip"):
        open_source(tmp_path / "cut.zip")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_costs_that_picture_alone(compression: int, tmp_path: Path) -> None:
    path = zip_folder(make_source(tmp_path / "set", rows=5), tmp_path / "set.zip", compression=compression)
    with zipfile.ZipFile(path) as archive:
        hurt, *others = [info for info in archive.infolist() if info.filename.startswith("images/")]
    data = bytearray(path.read_bytes())
    name_bytes, extra_bytes = struct.unpack("<HH", data[hurt.header_offset + 26 : hurt.header_offset + 30])
    start = hurt.header_offset + 30 + name_bytes + extra_bytes
    data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(InputError, match=f"cannot read {hurt.filename}"):
        source.read(Path(hurt.filename).stem)
    for info in others:
        assert len(source.read(Path(info.filename).stem)) == info.file_size


@pytest.mark.parametrize("form", [as_folder, as_zip], ids=lambda f: f.__name__)
def test_a_source_without_a_table_or_without_pictures_is_refused(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    no_table, no_images = make_source(tmp_path / "a" / "set", rows=2), make_source(tmp_path / "b" / "set", rows=2)
    (no_table / "styles.csv").unlink()
    (no_images / "images").rename(no_images / "pictures")
    with pytest.raises(InputError, match=r"set.*: no styles\.csv among its 2 files"):
        open_source(form(no_table, no_table.parent))
    with pytest.raises(InputError, match=r"set.*: no picture in a folder named images; expected images/<id>\.jpg beside styles\.csv"):
        open_source(form(no_images, no_images.parent))


def test_an_empty_folder_and_a_wrong_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}: no styles\.csv among its 0 files"):
        open_source(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        open_source(tmp_path / "nowhere")


@pytest.mark.parametrize("form", [as_folder, as_zip], ids=lambda f: f.__name__)
def test_a_missing_id_and_a_picture_that_vanished_raise(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    source = open_source(form(make_source(tmp_path / "set", rows=2), tmp_path))
    with pytest.raises(InputError, match="no image"):
        source.read("12345678")
    (source.path.unlink if source.is_zip else (source.path / "images" / "10000.jpg").unlink)()
    with pytest.raises(InputError, match=r"cannot read images/10000\.jpg"):
        source.read("10000")


@pytest.mark.parametrize("form", [as_folder, as_zip], ids=lambda f: f.__name__)
def test_a_source_survives_pickling_into_another_process(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    source = open_source(form(make_source(tmp_path / "set", rows=2), tmp_path))
    expected = source.read("10000")  # a zip is open by now
    child = "import pickle, sys; sys.stdout.buffer.write(pickle.load(sys.stdin.buffer).read('10000'))"
    found = subprocess.run([sys.executable, "-c", child], input=pickle.dumps(source), capture_output=True, check=True)
    assert found.stdout == expected
    assert pickle.loads(pickle.dumps(source)) == source
