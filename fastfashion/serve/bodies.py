"""The bodies of requests: how large one may be, and whether there is room for more uploads."""

from pathlib import Path

from fastfashion.serve.asgi import App, Message, Receive, Scope, Send, content_length, refuse
from fastfashion.serve.limits import Limits


class Bodies:
    """Refuses a body that is too large, and uploads where there is no room."""

    def __init__(self, app: App, limits: Limits, store: Path) -> None:
        self._app, self._limits, self._store = app, limits, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.request_bytes
        too_large = f"a request of more than {limit / 1e6:.0f} MB: send fewer pictures at once, or smaller ones"
        if content_length(scope) > limit:
            await refuse(send, 413, too_large)
            return
        if scope["path"].endswith("/upload") and _folder_bytes(self._store) > self._limits.stored_bytes:
            await refuse(send, 503, "no room for more uploads: try again in a few minutes")
            return
        await self._app(scope, _counting(receive, limit), send)


def _counting(receive: Receive, limit: int) -> Receive:
    """A body whose length nobody announced ends where it is too long, as if the client had gone."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > limit else message

    return counted


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
