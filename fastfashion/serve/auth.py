"""Name and password of permitted users: where they are set, and how guessing is slowed down."""

import base64
import hmac
import math
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from pathlib import Path

from fastfashion.errors import ConfigError
from fastfashion.serve.asgi import RefusedError, Scope, client, header
from fastfashion.untrusted import read_limited

VARIABLE = "FASTFASHION_AUTH"
FREE, MAX_WAIT_S, FORGET_S, MAX_ADDRESSES = 5, 60.0, 900.0, 4096
MAX_FILE_BYTES = 4096
REALM = (b"www-authenticate", b'Basic realm="fastfashion", charset="UTF-8"')


class Auth:
    """Refuses requests without `user:password`; an address that sent wrong ones waits before the next is checked."""

    def __init__(self, auth: str) -> None:
        self._auth, self._failures = auth.encode(), Failures()

    def check(self, scope: Scope) -> None:
        """Raises RefusedError without the right password, and too soon after several wrong ones; without a password lets all through."""
        given, address = header(scope, b"authorization"), client(scope)
        if not self._auth:
            return
        if given and (wait_s := math.ceil(self._failures.wait_s(address))):
            text = f"too many wrong passwords came from this address: try again in {wait_s} s"
            raise RefusedError(429, text, (b"retry-after", str(wait_s).encode()))
        if not self._knows(given):
            if given:
                self._failures.add(address)
            raise RefusedError(401, "expected a name and a password: curl --user NAME:PASSWORD", REALM)
        self._failures.forget(address)

    def _knows(self, header: bytes) -> bool:
        kind, _, value = header.partition(b" ")
        try:
            given = base64.b64decode(value, validate=True) if kind.lower() == b"basic" else b""
        except ValueError:
            return False
        return hmac.compare_digest(given, self._auth)


class Failures:
    """How often addresses failed lately. After FREE failures each further one doubles the wait, from 1 s to MAX_WAIT_S.

    Keeps the last MAX_ADDRESSES that failed, each for FORGET_S after its last failure.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._failed = clock, OrderedDict[str, tuple[int, float]]()  # address -> how often, when last

    def wait_s(self, address: str) -> float:
        """Seconds until the next password of the address is checked, 0 for none."""
        count, last = self._failed.get(address, (0, 0.0))
        passed = self._clock() - last
        if passed > FORGET_S:
            self.forget(address)
            return 0
        wait_s = min(MAX_WAIT_S, 2.0 ** (count - FREE)) if count >= FREE else 0
        return max(0.0, wait_s - passed)

    def add(self, address: str) -> None:
        count, _ = self._failed.pop(address, (0, 0.0))
        self._failed[address] = (min(count + 1, FREE + 10), self._clock())
        if len(self._failed) > MAX_ADDRESSES:
            self._failed.popitem(last=False)

    def forget(self, address: str) -> None:
        self._failed.pop(address, None)


def find_auth(auth: str | None, file: Path | None, environment: MutableMapping[str, str], say: Callable[[str], None]) -> str:
    """`user:password` of --auth, the first line of a file, or FASTFASHION_AUTH, which is taken out of the environment; "" for none.

    Raises ConfigError for anything else, and for a file that others may write; warns of one that they may read.
    """
    variable = environment.pop(VARIABLE, None)
    if auth is not None and file is not None:
        raise ConfigError("--auth and --auth-file: use only one of them")
    if file is not None:
        return _read_auth(file, say)
    for where, found in (("--auth", auth), (VARIABLE, variable)):
        if found is not None:
            return parse_auth(found, where, may_be_empty=False)
    return ""


def _read_auth(file: Path, say: Callable[[str], None]) -> str:
    if not file.exists():
        raise ConfigError(f"--auth-file {file}: no such file; its first line is user:password")
    try:
        lines = read_limited(file, MAX_FILE_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: expected user:password in UTF-8 ({error})") from error
    mode = file.stat().st_mode
    if mode & stat.S_IWOTH:
        raise ConfigError(f"{file}: anyone on this machine may write to it: chmod 600 {file}")
    if mode & stat.S_IROTH:
        say(f"{file}: anyone on this machine may read it: chmod 600 {file}")
    return parse_auth(lines[0] if lines else "", f"{file}, first line", may_be_empty=False)


def parse_auth(text: str, where: str = "--auth", *, may_be_empty: bool = True) -> str:
    """`user:password` as it is; raises ConfigError for anything else."""
    user, colon, password = text.partition(":")
    if not (user and colon and password) and (text or not may_be_empty):
        raise ConfigError(f"{where}: expected user:password, both of at least one character")
    return text
