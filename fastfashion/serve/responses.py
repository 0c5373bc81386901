"""What all responses have in common: one shape of error, `{"error": "what is wrong, and what to do"}`, and what browsers may do with them.

docs/http.md lists the statuses.
"""

import json
from concurrent.futures import CancelledError
from http import HTTPStatus
from typing import Any

from fastfashion.errors import FastfashionError, InputError
from fastfashion.predict.semaphore import BusyError
from fastfashion.serve.asgi import JSON, App, GoneError, Message, Receive, RefusedError, Scope, Send, json_body, respond

MAX_BYTES = 65_536  # of an error's body that are read
OWN = "an internal error of the server, described in its log: report it with the request that caused it"
RETRY_AFTER = (b"retry-after", b"2")
_REPLACED = (b"content-type", b"content-length", b"content-encoding")
# Only notebooks show it in a frame of theirs: Jupyter's on this machine, and Colab's, whose cells are pages of googleusercontent.com.
FRAMES = (
    "'self' http://localhost:* http://127.0.0.1:* https://localhost:* https://colab.research.google.com https://*.googleusercontent.com"
)
# The page's files, fonts and requests are its own server's: browsers refuse all else.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    f"frame-ancestors {FRAMES}"
)
# "no-referrer" would have a form of ours say `Origin: null`, as if a foreign page had sent it (serve/hosts.py).
ADDED = ((b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))


class Responses:
    """Gives every response of status 400 and above that shape, keeping its headers, and every response the policy.

    An exception is answered by its kind; one that is a fault of the server is a 500, and is raised again for the log.
    No response permits another site to read it: the page framework's own middleware echoes origins, with credentials.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Message | None = None
        body, has_answered = bytearray(), False

        async def sent(message: Message) -> None:
            nonlocal head, has_answered
            if message["type"] == "http.response.start":
                kept = [one for one in message.get("headers", []) if not one[0].lower().startswith(b"access-control-")]
                message["headers"] = [*kept, *ADDED]
                if message["status"] >= 400:
                    head = message
                    return
            has_answered = True
            if head is None:
                await send(message)
                return
            body.extend(message.get("body", b"")[: MAX_BYTES - len(body)])
            if not message.get("more_body"):
                kept = [one for one in head["headers"] if one[0].lower() not in _REPLACED]
                await respond(send, json_body(_read(head["status"], bytes(body))), JSON, *kept, status=head["status"])

        try:
            await self._app(scope, receive, sent)
        except GoneError:
            return
        except Exception as error:
            refused = as_refused(error)
            if not has_answered:
                refusal = refused or RefusedError(500, OWN)
                await respond(send, json_body({"error": str(refusal)}), JSON, *refusal.headers, *ADDED, status=refusal.status)
            if refused is None or has_answered:
                raise  # uvicorn writes it to the log


def as_refused(error: Exception) -> RefusedError | None:
    """The response to an exception; None if it is a fault of the server."""
    match error:
        case RefusedError():
            return error
        case BusyError():
            return RefusedError(503, str(error), RETRY_AFTER)
        case CancelledError():
            return RefusedError(503, "the server is stopping", RETRY_AFTER)
        case InputError():
            return RefusedError(400, str(error))
        case FastfashionError():
            return RefusedError(500, str(error))
    return None


def _read(status: int, body: bytes) -> dict[str, Any]:
    """The reason in an error's body, as `error`, and its `detail`, which Gradio's page reads."""
    phrase = OWN if status == 500 else HTTPStatus(status).phrase if status in set(HTTPStatus) else f"status {status}"
    try:
        found = json.loads(body, parse_constant=str)  # NaN would be no JSON in our answer
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return {"error": phrase}
    detail = found.get("detail")
    if isinstance(detail, list):  # FastAPI's list of what is wrong with a request
        detail = "; ".join(f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg', '')}" for one in detail if isinstance(one, dict))
    text = next((one for one in (found.get("error"), detail) if isinstance(one, str) and one), phrase)
    return {"error": text} | ({"detail": found["detail"]} if "detail" in found else {})
