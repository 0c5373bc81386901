"""Name and password of those who may ask."""

import base64
import hmac

from fastfashion.errors import ConfigError
from fastfashion.serve.asgi import App, Receive, Scope, Send, header, refuse


class Auth:
    """Lets nobody through who does not know `user:password`."""

    def __init__(self, app: App, auth: str) -> None:
        self._app, self._auth = app, auth.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._auth and not self._knows(header(scope, b"authorization")):
            await refuse(send, 401, "name and password, please", (b"www-authenticate", b'Basic realm="fastfashion", charset="UTF-8"'))
            return
        await self._app(scope, receive, send)

    def _knows(self, header: bytes) -> bool:
        kind, _, value = header.partition(b" ")
        try:
            given = base64.b64decode(value, validate=True) if kind.lower() == b"basic" else b""
        except ValueError:
            return False
        return hmac.compare_digest(given, self._auth)


def parse_auth(text: str) -> str:
    """`user:password` as it is; raises ConfigError for anything else."""
    user, colon, password = text.partition(":")
    if text and not (user and colon and password):
        raise ConfigError("--auth: expected user:password, both of at least one character")
    return text
