"""The server: the page, the HTTP API and the run's plots in one, behind one guard.

request ─► guard.py (its layers in order) ─► the HTTP API │ Gradio's page
"""

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastfashion.errors import ConfigError
from fastfashion.scratch import signals_raise
from fastfashion.serve.asgi import App
from fastfashion.serve.auth import parse_auth
from fastfashion.serve.connections import protocol
from fastfashion.serve.guard import guarded
from fastfashion.serve.hosts import HostRules, host_rules, is_loopback, parse_allowed
from fastfashion.serve.limits import Limits
from fastfashion.serve.store import Store, is_main, open_store
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

    _check_gradio()
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
    if is_main() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # uvicorn handles SIGTERM and SIGINT itself
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
    return guarded(app, page, state, store, request.auth, hosts)


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


def _check_gradio() -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("the page needs Gradio: pip install 'fastfashion[serve]'")
