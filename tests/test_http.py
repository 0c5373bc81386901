"""The HTTP API as programs meet it: who may ask, what is refused, and the one shape of error."""

import asyncio
import json
from typing import Any

import pytest

from fastfashion.serve.asgi import App, Message, Receive, Scope, Send
from fastfashion.serve.errors import Errors


def ask(
    app: App, method: str = "GET", path: str = "/", headers: dict[str, str] | None = None, **scope: Any
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of an application's answer, without a network."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
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
