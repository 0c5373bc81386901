"""What a browser may ask the page: it may name only files that the store gave out."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qs

import msgspec

from fastfashion.errors import InputError
from fastfashion.predict.semaphore import BusyError
from fastfashion.serve.addresses import DATA, FILE, JOIN, RUN
from fastfashion.serve.asgi import EVENTS, JSON, NOT_STORED, App, Message, Receive, RefusedError, Scope, Send, client, event, respond
from fastfashion.serve.store import Store
from fastfashion.untrusted import Count, parse_json

if TYPE_CHECKING:
    import gradio as gr

GONE = "expected an upload of the last 15 minutes or an example; upload it again"
UNREAD_BYTES = 100_000_000  # of answers that no browser has fetched yet; beyond it the oldest are dropped
REPLACED = (b"content-length", b"content-type", b"transfer-encoding", b"content-encoding")
# What the page framework itself sends, but it would start a response and then break it off.
NO_SESSION = {"msg": "unexpected_error", "message": "nothing was asked in this session: reload the page", "session_not_found": True}


@dataclass(frozen=True)
class Kind:
    """What marks a file for Gradio."""

    _type: Literal["gradio.FileData"] = "gradio.FileData"


@dataclass(frozen=True)
class Named:
    """A file as the page names it, without an address to fetch it from."""

    path: str
    orig_name: str | None = None
    size: Count | None = None
    mime_type: str | None = None
    meta: Kind = field(default_factory=Kind)


@dataclass(frozen=True)
class Question:
    """What the page asks: images, or the number of an example. Nothing else reaches the page framework."""

    data: list[Named | list[Named] | Count | None]
    fn_index: Count
    session_hash: Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z-]{1,64}\Z")]
    trigger_id: Count | None = None

    def files(self) -> list[Named]:
        return [file for value in self.data for file in (value if isinstance(value, list) else [value]) if isinstance(file, Named)]


class Questions:
    """Passes on requests whose files are all known to the store, and only the parts that were checked."""

    def __init__(self, app: App, store: Store, page: "gr.Blocks", max_waiting: int) -> None:
        self._app, self._store, self._page, self._max_waiting = app, store, page, max_waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path.startswith(FILE) and self._store.known(path.removeprefix(FILE)) is None:
            raise RefusedError(404, "no such file here")
        if path == DATA:
            sessions = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
            if sessions and sessions[-1] not in self._page._queue.pending_messages_per_session:
                await respond(send, event({**NO_SESSION, "success": False}), EVENTS, NOT_STORED)
                return
        if path in (JOIN, RUN):
            asked = self._check(await _whole(receive))
            if path == JOIN and self._waiting(client(scope)) >= self._max_waiting:
                raise BusyError(f"{self._max_waiting} questions of this address are waiting: try again in a moment")
            drop_unread(self._page, UNREAD_BYTES)
            scope, receive = _with_body(scope, msgspec.json.encode(asked), receive)
        await self._app(scope, receive, send)

    def _check(self, body: bytes) -> Question:
        asked = parse_json(body, Question, "a question of the page", InputError, "reload the page")
        if asked.fn_index not in self._page.fns:
            raise InputError(f"fn_index {asked.fn_index}: the page has no such function; reload it")
        wanted = self._page.fns[asked.fn_index].inputs
        if len(asked.data) != len(wanted) or not all(map(_fits, wanted, asked.data)):
            raise InputError("data: not what this function of the page takes; reload it")
        for file in asked.files():
            if self._store.known(file.path) is None:
                raise InputError(f"{file.path[:200]!r}: {GONE}")
        return asked

    def _waiting(self, address: str) -> int:
        events = list(self._page._queue.event_ids_to_events.values())
        return sum(client(event.request.scope) == address for event in events)


def _fits(component: Any, value: Named | list[Named] | int | None) -> bool:
    """Whether a component takes this: the number of an example, a list of files, or one file."""
    samples = getattr(component, "raw_samples", None)
    if samples is not None:
        return isinstance(value, int) and value < len(samples)
    return value is None or isinstance(value, list if getattr(component, "file_count", "") == "multiple" else Named)


def drop_unread(page: "gr.Blocks", max_bytes: int) -> None:
    """Bound the answers that sessions never fetch, which the page framework keeps forever: drop the oldest beyond `max_bytes`."""
    left = max_bytes
    for messages in reversed(page._queue.pending_messages_per_session.values()):
        left -= sum(_num_bytes(message) for message in messages._queue)
        while left < 0 and not messages.empty():
            left += _num_bytes(messages.get_nowait())


def _num_bytes(message: Any) -> int:
    shown = (getattr(message, "output", None) or {}).get("data") or []
    return 500 + sum(len(text) for text in shown if isinstance(text, str))


async def _whole(receive: Receive) -> bytes:
    data, more = bytearray(), True
    while more:
        message = await receive()
        data += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(data)


def _with_body(scope: Scope, body: bytes, receive: Receive) -> tuple[Scope, Receive]:
    """The request with the body that was checked, as two readers of JSON may differ about a doubled key."""
    kept = [one for one in scope["headers"] if one[0] not in REPLACED]
    headers = [*kept, JSON, (b"content-length", str(len(body)).encode())]
    message: dict[str, Any] | None = {"type": "http.request", "body": body, "more_body": False}

    async def received() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        ready, message = message, None
        return ready

    return {**scope, "headers": headers}, received
