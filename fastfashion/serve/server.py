"""The server: the page, the HTTP API and the run's plots in one, behind one guard.

request ─► Linger ─► Responses ─► Checks (names, password, addresses) ─► Bodies ─► Api │ Uploads │ Questions ─► the page framework
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastfashion.errors import ConfigError
from fastfashion.extras import require
from fastfashion.scratch import signals_raise
from fastfashion.serve.addresses import check_address
from fastfashion.serve.api import Api
from fastfashion.serve.asgi import App, Receive, Scope, Send
from fastfashion.serve.auth import Auth, parse_auth
from fastfashion.serve.bodies import Bodies, Linger
from fastfashion.serve.connections import protocol
from fastfashion.serve.hosts import HostRules, host_rules, is_loopback, parse_allowed
from fastfashion.serve.limits import Limits
from fastfashion.serve.questions import Questions
from fastfashion.serve.responses import Responses
from fastfashion.serve.store import Store, open_store
from fastfashion.serve.uploads import Uploads
from fastfashion.words import why

if TYPE_CHECKING:
    from fastfashion.serve.state import State

EVERYWHERE = ("", "0.0.0.0", "::")
BACKLOG = 256


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What to serve, where, and who may ask."""

    run: Path
    shards: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7860  # 0: any free one
    auth: str = field(default="", repr=False)  # user:password
    allow_host: tuple[str, ...] = ()  # names of a proxy in front
    workers: int = 1
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parse_auth(self.auth)
        parse_allowed(self.allow_host)
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port: expected 0 to 65535, found {self.port}")


def serve(request: ServeRequest, on_answering: Callable[[str], object] = lambda address: None) -> None:
    """Answer until the process is stopped; `on_answering` gets the address once it does.

    Raises InputError if the run has no model, ConfigError if the port is taken.
    """
    from fastfashion import dist
    from fastfashion.serve.state import open_state

    require("serve", "the page", "gradio")
    with signals_raise(), open_store(request.limits.stored_bytes) as store, _listen(request) as listening:
        state = open_state(request.run, dist.start().device, request.limits, shards=request.shards, workers=request.workers)
        try:
            _run(request, state, store, listening, on_answering)
        finally:
            state.close()


def _run(request: ServeRequest, state: "State", store: Store, listening: socket.socket, on_answering: Callable[[str], object]) -> None:
    os.environ |= {"GRADIO_TEMP_DIR": str(store.folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    import uvicorn

    host = "localhost" if request.host in EVERYWHERE else f"[{request.host}]" if ":" in request.host else request.host
    address, port = listening.getsockname()[:2]
    url = f"http://{host}:{port}/"
    app = build_app(request, state, store, url, host_rules(request.host, address, request.allow_host, os.environ))
    config = uvicorn.Config(
        app,
        http=protocol(),
        ws="none",
        log_level="warning",
        use_colors=False,  # they would be shown as text
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        lifespan="on",
    )
    server = uvicorn.Server(config)
    is_main = threading.current_thread() is threading.main_thread()  # no other may set signal handlers
    # uvicorn handles SIGTERM and SIGINT itself; Windows has no SIGHUP
    if is_main and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: server.handle_exit(signal.SIGTERM, frame))
    if (request.host in EVERYWHERE or not is_loopback(address)) and not request.auth:
        print("anyone who can reach this machine can use the page: --auth-file FILE requires a password", file=sys.stderr)
    print(f"{url} answers; Ctrl-C ends it", file=sys.stderr, flush=True)
    on_answering(url)
    if state.products is not None:
        state.products.start(state.run_model)
    server.run(sockets=[listening])


def build_app(request: ServeRequest, state: "State", store: Store, url: str, hosts: HostRules) -> App:
    """The ASGI application; `url` is its future address."""
    import gradio as gr
    from fastapi import FastAPI

    from fastfashion.serve.page import build_page, theme

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = build_page(state, store, url)
    gr.mount_gradio_app(
        app,
        page,
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
    page.has_launched = True  # else Gradio does not check files that a request names; mounting does not set it
    # The last one here is the first that a request meets. Names before passwords: another site's page may not even have one refused.
    layers: App = Api(Uploads(Questions(app, store, page, max(1, state.limits.queue // 2)), store), state)
    layers = Checks(Bodies(layers, state.limits), hosts.check, Auth(request.auth).check, check_address)
    return http_only(Linger(Responses(layers)), app)


class Checks:
    """Passes a request on unless a check raises RefusedError."""

    def __init__(self, app: App, *checks: Callable[[Scope], None]) -> None:
        self._app, self._checks = app, checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for check in self._checks:
            check(scope)
        await self._app(scope, receive, send)


def http_only(layers: App, app: App) -> App:
    """The application with its layers, which every HTTP request passes. Every WebSocket is closed, as there are none here."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await (layers if scope["type"] == "http" else app)(scope, receive, send)

    return answer


@contextmanager
def _listen(request: ServeRequest) -> Iterator[socket.socket]:
    """A listening socket, opened before the model is read."""
    family = socket.AF_INET6 if ":" in request.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((request.host, request.port))
            listening.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(f"{request.host}:{request.port}: cannot listen ({why(error)}); choose another --host or --port") from error
        yield listening
