"""What every request passes first: name and password, the size of its body, room for uploads; and what its answer may load."""

import base64
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from fastfashion.errors import ConfigError
from fastfashion.serve.limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """What every request passes first: name and password, the size of its body, room for uploads; and what its answer may load.

    A page's files, fonts and requests are its own server's: the policy has browsers refuse all else. Only notebooks show it in a frame of
    theirs: Jupyter's on this machine, and Colab's, whose cells are pages of googleusercontent.com.
    """

    FRAMES = (
        "'self' http://localhost:* http://127.0.0.1:* https://localhost:* https://colab.research.google.com https://*.googleusercontent.com"
    )
    POLICY = (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
        f"frame-ancestors {FRAMES}"
    )

    def __init__(self, app: App, limits: Limits, store: Path, auth: str = "") -> None:
        self._app, self._limits, self._store, self._auth = app, limits, store, auth.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._auth and not self._knows(headers.get(b"authorization", b"")):
            await _refuse(send, 401, "name and password, please", (b"www-authenticate", b'Basic realm="fastfashion", charset="UTF-8"'))
            return
        limit = self._limits.request_bytes
        too_large = f"a request of more than {limit / 1e6:.0f} MB: send fewer pictures at once, or smaller ones"
        if int(headers.get(b"content-length", b"0") or b"0") > limit:
            await _refuse(send, 413, too_large)
            return
        if scope["path"].endswith("/upload") and _folder_bytes(self._store) > self._limits.stored_bytes:
            await _refuse(send, 503, "no room for more uploads: try again in a few minutes")
            return
        await self._app(scope, _counting(receive, limit), _with_policy(send, self.POLICY))

    def _knows(self, header: bytes) -> bool:
        kind, _, value = header.partition(b" ")
        try:
            given = base64.b64decode(value, validate=True) if kind.lower() == b"basic" else b""
        except ValueError:
            return False
        return hmac.compare_digest(given, self._auth)


def _counting(receive: Receive, limit: int) -> Receive:
    """A body whose length nobody announced ends where it is too long, as if the client had gone."""
    seen = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > limit else message

    return counted


def _with_policy(send: Send, policy: str) -> Send:
    added = [(b"content-security-policy", policy.encode()), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)

    return sent


async def _refuse(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = text.encode()
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def parse_auth(text: str) -> str:
    """`user:password` as it is; raises ConfigError for anything else."""
    user, colon, password = text.partition(":")
    if text and not (user and colon and password):
        raise ConfigError("--auth: expected user:password, both of at least one character")
    return text
