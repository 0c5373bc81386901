"""The HTTP API: one image's answers, what the model is, and the run's plots. docs/http.md describes it."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastfashion.runs.files import PLOTS as PLOTS_FOLDER
from fastfashion.serve.addresses import ANSWER, PLOTS, is_own
from fastfashion.serve.asgi import App, Receive, RefusedError, Scope, Send, json_body
from fastfashion.serve.image_body import read_image
from fastfashion.untrusted import read_limited

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from fastfashion.serve.state import State

READ_S = 60.0  # for an image to arrive
TOP, MAX_TOP = "3", 100
MAX_PLOT_BYTES = 20_000_000
ADDRESSES = "there are POST /api/answer, GET /api/model and GET /run/plots/NAME.png"
READS = ("GET", "HEAD")


class Api:
    """Answers requests to the HTTP API; passes others on to the page."""

    def __init__(self, app: App, state: "State") -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_own(scope["path"]):
            await self._app(scope, receive, send)
            return
        from starlette.requests import Request
        from starlette.responses import Response

        methods, endpoint = self._find(scope["path"])
        method, allow = scope["method"], ", ".join([*methods, "OPTIONS"])
        if method == "OPTIONS":
            response = Response(status_code=204, headers={"allow": allow})
        elif method in methods:
            response = await endpoint(Request(scope, receive))
        else:
            raise RefusedError(405, f"{method[:20]} is not for this address, {methods[0]} is", (b"allow", allow.encode()))
        await response(scope, receive, send)

    def _find(self, path: str) -> "tuple[tuple[str, ...], Callable[[Request], Awaitable[Response]]]":
        """The methods that an address takes, and what answers it."""
        if path == ANSWER:
            return ("POST",), self._answer
        if path == "/api/model":
            return READS, self._model
        if f"{path}/".startswith(PLOTS):
            return READS, self._plot
        raise RefusedError(404, f"no such address: {ADDRESSES}")

    async def _answer(self, request: "Request") -> "Response":
        started = time.perf_counter()
        top = request.query_params.get("top")
        if top is not None:
            _parse_top(top)
        length = request.headers.get("content-length", "")
        async with self._state.admit(int(length) if length.isdecimal() else None) as place:  # before the body is read
            try:
                async with asyncio.timeout(READ_S):
                    found = await read_image(request, self._state.limits.image_bytes)
            except TimeoutError:
                raise RefusedError(408, f"the image did not arrive within {READ_S:.0f} s") from None
            wanted = _parse_top(top or found.top or TOP)
            answers = await self._state.answer(found.image, wanted, place)
        return _json({"answers": answers, "milliseconds": round(1000 * (time.perf_counter() - started), 1)})

    async def _model(self, _: "Request") -> "Response":
        known = self._state.predictor.description
        return _json({"run": self._state.run.resolve().name, "model": known.model, "size": known.size, "classes": known.classes})

    async def _plot(self, request: "Request") -> "Response":
        from starlette.responses import Response

        name = request.scope["path"].removeprefix(PLOTS)
        return Response(await asyncio.to_thread(_read_plot, self._state.run, name), media_type="image/png")


def _json(value: object) -> "Response":
    from starlette.responses import Response

    return Response(json_body(value), media_type="application/json")


def _read_plot(run: Path, name: str) -> bytes:
    """A plot by its name, which is looked for and never becomes a path; no link in a run leads out of it."""
    path = next((one for one in (run / PLOTS_FOLDER).glob("*.png") if one.name == name), None)
    if path is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run)):
        with suppress(OSError):
            return read_limited(path, MAX_PLOT_BYTES)
    raise RefusedError(404, "no such plot of this run")


def _parse_top(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0
    if not 1 <= number <= MAX_TOP:
        raise RefusedError(400, f"top: expected 1 to {MAX_TOP}, found {text[:40]!r}")
    return number
