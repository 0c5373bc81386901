"""What strangers may send: how much, how many, how large; and what is refused before anything is unpacked or decoded."""

import base64
import hmac
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastfashion.errors import ConfigError, FastfashionError, InputError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")  # of a zip (APPNOTE.TXT 4.3.16)
_ENTRY_BYTES = 46  # of the directory, at least, each
_SCAN = b"\xff\xda"
MAX_SCANS = 100  # of a progressive JPEG; usual ones have ten, and each costs a walk over all pixels


class BusyError(FastfashionError):
    """More is waiting than may; ask again in a moment."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of a server; what is above is answered with an error."""

    picture_bytes: int = 20_000_000
    picture_pixels: int = 40_000_000  # of one picture: 120 MB while it is decoded
    batch_files: int = 200  # pictures in a batch, the members of its zips too
    request_bytes: int = 200_000_000  # of one request, whatever is in it
    stored_bytes: int = 2_000_000_000  # of uploads that have not been thrown away yet
    queue: int = 64  # requests that wait

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"{name}: expected 1 or more, found {value}")


def check_picture(data: bytes, limits: Limits) -> None:
    """Raises InputError for bytes that are too many, or would keep the decoder busy for minutes; pixels are counted by the decoder."""
    if len(data) > limits.picture_bytes:
        raise InputError(f"{len(data) / 1e6:.1f} MB, more than the {limits.picture_bytes / 1e6:.0f} MB that a picture may have here")
    if data[:2] == b"\xff\xd8" and data.count(_SCAN) > MAX_SCANS:
        raise InputError(f"a JPEG of more than {MAX_SCANS} scans: save it anew, as a baseline JPEG")


def check_zip(path: Path, limits: Limits) -> None:
    """Raises InputError for a zip of more files than a batch may have, by its last bytes, before its directory is read."""
    size = path.stat().st_size
    tail_bytes = min(size, _END_OF_DIRECTORY.size + 0xFFFF)
    with path.open("rb") as file:
        file.seek(size - tail_bytes)
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END_OF_DIRECTORY.size > len(tail):
        raise InputError("not a readable zip: its end is missing; upload it again")
    _, _, _, _, count, directory_bytes, _, _ = _END_OF_DIRECTORY.unpack_from(tail, at)
    if tail[max(0, at - 20) :].startswith(b"PK\6\7") or 0xFFFF in (count,):
        raise InputError("a zip64 archive, which only very large ones need: split it")
    # Folders and tables are entries as well, and names have some bytes; a directory that is far longer than that is a bomb of its own.
    if count > 2 * limits.batch_files or directory_bytes > 2 * limits.batch_files * (_ENTRY_BYTES + 512):
        raise InputError(f"a zip of {count} files; at most {limits.batch_files} pictures are answered at once: split it")


class Gate:
    """Counts those who wait for the model, and turns the next away where they are too many."""

    def __init__(self, limit: int) -> None:
        self._limit, self._waiting, self._lock = limit, 0, threading.Lock()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Raises BusyError."""
        with self._lock:
            if self._waiting >= self._limit:
                raise BusyError(f"{self._limit} requests are waiting already: ask again in a moment")
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1


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
