"""fastfashion download against a server that speaks Kaggle's protocol, and does to it what networks, disks and accounts do."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_source, zip_folder
from kaggle_server import (
    API,
    STORAGE,
    Kaggle,
    client_environment,
    cut_after,
    drip,
    serve,
    silent_after,
    slowly,
    without_end,
    write_certificate,
)
from odd_zips import Entry, write_zip

from fastfashion.errors import FastfashionError, InputError
from fastfashion.sources.download import CHUNK_BYTES, SPARE_BYTES, Downloaded, DownloadProgress, download

NAME = "fashion-product-images-small.zip"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A data set of 60 images and 1 MB of something else, as Kaggle has it: twice."""
    home = tmp_path_factory.mktemp("archive")
    source = make_source(home / "source")
    (source / "more.bin").write_bytes(bytes(range(256)) * 4096)
    zip_folder(source, home / "set.zip")
    return zip_folder(source, home / "set.zip", "myntradataset/").read_bytes()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


class Place:
    """A server, and a home to download to from it."""

    def __init__(self, folder: Path, kaggle: Kaggle, port: int, certificate: Path) -> None:
        self.folder, self.kaggle = folder, kaggle
        self.ended = threading.Event()
        self.data = folder / "data"
        self.environment = client_environment(folder / "home", port, certificate)

    def start(self, *options: str, which: str = "small", **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fastfashion", "download", which, "--json", *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self.environment | environment, stdout=pipe, stderr=pipe, text=True)

    def download(self, *options: str, which: str = "small", **environment: str) -> tuple[dict[str, Any], str]:
        """What it said as JSON, and to people."""
        process = self.start(*options, which=which, **environment)
        out, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        return json.loads(out.splitlines()[-1]), said

    def refused(self, *options: str, which: str = "small", **environment: str) -> str:
        process = self.start(*options, which=which, **environment)
        out, said = process.communicate(timeout=120)
        assert process.returncode == 2, (process.returncode, said)
        assert out == "" and "Traceback" not in said and "signature" not in said
        assert not (self.data / NAME).exists()
        return said

    def fetch(self, which: str = "small", timeout_s: float = 30) -> tuple[Downloaded, list[str]]:
        """The same in this process, which saves its start; with the notes that it had for people."""
        notes: list[str] = []
        return download(which, self.data, timeout_s=timeout_s, progress=DownloadProgress(on_note=notes.append)), notes

    def refuses(self, which: str = "small") -> str:
        with pytest.raises(FastfashionError) as caught:
            self.fetch(which)
        assert "signature" not in str(caught.value)
        return str(caught.value)

    @property
    def part(self) -> Path:
        return self.data / f".{NAME}.part"

    def files(self) -> list[str]:
        return sorted(path.name for path in self.data.iterdir())


@pytest.fixture
def place(tmp_path: Path, archive: bytes, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    kaggle = Kaggle(archive=archive)
    server = serve(kaggle, certificate)
    place = Place(tmp_path, kaggle, server.server_address[1], certificate)
    for name in {*os.environ, *place.environment}:
        if name in place.environment:
            monkeypatch.setenv(name, place.environment[name])
        else:
            monkeypatch.delenv(name)
    yield place
    place.ended.set()
    server.shutdown()
    server.server_close()


def test_without_an_account_the_zip_comes_whole_and_a_second_time_nothing_is_fetched(place: Place, archive: bytes) -> None:
    done, said = place.download()
    assert (place.data / NAME).read_bytes() == archive
    assert place.files() == [NAME]  # never unpacked, nothing left over
    assert (done["images"], done["num_bytes"], done["already_there"], done["resumed_bytes"]) == (60, len(archive), False, 0)
    assert done["out"] == f"data/{NAME}" and "60 images" in said
    asked = place.kaggle.seen[0]
    assert (asked.host, asked.authorization) == (API, None)
    assert (asked.body["ownerSlug"], asked.body["datasetSlug"]) == ("paramaggarwal", "fashion-product-images-small")
    place.kaggle.seen.clear()
    again, said = place.download()
    assert again["already_there"] and again["images"] == 60 and place.kaggle.seen == []


@pytest.mark.parametrize("how", ["token", "token file", "kaggle.json", "variables"])
def test_credentials_are_taken_as_kaggles_own_tool_takes_them_and_shown_to_kaggle_alone(how: str, place: Place, archive: bytes) -> None:
    place.kaggle.tokens = ("KGAT_good",)
    bearer, basic = "Bearer KGAT_good", "Basic c29tZWJvZHk6c2VjcmV0"  # somebody:secret
    environment: dict[str, str] = {}
    home = place.folder / "home/.kaggle"
    home.mkdir()
    if how == "token":
        environment = {"KAGGLE_API_TOKEN": "KGAT_good"}
    elif how == "token file":
        (home / "access_token").write_text("KGAT_good\n")
    elif how == "kaggle.json":
        (home / "kaggle.json").write_text('{"username": "somebody", "key": "secret"}')
    else:
        environment = {"KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": "secret"}
    place.kaggle.accepts = (bearer if how.startswith("token") else basic,)
    place.download("--out", "elsewhere", which="full", **environment)
    assert (place.folder / "elsewhere/fashion-product-images-dataset.zip").read_bytes() == archive
    assert [seen.authorization for seen in place.kaggle.seen if seen.host == STORAGE] == [None]


def test_where_kaggle_wants_an_account_three_lines_say_how_to_get_one(place: Place) -> None:
    place.kaggle.accepts = ("Bearer somebody",)
    said = place.refused()
    assert len(said.splitlines()) == 3
    for words in ("without an account (HTTP 401", "kaggle.com/settings/api", "$KAGGLE_API_TOKEN", f"data/{NAME}"):
        assert words in said
    assert place.files() == []


@pytest.mark.parametrize(
    ("environment", "status", "words"),
    [
        ({"KAGGLE_API_TOKEN": "KGAT_bad"}, 200, "the access token from $KAGGLE_API_TOKEN (HTTP 401"),
        ({"KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": "bad"}, 403, "the API key from $KAGGLE_USERNAME and $KAGGLE_KEY (HTTP 403"),
    ],
)
def test_credentials_that_kaggle_refuses_are_named_and_not_shown(
    environment: dict[str, str], status: int, words: str, place: Place
) -> None:
    place.kaggle.accepts, place.kaggle.status = (), status
    said = place.refused(**environment)
    assert words in said and len(said.splitlines()) == 3
    assert "KGAT_bad" not in said


@pytest.mark.parametrize(("status", "words"), [(404, "HTTP 404"), (200, "a web page"), (400, "HTTP 400 (says 400)")])
def test_an_answer_that_no_other_try_would_change_ends_at_once(status: int, words: str, place: Place) -> None:
    place.kaggle.status, place.kaggle.page = status, b"<html>log in</html>" if status == 200 else b""
    said = place.refuses()
    assert words in said and "kaggle.com/datasets/paramaggarwal/fashion-product-images-small" in said
    assert len(said.splitlines()) <= 3 and len(place.kaggle.seen) == 1


def test_cuts_and_silence_are_resumed_in_one_process(place: Place, archive: bytes) -> None:
    unread = None  # Kaggle's own answer, whose body is left where only the rest is wanted
    silence = silent_after(300_000, place.ended)
    place.kaggle.faults = [cut_after(200_000), unread, cut_after(0), unread, silence, unread, slowly(8, 0.05)]
    done, notes = place.fetch(timeout_s=1.5)
    assert (place.data / NAME).read_bytes() == archive
    assert all("retrying" in note for note in notes) and len(notes) == 3 and done.resumed_bytes == 0
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in place.kaggle.fetched() if asked]
    assert len(starts) == 3 and 100_000 < starts[0] == starts[1] <= 200_000 and starts[2] > starts[1] + 200_000
    assert place.kaggle.faults == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_another_process_resumes_what_a_killed_or_stopped_one_left(how: signal.Signals, place: Place, archive: bytes) -> None:
    place.kaggle.faults = [silent_after(500_000, place.ended)]
    process = place.start()
    deadline = time.monotonic() + 60
    while not (place.part.exists() and place.part.stat().st_size > 300_000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert ("resumes from there" in said) == (how == signal.SIGINT)
    assert not (place.data / NAME).exists()
    left = place.part.read_bytes()
    assert archive.startswith(left)
    done, _ = place.download()
    assert done["resumed_bytes"] == len(left) > 300_000
    assert place.kaggle.fetched()[-1] == f"bytes={len(left)}-"
    assert (place.data / NAME).read_bytes() == archive and place.files() == [NAME]


def test_a_part_of_another_version_is_not_resumed(place: Place, archive: bytes) -> None:
    place.data.mkdir()
    place.part.write_bytes(b"x" * 1000)
    label = {"data_set": "paramaggarwal/fashion-product-images-small", "size": len(archive), "version": '"before"'}
    place.part.with_name(f".{NAME}.part.json").write_text(json.dumps(label))
    done, notes = place.fetch()
    assert "another version" in notes[0] and done.resumed_bytes == 0
    assert (place.data / NAME).read_bytes() == archive


def test_a_server_that_sends_nothing_any_more_is_tried_four_times_and_what_is_here_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfashion.sources.download.RETRY_WAITS_S", (0.0, 0.0, 0.0))
    place.kaggle.faults = [cut_after(400_000), *[cut_after(0)] * 9]
    said = place.refuses()
    assert len(said.splitlines()) == 3 and "HTTPS_PROXY" in said and "resumes from there" in said
    assert place.part.stat().st_size > 300_000
    asked_kaggle = [seen for seen in place.kaggle.seen if seen.host == API]
    assert len(asked_kaggle) == 4  # each time: the address of the storage may expire


def test_kaggle_out_of_order_or_out_of_reach_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfashion.sources.download.RETRY_WAITS_S", (0.0, 0.0, 0.0))
    place.kaggle.status = 503
    assert "HTTP 503" in place.refuses() and len(place.kaggle.seen) == 4
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        said = place.refuses()
    assert "nothing has arrived yet" in said and "Connection refused" in said and len(said.splitlines()) == 3


def test_a_truncated_archive_of_unknown_size_is_found_and_removed(place: Place, archive: bytes) -> None:
    place.kaggle.archive, place.kaggle.length, place.kaggle.etag = archive[:-5000], 0, None
    said = place.refuses()
    assert "is damaged" in said and "was removed" in said
    assert place.files() == []


def test_a_damaged_member_is_named_and_the_file_removed(place: Place, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "whole.zip").write_bytes(archive)
    with zipfile.ZipFile(tmp_path / "whole.zip") as whole:
        info = whole.getinfo("myntradataset/images/1000.jpg")
    damaged = bytearray(archive)
    damaged[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 1
    place.kaggle.archive = bytes(damaged)
    said = place.refuses()
    assert info.filename in said and "CRC-32" in said
    assert place.files() == []


def test_a_zip_that_holds_something_else_is_no_data_set(place: Place, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme.txt", "moved")
    place.kaggle.archive = (tmp_path / "other.zip").read_bytes()
    assert "no styles.csv" in place.refuses()


def test_room_is_looked_for_before_a_byte_is_fetched(place: Place) -> None:
    place.kaggle.length = 10**16
    said = place.refuses()
    assert "10000000.0 GB more are needed" in said and "are free" in said and "--out" in said
    assert place.files() == []


def test_a_disk_that_fills_up_all_the_same_keeps_the_part(place: Place, archive: bytes) -> None:
    limit = 700_000
    command = [sys.executable, "-m", "fastfashion", "download", "small"]
    done = subprocess.run(
        command,
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2 and "File too large" in done.stderr and "are kept" in done.stderr
    assert place.part.stat().st_size == limit
    resumed, _ = place.download()
    assert resumed["resumed_bytes"] == limit and (place.data / NAME).read_bytes() == archive


@pytest.mark.parametrize("length", ["many", "-5", "1e9", "0x10", "12,13"])
def test_a_length_that_is_no_number_is_told_and_nothing_is_left(length: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfashion.sources.download.RETRY_WAITS_S", (0.0, 0.0, 0.0))
    place.kaggle.length = length
    said = place.refuses()
    assert f"{length!r} bytes, which is not a number" in said or ("makes no progress" in said and length in said)
    assert [name for name in place.files() if "part" in name] == []


def test_a_body_of_unknown_length_leaves_the_disk_its_reserve(place: Place, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, room = shutil.disk_usage(place.folder), 3_000_000
    monkeypatch.setattr("fastfashion.sources.download.shutil.disk_usage", lambda path: usage._replace(free=SPARE_BYTES + room))
    place.kaggle.length, place.kaggle.faults = 0, [without_end(100_000_000)]
    came: list[int] = []
    with pytest.raises(InputError, match=r"does not say how long .*67\.1 MB must stay free, so the download was removed; make room"):
        download("small", place.data, progress=DownloadProgress(on_bytes=came.append))
    assert room < sum(came) <= room + CHUNK_BYTES and place.files() == []
    assert place.fetch()[0].images == 60  # one that ends within the room comes whole
    assert (place.data / NAME).read_bytes() == archive


def test_a_byte_now_and_then_is_no_download(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfashion.sources.download.RETRY_WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr("fastfashion.retry.RATE_OVER_S", 0.3)
    place.kaggle.faults = [drip] * 20
    said = place.refuses()
    assert "makes no progress" in said and "expected at least 1000 a second" in said and len(said.splitlines()) == 3
    assert not (place.data / NAME).exists() and place.part.stat().st_size < 1000
    assert len([seen for seen in place.kaggle.seen if seen.host == API]) == 4


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("http://storage.googleapis.com/a.zip", "redirects to http://storage.googleapis.com, where anybody on the way"),
        ("http://127.0.0.1:9/a.zip", "redirects to http://127.0.0.1:9, where anybody on the way"),
        ("file:///etc/hostname", "redirects to an address that is not on the web"),
        ("ftp://storage.googleapis.com/a.zip", "redirects to an address that is not on the web"),
        ("https://storage.googleapis.com/paramaggarwal/fashion-product-images-small.zip", "from one address to the next without end"),
    ],
)
def test_a_redirect_that_is_not_followed_ends_at_once(to: str, said: str, place: Place) -> None:
    place.kaggle.moved = {"/paramaggarwal/fashion-product-images-small.zip": to}
    found = place.refuses()
    assert said in found and "\n" not in found
    assert len([seen for seen in place.kaggle.seen if seen.host == API]) == 1 and place.files() == []


def test_a_redirect_over_https_is_followed_without_credentials(place: Place, archive: bytes) -> None:
    place.kaggle.moved = {"/paramaggarwal/fashion-product-images-small.zip": f"https://{STORAGE}/elsewhere.zip"}
    place.fetch()
    assert (place.data / NAME).read_bytes() == archive
    assert [seen.authorization for seen in place.kaggle.seen] == [None] * 3


def test_a_rest_of_another_archive_is_not_appended(place: Place, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfashion.sources.download.RETRY_WAITS_S", (0.0, 0.0, 0.0))
    place.kaggle.faults = [cut_after(400_000)]
    place.kaggle.content_range = f"bytes 400000-{len(archive) + 6}/{len(archive) + 7}"
    assert "instead of the rest" in place.refuses()


def test_a_zip_whose_files_overlap_is_not_read_through(place: Place) -> None:
    image = Entry(data=bytes(3000), name=b"images/1.jpg")
    place.kaggle.archive = write_zip([image, *(Entry(data=b"", packed_size=3000, size=3000, name=b"%d" % n, offset=0) for n in range(9))])
    assert "its files overlap" in place.refuses() and place.files() == []


def test_a_damaged_file_that_is_there_already_is_told_and_left_alone(place: Place, archive: bytes) -> None:
    place.data.mkdir()
    (place.data / NAME).write_bytes(archive[:-100])
    said = place.refuses()
    assert "already exists" in said and "remove it" in said
    assert (place.data / NAME).read_bytes() == archive[:-100] and place.kaggle.seen == []


def test_two_downloads_of_one_set_do_not_meet(place: Place) -> None:
    place.kaggle.faults = [silent_after(100_000, place.ended)]
    first = place.start()
    deadline = time.monotonic() + 60
    while not place.part.exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    assert f"process {first.pid}" in place.refused()
    first.kill()
    first.communicate()


def test_an_unknown_set_is_answered_with_those_that_there_are(place: Place) -> None:
    assert "there are small, full" in place.refuses("medium")
