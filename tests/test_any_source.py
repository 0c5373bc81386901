"""Folders and archives as they are found on real disks: what is read, what is skipped, and what is said of the rest."""

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_source, smooth_image, zip_folder
from odd_zips import Entry, odd_zip
from workers import fastfashion

from fastfashion.catalog import Columns
from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.files import location
from fastfashion.pack import PackRequest, PackSummary, pack
from fastfashion.shards.verify import verify
from fastfashion.sources import open_source
from fastfashion.sources.source import list_source
from fastfashion.sources.zips import read_entries

HOME = Path(__file__).parents[1]
NOWHERE = "a link to nowhere"


def packed(source: Path, out: Path, **more: object) -> PackSummary:
    return pack(PackRequest(source=source, out=out, resolutions=("16",), **more))  # type: ignore[arg-type]


def reasons(out: Path) -> dict[str, str]:
    import pandas as pd

    table = pd.read_csv(out / "rejected.csv", dtype=str)
    return dict(zip(table["id"], table["reason"], strict=True))


def with_time_limit(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """The command, which on a fault would never end."""
    options = ["--source", folder, "--out", out, "--res", "16", "--json", "--workers", "1"]
    return fastfashion("shard", *options, cwd=HOME, timeout_s=120)


def test_a_dangling_link_costs_its_row_alone(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=6)
    (folder / "images" / "10000.jpg").unlink()
    (folder / "images" / "10000.jpg").symlink_to(tmp_path / "gone.jpg")
    (folder / "images" / "without-row.jpg").symlink_to("gone-too.jpg")
    summary = packed(folder, tmp_path / "out")
    assert (summary.num_rows, summary.kept, summary.rejected) == (6, 5, 1)
    assert reasons(tmp_path / "out") == {"10000": "cannot read images/10000.jpg: a link to nowhere"}
    assert summary.passed_over[NOWHERE]["count"] == 2
    assert packed(folder, tmp_path / "out").packed_now == 0  # its fingerprint is that of the first time


def test_links_in_a_circle_end_and_each_folder_is_looked_into_once(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=4)
    (folder / "images" / "up").symlink_to("..")
    (folder / "images" / "self").symlink_to(".")
    (folder / "loop").symlink_to("loop")
    (folder / "again").symlink_to("images")
    done = with_time_limit(folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["kept"], summary["images_without_row"]) == (4, 0)
    listing = list_source(folder)
    assert sorted(name for name in listing.files if name.endswith(".jpg")) == [f"images/{i}.jpg" for i in ("10000", "10003", "996", "997")]
    assert listing.aliases == {"images/up": "", "images/self": "images", "again": "images"}


def test_a_link_to_a_folder_above_the_source_is_passed_over(tmp_path: Path) -> None:
    """Otherwise all of the disk would be listed."""
    folder = make_source(tmp_path / "above" / "set", rows=4)
    (tmp_path / "above" / "other").mkdir()
    shutil.copy(folder / "images" / "996.jpg", tmp_path / "above" / "other" / "996.jpg")
    for number, target in enumerate(("..", "../..", "/", "../other")):
        (folder / "images" / f"link{number}").symlink_to(folder / target)
    listing = list_source(folder)
    assert listing.skipped["a link to a folder that holds the source"]["count"] == 3
    assert {name for name in listing.files if name.startswith("images/link")} == {"images/link3/996.jpg"}
    # images that are above the table
    (tmp_path / "above" / "tables").mkdir()
    (tmp_path / "above" / "tables" / "images").symlink_to("..")
    shutil.copy(folder / "styles.csv", tmp_path / "above" / "tables" / "styles.csv")
    assert "images/other/996.jpg" in list_source(tmp_path / "above" / "tables").files


def test_no_pipe_socket_or_device_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_source(tmp_path / "set", rows=5)
    os.mkfifo(folder / "notes.csv")
    os.mkfifo(folder / "images" / "other.jpg")
    (folder / "images" / "996.jpg").unlink()
    os.mkfifo(folder / "images" / "996.jpg")
    (folder / "images" / "10000.jpg").unlink()
    (folder / "images" / "10000.jpg").symlink_to("/dev/zero")
    (folder / "images" / "997.jpg").unlink()
    monkeypatch.chdir(folder / "images")  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("997.jpg")
        done = with_time_limit(folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["kept"], summary["rejected"]) == (2, 3)
    assert {identity: reason.partition(": ")[2] for identity, reason in reasons(tmp_path / "out").items()} == {
        "996": "a pipe (FIFO), no regular file",
        "997": "a socket, no regular file",
        "10000": "a device, no regular file",
    }
    assert summary["passed_over"]["a pipe (FIFO), no regular file"]["count"] == 3


def test_a_file_that_becomes_a_pipe_after_it_was_listed_is_not_opened(tmp_path: Path) -> None:
    source = open_source(make_source(tmp_path / "set", rows=2))
    (tmp_path / "set" / "images" / "996.jpg").unlink()
    os.mkfifo(tmp_path / "set" / "images" / "996.jpg")
    [found] = source.reader.read_many([source.images["996"]])
    assert "a pipe (FIFO), no regular file" in str(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone can")
def test_unreadable_folders_and_files_are_rejected_with_the_reason() -> None:
    with tempfile.TemporaryDirectory() as home:  # tmp_path is closed to others
        Path(home).chmod(0o755)
        folder = make_source(Path(home) / "set", rows=6)
        (folder / "images" / "996.jpg").chmod(0)
        (folder / "closed").mkdir()
        (folder / "closed" / "more.csv").write_text("id\n")
        (folder / "images" / "10000.jpg").rename(folder / "closed" / "10000.jpg")
        (folder / "closed").chmod(0)
        code = """
import os, sys, json
from pathlib import Path
from fastfashion.pack import PackRequest, pack
source, out = map(Path, sys.argv[1:])
pack(PackRequest(source=source, out=out / "before", resolutions=("16",)))  # all is imported: the other may not be able to
os.setgid(65534); os.setuid(65534)
summary = pack(PackRequest(source=source, out=out / "after", resolutions=("16",)))
print(json.dumps([summary.kept, summary.rejected, summary.passed_over]))
"""
        (out := Path(home) / "out").mkdir()
        out.chmod(0o777)
        command = [sys.executable, "-c", code, str(folder), str(out)]
        done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        kept, rejected, passed_over = json.loads(done.stdout.splitlines()[-1])
        assert (kept, rejected) == (4, 2)
        assert reasons(out / "after")["10000"] == "no image, but closed is a folder that cannot be read (Permission denied)"
        assert reasons(out / "after")["996"] == "cannot read images/996.jpg: permission denied"
        assert passed_over == {"a folder that cannot be read (Permission denied)": {"count": 1, "first": "closed"}}


def test_a_name_that_is_no_text_is_counted_and_printed(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=3)
    (folder / os.fsdecode(b"gr\xfc\xdfe.jpg")).symlink_to("gone")
    done = with_time_limit(folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed_over"] == {NOWHERE: {"count": 1, "first": "gr\\udcfc\\udcdfe.jpg"}}
    assert "skipped in the source: a link to nowhere: gr" in done.stderr


def as_folder(folder: Path, home: Path) -> Path:
    return folder


def as_zip(folder: Path, home: Path) -> Path:
    return zip_folder(folder, home / "set.zip")


def in_memory(folder: Path, home: Path) -> Path:
    pytest.importorskip("upath")
    there: Any = location(f"memory://{folder}")
    there.fs.put(str(folder) + "/", there.path, recursive=True)
    return there


FORMS = [as_folder, as_zip, in_memory]
LEFT_BEHIND = [
    *("__MACOSX/._styles.csv", "__MACOSX/images/._996.jpg", ".ipynb_checkpoints/styles-checkpoint.csv", ".Trash/old.csv", "._list.csv"),
    *("deep/.Trash-1000/files/list.csv", "images/.ipynb_checkpoints/996.jpg", "@eaDir/996.jpg/x.csv", ".git/a.csv"),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_what_systems_leave_behind_is_no_table_and_no_image(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=4)
    (folder / "styles.csv").rename(folder / "list.csv")
    for name in LEFT_BEHIND:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("id\nnothing\n")
    source = open_source(form(folder, tmp_path))
    assert source.table == "list.csv"
    assert sorted(source.images) == ["10000", "10003", "996", "997"]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_packed_sets_and_runs_below_the_source_are_passed_over(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=4)
    (folder / "styles.csv").rename(folder / "list.csv")
    packed(folder, folder / "shards" / "small")
    for name in ("config.json", "metrics.jsonl", "skipped.csv", "plots/training.png", "plots/996.png", "best/model.safetensors"):
        (folder / "runs" / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "runs" / "one" / name).write_bytes(b"{}")
    source = open_source(form(folder, tmp_path))
    assert source.table == "list.csv"
    assert sorted(source.images) == ["10000", "10003", "996", "997"]
    found = {reason: entry["first"] for reason, entry in source.skipped.items()}
    assert found == {"a packed set": "shards/small", "a training run": "runs/one"}


def test_the_command_that_packed_below_its_source_succeeds_a_second_time(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=6)
    (folder / "styles.csv").rename(folder / "list.csv")
    (folder / "images" / "996.jpg").write_bytes(b"no image")
    assert packed(folder, folder / "out").packed_now == 5
    again = packed(folder, folder / "out")
    assert (again.packed_now, again.kept, again.rejected) == (0, 5, 1)
    assert pack(PackRequest(source=folder, out=folder / "out", resolutions=("16", "32"))).kept == 5


def test_a_set_that_is_only_half_published_below_the_source_is_passed_over_too(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=6)
    (folder / "styles.csv").rename(folder / "list.csv")
    packed(folder, folder / "out")
    (folder / "out" / "set.json").unlink()
    (folder / "out" / "16" / "manifest.json").unlink()
    assert open_source(folder).table == "list.csv"
    for name in ("catalog.parquet", "vocab.json"):
        (folder / "out" / name).unlink()
    (folder / "out" / ".staging").mkdir()
    assert open_source(folder).table == "list.csv"


def test_names_with_backslashes_in_a_zip_are_read_as_paths(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=4)
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        archive.writestr("archive\\", b"")
        archive.writestr("archive\\images\\", b"")
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.writestr("archive\\" + str(file.relative_to(folder)).replace("/", "\\"), file.read_bytes())
        for name in ("..\\images\\1.jpg", "archive\\..\\..\\2.jpg", "C:\\images\\3.jpg", "\\images\\4.jpg", "\\\\host\\images\\5.jpg"):
            archive.writestr(name, b"outside")
    with zipfile.ZipFile(tmp_path / "windows.zip") as archive:
        assert "archive\\images\\996.jpg" in archive.namelist()  # the zip holds them as they were given
    source = open_source(tmp_path / "windows.zip")
    assert source.table == "archive/styles.csv"
    assert {identity: source.read(identity) for identity in source.images} == {
        file.stem: file.read_bytes() for file in (folder / "images").iterdir()
    }
    assert source.skipped["a name that leads out of the zip"]["count"] == 5
    assert packed(tmp_path / "windows.zip", tmp_path / "out").kept == 4


def without_utf8_flag(path: Path) -> None:
    """As macOS writes names: UTF-8 that is not said to be UTF-8."""
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags + 1] &= ~8
            at = data.find(signature, at + 1)
    path.write_bytes(data)


@pytest.mark.parametrize("says_so", [True, False])
def test_names_in_utf_8_are_read_whether_the_zip_says_so_or_not(says_so: bool, tmp_path: Path) -> None:
    from fastfashion.predict.inputs import find_inputs

    folder = make_source(tmp_path / "set", rows=4)
    names = {"996": "Größe", "997": "帽子", "10000": "café"}
    table = folder / "styles.csv"
    for old, new in names.items():
        table.write_text(table.read_text(encoding="utf-8").replace(f"\n{old},", f"\n{new},"), encoding="utf-8")
        (folder / "images" / f"{old}.jpg").rename(folder / "images" / f"{unicodedata.normalize('NFD', new)}.jpg")
    archive = zip_folder(folder, tmp_path / "mac.zip")
    if not says_so:
        without_utf8_flag(archive)
        with zipfile.ZipFile(archive) as opened:
            assert "images/Größe.jpg" not in {unicodedata.normalize("NFC", name) for name in opened.namelist()}
    summary = packed(archive, tmp_path / "out")
    assert (summary.kept, summary.rejected, summary.images_without_row) == (4, 0, 0)
    shown = {unicodedata.normalize("NFC", found.name.rpartition("/")[2]) for found in find_inputs([str(archive)])}  # type: ignore[union-attr]
    assert shown == {"Größe.jpg", "帽子.jpg", "café.jpg", "10003.jpg"}


def test_a_name_in_another_code_page_stays_as_zipfile_reads_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as archive:
        archive.writestr("Gr__e.jpg", b"")
    (tmp_path / "old.zip").write_bytes((tmp_path / "old.zip").read_bytes().replace(b"Gr__e", "Größe".encode("cp437")))
    assert [entry.name for entry in read_entries(tmp_path / "old.zip")] == ["Größe.jpg"]


def test_names_on_a_disk_that_are_no_utf8_are_listed_and_end_no_packing(tmp_path: Path) -> None:
    folder = make_source(tmp_path / os.fsdecode(b"se\xfft"), rows=1)
    image, below = (folder / "images" / "10000.jpg").read_bytes(), folder / "images" / os.fsdecode(b"b\xff")
    below.mkdir()
    (below / "a.jpg").write_bytes(image)
    os.mkfifo(below / "pipe.jpg")
    (folder / "t.csv").write_text("id,label\na.jpg,x\nno/a.jpg,x\npipe,x\n")
    asked = {"table": "t.csv", "columns": Columns(labels=("label",))}
    summary = packed(folder, tmp_path / "out", **asked)
    assert (summary.kept, summary.rejected, verify(summary.out).damage) == (1, 2, ())
    assert reasons(summary.out) == {
        "no/a.jpg": r"no image at this path; there is images/b\udcff/a.jpg",
        "pipe": r"cannot read images/b\udcff/pipe.jpg: a pipe (FIFO), no regular file",
    }


def test_one_odd_entry_of_a_zip_is_one_rejected_row(tmp_path: Path) -> None:
    image = (make_source(tmp_path / "set", rows=1) / "images" / "10000.jpg").read_bytes()
    _, good, said = odd_zip(image, [])
    table = "id,label\n" + "".join(f"{name},a\n" for name in [*good, *said])
    (tmp_path / "odd.zip").write_bytes(odd_zip(image, [Entry(data=table.encode(), name=b"styles.csv")])[0])
    summary = packed(tmp_path / "odd.zip", tmp_path / "out", columns=Columns(labels=("label",)))
    assert (summary.kept, summary.rejected) == (len(good), len(said))
    found = reasons(tmp_path / "out")
    assert {name: found[name] for name, words in said.items() if not re.search(words, found[name])} == {}


def test_a_link_stored_in_a_zip_is_rejected_as_what_it_is(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=4)
    (folder / "images" / "996.jpg").unlink()
    path = zip_folder(folder, tmp_path / "set.zip")
    link = zipfile.ZipInfo("images/996.jpg")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "997.jpg")
    assert packed(path, tmp_path / "out").rejected == 1
    assert "a link in the zip, which holds no data" in reasons(tmp_path / "out")["996"]


def tar_of(folder: Path, path: Path, mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(folder, "set")
    return path


def webdataset_tar(path: Path) -> Path:
    smooth_image(1, 20, 20).save(image := path.with_name("image.jpg"))
    (label := path.with_name("label.cls")).write_text("1")
    with tarfile.open(path, "w") as archive:
        for key in ("0001", "0002"):
            archive.add(image, f"{key}.jpg")
            archive.add(label, f"{key}.cls")
    return path


def parquet_file(path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b"1"], "label": ["a"]}), path)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def image_file(path: Path) -> Path:
    smooth_image(1, 20, 20).save(path)
    return path


PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
SINGLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "set.tar": (lambda p: tar_of(make_source(p.parent / "set", rows=2), p), r"a tar archive \(it begins with set.*unpack it"),
    "set.tar.gz": (lambda p: tar_of(make_source(p.parent / "set", rows=2), p, "w:gz"), r"a gzip file \(.*unpack it and name the folder"),
    "set.tar.xz": (lambda p: tar_of(make_source(p.parent / "set", rows=2), p, "w:xz"), r"an xz file .*unpack it"),
    "00000.tar": (webdataset_tar, r"a WebDataset tar \(samples such as 0001\.jpg, 0001\.cls\); write its images into a folder"),
    "set.7z": (lambda p: written(p, b"7z\xbc\xaf\x27\x1c" + bytes(100)), r"a 7z archive; unpack it"),
    "set.rar": (lambda p: written(p, b"Rar!\x1a\x07\x01\x00" + bytes(100)), r"a RAR archive; unpack it"),
    "train.parquet": (parquet_file, r"a Parquet file; write its images into a folder and its labels into a CSV"),
    "one.jpg": (image_file, r"a single image \(JPEG\); name the folder .*fastfashion predict"),
    "one.webp": (image_file, r"a single image; name the folder .*fastfashion predict"),
    "styles.csv": (lambda p: written(p, b"id,label\n1,red\n"), r"a table alone, without images; .*--source .* --table styles\.csv"),
    "page.zip": (lambda p: written(p, PAGE), r"an HTML page, not an archive: a sign-in or an error page"),
    "error.zip": (lambda p: written(p, b"<?xml version='1.0'?><Error><Code>AccessDenied"), r"an XML text, .*AccessDenied"),
    "answer.zip": (lambda p: written(p, b'{"code":403,"message":"Forbidden"}'), r"a JSON text, not an archive: .*Forbidden"),
    "pointer.zip": (lambda p: written(p, LFS), r"a pointer of Git LFS, not the file itself; fetch it with git lfs pull"),
    "text.gz": (lambda p: written(p, gzip.compress(b"id\n")), r"a gzip file"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_file_that_is_no_zip_is_called_what_it_is(name: str, tmp_path: Path) -> None:
    make, said = SINGLE[name]
    path = make(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: {said}") as caught:
        open_source(path)
    assert "again" not in str(caught.value)  # it is not damaged


def test_an_excel_workbook_is_called_what_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "list.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
        archive.writestr("xl/workbook.xml", "")
    with pytest.raises(InputError, match=r"list\.xlsx: an Excel workbook; save the sheet as CSV"):
        open_source(tmp_path / "list.xlsx")


def test_a_pipe_a_device_and_a_link_to_nowhere_as_source_are_called_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(InputError, match=r"pipe: a pipe \(FIFO\); expected a folder or a zip"):
        open_source(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"/dev/null: a device; expected a folder or a zip"):
        open_source(Path("/dev/null"))
    with pytest.raises(InputError, match=r"link: a link to elsewhere, which does not exist"):
        open_source(tmp_path / "link")


@pytest.mark.parametrize("form", [as_folder, as_zip], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ("photos.tar.gz", r"but it holds download/photos\.tar\.gz: unpack that one"),
        ("photos.7z", r"but it holds download/photos\.7z: unpack that one"),
        ("archive.zip", r"but it holds download/archive\.zip: unpack that one"),
        ("train.parquet", r"but it holds download/train\.parquet: save it as CSV"),
        ("list.xlsx", r"but it holds download/list\.xlsx: save it as CSV"),
    ],
)
def test_what_has_to_be_unpacked_first_is_named(form: Callable[[Path, Path], Path], inner: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "set" / "download").mkdir(parents=True)
    (tmp_path / "set" / "download" / inner).write_bytes(b"something")
    with pytest.raises(InputError, match=said):
        open_source(form(tmp_path / "set", tmp_path))


def test_images_that_are_still_packed_beside_the_table_are_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "styles.csv").write_text("id\n1\n")
    (tmp_path / "set" / "images.tar.gz").write_bytes(b"something")
    with pytest.raises(InputError, match=r"but it holds images\.tar\.gz: unpack that one"):
        open_source(tmp_path / "set")


def test_webdataset_tars_in_a_folder_are_named(tmp_path: Path) -> None:
    webdataset_tar(tmp_path / "00000.tar")
    (tmp_path / "set").mkdir()
    (tmp_path / "00000.tar").rename(tmp_path / "set" / "00000.tar")
    with pytest.raises(InputError, match=r"but it holds 00000\.tar, a WebDataset tar \(samples such as 0001\.jpg, 0001\.cls\)"):
        open_source(tmp_path / "set")


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_class_folders_are_called_so_with_the_way_out(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    for label in ("Shoes", "Bags"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(3):
            smooth_image(number, 20, 20).save(tmp_path / "set" / label / f"{number}.jpg")
    said = r"but 6 images in 2 folders \(Bags, Shoes\), and no table .*: write a CSV .*Bags/0\.jpg\) and label, .*--id-column file"
    with pytest.raises(InputError, match=said):
        open_source(form(tmp_path / "set", tmp_path))


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_a_packed_set_as_source_is_called_so(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    packed(make_source(tmp_path / "set", rows=3), tmp_path / "out")
    with pytest.raises(InputError, match=r"a packed set, not a source: train on it with fastfashion train"):
        open_source(form(tmp_path / "out", tmp_path))


def test_a_folder_that_holds_only_a_packed_set_says_so(tmp_path: Path) -> None:
    packed(make_source(tmp_path / "set", rows=3), tmp_path / "all" / "small")
    with pytest.raises(InputError, match=r"but it holds a packed set, small, not a source: train"):
        open_source(tmp_path / "all")


def test_other_label_columns_into_one_set_are_refused_by_name(tmp_path: Path) -> None:
    from fastfashion.catalog import Columns

    folder = make_source(tmp_path / "set", rows=6)
    packed(folder, tmp_path / "out", columns=Columns.parse("id", "gender,season"))
    for other in ("gender,usage", "season", "season,gender"):
        with pytest.raises(PackedSetError) as caught:
            packed(folder, tmp_path / "out", columns=Columns.parse("id", other))
        said = str(caught.value)
        assert f"holds a set with the label columns gender, season, but {other.replace(',', ', ')} were requested" in said
        assert "damaged" not in said and "--label-columns gender,season" in said
    assert packed(folder, tmp_path / "out", columns=Columns.parse("id", "gender,season")).kept == 6


def test_predict_follows_links_as_packing_does_and_passes_over_hidden_folders(tmp_path: Path) -> None:
    from fastfashion.predict.inputs import find_inputs

    for name in ("real/1.jpg", "photos/0.jpg", "photos/deep/2.jpg", "photos/.thumbnails/0.jpg", "photos/__MACOSX/0.jpg", "3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        smooth_image(1, 20, 20).save(tmp_path / name)
    for name, target in (("linked", "../real"), ("a", "deep"), ("me", "."), ("up", ".."), ("root", "/"), ("gone", "nowhere")):
        (tmp_path / "photos" / name).symlink_to(target)
    found = [found.name for found in find_inputs([str(tmp_path / "photos")])]  # type: ignore[union-attr]
    assert found == [f"{tmp_path}/photos/{name}" for name in ("0.jpg", "deep/2.jpg", "linked/1.jpg")]


def test_predict_reads_names_with_backslashes_too(tmp_path: Path) -> None:
    from fastfashion.predict.inputs import InputImage, find_inputs

    smooth_image(1, 20, 20).save(tmp_path / "one.jpg")
    data = (tmp_path / "one.jpg").read_bytes()
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for name in ("images\\1.jpg", "..\\2.jpg", "\\3.jpg"):
            archive.writestr(name, data)
    answers: dict[str, bytes | str] = {}
    for found in find_inputs([str(tmp_path / "windows.zip")]):
        assert isinstance(found, InputImage)
        try:
            answers[found.name.partition("windows.zip/")[2]] = found.read()
        except InputError as error:
            answers[found.name.partition("windows.zip/")[2]] = str(error)
    refused = "its name leads out of the zip; it was not read"
    assert answers == {"images\\1.jpg": data, "..\\2.jpg": refused, "\\3.jpg": refused}


@pytest.mark.parametrize("address", ["s3://bucket//set", "s3://bucket/a//b", "gs://bucket//set"])
def test_an_empty_path_segment_is_refused_before_anything_is_done(address: str) -> None:
    with pytest.raises(ConfigError, match=rf"{address}: an empty path segment; write it with one slash, {address[:2]}://bucket/"):
        location(address)


@pytest.mark.parametrize("address", ["s3:///set", "s3://", "s3:///"])
def test_an_address_without_a_bucket_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=rf"{address}: no bucket; expected s3://bucket/folder"):
        location(address)
