"""What may reach the page: named files, addresses, bodies, slow clients; and a store that ends with its server."""

import asyncio
import importlib.util
import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from conftest import smooth_image
from serving import ServedRun
from test_serve import ask, jpeg

from fastfashion.scratch import LOCK, PREFIX
from fastfashion.serve.addresses import JOIN, RUN, UPLOAD
from fastfashion.serve.bodies import WINDOW_S
from fastfashion.serve.hosts import host_rules
from fastfashion.serve.limits import Limits
from fastfashion.serve.questions import drop_unread
from fastfashion.serve.server import ServeRequest, build_app
from fastfashion.serve.state import open_state
from fastfashion.serve.store import EXAMPLES, Store

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="the page needs Gradio: pip install 'fastfashion[serve]'"
)

META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def run(untrained_run: Path) -> Path:
    return untrained_run


@pytest.fixture(scope="module")
def server(served: ServedRun) -> ServedRun:
    return served


@pytest.fixture(scope="module")
def home(served: ServedRun) -> Path:
    """The server's folder for temporary files."""
    assert served.home is not None
    return served.home


def store_in(home: Path) -> Path:
    (folder,) = home.glob(f"{PREFIX}*")
    return folder


def upload(url: str, data: bytes, name: str = "a.jpg") -> Any:
    form = b'--line\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n--line--\r\n' % (name.encode(), data)
    return ask(f"{url}{UPLOAD[1:]}?upload_id=1", form, {"content-type": "multipart/form-data; boundary=line"})


def question(value: Any, **more: Any) -> bytes:
    return json.dumps({"data": [value], "fn_index": 1, "session_hash": "here", **more}).encode()


def join(url: str, value: Any, **more: Any) -> tuple[int, Any]:
    return ask(f"{url}{JOIN[1:]}", question(value, **more), {"content-type": "application/json"})


def named(path: object) -> dict[str, Any]:
    return {"path": str(path), "meta": META}


def answered(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=here", timeout=120) as stream:
        messages = [json.loads(line[5:]) for line in stream if line.startswith(b"data:")]
    return next(message for message in messages if message["msg"] == "process_completed")


def test_the_page_answers_uploads_and_examples(server: ServedRun, home: Path) -> None:
    status, (path,) = upload(server.url, jpeg())
    assert status == 200 and Path(path).read_bytes() == jpeg() and re.fullmatch("[0-9a-f]{32}", Path(path).parent.name)
    for file in (path, store_in(home) / "examples/example-1.jpg"):
        assert ask(f"{server.url}gradio_api/file={file}", None)[0] == 200
        assert join(server.url, named(file))[0] == 200
        done = answered(server.url)
        assert done["success"] and "season" in done["output"]["data"][0]


def test_uploads_have_a_name_that_nobody_else_knows(server: ServedRun) -> None:
    """Not one by their content: two who upload the same get two files."""
    (first,), (second,) = (upload(server.url, jpeg())[1] for _ in range(2))
    assert Path(first).parent != Path(second).parent
    for name, kept in [
        ("../../x/é y.jpg", "é y.jpg"),
        ("..", "file"),
        ("a" * 300 + ".jpg", "a" * 196 + ".jpg"),
        ("\\\\host\\b.jpg", "b.jpg"),
    ]:
        assert Path(upload(server.url, jpeg(), name)[1][0]).name == kept


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of this machine that nobody uploaded."""
    smooth_image(3, 60, 80).save(tmp_path_factory.mktemp("private") / "private.jpg")
    return next(tmp_path_factory.getbasetemp().glob("private*/private.jpg"))


def hostile_names(store: Path, upload: Path, outside: Path) -> dict[str, Any]:
    """Harmless files of this test, each named in a way that no page names one."""
    own = store / ("0" * 32)
    own.mkdir()
    for name, make in {
        "fifo.jpg": os.mkfifo,
        "link.jpg": lambda path: path.symlink_to(outside),
        "plain.jpg": lambda path: path.write_bytes(jpeg()),
    }.items():
        if not os.path.lexists(own / name):
            make(own / name)
    (upload.parent / "link.jpg").symlink_to(outside)
    up = "../" * len(upload.parent.parts)
    return {
        "outside": named(outside),
        "device": named("/dev/zero"),
        "fifo": named(own / "fifo.jpg"),
        "link": named(own / "link.jpg"),
        "link beside an upload": named(upload.parent / "link.jpg"),
        "not uploaded": named(own / "plain.jpg"),
        "lock": named(store / LOCK),
        "folder": named(upload.parent),
        "dots": named(f"{upload.parent}/{up}{outside}"),
        "dots to itself": named(f"{upload.parent}/../{upload.parent.name}/{upload.name}"),
        "relative": named(os.path.relpath(outside)),
        "address": named("http://127.0.0.1:9/x.jpg"),
        "file address": named(f"file://{outside}"),
        "NUL": named(f"{upload}\0.jpg"),
        "half a surrogate": named(f"{upload.parent}/\udcff.jpg"),
        "long": named("/" + "a" * 5000),
        "bare string": str(upload),
        "in a list": [named(upload), named(outside)],
        "empty": named(""),
        "in lists": [[named(outside)]],
        "of no kind": {"path": str(upload), "meta": {"_type": "other"}},
        "deep": {"value": named(outside)},
        "stream": named(outside) | {"is_stream": True},
        "number": {"path": 1, "meta": META},
    }


def test_requests_may_name_nothing_but_uploads(server: ServedRun, home: Path, outside: Path) -> None:
    """A named pipe too: nothing opens it, so one request cannot stop the server."""
    path = Path(upload(server.url, jpeg())[1][0])
    for name, value in hostile_names(store_in(home), path, outside).items():
        status, found = join(server.url, value)
        assert status == 400 and "error" in found, (name, status, found)
        if isinstance(value, dict) and isinstance(value.get("path"), str) and value["path"] != str(path):
            shown = ask(f"{server.url}gradio_api/file={urllib.request.quote(value['path'].encode(errors='replace'))}", None)
            assert shown[0] == 404, (name, shown)
    for more in ({"fn_index": 99}, {"fn_index": -1}, {"fn_index": 10**30}, {"session_hash": None}, {"session_hash": "x" * 5000}):
        assert join(server.url, named(path), **more)[0] == 400
    for number, data in [
        (0, []),
        (0, [None]),
        (0, [99]),
        (0, [1, 1]),
        (0, [named(path)]),
        (1, [1]),
        (1, [[named(path)]]),
        (2, [named(path)]),
    ]:
        assert join(server.url, None, fn_index=number, data=data)[0] == 400, (number, data)
    for body in (b"", b"[]", b"{", b"[" * 100_000, b'{"data": NaN}'):
        assert ask(f"{server.url}{JOIN[1:]}", body)[0] == 400
    doubled = b'{"data": [{"path": "%s", "path": "%s", "meta": {"_type": "gradio.FileData"}}], "fn_index": 1, "session_hash": "here"}'
    assert ask(f"{server.url}{JOIN[1:]}", doubled % (str(path).encode(), str(outside).encode()))[0] == 400
    assert ask(f"{server.url}{RUN[1:]}", question(named(path)))[0] in (400, 404)  # what waits its turn is no direct question
    assert ask(f"{server.url}api/answer", jpeg())[0] == 200


def test_a_session_that_never_asked_gets_an_answer_and_is_no_fault_of_the_server(server: ServedRun) -> None:
    with urllib.request.urlopen(f"{server.url}gradio_api/queue/data?session_hash=nobody", timeout=60) as stream:
        assert json.loads(stream.read().removeprefix(b"data: "))["session_not_found"]
    assert "Traceback" not in server.said


def test_answers_that_nobody_fetches_are_bounded() -> None:
    def message(text: str) -> SimpleNamespace:
        return SimpleNamespace(output={"data": [text, None]})

    sessions = {name: asyncio.Queue[SimpleNamespace]() for name in "abc"}
    for name, texts in {"a": ["1" * 4000, "2" * 500], "b": ["3" * 4000, "4" * 3000], "c": ["5" * 1000]}.items():
        for text in texts:
            sessions[name].put_nowait(message(text))
    sessions["c"].put_nowait(SimpleNamespace())  # progress has no output
    drop_unread(SimpleNamespace(_queue=SimpleNamespace(pending_messages_per_session=sessions)), 6500)  # type: ignore[arg-type]
    left = {name: [one.output["data"][0][0] for one in queue._queue if hasattr(one, "output")] for name, queue in sessions.items()}
    assert left == {"a": ["2"], "b": ["4"], "c": ["5"]}  # of each session the oldest first, of sessions the oldest


@pytest.fixture
def page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Store]]:
    """The application in this process."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    store, state = Store(tmp_path / "store", 10**6), open_state(run, torch.device("cpu"), Limits(), shards=tmp_path)
    yield build_app(ServeRequest(run=run), state, store, "http://localhost/", host_rules("localhost", "127.0.0.1", (), {})), store
    state.close()


@asynccontextmanager
async def started(app: Any) -> AsyncIterator[None]:
    """With what an application does at its start and its end."""
    asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, asked.get, said.put))
    await asked.put({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    yield
    await asked.put({"type": "lifespan.shutdown"})
    await task


@pytest.mark.parametrize("off", ["", "ours", "Gradio's"])
def test_either_check_of_named_files_refuses_alone(page: Any, outside: Path, off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours before the page framework, and its own; with one of them switched off, the other still refuses."""
    if off == "ours":
        monkeypatch.setattr(Store, "known", lambda self, text: Path(text))
    if off == "Gradio's":
        monkeypatch.setattr("gradio.processing_utils._check_allowed", lambda path, check: None)
    app, store = page
    allowed = store.add("a.jpg")
    allowed.path.write_bytes(jpeg())

    async def talk() -> list[str]:
        async with started(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60) as client:
            said = []
            for path in (store.finish(allowed), outside, "http://127.0.0.1:9/x.jpg"):
                found = await client.post(JOIN, content=question(named(path), fn_index=0))  # without examples the first
                if found.status_code == 200:
                    text = (await client.get("/gradio_api/queue/data", params={"session_hash": "here"})).text
                    found = next(json.loads(line[5:]) for line in text.splitlines() if "process_completed" in line)
                    said.append("answered" if found["success"] else json.dumps(found["output"]))
                else:
                    said.append(found.json()["error"])
            return said

    good, bad, address = asyncio.run(talk())
    assert good == "answered"
    assert ("was not uploaded by a user" if off == "ours" else "expected an upload") in bad, bad
    assert ("the server fetches no addresses" if off == "ours" else "expected an upload") in address, address


UNUSED = """
config info info/ user token login logout app_id/ dev/reload runs run-history/records deep_link openapi.json startup-events
custom_component/1/client/component/index.js proxy=http://127.0.0.1:9/ proxy=https://x.hf.space/ file/etc/passwd file=/etc/passwd
file=http://127.0.0.1:9/ stream/a/b/1/playlist.m3u8 stream/a/b/1/playlist-file heartbeat/here queue/status call/predict/1 monitoring
monitoring/summary robots.txt pwa_icon svelte/x vibe-code process_recording profiling/traces component_server component_server/
api/predict call/predict call/v2/predict cancel reset stream/1 upload/
"""


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_addresses_that_the_page_does_not_use_are_not_there(server: ServedRun, method: str) -> None:
    """Of the page framework's, and none reads a body: here one is announced that never comes."""
    address = ("127.0.0.1", int(server.url.rstrip("/").rpartition(":")[2]))
    paths = [f"{start}{path}" for path in UNUSED.split() for start in ("/gradio_api/", "/")] + ["//", "/assets", "/%67radio_api/config"]
    for path in paths:
        with socket.create_connection(address, timeout=20) as client:
            head = f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nContent-Length: 1000000\r\n\r\n"
            client.sendall(head.encode())
            used = "file=" in path and path.startswith("/gradio_api") and method != "GET"  # for GET alone
            assert client.recv(100).startswith(b"HTTP/1.1 405" if used else b"HTTP/1.1 404"), path
    assert ask(f"{server.url}gradio_api/queue/join", None)[0] == 405


def connect(server: ServedRun, head: str, body: bytes = b"") -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rstrip("/").rpartition(":")
    client = socket.create_connection((host, int(port)), timeout=30)
    client.sendall(head.replace("\n", "\r\n").encode() + f"Host: {host}:{port}\r\n\r\n".encode() + body)
    return client


UPLOAD_HEAD = "POST /gradio_api/upload HTTP/1.1\nContent-Type: multipart/form-data; boundary=line\n"
PART = b'--line\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + bytes(300_000)


def files_in(home: Path) -> list[Path]:
    """By os.walk, which passes over a folder that goes away meanwhile."""
    found = [Path(folder) / name for folder, _, names in os.walk(home) for name in names]
    return sorted(path for path in found if path.name != LOCK and path.parent.name != EXAMPLES)


def test_nothing_stays_of_an_upload_that_was_cut(server: ServedRun, home: Path) -> None:
    """And one by one they take no room from the next. Its files have a name of their own: uploads of other tests may come and go."""
    cut = PART.replace(b"a.jpg", b"cut.jpg")

    def left() -> list[Path]:
        return [path for path in files_in(home) if path.name == "cut.jpg"]

    for _ in range(3):
        connect(server, f"{UPLOAD_HEAD}Content-Length: 9000000\n", cut).close()
    end, empty = time.monotonic() + 60, 0
    while empty < 20 and time.monotonic() < end:  # the server may only now begin to read what was sent
        empty = 0 if left() else empty + 1
        time.sleep(0.05)
    assert empty == 20
    for body in (cut, cut.replace(b"--line", b"--other"), b""):  # not as expected, and whole
        assert ask(f"{server.url}gradio_api/upload", body, {"content-type": "multipart/form-data; boundary=line"})[0] == 400
    assert ask(f"{server.url}gradio_api/upload", cut)[0] == 400
    assert left() == []
    assert upload(server.url, jpeg())[0] == 200


def test_a_body_that_is_too_large_gets_its_error_however_much_of_it_is_sent(server: ServedRun) -> None:
    """urllib sends all of it before it reads the answer."""
    assert ask(f"{server.url}api/answer", bytes(3_000_000))[0] == 413
    assert ask(f"{server.url}gradio_api/queue/join", bytes(1_000_001))[0] == 413
    assert ask(f"{server.url}nowhere", bytes(1_000_000))[0] == 404
    for length in ("9" * 18, "9" * 5000, "-1", "x"):
        with connect(server, f"{UPLOAD_HEAD}Content-Length: {length}\n") as client:
            assert client.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


@pytest.mark.slow
def test_many_slow_clients_shut_nobody_out_and_are_cut(server: ServedRun) -> None:
    """Bodies, uploads and heads of a byte now and then, all from one address, more of each than places in the queue."""
    heads = ["POST /api/answer HTTP/1.1\nContent-Length: 900000\n", f"{UPLOAD_HEAD}Content-Length: 900000\n"]
    heads += ["POST /gradio_api/queue/join HTTP/1.1\nContent-Length: 900000\n", "POST /api/answer HTTP/1.1\nTransfer-Encoding: chunked\n"]
    slow = [connect(server, head, b"-" if "Length" in head else b"1\r\n-\r\n") for head in heads for _ in range(66)]
    silent = [socket.create_connection(slow[0].getpeername()) for _ in range(66)]
    silent[0].sendall(b"GET / HTTP/1.1\r\n")
    try:
        started = time.monotonic()
        assert ask(f"{server.url}api/answer", jpeg())[0] == 200 and upload(server.url, jpeg())[0] == 200
        assert time.monotonic() - started < WINDOW_S  # before any of them is cut
        for client in slow:
            client.settimeout(4 * WINDOW_S)
            assert client.recv(100).startswith(b"HTTP/1.1 408")
        for client in silent:
            client.settimeout(4 * WINDOW_S)
            assert client.recv(100) == b""
    finally:
        for client in slow + silent:
            client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing(run: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an upload, with another one kept."""
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("the signal is ignored in these tests")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    served = ServedRun(run, "--shards", str(tmp_path / "none"))
    try:
        upload(served.url, jpeg())
        with connect(served, f"{UPLOAD_HEAD}Content-Length: 9000000\n", PART):
            end = time.monotonic() + 60
            while len(files_in(tmp_path)) < 2 and time.monotonic() < end:
                time.sleep(0.05)
            assert len(files_in(tmp_path)) == 2
            served.process.send_signal(number)
            assert served.process.wait(20) in (128 + signal.SIGTERM, 130, 1)
    finally:
        served.close()
    assert list(tmp_path.iterdir()) == [], served.said
