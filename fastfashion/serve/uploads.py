"""Uploads of the page: written into the store as they arrive. The page framework's own uploads leave files behind when they are cut off."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import parse_qs

from fastfashion.errors import InputError
from fastfashion.predict.semaphore import BusyError
from fastfashion.serve.addresses import PROGRESS, UPLOAD
from fastfashion.serve.asgi import EVENTS, JSON, NOT_STORED, App, Receive, Scope, Send, client, event, header, json_body, respond
from fastfashion.serve.store import Kept, Store

MAX_FILES = 1000  # of one upload; a batch has its own limit, which the page shows
TICK_S, APPEARS_S = 0.2, 1.0


class Uploads:
    """Answers the addresses for uploads and their progress."""

    def __init__(self, app: App, store: Store) -> None:
        self._app, self._store = app, store
        self._in_progress: dict[str, _Parts] = {}  # by the id that the page gave its upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == UPLOAD:
            await respond(send, json_body(await self._upload(scope, receive)), JSON)
        elif scope["path"] == PROGRESS:
            await self._progress(_upload_id(scope), send)
        else:
            await self._app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive) -> list[str]:
        """The paths of the files, which are in the store once all of them are complete. Raises InputError and BusyError."""
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(header(scope, b"content-type"))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InputError("an upload: expected multipart/form-data")
        parts, name = _Parts(self._store, client(scope), parse_options_header), _upload_id(scope)
        self._in_progress[name] = parts
        try:
            parser = MultipartParser(options[b"boundary"], parts.callbacks())  # type: ignore[arg-type]
            more = True
            while more:
                message = await receive()
                await asyncio.to_thread(parser.write, message["body"])
                more = message["more_body"]
            if not parts.ended:
                raise InputError("the upload is incomplete: send it again")
            kept, parts.kept = parts.kept, []
            return [str(self._store.finish(one)) for one in kept]
        except FormParserError as error:
            raise InputError(f"the upload is malformed: {error}") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BusyError(f"no room for uploads on the server's disk: {error.strerror}") from error
            raise
        finally:
            self._in_progress.pop(name, None)
            await asyncio.to_thread(parts.drop)

    async def _progress(self, name: str, send: Send) -> None:
        """How far an upload is, as the page's bar expects it."""
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS, NOT_STORED]})
        shown, waited_s = 0, 0.0
        while name in self._in_progress or (not shown and waited_s < APPEARS_S):
            parts = self._in_progress.get(name)
            if parts is not None and parts.num_bytes > shown:
                update = {"msg": "update", "orig_name": parts.name, "chunk_size": parts.num_bytes - shown}
                shown = parts.num_bytes
                await send({"type": "http.response.body", "body": event(update), "more_body": True})
            await asyncio.sleep(TICK_S)
            waited_s += TICK_S
        await send({"type": "http.response.body", "body": event({"msg": "done"})})


class _Parts:
    """The files of one upload, written one after the other; other fields are dropped."""

    def __init__(self, store: Store, address: str, options_of: Callable[..., tuple[bytes, dict[bytes, bytes]]]) -> None:
        self._store, self._address, self._options_of = store, address, options_of
        self.kept: list[Kept] = []
        self.name, self.num_bytes, self.ended = "", 0, False
        self._file: BinaryIO | None = None
        self._field, self._value = bytearray(), bytearray()
        self._disposition = b""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        names = ("header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end", "end")
        return {f"on_{name}": getattr(self, f"_on_{name}") for name in names}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        _, options = self._options_of(self._disposition)
        self._disposition = b""
        if b"filename" not in options:
            return
        if len(self.kept) >= MAX_FILES:
            raise InputError(f"more than {MAX_FILES} files: send fewer in one upload")
        self.name = options[b"filename"].decode(errors="replace")
        kept = self._store.add(_safe_name(self.name), self._address)
        self.kept.append(kept)
        self._file = kept.path.open("xb")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._store.grow(self.kept[-1], end - start)
            self._file.write(memoryview(data)[start:end])
            self.num_bytes += end - start

    def _on_part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _on_end(self) -> None:
        self.ended = True

    def drop(self) -> None:
        """Remove the files of an upload that was not answered."""
        self._on_part_end()
        for kept in self.kept:
            self._store.remove(kept)


def _safe_name(name: str) -> str:
    from gradio_client.utils import strip_invalid_filename_characters  # type: ignore[import-untyped]

    safe: str = strip_invalid_filename_characters(PurePosixPath(name.replace("\\", "/")).name)
    return safe if safe.strip(".") else "file"


def _upload_id(scope: Scope) -> str:
    return parse_qs(scope["query_string"].decode("latin-1")).get("upload_id", [""])[0][:64]
