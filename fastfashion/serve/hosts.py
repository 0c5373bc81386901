"""Which requests are answered: those of programs and of the server's own page, sent to one of the server's names.

A page of another site can have a visitor's browser ask any address that the browser reaches, this server's too, and with DNS rebinding
under a name of its own. It cannot change the headers Host, Origin and Sec-Fetch-Site, which reveal it.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from fastfashion.errors import ConfigError
from fastfashion.serve.asgi import RefusedError, Scope, parse_address

COLAB = ("*.googleusercontent.com", "colab.research.google.com", "*.colab.dev")  # pages that show a page of the notebook's machine
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)(?:%[^\]]*)?\]|(?P<name>[^\[\]:/\\@?#,\s]*))(?::(?P<port>[0-9]{0,5}))?")
_PORTS = {"http": "80", "https": "443"}
_READS = ("GET", "HEAD")
FORWARDED = b"x-forwarded-host"


class Others(Enum):
    """Which hosts a server answers to, apart from loopback and the names it knows."""

    NONE = "none"  # it listens on loopback
    ADDRESSES = "addresses"  # it knows all of its names
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class HostRules:
    """The names that a server answers to; `names` may begin with `*.`, for all names that end so."""

    others: Others
    own: str = ""  # the name given to listen on
    names: tuple[str, ...] = ()

    def knows_host(self, name: str) -> bool:
        if name == self.own or is_loopback(name) or self.allows(name):
            return True
        return self.others is Others.ALL or (self.others is Others.ADDRESSES and parse_address(name) is not None)

    def allows(self, name: str) -> bool:
        return any(name == one or (one.startswith("*.") and name.endswith(one[1:])) for one in self.names)

    def check(self, scope: Scope) -> None:
        """Raises RefusedError for what another site's page asks, and on loopback for what is asked by another name.

        A foreign X-Forwarded-Host is dropped: the page would name its files by it.
        """
        if why := self.why_foreign(scope):
            raise RefusedError(403, why)
        scope["headers"] = [one for one in scope["headers"] if one[0] != FORWARDED or self._knows(one[1])]

    def _knows(self, forwarded: bytes) -> bool:
        found = split_host(forwarded.decode("latin-1"))
        return found is not None and self.knows_host(found[0])

    def why_foreign(self, scope: Scope) -> str:
        """Why a request is another site's, "" for one that is not."""
        values: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            values.setdefault(name, []).append(value.decode("latin-1"))
        (host, *more_hosts), origins = values.get(b"host", [""]), values.get(b"origin", [])
        found = split_host(host)
        if found is None or more_hosts:
            return f"Host: expected one name or address, found {host[:100]!r}"
        name = found[0]
        if name and not self.knows_host(name):
            return f"this server is not called {name[:100]!r}: --allow-host {name[:100]} makes it answer to that name, for a proxy in front"
        for origin in origins:
            if not self._is_own(origin.lower(), found):
                return f"a page of {origin[:100]!r} sent this request, which is another site: --allow-host NAME allows pages of that name"
        site, mode = (values.get(name, [""])[0] for name in (b"sec-fetch-site", b"sec-fetch-mode"))
        if not origins and site in ("cross-site", "same-site") and not (scope.get("method") in _READS and mode == "navigate"):
            return "the request comes from a page of another site (Sec-Fetch-Site): only links to this server and frames of it are answered"
        return ""

    def _is_own(self, origin: str, host: tuple[str, str]) -> bool:
        scheme, _, rest = origin.partition("://")
        found, usual = split_host(rest), _PORTS.get(scheme)
        if usual is None or found is None or not found[0] or not host[0]:
            return False
        return (found[0], found[1] or usual) == (host[0], host[1] or usual) or self.allows(found[0])


def split_host(text: str) -> tuple[str, str] | None:
    """Name and port ("" for none) of `NAME:PORT` or `[IPv6]:PORT`, normalized; None if it is neither."""
    found = _HOST.fullmatch(text.strip().lower())
    if found is None:
        return None
    port = (found["port"] or "").lstrip("0")
    if found["ipv6"] is None:
        return found["name"].removesuffix("."), port
    address = parse_address(found["ipv6"])
    return None if address is None else (str(address), port)


def is_loopback(name: str) -> bool:
    """Whether a host is always this machine: loopback names and addresses, and 0.0.0.0, which Linux treats as one."""
    address = parse_address(name)
    if address is not None:
        return address.is_loopback or address.is_unspecified
    return name == "localhost" or name.endswith(".localhost")


def parse_allowed(names: Sequence[str]) -> tuple[str, ...]:
    """The names of --allow-host as browsers send them; raises ConfigError for anything else."""
    parsed = []
    for text in names:
        wildcard, rest = ("*.", text[2:]) if text.startswith("*.") else ("", text)
        try:
            found = split_host(f"[{rest}]" if rest.count(":") > 1 and not rest.startswith("[") else rest.encode("idna").decode())
        except UnicodeError:
            found = None
        if found is None or not found[0] or found[1] or "*" in found[0]:
            raise ConfigError(f"--allow-host: expected a name as shop.example, or *.shop.example, without scheme or port, found {text!r}")
        parsed.append(wildcard + found[0])
    return tuple(parsed)


def host_rules(host: str, address: str, allowed: Sequence[str], environment: Mapping[str, str]) -> HostRules:
    """The rules of a server that listens on `host`, which is `address`, started in that environment."""
    names = list(parse_allowed(allowed))
    others = Others.ADDRESSES if names else Others.ALL
    if is_loopback(address) and not ipaddress.ip_address(address).is_unspecified:
        others = Others.NONE
    if any(name.startswith("COLAB_") for name in environment):
        names += COLAB
    if "JUPYTERHUB_SERVICE_PREFIX" in environment:
        hub, _ = split_host(environment.get("JUPYTERHUB_PUBLIC_URL", "").partition("://")[2].partition("/")[0]) or ("", "")
        names, others = ([*names, hub], others) if hub else (names, Others.ALL)
    return HostRules(others=others, own=host.lower(), names=tuple(names))
