"""The server: the page, the HTTP API and the run's plots in one, behind one guard.

request ─► Guard (password, size, room) ─► api/answer │ run/plots │ Gradio's page
"""

import asyncio
import importlib.util
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastfashion.errors import ConfigError, FastfashionError, InputError
from fastfashion.evaluate.run import PLOTS
from fastfashion.serve.limits import BusyError, Guard, Limits, parse_auth
from fastfashion.words import why

if TYPE_CHECKING:
    from fastfashion.serve.state import State

LOOPBACK, EVERYWHERE = ("127.0.0.1", "localhost", "::1"), ("0.0.0.0", "::")
READ_S = 60.0  # for a picture to come in
BACKLOG = 256
RETRY_AFTER_S = 2
MAX_TOP = 100


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What to serve, where, to whom."""

    run: Path
    shards: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7860  # 0: any free one
    auth: str = ""  # user:password
    workers: int = 1
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parse_auth(self.auth)
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port: expected 0 to 65535, found {self.port}")


def serve(request: ServeRequest) -> None:
    """Answer until the process is told to stop. Raises InputError where the run has no model, ConfigError where the port is taken."""
    from fastfashion import dist
    from fastfashion.serve.state import open_state

    _check_gradio()
    with tempfile.TemporaryDirectory(prefix="fastfashion-serve-") as folder, _listen(request) as listening:
        state = open_state(request.run, dist.start().device, request.limits, shards=request.shards, workers=request.workers)
        try:
            _run(request, state, Path(folder), listening)
        finally:
            state.close()


def _run(request: ServeRequest, state: "State", store: Path, listening: socket.socket) -> None:
    os.environ |= {"GRADIO_TEMP_DIR": str(store), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    import uvicorn

    host = "localhost" if request.host in EVERYWHERE else f"[{request.host}]" if ":" in request.host else request.host
    url = f"http://{host}:{listening.getsockname()[1]}/"
    app = build_app(request, state, store, url)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_keep_alive=30, timeout_graceful_shutdown=3, lifespan="on"))
    if request.host not in LOOPBACK and not request.auth:
        print("anyone who reaches this machine can ask: --auth user:password keeps others out", file=sys.stderr)
    print(f"{url} answers; Ctrl-C ends it", file=sys.stderr, flush=True)
    if state.products is not None:
        state.products.start(state.run_model)
    server.run(sockets=[listening])


def build_app(request: ServeRequest, state: "State", store: Path, url: str) -> Guard:
    """The ASGI application; `url` is where it will be."""
    import gradio as gr
    from fastapi import FastAPI

    from fastfashion.serve.page import build_page, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_api(app, state)
    gr.mount_gradio_app(
        app,
        build_page(state, store, url),
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=request.limits.request_bytes,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css_paths=Path(__file__).with_name("page.css"),
        allowed_paths=[],
    )
    return Guard(app, request.limits, store, request.auth)


def _add_api(app: Any, state: "State") -> None:
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


@contextmanager
def _listen(request: ServeRequest) -> Iterator[socket.socket]:
    """A socket at the address, taken before the model is read."""
    family = socket.AF_INET6 if ":" in request.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((request.host, request.port))
            listening.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"{request.host}:{request.port}: cannot listen there ({why(error)}); choose another --host or --port"
            ) from error
        yield listening


def _check_gradio() -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("the page needs Gradio: pip install 'fastfashion[serve]'")
