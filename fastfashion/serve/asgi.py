"""What the layers of the server share: types of ASGI, the client of a request, a response, and the exceptions that become one."""

import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastfashion.errors import FastfashionError
from fastfashion.terminal import printable

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
JSON, EVENTS = (b"content-type", b"application/json"), (b"content-type", b"text/event-stream")
NOT_STORED = (b"cache-control", b"no-store")


class RefusedError(FastfashionError):
    """A request that is answered with this status and these headers."""

    def __init__(self, status: int, text: str, *headers: Header) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers


class GoneError(FastfashionError):
    """The client left before its request was complete, so there is nobody to answer."""


def header(scope: Scope, name: bytes) -> bytes:
    """The value of a request's header, b"" if it has none, the last one if it has several; `name` in lower case."""
    return dict(scope["headers"]).get(name, b"")


def content_length(scope: Scope) -> int:
    """The announced bytes of a body, 0 if none are; more than any limit if it is not a number, or an absurd one."""
    text = header(scope, b"content-length")
    return int(text) if text.isdigit() and len(text) < 19 else 2**63 if text else 0


def client(scope: Scope) -> str:
    """The address whose share a request takes; a proxy on this machine names it in X-Forwarded-For, which is believed from there alone."""
    return network(_host(scope))


def is_ours(scope: Scope) -> bool:
    """Whether a request comes from this machine, or from nobody known, as in tests of the application."""
    return is_local(_host(scope))


def _host(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def network(host: str) -> str:
    """The client of an address: the address itself, or for IPv6 its network, since one client has 2^64 addresses there."""
    address = parse_address(host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return host[:64] if address is None else str(address)


def is_local(host: str) -> bool:
    """Whether an address is this machine's, or unknown."""
    address = parse_address(host)
    return not host if address is None else address.is_loopback


def parse_address(host: str) -> Address | None:
    """An IP address, None for a name. What listens on `::` has IPv4 clients whose addresses begin with ::ffff:, each its own client."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def json_body(value: Any) -> bytes:
    """JSON that a terminal may show: control characters of names are escapes, C1's and DEL too, which JSON lets pass."""
    return printable(json.dumps(value, ensure_ascii=False, allow_nan=False)).encode(errors="backslashreplace")


def event(value: Any) -> bytes:
    """One message of an event stream."""
    return b"data: " + json_body(value) + b"\n\n"


async def respond(send: Send, body: bytes, *headers: Header, status: int = 200) -> None:
    """Answer with a body that is all known. Without `connection: close` the server reads the rest of the request first."""
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
