"""The HTTP API: one image's answers, what the model is, and the run's plots. docs/http.md describes it."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastfashion.errors import FastfashionError, InputError
from fastfashion.evaluate.run import PLOTS
from fastfashion.serve.asgi import Receive, Scope, Send, json_body, refuse
from fastfashion.serve.errors import RefusedError
from fastfashion.serve.image_body import read_image
from fastfashion.serve.limits import BusyError
from fastfashion.untrusted import read_limited

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from fastfashion.serve.state import State

    Endpoint = Callable[[Request], Awaitable[Response]]

READ_S = 60.0  # for an image to come in
RETRY_AFTER_S = 2
TOP, MAX_TOP = "3", 100
MAX_PLOT_BYTES = 20_000_000
ADDRESSES = "there are POST /api/answer, GET /api/model and GET /run/plots/NAME.png"


def api_routes(state: "State") -> "list[Route]":
    """The routes that programs use; every other address below /api/ is a 404 that names them."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
    from starlette.routing import Route

    def _json(value: object) -> "Response":
        return Response(json_body(value), media_type="application/json")

    async def answer(request: "Request") -> "Response":
        started = time.perf_counter()
        top = request.query_params.get("top")
        if top is not None:
            _parse_top(top)
        length = request.headers.get("content-length", "")
        async with state.admit(int(length) if length.isdecimal() else None) as place:  # before the body is read, which waits outside
            async with asyncio.timeout(READ_S):
                found = await read_image(request, state.limits.image_bytes)
            wanted = _parse_top(top or found.top or TOP)
            answers = await state.answer(found.image, wanted, place)
        return _json({"answers": answers, "milliseconds": round(1000 * (time.perf_counter() - started), 1)})

    async def model(_: "Request") -> "Response":
        known = state.predictor.description
        return _json({"run": state.run.resolve().name, "model": known.model, "size": known.size, "classes": known.classes})

    async def plot(request: "Request") -> "Response":
        return Response(await run_in_threadpool(_read_plot, state.run, request.path_params["name"]), media_type="image/png")

    async def unknown(_: "Request") -> "Response":
        raise RefusedError(404, f"no such address: {ADDRESSES}")

    get, post = ("GET", "HEAD"), ("POST",)
    table: list[tuple[str, tuple[str, ...], Endpoint]] = [
        ("/api/answer", post, answer),
        ("/api/model", get, model),
        ("/run/plots/{name:path}", get, plot),
        ("/api/{rest:path}", (), unknown),
        ("/api", (), unknown),
    ]
    return [Route(path, _Endpoint(methods, endpoint)) for path, methods, endpoint in table]


class _Endpoint:
    """An ASGI application that calls a function for the methods it is meant for, and answers its exceptions; no methods: all of them."""

    def __init__(self, methods: tuple[str, ...], endpoint: "Endpoint") -> None:
        self._methods, self._endpoint = methods, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request
        from starlette.responses import Response

        method, allow = scope["method"], ", ".join([*self._methods, "OPTIONS"])
        if method == "OPTIONS" and self._methods:
            await Response(status_code=204, headers={"allow": allow})(scope, receive, send)
            return
        if self._methods and method not in self._methods:
            await refuse(send, 405, f"{method[:20]} is not for this address, {self._methods[0]} is", (b"allow", allow.encode()))
            return
        try:
            response = await self._endpoint(Request(scope, receive))
        except Exception as error:
            status, text = _status(error)
            retry = [(b"retry-after", str(RETRY_AFTER_S).encode())] if status == 503 else []
            await refuse(send, status, text, *retry)
        else:
            await response(scope, receive, send)


def _status(error: Exception) -> tuple[int, str]:
    """Status and text for an exception; raises it where it is a fault of the server."""
    from starlette.requests import ClientDisconnect

    if isinstance(error, RefusedError):
        return error.status, str(error)
    if isinstance(error, BusyError):
        return 503, str(error)
    if isinstance(error, CancelledError):
        return 503, "the server is ending"
    if isinstance(error, TimeoutError | ClientDisconnect):
        return 408, f"the image did not come within {READ_S:.0f} s"
    if isinstance(error, InputError):
        return 400, str(error)
    if isinstance(error, FastfashionError):
        return 500, str(error)
    raise error


def _read_plot(run: Path, name: str) -> bytes:
    """A plot by its name, which is looked for and never becomes a path; no link of a run from elsewhere leads out of it."""
    path = next((one for one in (run / PLOTS).glob("*.png") if one.name == name), None)
    if path is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run)):
        with suppress(OSError):
            return read_limited(path, MAX_PLOT_BYTES)
    raise RefusedError(404, "no such plot of this run")


def _parse_top(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0
    if not 1 <= number <= MAX_TOP:
        raise RefusedError(400, f"top: expected 1 to {MAX_TOP}, found {text[:40]!r}")
    return number
