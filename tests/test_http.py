"""The HTTP API as programs meet it: who may ask, what is refused, and the one shape of error."""

import asyncio
import json
from typing import Any

import pytest

from fastfashion.errors import ConfigError
from fastfashion.serve.asgi import App, Message, Receive, Scope, Send
from fastfashion.serve.errors import Errors
from fastfashion.serve.hosts import HostRules, Hosts, host_rules, parse_allowed

Pairs = dict[str, str] | list[tuple[str, str]]


def ask(app: App, method: str = "GET", path: str = "/", headers: Pairs | None = None, **scope: Any) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of an application's answer, without a network."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    pairs = headers.items() if isinstance(headers, dict) else headers or []
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
    asked = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw, "client": ("192.0.2.1", 1234)}
    asyncio.run(app(asked | scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


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
    ],
)
def test_every_error_has_one_shape(status: int, body: bytes, expected: dict[str, Any] | None) -> None:
    found = ask(Errors(answering(status, body, (b"allow", b"POST"))))
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
        asyncio.run(Errors(broken)({"type": "http"}, broken, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 500 and "log" in json.loads(sent[1]["body"])["error"]


def test_an_answer_without_error_passes_as_it_comes() -> None:
    assert ask(Errors(answering(200, b'{"answers": {}}')))[2] == {"answers": {}}


HERE = host_rules("127.0.0.1", "127.0.0.1", (), {})
EVERYWHERE = host_rules("0.0.0.0", "0.0.0.0", (), {})
PROXIED = host_rules("127.0.0.1", "127.0.0.1", ("Shop.example", "*.cdn.example", "bücher.example", "2001:db8::1"), {})
OPEN_PROXIED = host_rules("::", "::", ("shop.example",), {})
COLAB = host_rules("127.0.0.1", "127.0.0.1", (), {"COLAB_RELEASE_TAG": "release-colab_20261101"})
HUB = host_rules("127.0.0.1", "127.0.0.1", (), {"JUPYTERHUB_SERVICE_PREFIX": "/user/me/"})
NAMED_HUB = host_rules("127.0.0.1", "127.0.0.1", (), {"JUPYTERHUB_SERVICE_PREFIX": "/", "JUPYTERHUB_PUBLIC_URL": "https://hub.example/x"})
NAMED = host_rules("myhost", "127.0.1.1", (), {})


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers as Gradio's own middleware does: with the origin that asked, and credentials."""
    headers = [(b"access-control-allow-origin", b"*"), (b"Access-Control-Allow-Credentials", b"true"), (b"vary", b"Origin")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


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
        (NAMED, "myhost:7860", 200),
        (NAMED, "otherhost:7860", 403),
    ],
)
def test_on_loopback_only_its_own_names_are_answered(rules: HostRules, host: str, status: int) -> None:
    found = ask(Hosts(fine, rules), headers=[("host", host)] if host else [])
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
    found = ask(Hosts(fine, rules), method, headers=headers | ({"host": host} if host else {}))
    assert found[0] == status and (status == 200 or found[2]["error"])
    assert not [name for name in found[1] if name.lower().startswith("access-control-")]


def test_links_and_frames_of_other_pages_open_the_page_but_nothing_else_of_it() -> None:
    app, site = Hosts(fine, HERE), {"host": OWN, "sec-fetch-site": "cross-site"}
    assert ask(app, "GET", headers=site | {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"})[0] == 200
    assert ask(app, "GET", headers=site | {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"})[0] == 403
    assert ask(app, "GET", headers={"host": OWN, "origin": "https://evil.example"})[0] == 403  # an event stream, or any fetch


def test_two_hosts_or_one_foreign_origin_of_two_are_refused() -> None:
    app, own = Hosts(fine, HERE), ("host", OWN)
    assert ask(app, headers=[own, ("host", "evil.example")])[0] == 403
    assert ask(app, headers=[own, ("origin", "http://evil.example"), ("origin", "http://127.0.0.1:7860")])[0] == 403


def test_a_websocket_of_a_foreign_page_is_closed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "headers": [(b"host", OWN.encode()), (b"origin", b"http://evil.example")]}
    asyncio.run(Hosts(fine, HERE)(scope, fine, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    "name", ["", "*", "*.", "https://shop.example", "shop.example:443", "shop.example/x", "a..b", "a b", "*.*", "x" * 64 + ".de"]
)
def test_a_host_that_is_no_name_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ConfigError, match="--allow-host: expected a name"):
        parse_allowed([name])
