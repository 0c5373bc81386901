"""The HTTP API as programs meet it: who may ask, what is refused, and the one shape of error."""

import asyncio
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from conftest import PackedSmall, smooth_image
from serving import ServedRun, make_run
from typer.testing import CliRunner
from workers import fastfashion

from fastfashion.cli import app as cli
from fastfashion.errors import ConfigError, FastfashionError
from fastfashion.serve.api import Api
from fastfashion.serve.asgi import App, Message, Receive, Scope, Send, content_length
from fastfashion.serve.auth import FORGET_S, MAX_ADDRESSES, Auth, Failures, find_auth
from fastfashion.serve.hosts import HostRules, Others, host_rules, parse_allowed
from fastfashion.serve.limits import Limits
from fastfashion.serve.responses import Responses
from fastfashion.serve.server import Checks, http_only
from fastfashion.serve.state import open_state

Pairs = dict[str, str] | list[tuple[str, str]]


def ask(
    app: App, method: str = "GET", path: str = "/", headers: Pairs | None = None, body: bytes = b"", client: str = "192.0.2.1"
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of an application's answer, without a network."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    pairs = headers.items() if isinstance(headers, dict) else headers or []
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
    asked = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw, "client": (client, 1234)}
    asyncio.run(app(asked, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("12", 12), ("9" * 5000, 2**63), ("-1", 2**63), ("x", 2**63), ("\xb2", 2**63), ("", 0)]
)
def test_an_absurd_content_length_is_too_much(text: str, expected: int) -> None:
    assert content_length({"headers": [(b"content-length", text.encode("latin-1"))]}) == expected


def answering(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"999"), *headers]})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    return app


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"Not Found", {"error": "Not Found"}),
        (405, b'{"detail": "Method Not Allowed"}', {"error": "Method Not Allowed", "detail": "Method Not Allowed"}),
        (413, b'{"error": "too large"}', {"error": "too large"}),
        (422, b'{"detail": [{"loc": ["body", "x"], "msg": "missing"}]}', None),
        (400, b"[" * 70_000, {"error": "Bad Request"}),
        (500, b"Traceback (most recent call last)", None),
        (599, b"", {"error": "status 599"}),
        (422, b'{"detail": ["\\ud800", NaN, "\\u001b"], "error": "\\udfff"}', {"error": "\udfff", "detail": ["\ud800", "NaN", "\x1b"]}),
    ],
)
def test_every_error_has_one_shape(status: int, body: bytes, expected: dict[str, Any] | None) -> None:
    found = ask(Responses(answering(status, body, (b"allow", b"POST"))))
    assert found[0] == status and found[1]["allow"] == "POST" and found[1]["content-type"] == "application/json"
    assert isinstance(found[2]["error"], str) and "Traceback" not in found[2]["error"]
    assert expected is None or found[2] == expected


def test_an_exception_is_a_500_of_that_shape_and_is_raised_for_the_log() -> None:
    sent: list[Message] = []

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("host")

    async def send(message: Message) -> None:
        sent.append(message)

    with pytest.raises(KeyError):
        asyncio.run(Responses(broken)({"type": "http"}, broken, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 500 and "log" in json.loads(sent[1]["body"])["error"]


def test_an_answer_without_error_passes_as_it_comes() -> None:
    assert ask(Responses(answering(200, b'{"answers": {}}')))[2] == {"answers": {}}


HERE = host_rules("127.0.0.1", "127.0.0.1", (), {})
EVERYWHERE = host_rules("0.0.0.0", "0.0.0.0", (), {})
PROXIED = host_rules("127.0.0.1", "127.0.0.1", ("Shop.example", "*.cdn.example", "bücher.example", "2001:db8::1"), {})
OPEN_PROXIED = host_rules("::", "::", ("shop.example",), {})
COLAB = host_rules("127.0.0.1", "127.0.0.1", (), {"COLAB_RELEASE_TAG": "release-colab_20261101"})
HUB = host_rules("127.0.0.1", "127.0.0.1", (), {"JUPYTERHUB_SERVICE_PREFIX": "/user/me/"})
NAMED_HUB = host_rules("127.0.0.1", "127.0.0.1", (), {"JUPYTERHUB_SERVICE_PREFIX": "/", "JUPYTERHUB_PUBLIC_URL": "https://hub.example/x"})
OPEN_HUB = host_rules("0.0.0.0", "0.0.0.0", (), {"JUPYTERHUB_SERVICE_PREFIX": "/", "JUPYTERHUB_PUBLIC_URL": "https://hub.example/x"})
NAMED = host_rules("myhost", "127.0.1.1", (), {})


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers as Gradio's own middleware does: with the origin that asked, and credentials."""
    headers = [(b"access-control-allow-origin", b"*"), (b"Access-Control-Allow-Credentials", b"true"), (b"vary", b"Origin")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def allowed(app: App, rules: HostRules) -> App:
    return http_only(Responses(Checks(app, rules.check)), app)


@pytest.mark.parametrize(
    ("rules", "host", "status"),
    [
        (HERE, "127.0.0.1:7860", 200),
        (HERE, "LOCALHOST.:7860", 200),
        (HERE, "shop.localhost", 200),
        (HERE, "[::1]:7860", 200),
        (HERE, "[0:0:0:0:0:0:0:1]", 200),
        (HERE, "[::ffff:127.0.0.1]", 200),
        (HERE, "127.8.9.1", 200),
        (HERE, "0.0.0.0:7860", 200),
        (HERE, "", 200),  # HTTP/1.0; no browser
        (HERE, "evil.example:7860", 403),
        (HERE, "localhost.evil.example", 403),
        (HERE, "evillocalhost", 403),
        (HERE, "127.0.0.1.evil.example", 403),
        (HERE, "192.0.2.7", 403),
        (HERE, "[2001:db8::1]", 403),
        (HERE, "localhost@evil.example", 403),
        (HERE, "localhost:7860:1", 403),
        (HERE, "localhost:999999", 403),
        (HERE, "[::1", 403),
        (HERE, "[::1]evil.example", 403),
        (HERE, "localhost, evil.example", 403),
        (HERE, "x" * 5000, 403),
        (HERE, "\xfc.example", 403),
        (EVERYWHERE, "any.example:7860", 200),
        (EVERYWHERE, "192.0.2.7:7860", 200),
        (EVERYWHERE, "[fe80::1%25eth0]:7860", 200),
        (PROXIED, "SHOP.example.", 200),
        (PROXIED, "a.cdn.example", 200),
        (PROXIED, "cdn.example", 403),
        (PROXIED, "xn--bcher-kva.example", 200),
        (PROXIED, "[2001:db8:0::1]:80", 200),
        (PROXIED, "localhost", 200),
        (PROXIED, "other.example", 403),
        (OPEN_PROXIED, "shop.example", 200),
        (OPEN_PROXIED, "192.0.2.7:7860", 200),
        (OPEN_PROXIED, "evil.example", 403),
        (COLAB, "7860-m-s-abc.prod.colab.dev", 200),
        (COLAB, "evil.example", 403),
        (HUB, "hub.example", 200),
        (NAMED_HUB, "hub.example", 200),
        (NAMED_HUB, "evil.example", 403),
        (OPEN_HUB, "pod-7.example", 200),
        (NAMED, "myhost:7860", 200),
        (NAMED, "otherhost:7860", 403),
    ],
)
def test_on_loopback_only_its_own_names_are_answered(rules: HostRules, host: str, status: int) -> None:
    found = ask(allowed(fine, rules), headers=[("host", host)] if host else [])
    assert found[0] == status and (status == 200 or len(found[2]["error"]) < 600)


OWN = "127.0.0.1:7860"


@pytest.mark.parametrize(
    ("rules", "host", "headers", "status"),
    [
        (HERE, OWN, {}, 200),  # curl
        (HERE, OWN, {"origin": "http://127.0.0.1:7860"}, 200),
        (HERE, OWN, {"origin": "HTTP://127.0.0.1:07860"}, 200),
        (HERE, "localhost", {"origin": "http://localhost:80"}, 200),
        (HERE, "[::1]:7860", {"origin": "http://[::1]:7860"}, 200),
        (HERE, OWN, {"origin": "http://127.0.0.1:8888"}, 403),  # another program of this machine
        (HERE, OWN, {"origin": "http://localhost:7860"}, 403),
        (HERE, OWN, {"origin": "http://evil.example"}, 403),
        (HERE, OWN, {"origin": "http://evil.example:7860"}, 403),
        (HERE, OWN, {"origin": "null"}, 403),
        (HERE, OWN, {"origin": ""}, 403),
        (HERE, OWN, {"origin": "file://"}, 403),
        (HERE, OWN, {"origin": "chrome-extension://127.0.0.1:7860"}, 403),
        (HERE, OWN, {"origin": "http://127.0.0.1:7860@evil.example"}, 403),
        (HERE, OWN, {"origin": "http://127.0.0.1:7860 http://evil.example"}, 403),
        (HERE, "", {"origin": "http://127.0.0.1"}, 403),
        (HERE, OWN, {"origin": "http://evil.example", "x-forwarded-host": "evil.example"}, 403),
        (EVERYWHERE, "any.example:7860", {"origin": "http://any.example:7860"}, 200),
        (EVERYWHERE, "any.example:7860", {"origin": "http://evil.example"}, 403),
        (EVERYWHERE, "any.example", {"origin": "https://any.example"}, 200),  # TLS ends in front
        (PROXIED, OWN, {"origin": "https://shop.example"}, 200),  # a proxy that changes Host
        (PROXIED, "shop.example", {"origin": "https://shop.example:8443"}, 200),  # one that leaves the port out
        (PROXIED, OWN, {"origin": "https://evil.example"}, 403),
        (COLAB, "localhost:7860", {"origin": "https://abc-7860-colab.googleusercontent.com"}, 200),
        (COLAB, "localhost:7860", {"origin": "https://googleusercontent.com.evil.example"}, 403),
        (HERE, "localhost:7860", {"origin": "https://abc-7860-colab.googleusercontent.com"}, 403),
        (HUB, "hub.example", {"origin": "https://hub.example"}, 200),
        (HUB, "hub.example", {"origin": "https://evil.example"}, 403),
        (HERE, OWN, {"sec-fetch-site": "cross-site"}, 403),
        (HERE, OWN, {"sec-fetch-site": "same-site"}, 403),
        (HERE, OWN, {"sec-fetch-site": "same-origin"}, 200),
        (HERE, OWN, {"sec-fetch-site": "none"}, 200),
        (HERE, OWN, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),  # a form elsewhere
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_only_its_own_page_may_have_a_browser_ask(rules: HostRules, host: str, headers: dict[str, str], status: int, method: str) -> None:
    found = ask(allowed(fine, rules), method, headers=headers | ({"host": host} if host else {}))
    assert found[0] == status and (status == 200 or found[2]["error"])
    assert not [name for name in found[1] if name.lower().startswith("access-control-")]


def test_links_and_frames_of_other_pages_open_the_page_but_nothing_else_of_it() -> None:
    app, site = allowed(fine, HERE), {"host": OWN, "sec-fetch-site": "cross-site"}
    assert ask(app, "GET", headers=site | {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"})[0] == 200
    assert ask(app, "GET", headers=site | {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"})[0] == 403
    assert ask(app, "GET", headers={"host": OWN, "origin": "https://evil.example"})[0] == 403  # an event stream, or any fetch


@pytest.mark.parametrize(
    ("forwarded", "kept"), [("evil.example", False), ('x"><', False), ("shop.example", True), ("localhost:7860", True)]
)
def test_the_page_does_not_take_a_foreign_name_from_a_proxy(forwarded: str, kept: bool) -> None:
    """It would name its files and its own address by it."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    rules = HostRules(others=Others.NONE, names=("shop.example",))
    assert ask(allowed(app, rules), headers={"Host": "localhost", "X-Forwarded-Host": forwarded})[0] == 200
    assert (b"x-forwarded-host" in dict(seen[0]["headers"])) == kept


def test_two_hosts_or_one_foreign_origin_of_two_are_refused() -> None:
    app, own = allowed(fine, HERE), ("host", OWN)
    assert ask(app, headers=[own, ("host", "evil.example")])[0] == 403
    assert ask(app, headers=[own, ("origin", "http://evil.example"), ("origin", "http://127.0.0.1:7860")])[0] == 403


def test_a_websocket_of_a_foreign_page_is_closed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "headers": [(b"host", OWN.encode()), (b"origin", b"http://evil.example")]}
    asyncio.run(allowed(fine, HERE)(scope, fine, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    "name", ["", "*", "*.", "https://shop.example", "shop.example:443", "shop.example/x", "a..b", "a b", "*.*", "x" * 64 + ".de"]
)
def test_a_host_that_is_no_name_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ConfigError, match="--allow-host: expected a name"):
        parse_allowed([name])


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def locked(app: App) -> App:
    return Responses(Checks(app, Auth("shop:secret").check))


def test_an_address_that_guesses_passwords_waits_and_no_other_does() -> None:
    app, wrong, right = locked(fine), basic("shop:guess"), basic("shop:secret")
    assert [ask(app, headers=wrong)[0] for _ in range(5)] == [401] * 5
    for headers in (wrong, right):  # the right one would show a guesser that it is
        status, found, body = ask(app, headers=headers)
        assert status == 429 and 1 <= int(found["retry-after"]) <= 60 and "wrong passwords" in body["error"]
    assert ask(app)[0] == 401  # a browser that asks what it needs
    assert ask(app, headers=right, client="192.0.2.2")[0] == 200


@pytest.mark.parametrize(
    ("guesser", "other", "status"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", 429),  # one client has all of a /64
        ("2001:db8::1", "2001:db8:0:1::1", 200),
        ("::ffff:192.0.2.9", "192.0.2.9", 429),
        ("", "", 429),
        ("unknown", "unknown", 429),
    ],
)
def test_an_address_is_what_one_client_has(guesser: str, other: str, status: int) -> None:
    app = locked(fine)
    for _ in range(5):
        ask(app, headers=basic("x:y"), client=guesser)
    assert ask(app, headers=basic("shop:secret"), client=other)[0] == status


def test_waits_double_to_a_minute_are_forgotten_and_take_bounded_memory() -> None:
    now = [1000.0]
    failures = Failures(lambda: now[0])
    waits = []
    for _ in range(14):
        failures.add("a")
        waits.append(failures.wait_s("a"))
        now[0] += waits[-1]
        assert failures.wait_s("a") == 0
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    now[0] += FORGET_S
    assert failures.wait_s("a") == 0
    failures.add("a")
    assert failures.wait_s("a") == 0  # as new
    for number in range(2 * MAX_ADDRESSES):
        failures.add(str(number))
    assert len(failures._failed) == MAX_ADDRESSES


def test_a_right_password_forgets_the_wrong_ones_before_it() -> None:
    app = locked(fine)
    for _ in range(3):
        assert [ask(app, headers=basic("x:y"))[0] for _ in range(4)] == [401] * 4
        assert ask(app, headers=basic("shop:secret"))[0] == 200


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !", "Basic " + "A" * 9999, "Bearer c2hvcDpzZWNyZXQ=", "basic\xe9", "Basic c2hvcDpzZWNyZXQ= x"]
)
def test_odd_authorizations_are_wrong_passwords(header: str) -> None:
    assert ask(locked(fine), headers=[("authorization", header)])[0] == 401


def test_a_password_comes_from_an_option_a_file_or_the_environment(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "auth"
    file.write_bytes("\ufeffshop:sécret\r\nmore\n".encode())
    for mode, expected in ((0o600, 0), (0o640, 0), (0o644, 1)):
        file.chmod(mode)
        assert find_auth(None, file, {"FASTFASHION_AUTH": "x"}, said.append) == "shop:sécret"
        assert len(said) == expected
    file.chmod(0o602)
    with pytest.raises(ConfigError, match="may write to it: chmod 600"):
        find_auth(None, file, {}, said.append)
    environment = {"FASTFASHION_AUTH": "a:b", "HOME": "/"}
    assert find_auth(None, None, environment, said.append) == "a:b" and environment == {"HOME": "/"}  # processes of ours do not have it
    assert find_auth("c:d", None, {"FASTFASHION_AUTH": "a:b"}, said.append) == "c:d"
    assert find_auth(None, None, {}, said.append) == ""


@pytest.mark.parametrize("option", ["--max-mb", "--max-pixels", "--max-files", "--max-queue"])
def test_a_limit_that_is_none_is_refused_by_its_own_name(option: str) -> None:
    result = CliRunner().invoke(cli, ["serve", "runs/none", option, "-1"])
    assert isinstance(result.exception, ConfigError)  # `run_command` makes it one line and exit status 2
    assert str(result.exception) == f"{option}: expected 1 or more, found -1"


@pytest.mark.parametrize("content", [b"", b"\n", b"shop", b"shop:\n", b":x", b"\nshop:secret", b"\xff:x", b"a:" + b"b" * 5000, None])
def test_a_password_that_is_none_ends_the_start(content: bytes | None, tmp_path: Path) -> None:
    """An option, a variable or a file that is there and empty is a mistake, and not a server without a password."""
    file = tmp_path / "auth"
    os.mkfifo(file) if content is None else file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(FastfashionError, match="auth"):
        find_auth(None, file, {}, lambda _: None)
    if content is not None and b"\xff" not in content and b"\n" not in content and len(content) < 100:
        for auth, environment in ((content.decode(), {}), (None, {"FASTFASHION_AUTH": content.decode()})):
            with pytest.raises(ConfigError, match="expected user:password"):
                find_auth(auth, None, environment, lambda _: None)


def test_the_command_refuses_an_empty_password_and_says_who_sees_it(tmp_path: Path) -> None:
    done = fastfashion("serve", tmp_path, env=os.environ | {"FASTFASHION_AUTH": ""})
    assert done.returncode == 2 and "FASTFASHION_AUTH: expected user:password" in done.stderr
    assert "process list" in " ".join(fastfashion("serve", "--help").stdout.replace("│", " ").split())


@pytest.fixture(scope="module")
def run(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "random", packed_small.out)
    (folder / "plots").mkdir()
    smooth_image(2, 30, 20).save(folder / "plots" / "confusion_season.png")
    (folder / "plots" / "link.png").symlink_to(packed_small.source / "images")
    (folder / "plots" / "stolen.png").symlink_to(__file__)
    (folder / "plots" / "circle.png").symlink_to("circle.png")
    os.mkfifo(folder / "plots" / "pipe.png")
    return folder


@pytest.fixture(scope="module")
def server(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRun]:
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'fastfashion[serve]'")
    nowhere = tmp_path_factory.mktemp("no") / "set"  # so that it starts at once
    served = ServedRun(run, "--shards", str(nowhere), "--max-mb", "1", "--allow-host", "shop.example")
    yield served
    served.close()


def curl(url: str, data: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None) -> tuple[int, Any, Any]:
    """Status, headers and JSON of a real answer, whose errors all have the one shape."""
    asked = urllib.request.Request(url, data, headers or {}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as response:
            status, found, body = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        status, found, body = error.code, error.headers, error.read()
    if status >= 400 and method != "HEAD":
        assert found["content-type"] == "application/json" and isinstance(json.loads(body)["error"], str)
    return status, found, json.loads(body) if found["content-type"] == "application/json" and body else body


def jpeg() -> bytes:
    file = io.BytesIO()
    smooth_image(1, 60, 80).save(file, "JPEG", quality=92)
    return file.getvalue()


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """A multipart body: field name, file name or "" for none, content."""
    body = b""
    for name, file, content in parts:
        named = f'; filename="{file}"' if file else ""
        body += f'--XyZ\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--XyZ--\r\n"


JPEG, FORM_HEADER, JSON_HEADER = jpeg(), {"content-type": "multipart/form-data; boundary=XyZ"}, {"content-type": "application/json"}
BASE64 = base64.b64encode(JPEG).decode()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (JPEG, {"content-type": "image/jpeg"}),
        (JPEG, {"content-type": "application/x-www-form-urlencoded"}),  # curl's and urllib's own
        (JPEG, {"content-type": "application/json"}),
        (form(("file", "x.jpg", JPEG)), FORM_HEADER),
        (form(("other", "", b"y"), ("anything", "../x.jpg", JPEG)), FORM_HEADER),
        (json.dumps({"image": BASE64, "more": [1]}).encode(), JSON_HEADER),
        (b" \n" + json.dumps({"image": base64.encodebytes(JPEG).decode()}).encode(), {}),
        (json.dumps({"image": "data:image/jpeg;base64," + BASE64}).encode(), JSON_HEADER),
        (json.dumps({"image": base64.urlsafe_b64encode(JPEG).decode().rstrip("=")}).encode(), JSON_HEADER),
        (b"data:image/jpeg;base64," + BASE64.encode(), {"content-type": "text/plain"}),
        (b"DATA:image/jpeg;base64," + BASE64.encode(), {}),
        (json.dumps({"image": BASE64}).encode("utf-8-sig"), JSON_HEADER),
    ],
)
def test_an_image_is_found_in_whatever_body_it_comes(server: ServedRun, body: bytes, headers: dict[str, str]) -> None:
    status, _, found = curl(f"{server.url}api/answer?top=2", body, headers)
    assert status == 200 and found["answers"] == curl(f"{server.url}api/answer?top=2", JPEG)[2]["answers"]


def test_top_is_taken_from_a_form_and_from_json_too(server: ServedRun) -> None:
    for body, headers in (
        (form(("f", "x.jpg", JPEG), ("top", "", b"1")), FORM_HEADER),
        (json.dumps({"image": BASE64, "top": 1}).encode(), {}),
    ):
        assert [len(best) for best in curl(f"{server.url}api/answer", body, headers)[2]["answers"].values()] == [1, 1]


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (form(), FORM_HEADER, 415, "found 0"),
        (form(("image", "", b"text")), FORM_HEADER, 415, "found 0"),
        (form(("a", "a.jpg", JPEG), ("b", "b.jpg", JPEG)), FORM_HEADER, 415, "found 2"),
        (form(*[(f"f{i}", "a.jpg", b"") for i in range(50)]), FORM_HEADER, 415, "Too many files"),
        (form(("image", "", b"x" * 70_000)), FORM_HEADER, 415, "maximum size"),
        (b"no boundary", {"content-type": "multipart/form-data"}, 415, "boundary"),
        (b"--other", FORM_HEADER, 415, "cannot be read"),
        (b"image=%40x.jpg&top=3", {"content-type": "application/x-www-form-urlencoded"}, 415, "text, not an image"),
        (b"hello", {"content-type": "text/plain"}, 415, "text, not an image"),
        (b"null", JSON_HEADER, 415, "text, not an image"),
        (JPEG, {"content-encoding": "gzip"}, 415, "'gzip'"),
        (b"{", JSON_HEADER, 415, '{"image"'),
        (b"[" * 100_000, JSON_HEADER, 415, '{"image"'),
        (b'{"image": 3}', JSON_HEADER, 415, "$.image"),
        (b'{"img": "x"}', JSON_HEADER, 415, "`image`"),
        (b'{"image": "@@"}', JSON_HEADER, 415, "base64"),
        (b'{"image": "A\xff"}', JSON_HEADER, 415, '{"image"'),
        (b'{"image": "data:image/jpeg,x"}', JSON_HEADER, 415, "not base64"),
        (b'{"image": "http://127.0.0.1/x.jpg"}', JSON_HEADER, 415, "fetches no addresses"),
        (b'{"image": "file:///etc/passwd"}', JSON_HEADER, 415, "fetches no addresses"),
        (b'{"image": "", "top": "2"}', JSON_HEADER, 400, "empty file"),
        (b'{"image": "AAAA", "top": 1e999}', JSON_HEADER, 415, '{"image"'),
        (b'{"image": "AAAA", "top": [1]}', JSON_HEADER, 415, "$.top"),
        (b'{"image": "AAAA", "top": 1.5}', JSON_HEADER, 400, "top: expected 1 to 100"),
        (b"", {}, 400, "empty file"),
        (b"\0" * 1_000_001, {}, 413, "more than the 1 MB"),
        (form(("f", "x.jpg", b"\0" * 1_000_001)), FORM_HEADER, 413, "more than the 1 MB"),
        (form(("f", "x.jpg", b"\0" * 1_100_000)), FORM_HEADER, 413, "more than the 1 MB"),
        (json.dumps({"image": "A" * 1_333_344}).encode(), JSON_HEADER, 413, "more than the 1 MB"),
        (json.dumps({"image": "A" * 1_500_000}).encode(), JSON_HEADER, 413, "more than the 1 MB"),
    ],
)
def test_a_body_without_an_image_is_refused_with_the_right_call(
    server: ServedRun, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    found = curl(f"{server.url}api/answer", body, headers)
    assert found[0] == status and said in found[2]["error"]
    assert status != 415 or f"curl --data-binary @image.jpg '{server.url}api/answer'" in found[2]["error"]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        *(
            (f"api/answer?top={top}", 400, "top: expected 1 to 100")
            for top in ("0", "101", "-1", "1.5", "x", "", "%D9%A3", "1%00", "9" * 5000)
        ),
        *((f"run/plots/{name}", 404, "no such plot") for name in ("a" * 300 + ".png", "a%00.png", "..%2f..%2fconfig.json", "", "%ff.png")),
        *((f"run/plots/{name}", 404, "no such plot") for name in ("stolen.png", "link.png", "circle.png", "x/y.png")),
        ("run/plots/pipe.png", 400, "not a regular file"),
        ("api", 404, "POST /api/answer"),
        ("api/", 404, "POST /api/answer"),
        ("api/answers", 404, "POST /api/answer"),
        ("api/answer/", 404, "POST /api/answer"),
        ("api/" + "x/" * 5000, 404, "POST /api/answer"),
        ("gradio_api/nothing", 404, ""),
        ("no/such/page", 404, ""),
        *(
            (path, 404, "")
            for path in ("assets/" + "a" * 300 + ".js", "static/" + "a/" * 3000, "assets/a%00.js", "static/%ed%a0%80" + "%c3%a9" * 200)
        ),
    ],
)
def test_absurd_parameters_and_names_are_refused_with_the_reason(server: ServedRun, path: str, status: int, said: str) -> None:
    found = curl(server.url + path, JPEG if path.startswith("api/answer?") else None)
    assert found[0] == status and said in found[2]["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "api/answer", 405, "POST, OPTIONS"),
        ("HEAD", "api/answer", 405, "POST, OPTIONS"),
        ("PUT", "api/answer", 405, "POST, OPTIONS"),
        ("OPTIONS", "api/answer", 204, "POST, OPTIONS"),
        ("POST", "api/model", 405, "GET, HEAD, OPTIONS"),
        ("HEAD", "api/model", 200, None),
        ("PROPFIND", "api/model", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "api/model", 204, "GET, HEAD, OPTIONS"),
        ("DELETE", "run/plots/confusion_season.png", 405, "GET, HEAD, OPTIONS"),
        ("HEAD", "run/plots/confusion_season.png", 200, None),
        ("GET", "run/plots/confusion_season.png", 200, None),
    ],
)
def test_a_method_that_an_address_has_not_is_a_405_with_those_it_has(
    server: ServedRun, method: str, path: str, status: int, allow: str | None
) -> None:
    found = curl(server.url + path, method=method)
    assert found[0] == status and found[1]["allow"] == allow


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: x",
        "Content-Length: -1",
        "Content-Length: " + "9" * 5000,
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1\r\nTransfer-Encoding: gzip",
        "Host: again.example",
        "top: \x01",
    ],
)
def test_heads_that_are_no_http_are_refused_and_the_next_is_answered(server: ServedRun, head: str) -> None:
    where = urlsplit(server.url)
    with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=20) as connection:
        connection.sendall(f"POST /api/answer HTTP/1.1\r\nHost: {where.netloc}\r\n{head}\r\n\r\nx".encode())
        assert b" 4" in connection.recv(65536).partition(b"\r\n")[0]
    assert curl(f"{server.url}api/model")[0] == 200


def test_a_foreign_page_cannot_drive_the_real_server_and_the_proxys_name_can(server: ServedRun) -> None:
    """The page framework's addresses, an event stream among them, as well as the API's."""
    for path in (
        "api/answer",
        "api/model",
        "config",
        "gradio_api/queue/join",
        "gradio_api/queue/data?session_hash=x",
        "gradio_api/upload",
        "",
    ):
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example:7860"}):
            assert curl(server.url + path, headers=headers)[0] == 403, path
    for headers in ({"origin": server.url.rstrip("/")}, {"origin": "https://shop.example"}, {"host": "shop.example"}):
        status, found, _ = curl(f"{server.url}theme.css", headers=headers)
        assert status == 200 and not [name for name in found if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("kind", ["    curl", "```python", "```js"])
def test_the_calls_of_the_documentation_answer(server: ServedRun, kind: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "http.md").read_text(encoding="utf-8").replace("http://127.0.0.1:7860/", server.url)
    (tmp_path / "image.jpg").write_bytes(JPEG)
    name = {"    curl": "curl", "```python": sys.executable, "```js": "node"}[kind]
    program = shutil.which(name) or pytest.skip(f"no {name} here")
    if name == "curl":
        commands = [["sh", "-c", f"{program} -sf {line.strip()[4:]}"] for line in text.splitlines() if line.startswith(kind)]
        assert len(commands) == 2
    else:
        code = text.partition(kind)[2].partition("```")[0]
        commands = [[program, "-c", code] if name != "node" else [program, "--input-type=module", "-e", code]]
    for command in commands:
        assert "season" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_a_model_that_answers_nan_is_an_error_and_no_broken_json(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    state = open_state(run, torch.device("cpu"), Limits(), shards=tmp_path / "nowhere")
    state.predictor.model.heads["season"].weight.data.fill_(float("nan"))
    status, _, found = ask(Responses(Api(fine, state)), "POST", "/api/answer", body=JPEG)
    state.close()
    assert status in (400, 500) and "NaN" in found["error"]
