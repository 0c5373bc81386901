"""One shape of error for the whole server: `{"error": "what is wrong, and what to do"}`. docs/http.md lists the statuses."""

import json
from http import HTTPStatus
from typing import Any

from fastfashion.errors import FastfashionError
from fastfashion.serve.asgi import App, Message, Receive, Scope, Send, refuse

MAX_BYTES = 65_536  # of an error's own body that are looked at
OWN = "an error of the server itself, which its log describes: report it with the request that led to it"
_REPLACED = (b"content-type", b"content-length", b"content-encoding")


class RefusedError(FastfashionError):
    """A request that is answered with this status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Errors:
    """Gives every answer of status 400 and above the shape, keeping its headers; an exception is a 500, and is logged."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head: Message | None = None
        body, has_answered = bytearray(), False

        async def sent(message: Message) -> None:
            nonlocal head, has_answered
            if message["type"] == "http.response.start" and message["status"] >= 400:
                head = message
                return
            has_answered = True
            if head is None:
                await send(message)
                return
            body.extend(message.get("body", b"")[: MAX_BYTES - len(body)])
            if message.get("more_body"):
                return
            kept = [(name, value) for name, value in head.get("headers", []) if name.lower() not in _REPLACED]
            text, more = _read(head["status"], bytes(body))
            await refuse(send, head["status"], text, *kept, **more)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            if not has_answered:
                await refuse(send, 500, OWN)
            raise  # uvicorn writes it to the log


def _read(status: int, body: bytes) -> tuple[str, dict[str, Any]]:
    """What an error's body says, and what else it keeps: Gradio's page reads `detail`."""
    phrase = OWN if status == 500 else HTTPStatus(status).phrase if status in set(HTTPStatus) else f"status {status}"
    try:
        found = json.loads(body, parse_constant=str)  # NaN would be no JSON in our answer
    except (ValueError, RecursionError):
        return phrase, {}
    if not isinstance(found, dict):
        return phrase, {}
    detail = found.get("detail")
    more = {"detail": detail} if "detail" in found else {}
    if isinstance(detail, list):  # FastAPI's list of what is wrong with a request
        detail = "; ".join(f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg', '')}" for one in detail if isinstance(one, dict))
    text = next((one for one in (found.get("error"), detail) if isinstance(one, str) and one), phrase)
    return text, more
