"""What the layers in front of the page and the HTTP API have in common: ASGI's types, and the answer that refuses."""

import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastfashion.terminal import printable

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]
EVENTS: list[Header] = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


def header(scope: Scope, name: bytes) -> bytes:
    """The value of a request's header, b"" where it has none, the last one where it has several; `name` in lower case."""
    return dict(scope["headers"]).get(name, b"")


def content_length(scope: Scope) -> int:
    """The announced bytes of a body, 0 where none are; more than any limit where it is no number, or an absurd one."""
    text = header(scope, b"content-length")
    return int(text) if text.isdigit() and len(text) < 19 else 2**63 if text else 0


def json_body(value: Any) -> bytes:
    """JSON that a terminal may show: control characters of names are escapes, C1's and DEL too, which JSON lets pass."""
    return printable(json.dumps(value, ensure_ascii=False, allow_nan=False)).encode(errors="backslashreplace")


def client(scope: Scope) -> str:
    """Whose request it is, as far as shares go."""
    return network(host(scope))


def host(scope: Scope) -> str:
    """The address that a request comes from; a proxy on this machine says it in X-Forwarded-For, which is believed from there alone."""
    return str((scope.get("client") or ("",))[0])


def network(host: str) -> str:
    """Of one who asks: the address, or for IPv6 its network, since a host has 2^64 addresses there."""
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return host[:64] if address is None else str(address)


def is_loopback(host: str) -> bool:
    """Whether a request comes from this machine, or from nobody known, as in tests of the application."""
    address = _address(host)
    return not host if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """What listens on `::` has IPv4 clients whose addresses begin with ::ffff:, each a client of its own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


async def event_stream(send: Send, *events: Any) -> None:
    """Answer with events that are all known."""
    await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
    await send({"type": "http.response.body", "body": b"".join(map(event, events))})


def event(value: Any) -> bytes:
    return b"data: " + json_body(value) + b"\n\n"


async def refuse(send: Send, status: int, text: str, *headers: Header, **more: Any) -> None:
    """Answer with an error. Whoever sends no `connection: close` has the server read the rest of the body first."""
    body = json_body({"error": text, **more})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
