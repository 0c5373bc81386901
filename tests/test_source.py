"""Images and their table from a folder or straight from a zip, and what is said if there are none."""

import os
import pickle
import re
import struct
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import make_source, smooth_image, zip_folder
from PIL import features

from fastfashion.errors import InputError, RemoteError
from fastfashion.files import location
from fastfashion.images.codec import SUFFIXES, decode_rgb
from fastfashion.retry import Patience
from fastfashion.sources import Source, open_source
from fastfashion.sources.ranges import UnreachableError


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
def test_every_form_gives_the_same_table_and_images(form: Callable[[Path, Path], Path], name: str, tmp_path: Path) -> None:
    home = tmp_path / name
    folder = make_source(home / "source", rows=5)
    table = (folder / "styles.csv").read_bytes()
    images = {f.stem: f.read_bytes() for f in (folder / "images").iterdir()}
    source = open_source(form(folder, home))
    assert source.read_table() == table
    assert {identity: source.read(identity) for identity in source.images} == images
    assert len(images) == 5


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
    assert all(member.name.startswith("images/") for member in source.images.values())


def test_images_may_lie_in_the_other_copy_than_the_table(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=3)
    (folder / "myntradataset").mkdir()
    (folder / "images").rename(folder / "myntradataset" / "images")
    assert len(open_source(folder).images) == 3


def test_what_other_systems_leave_in_archives_is_no_image(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=3)
    for junk in ("images/Thumbs.db", "images/notes.txt", "thumbs/9.jpg", "__MACOSX/images/._1163.jpg"):
        (folder / junk).parent.mkdir(exist_ok=True, parents=True)
        (folder / junk).write_bytes(b"junk")
    (folder / "images" / "42.PNG").write_bytes(b"png")
    assert len(open_source(zip_folder(folder, tmp_path / "set.zip")).images) == 4


def test_of_several_images_with_one_id_the_jpg_counts(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=1)
    for suffix in ("png", "gif", "jpeg", "webp"):
        (folder / "images" / f"10000.{suffix}").write_bytes(b"other")
    assert {identity: member.name for identity, member in open_source(folder).images.items()} == {"10000": "images/10000.jpg"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_image_is_found_and_decodes(suffix: str, tmp_path: Path) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    (tmp_path / "list.csv").write_text("file\n")
    smooth_image(1, 70, 50).save(tmp_path / f"a{suffix}", "JPEG" if suffix.startswith(".j") else None)
    assert decode_rgb(open_source(tmp_path).read("a")).shape == (50, 70, 3)


def test_an_empty_zip_is_refused(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "set.zip", "w").close()
    with pytest.raises(InputError, match=r"set\.zip: the zip holds no file"):
        open_source(tmp_path / "set.zip")


def test_a_file_of_zero_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.zip").touch()
    with pytest.raises(InputError, match=r"set\.zip: the file is empty"):
        open_source(tmp_path / "set.zip")


@pytest.mark.parametrize("text", [b"hello\n", b"PK\x03\x04" + bytes(400)])
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
def test_a_damaged_member_costs_that_image_alone(compression: int, tmp_path: Path) -> None:
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
def test_a_source_without_a_table_or_without_images_is_refused(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    no_table, no_images = make_source(tmp_path / "a" / "set", rows=2), make_source(tmp_path / "b" / "set", rows=2)
    (no_table / "styles.csv").unlink()
    for image in (no_images / "images").iterdir():
        image.unlink()
    with pytest.raises(InputError, match=r"set.*: no styles\.csv, but 2 images, and no table .*: write a CSV"):
        open_source(form(no_table, no_table.parent))
    with pytest.raises(InputError, match=r"set.*: no image \(\.jpg.*\); expected images/<id>\.jpg beside styles\.csv"):
        open_source(form(no_images, no_images.parent))


@pytest.mark.parametrize("form", [as_folder, as_zip], ids=lambda f: f.__name__)
def test_a_table_of_another_name_and_images_in_any_folder_are_found(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    shop = make_source(tmp_path / "shop", rows=4)
    (shop / "styles.csv").rename(shop / "list.CSV")
    (shop / "images").rename(shop / "a")
    (shop / "b").mkdir()
    moved = sorted((shop / "a").iterdir())[0]
    moved.rename(shop / "b" / moved.name)
    source = open_source(form(shop, tmp_path))
    assert source.table == "list.CSV" and len(source.images) == 4
    assert source.images[moved.stem].name == f"b/{moved.name}"


def test_among_several_tables_it_must_be_said_which(tmp_path: Path) -> None:
    shop = make_source(tmp_path / "shop", rows=2)
    (shop / "styles.csv").rename(shop / "one.csv")
    (shop / "two.csv").write_text("id\n")
    with pytest.raises(InputError, match=r"no styles\.csv, but one\.csv, two\.csv: choose the table with --table"):
        open_source(shop)
    assert open_source(shop, "one.csv").table == "one.csv"
    with pytest.raises(InputError, match=r"no three\.csv, but one\.csv, two\.csv"):
        open_source(shop, "three.csv")


def test_two_images_of_one_name_are_refused_where_one_is_needed_unless_a_folder_is_called_images(tmp_path: Path) -> None:
    shop = make_source(tmp_path / "shop", rows=2)
    (shop / "more").mkdir()
    first = sorted((shop / "images").iterdir())[0]
    (shop / "more" / f"{first.stem}.png").write_bytes(first.read_bytes())
    assert open_source(shop).images[first.stem].name == f"images/{first.name}"
    (shop / "images").rename(shop / "photos")
    with pytest.raises(InputError, match=rf"'{first.stem}' in the table may be .* and .*; write the path into the table"):
        open_source(shop).read(first.stem)
    assert open_source(shop).read(f"more/{first.stem}.png") == (shop / "more" / f"{first.stem}.png").read_bytes()


def test_an_empty_folder_and_a_wrong_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path}: no styles\.csv, among its 0 files; expected a folder or a zip"):
        open_source(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        open_source(tmp_path / "nowhere")


@pytest.mark.parametrize("form", [as_folder, as_zip], ids=lambda f: f.__name__)
def test_a_missing_id_and_a_image_that_vanished_raise(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
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
    assert pickle.loads(pickle.dumps(source.reader)) == source.reader
    assert len(pickle.dumps(source.reader)) < 1000  # it goes along with every block of rows


@pytest.mark.parametrize("form", [as_folder, as_zip, as_deflated_zip], ids=lambda f: f.__name__)
def test_members_read_in_turn_give_images_and_errors_in_their_places(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=3)
    images = {f.stem: f.read_bytes() for f in (folder / "images").iterdir()}
    source = open_source(form(folder, tmp_path))
    lost = source.images["996"]._replace(name="images/lost.jpg", offset=17)
    found = list(source.reader.read_many([source.images["996"], lost, source.images["10000"]]))
    assert (found[0], found[2]) == (images["996"], images["10000"])
    assert isinstance(found[1], InputError)
    assert "cannot read images/lost.jpg" in str(found[1])


@pytest.mark.parametrize("extra_bytes", [0, 40, 5000])
def test_a_local_header_may_have_an_extra_field_of_any_length(extra_bytes: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("styles.csv", "id\n")
        info = zipfile.ZipInfo("images/7.jpg")
        info.extra = struct.pack("<HH", 0xCAFE, extra_bytes) + bytes(extra_bytes)
        archive.writestr(info, b"an image")
    assert open_source(tmp_path / "set.zip").read("7") == b"an image"


def test_of_two_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("styles.csv", "id\n")
        archive.writestr("images/7.jpg", b"first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("images/7.jpg", b"last")
    assert open_source(tmp_path / "set.zip").read("7") == b"last"


def test_a_member_beyond_four_gigabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    path.touch()
    os.truncate(path, 5 << 30)  # a hole, which takes no space
    with zipfile.ZipFile(path, "a") as archive:  # appends: offsets count from the start of the file
        archive.writestr("styles.csv", "id\n")
        archive.writestr("images/7.jpg", b"far away")
    source = open_source(path)
    assert source.images["7"].offset > 5 << 30
    assert source.read("7") == b"far away"


@pytest.mark.parametrize("form", [as_folder, as_zip, as_deflated_zip], ids=lambda f: f.__name__)
def test_a_member_larger_than_a_image_may_be_is_refused_and_not_read(form: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=2)
    source = open_source(form(folder, tmp_path))
    size = (folder / "images" / "10000.jpg").stat().st_size
    assert len(source.reader.read(source.images["10000"], max_bytes=size)) == size
    with pytest.raises(InputError, match=r"cannot read images/10000\.jpg: .*more .*than an image may have"):
        source.reader.read(source.images["10000"], max_bytes=size - 1)


def test_a_member_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("styles.csv", "id\n")
        archive.writestr("images/7.jpg", bytes(1 << 24))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 1 << 24), struct.pack("<I", 1000)))
    source = open_source(path)
    with pytest.raises(InputError, match=r"cannot read images/7\.jpg: expected 1000 bytes, found 1001"):
        source.read("7")


@pytest.mark.parametrize(("method", "flags", "reason"), [(93, 0, "compressed by method 93"), (0, 1, "encrypted")])
def test_what_cannot_be_unpacked_is_refused_with_the_reason(method: int, flags: int, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/7.jpg", b"secret")
        archive.writestr("styles.csv", "id\n")
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\1\2")
    struct.pack_into("<HH", data, 6, flags, method)
    struct.pack_into("<HH", data, directory + 8, flags, method)
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"cannot read images/7\.jpg: it is {reason}.*; expected stored, deflated"):
        open_source(path).read("7")


OUTSIDE = ["../images/1.jpg", "/images/2.jpg", "images/../../images/3.jpg", "..\\images\\4.jpg", "C:\\images\\5.jpg", "../styles.csv"]


def test_names_that_lead_out_of_the_zip_are_ignored(tmp_path: Path) -> None:
    path = zip_folder(make_source(tmp_path / "set", rows=2), tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for name in OUTSIDE:
            archive.writestr(name, b"outside")
    source = open_source(path)
    assert set(source.images) == {"10000", "996"}
    assert source.table == "styles.csv"


def test_a_zip_in_a_zip_is_named(tmp_path: Path) -> None:
    inner = zip_folder(make_source(tmp_path / "set", rows=2), tmp_path / "archive.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(inner, "download/archive.zip")
    with pytest.raises(InputError, match=r"outer\.zip: no styles\.csv, but it holds download/archive\.zip: unpack that one.*--source"):
        open_source(tmp_path / "outer.zip")


def test_a_fingerprint_changes_when_a_image_is_replaced(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=3)
    before = open_source(folder).fingerprint()
    assert open_source(folder).fingerprint() == before
    (folder / "images" / "996.jpg").write_bytes(b"another")
    assert open_source(folder).fingerprint() != before


def in_memory(folder: Path) -> Path:
    """The same files in fsspec's memory file system, below a name of their own."""
    there = location(f"memory://{folder}")
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            there.joinpath(file.relative_to(folder).as_posix()).parent.mkdir(parents=True, exist_ok=True)
            there.joinpath(file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
    return there


@pytest.mark.parametrize("form", [as_folder, as_zip, as_nested_zip, as_deflated_zip], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["plain", "Größe 服装"])
def test_a_remote_source_gives_what_the_local_one_gives(form: Callable[[Path, Path], Path], name: str, tmp_path: Path) -> None:
    local = form(make_source(tmp_path / name / "set", rows=40), tmp_path)
    remote = in_memory(local if local.is_dir() else tmp_path)
    ours, theirs = open_source(local), open_source(remote if local.is_dir() else remote / local.name)
    assert theirs.is_zip == ours.is_zip
    assert theirs.read_table() == ours.read_table()
    assert set(theirs.images) == set(ours.images)
    order = sorted(ours.images)
    found = theirs.reader.read_many(theirs.images[identity] for identity in order)
    assert list(found) == list(ours.reader.read_many(ours.images[identity] for identity in order))
    assert pickle.loads(pickle.dumps(theirs.reader)).read(theirs.images["10000"]) == ours.read("10000")


def test_a_image_that_vanished_from_a_remote_folder_costs_that_one_alone(tmp_path: Path) -> None:
    remote = in_memory(make_source(tmp_path / "set", rows=20))
    source = open_source(remote)
    before = source.fingerprint()
    (remote / "images" / "996.jpg").unlink()
    order = sorted(source.images)
    found = dict(zip(order, source.reader.read_many(source.images[identity] for identity in order), strict=True))
    assert [identity for identity, data in found.items() if isinstance(data, InputError)] == ["996"]
    assert "cannot read images/996.jpg" in str(found["996"])
    (remote / "images" / "996.jpg").write_bytes(b"another")
    assert open_source(remote).fingerprint() != before


def test_a_remote_place_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"memory:.*nowhere: no such file or folder"):
        open_source(location(f"memory://{tmp_path}/nowhere"))
    (empty := location(f"memory://{tmp_path}/empty")).mkdir(parents=True)
    (empty / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"memory:.*empty: no styles\.csv, among its 1 file;"):
        open_source(empty)


class WebServer(ThreadingHTTPServer):
    """Serves one folder on loopback; `ranges` says whether parts of files, `broken` how many of the next requests fail."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), WebHandler)
        self.folder, self.ranges, self.broken = folder, True, 0
        self.statuses: list[int] = []  # of the next answers; the last one stays
        self.asked = 0
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class WebHandler(BaseHTTPRequestHandler):
    server: WebServer

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        asked = self.headers.get("Range")
        self.server.asked += 1
        if self.server.statuses:
            status = self.server.statuses[0]
            self.server.statuses = self.server.statuses[1:] or [status]
            if status != 200:
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        if body and asked:
            self.server.requests.append(asked)
        path = self.server.folder / urllib.parse.unquote(self.path).lstrip("/")
        if body and self.server.broken:
            self.server.broken -= 1
            self.send_error(503)
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        size = len(data)
        if asked and self.server.ranges:
            first, last = (int(v) for v in asked.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    server = WebServer(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def test_a_zip_on_a_web_server_is_read_by_one_range_request_a_image(web: WebServer, tmp_path: Path) -> None:
    local = open_source(zip_folder(make_source(tmp_path / "set", rows=50), tmp_path / "Größe 1.zip"))
    source = open_source(location(f"{web.url}/Größe 1.zip"))
    assert source.is_zip
    assert source.read_table() == local.read_table()
    opened = len(web.requests)
    assert opened < 8
    order = sorted(source.images)
    found = list(pickle.loads(pickle.dumps(source.reader)).read_many(source.images[identity] for identity in order))
    assert found == [local.read(identity) for identity in order]
    assert len(web.requests) - opened == 50


def test_a_web_server_that_stumbles_is_asked_again_and_one_that_is_gone_stops_the_run(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfashion.retry.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("fastfashion.sources.reader.PATIENCE_S", 0.05)
    local = open_source(zip_folder(make_source(tmp_path / "set", rows=5), tmp_path / "set.zip"))
    source = open_source(location(f"{web.url}/set.zip"))
    web.broken = 2
    assert source.read("10000") == local.read("10000")
    web.broken = 10**6
    with pytest.raises(UnreachableError, match=r"set\.zip: cannot be read any more .*503.*run the same command again"):
        list(source.reader.read_many(source.images.values()))
    web.broken = 0
    (tmp_path / "set.zip").unlink()
    with pytest.raises(UnreachableError, match=r"set\.zip: cannot be read any more \(FileNotFoundError"):
        source.read("10000")


def test_a_web_server_that_knows_no_ranges_and_a_folder_on_one_are_refused(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfashion.retry.FIRST_WAIT_S", 0.01)
    zip_folder(make_source(tmp_path / "set", rows=5), tmp_path / "set.zip")
    with pytest.raises(InputError, match=r"set: no such file on this server \(404\)"):
        open_source(location(f"{web.url}/set"))
    (tmp_path / "listing").write_text("<html>a page that lists files</html>")
    with pytest.raises(InputError, match=r"listing: an HTML page, not an archive: .*a folder on a web server cannot be listed: name a zip"):
        open_source(location(f"{web.url}/listing"))
    source = open_source(location(f"{web.url}/set.zip"))
    web.ranges = False
    with pytest.raises(UnreachableError, match=r"set\.zip: the server sends the whole file .*download it first"):
        source.read("10000")
    with pytest.raises(InputError, match=r"again\.zip: the server sends the whole file .*no range requests.*download it first"):
        (tmp_path / "again.zip").write_bytes(bytes(200_000) + (tmp_path / "set.zip").read_bytes())
        open_source(location(f"{web.url}/again.zip"))


def test_a_zip_on_a_web_server_that_was_cut_is_called_so(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfashion.retry.FIRST_WAIT_S", 0.01)
    whole = zip_folder(make_source(tmp_path / "set", rows=5), tmp_path / "set.zip")
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.zip: not a readable zip .*it begins as a zip, and was cut or is on a server without range"):
        open_source(location(f"{web.url}/cut.zip"))


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "the server answers 401 Unauthorized; it requires a login"), (403, "the server answers 403 Forbidden; access is denied")],
)
def test_a_server_that_refuses_is_asked_once_and_its_status_is_said(web: WebServer, status: int, said: str, tmp_path: Path) -> None:
    zip_folder(make_source(tmp_path / "set", rows=2), tmp_path / "set.zip")
    web.statuses = [status]
    with pytest.raises(RemoteError, match=rf"set\.zip: cannot be read \({said}"):
        open_source(location(f"{web.url}/set.zip"))
    assert web.asked == 1
    web.statuses = []
    source = open_source(location(f"{web.url}/set.zip"))
    web.statuses, web.asked = [status], 0
    with pytest.raises(UnreachableError, match=rf"set\.zip: cannot be read any more \({said}"):
        source.read("996")
    assert web.asked == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_in_trouble_is_waited_for(
    web: WebServer, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastfashion.retry.FIRST_WAIT_S", 0.001)
    zip_folder(make_source(tmp_path / "set", rows=2), tmp_path / "set.zip")
    web.statuses = [*[status] * 3, 200]
    source = open_source(location(f"{web.url}/set.zip"))
    said = rf"set\.zip: cannot be fetched \(the server answers {status} .*; retrying for 300 s"
    assert len(re.findall(said, capsys.readouterr().err)) == 1
    web.statuses = [*[status] * 3, 200]
    assert source.read("996") == (tmp_path / "set" / "images" / "996.jpg").read_bytes()
    assert len(re.findall(said, capsys.readouterr().err)) == 1
    monkeypatch.setattr("fastfashion.retry.PATIENCE_S", 0.01)
    web.statuses = [status]
    with pytest.raises(RemoteError, match=rf"set\.zip: cannot be read \(the server answers {status} "):
        open_source(location(f"{web.url}/set.zip"))


def test_what_a_server_asks_to_be_waited_is_waited_within_patience() -> None:
    class Answer(Exception):
        status = 429

        def __init__(self, retry_after: str) -> None:
            self.headers = {"Retry-After": retry_after}

    patience = Patience(100)
    assert [patience.next_wait_s(Answer(text)) for text in ("7", "0", "Wed, 21 Oct 2015 07:28:00 GMT", "3600")] == [7, 1, 2, 90]
    assert patience.next_wait_s(Answer("1")) is None


def test_the_real_zip_gives_the_bytes_that_zipfile_gives(real_zip: Path, real_source: Source) -> None:
    identities = sorted(real_source.images)[::60]
    found = real_source.reader.read_many(real_source.images[identity] for identity in identities)
    with zipfile.ZipFile(real_zip) as archive:
        assert list(found) == [archive.read(f"images/{identity}.jpg") for identity in identities]
    assert len(identities) > 700
