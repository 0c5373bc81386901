"""What a web server sends: never more than was asked for, never compressed, never too slowly; and retries while a server has problems."""

import functools
import http.client
import http.server
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PackedSmall, S3Server, zip_folder

from fastfashion import remote, retry
from fastfashion.errors import FastfashionError, InputError, PackedSetError, RemoteError
from fastfashion.files import location
from fastfashion.load.prefetch import open_cached
from fastfashion.predict.inputs import InputImage, SetInput, find_inputs, read_file
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import MOST_BYTES
from fastfashion.shards.verify import verify
from fastfashion.sources.source import list_source
from fastfashion.untrusted import read_limited

pytest.importorskip("upath")
MIB = 1 << 20
ENDLESS = 24 * MIB  # a test server stops there, so that a client without a limit ends too


class Server(http.server.ThreadingHTTPServer):
    """A folder; `trouble` says what goes wrong with the n-th request for a name, and `sent` counts bytes of bodies."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trouble: Callable[[str, int], str] = lambda name, nth: ""
        self.gets: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), Visit)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def at(self, name: str = "") -> Path:
        return location(f"http://127.0.0.1:{self.server_port}/{name}".rstrip("/"))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Visit(http.server.SimpleHTTPRequestHandler):
    server: Server

    def __init__(self, request: Any, client_address: Any, server: Server) -> None:
        super().__init__(request, client_address, server, directory=str(server.folder))

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(super().do_HEAD)

    def do_GET(self) -> None:
        self.answer(super().do_GET)

    def answer(self, as_usual: Callable[[], None]) -> None:
        name = self.path.strip("/")
        self.server.gets[name] += 1
        trouble = self.server.trouble(name, self.server.gets[name])
        if not trouble:
            as_usual()
        elif trouble.isdecimal():
            self.send_error(int(trouble))
        elif trouble == "redirect":
            self.begin(302, {"Location": f"/again{self.path}", "Content-Length": "0"})
        elif trouble == "long header":
            self.begin(200, {"X-Long": "x" * 100_000, "Content-Length": "0"})
        elif trouble == "no length":
            self.begin(200, {"Content-Length": "9" * 4000})
        elif trouble == "compressed":
            self.begin(200, {"Content-Encoding": "gzip", "Content-Length": "20"})
            self.write(bytes(20))
        elif trouble in ("endless", "endless page"):
            self.begin(200, {"Content-Type": "text/html"})  # ends when the connection does
            while self.server.sent[name] < ENDLESS and self.write(b'<a href="x">' * 5000 if trouble == "endless page" else bytes(65536)):
                pass
        elif trouble == "drip":
            self.begin(200, {"Content-Length": "100000"})
            for _ in range(200):
                self.write(b"{")
                threading.Event().wait(0.02)
        elif trouble == "slow":
            data = (self.server.folder / name).read_bytes()
            self.begin(200, {"Content-Length": str(len(data))})
            for start in range(0, len(data), 50):
                self.write(data[start : start + 50])
                threading.Event().wait(0.02)
        elif trouble == "silent":
            threading.Event().wait(0.3)
        elif trouble == "cut":
            self.begin(200, {"Content-Length": "100000"})
            self.write(b"{")

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()

    def write(self, data: bytes) -> bool:
        if self.command == "HEAD":
            return False
        self.server.sent[self.path.strip("/")] += self.wfile.write(data)
        self.wfile.flush()
        return True


@pytest.fixture(scope="module")
def one_server(packed_small: PackedSmall) -> Iterator[Server]:
    with Server(packed_small.out) as server:
        yield server
        server.shutdown()


@pytest.fixture
def server(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.05)
    one_server.gets.clear()
    one_server.sent.clear()
    yield one_server
    one_server.trouble = lambda name, nth: ""


def only(wanted: str, what: str, times: int = 10**9) -> Callable[[str, int], str]:
    return lambda name, nth: what if name.endswith(wanted) and nth <= times else ""


def open_all(server: Server) -> None:
    open_packed_set(server.at()).open("32")


FILES = ["set.json", "32/manifest.json", "full/manifest.json", "vocab.json", "catalog.parquet", "32/index.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_a_body_that_never_ends_is_left_at_the_limit_of_its_kind(server: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("set.json", "manifest.json", "vocab.json"):
        monkeypatch.setitem(MOST_BYTES, kind, MIB)
    server.trouble = only(name, "endless")
    with pytest.raises(FastfashionError, match=rf"{name}: .*more than \d+ bytes"):
        open_all(server)
    assert server.sent[name] < ENDLESS  # it could still fill the buffers of the connection


def test_an_index_page_that_never_ends_is_left_at_its_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LISTING_BYTES", MIB)
    server.trouble = lambda name, nth: "endless page" if name == "" else ""
    with pytest.raises(RemoteError, match=r"more than 1048576 bytes"):
        open_all(server)
    assert server.sent[""] < ENDLESS


def test_a_shard_that_never_ends_is_left_at_the_size_that_its_manifest_says(server: Server, tmp_path: Path) -> None:
    images = open_packed_set(server.at()).open("32")
    expected = images.manifest.shards[0].num_bytes
    server.trouble = only("32/00000.tar", "endless")
    cached, cache = open_cached(images, str(tmp_path), 10**7)
    with pytest.raises(PackedSetError, match=rf"00000.tar: .*{expected} bytes\), found the server sends more than {expected} bytes"):
        cached.encoded(0)
    cache.close()
    assert list(tmp_path.glob("*.tar")) == list(tmp_path.glob("*.partial")) == []
    assert server.sent["32/00000.tar"] < 2 * ENDLESS and server.gets["32/00000.tar"] >= 2  # once more, as with any shard that is not right


def test_verify_reads_no_further_than_a_shard_should_go(server: Server) -> None:
    server.trouble = only("32/00001.tar", "endless")
    [found] = verify(server.at()).damage
    assert found.where == "32/00001.tar" and "bytes, found" in found.reason
    assert server.sent["32/00001.tar"] < 2 * ENDLESS


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("compressed", r"set\.json: cannot be read \(the server sends it compressed \(Content-Encoding: 'gzip'\)"),
        ("redirect", r"set\.json: cannot be read \(the server redirects from one address to the next without end"),
        ("long header", r"set\.json: cannot be read \(the server answers 400"),
        ("no length", r"set\.json: cannot be read \(the server answers 400 [^\n]{1,700}$"),
        ("403", r"set\.json: cannot be read \(the server answers 403 Forbidden; access is denied"),
        ("401", r"set\.json: cannot be read \(the server answers 401 Unauthorized; it requires a login"),
        ("503", r"set\.json: cannot be read \(the server answers 503 Service Unavailable; the server has a problem"),
        ("cut", r"set\.json: cannot be read \(ClientPayloadError"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said_and_no_reason_to_pack_again(server: Server, trouble: str, message: str) -> None:
    server.trouble = only("set.json", trouble)
    with pytest.raises(RemoteError, match=message) as raised:
        open_all(server)
    assert "pack" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_server_that_sends_a_byte_now_and_then_ends_in_a_clear_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RATE_OVER_S", 0.1)
    server.trouble = only("set.json", "drip")
    with pytest.raises(RemoteError, match=r"set\.json: cannot be read \(TooSlowError: \d+ bytes in \d+ s, expected at least 1000 a second"):
        open_all(server)
    assert server.sent["set.json"] < 400


@pytest.mark.parametrize("name", ["set.json", "32/00001.tar"])
def test_a_server_that_does_not_begin_to_answer_is_asked_again_and_then_named(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfashion.web.SILENCE_S", 0.1)
    monkeypatch.setattr(retry, "RATE_OVER_S", 0.1)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.25)
    server.trouble = only(name, "silent")
    with pytest.raises(RemoteError, match=rf"{name}: cannot be read \(NoAnswerError: no answer within 0 s\)"):
        open_all(server)
    assert 2 <= server.gets[name] <= 8


def test_a_slow_and_honest_line_gets_through(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RATE_OVER_S", 0.1)
    monkeypatch.setattr(retry, "LEAST_BYTES_PER_S", 1000.0)
    server.trouble = only("set.json", "slow")  # some 2,500 a second, for four times as long as the rate is taken over
    assert read_limited(server.at("set.json"), 10**6) == (server.folder / "set.json").read_bytes()
    assert server.gets["set.json"] == 1


@pytest.mark.parametrize("name", ["", "32/manifest.json", "vocab.json", "set.json", "catalog.parquet", "32/index.parquet", "32/00001.tar"])
@pytest.mark.parametrize("trouble", ["503", "429", "cut"])
def test_every_step_of_opening_waits_for_a_server_in_trouble(
    server: Server, name: str, trouble: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "cut" and name.endswith(".tar"):
        pytest.skip("no byte of a shard is read when a set is opened")
    monkeypatch.setattr(retry, "PATIENCE_S", 5)
    server.trouble = lambda asked, nth: trouble if asked == name and nth <= 4 else ""
    open_all(server)
    assert server.gets[name] >= 5
    assert "retrying for 5 s" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["32/00001.tar", "catalog.parquet", "rejected.csv", "32/manifest.json"])
def test_verify_waits_for_a_server_in_trouble_too(server: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 5)
    server.trouble = only(name, "503", times=4)
    assert verify(server.at()).damage == ()


def test_trouble_that_stays_ends_verify_and_is_no_damage(server: Server) -> None:
    server.trouble = only("32/00001.tar", "503")
    with pytest.raises(RemoteError, match=r"00001\.tar: cannot be read \(the server answers 503"):
        verify(server.at())


@pytest.mark.parametrize("name", FILES)
def test_what_answers_404_is_missing(server: Server, name: str) -> None:
    server.trouble = only(name, "404")
    if name == "full/manifest.json":
        assert open_packed_set(server.at()).resolutions == ("32",)
        return
    with pytest.raises(FastfashionError, match=r"missing|not a packed set|not readable|not packed"):
        open_all(server)


def test_predict_waits_for_a_set_and_an_image_at_an_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 5)
    server.trouble = lambda name, nth: "503" if nth <= 3 else ""
    assert list(find_inputs([str(server.at())])) == [SetInput(server.at())]
    server.trouble = only("styles.jpg", "503", times=3)
    [image] = find_inputs([str(server.at("styles.jpg"))])
    assert isinstance(image, InputImage)
    with pytest.raises(InputError, match=r"^cannot be read: no such file|^cannot be read: No such file"):
        image.read()
    assert server.gets["styles.jpg"] == 4


def test_what_predict_cannot_have_is_one_row_that_says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.trouble = lambda name, nth: "endless" if name == "large.jpg" else "503" if name in ("", "late.jpg") else ""
    for name, reason in (
        ("", "cannot be read (the server answers 503 Service Unavailable; the server has a problem: run the same command again later)"),
        ("late.jpg", "cannot be read (the server answers 503"),
    ):
        [refused] = find_inputs([str(server.at(name))])
        assert isinstance(refused, InputImage)
        with pytest.raises(InputError) as raised:
            refused.read()
        assert str(raised.value).startswith(reason)
    with pytest.raises(InputError, match=r"cannot be read \(the server sends more than 1000000 bytes"):
        read_file(server.at("large.jpg"), 10**6)


def test_images_of_a_folder_on_a_web_server_are_found_also_further_down(server: Server, tmp_path: Path) -> None:
    for name in ("a.jpg", "more/b.png", "more/deep/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"image")
    before, server.folder = server.folder, tmp_path
    try:
        found = [one.name for one in find_inputs([str(server.at())]) if isinstance(one, InputImage)]
        assert sorted(name.partition("//")[2].partition("/")[2] for name in found) == ["a.jpg", "more/b.png", "more/deep/c.webp"]
    finally:
        server.folder = before


def test_a_page_of_links_names_what_is_directly_below(server: Server, tmp_path: Path, packed_small: PackedSmall) -> None:
    shutil.copytree(packed_small.out, tmp_path / "set")
    (tmp_path / "set" / "more.html").write_text("")
    before, server.folder = server.folder, tmp_path / "set"
    try:
        assert {path.name for path in remote.children(server.at())} == {path.name for path in (tmp_path / "set").iterdir()}
        (tmp_path / "set" / "index.html").write_text(
            '<a href="32/">a</a> <A HREF=\'/full/\'>b</A> <a href="../">c</a> <a href="http://elsewhere/32">d</a> <a href="?C=N">e</a> '
            '<a href="32/manifest.json">f</a> <a href="set.json#top">g</a>' + "<a " + " " * 10**6
        )
        assert [path.name for path in remote.children(server.at())] == ["32", "full", "set.json"]
    finally:
        server.folder = before


def test_a_zip_whose_directory_is_too_long_is_refused_before_it_is_read(
    packed_small: PackedSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_folder(packed_small.source, tmp_path / "set.zip")
    monkeypatch.setattr("fastfashion.sources.zips.MOST_BYTES", 2000)
    with pytest.raises(InputError, match=r"set\.zip: not a readable zip .*its directory has \d+ bytes, more than 2000"):
        list_source(archive)
    with pytest.raises(InputError, match=r"its directory has \d+ bytes, more than 2000"):
        [one.read() for one in find_inputs([str(archive)]) if isinstance(one, InputImage)]


class Storage(http.server.ThreadingHTTPServer):
    """Hands requests on to an S3 server, but the first `refused` of each name, which it answers with `status`."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        self.behind, self.refused, self.status = behind, 0, 503
        self.asked: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), HandOn)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class HandOn(http.server.BaseHTTPRequestHandler):
    server: Storage
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        key = f"{self.command} {self.path}"
        self.server.asked[key] += 1
        status, headers, body = self.server.status, {}, b"<Error><Code>ServiceUnavailable</Code><Message>later</Message></Error>"
        if self.server.asked[key] > self.server.refused:
            behind = http.client.HTTPConnection("127.0.0.1", self.server.behind)
            behind.request(self.command, self.path, headers=dict(self.headers))
            answer = behind.getresponse()
            status, headers, body = answer.status, dict(answer.headers), answer.read()
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET


def test_object_storage_in_trouble_is_waited_for_and_403_is_no_missing_file(
    s3: S3Server, packed_small: PackedSmall, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs")
    there: Any = location("s3://shop/trouble")
    there.fs.put(str(packed_small.out), there.path, recursive=True)
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retry, "PATIENCE_S", 5)
    with Storage(s3.port) as storage:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{storage.server_port}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of the client for S3, which waits for seconds between its own
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            storage.refused = 3
            packed = open_packed_set(location("s3://shop/trouble"))
            assert (packed.resolutions, packed.open("32").manifest.num_rows) == (("32", "full"), 60)
            assert max(storage.asked.values()) >= 4
            assert verify(location("s3://shop/trouble")).damage == ()
            monkeypatch.setattr(retry, "PATIENCE_S", 0.02)
            for status, message in ((503, "the server has a problem"), (403, "access is denied")):
                storage.refused, storage.status = 10**9, status
                with pytest.raises(RemoteError, match=message):
                    open_packed_set(location("s3://shop/trouble"))
        finally:
            storage.shutdown()
            s3fs.S3FileSystem.clear_instance_cache()


def test_a_part_from_a_server_without_ranges_is_an_error_and_not_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(200)))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RemoteError, match="no range requests"):
            remote.read_range(location(f"http://127.0.0.1:{server.server_port}/a"), 100, 10)
        server.shutdown()
