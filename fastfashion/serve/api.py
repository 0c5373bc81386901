"""The HTTP API: one image's answers, what the model is, and the run's plots."""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastfashion.errors import FastfashionError, InputError
from fastfashion.evaluate.run import PLOTS
from fastfashion.serve.limits import BusyError

if TYPE_CHECKING:
    from fastfashion.serve.state import State

READ_S = 60.0  # for a picture to come in
RETRY_AFTER_S = 2
MAX_TOP = 100


def add_api(app: Any, state: "State") -> None:
    """Add the routes that programs use to a FastAPI application."""
    from fastapi import Request
    from fastapi.responses import FileResponse, JSONResponse
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect

    def refuse(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers=headers)

    async def answer(request: Request) -> JSONResponse:
        started = time.perf_counter()
        top = request.query_params.get("top", "3")
        if not (top.isdecimal() and 1 <= int(top) <= MAX_TOP):
            return refuse(400, f"top: expected 1 to {MAX_TOP}, found {top!r}")
        try:
            with state.gate.enter():  # before the body is read, so that no more of them are in memory
                async with asyncio.timeout(READ_S):
                    data = await _read(request, state.limits.picture_bytes)
                answers = await run_in_threadpool(state.answer, data, int(top))
        except BusyError as error:
            return refuse(503, str(error), {"retry-after": str(RETRY_AFTER_S)})
        except _TooLargeError as error:
            return refuse(413, str(error))
        except FastfashionError as error:
            return refuse(400, str(error))
        except (TimeoutError, ClientDisconnect):
            return refuse(408, f"the picture did not come within {READ_S} s")
        return JSONResponse({"answers": answers, "milliseconds": round(1000 * (time.perf_counter() - started), 1)})

    async def model() -> JSONResponse:
        known = state.predictor.description
        return JSONResponse({"run": state.run.resolve().name, "model": known.model, "size": known.size, "classes": known.classes})

    async def plot(name: str) -> Any:
        path = state.run / PLOTS / name
        if "/" in name or path.suffix != ".png" or not path.is_file():
            return refuse(404, "no such plot")
        return FileResponse(path, media_type="image/png")

    app.add_api_route("/api/answer", answer, methods=["POST"], response_model=None)
    app.add_api_route("/api/model", model, methods=["GET"], response_model=None)
    app.add_api_route("/run/plots/{name}", plot, methods=["GET"], response_model=None)


class _TooLargeError(InputError):
    """A body of more bytes than a picture may have."""


async def _read(request: Any, max_bytes: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > max_bytes:
            raise _TooLargeError(f"more than the {max_bytes / 1e6:.0f} MB that a picture may have here")
    return bytes(data)
