"""The addresses that the page and the HTTP API use. Every other one is answered with 404, whatever the page framework would do there."""

from fastfashion.serve.asgi import App, Receive, Scope, Send, refuse
from fastfashion.serve.limits import Limits

PAGE_API = "/gradio_api"
UPLOAD, PROGRESS = f"{PAGE_API}/upload", f"{PAGE_API}/upload_progress"
JOIN, RUN, FILE = f"{PAGE_API}/queue/join", f"{PAGE_API}/run/predict", f"{PAGE_API}/file="
DATA = f"{PAGE_API}/queue/data"
ANSWER = "/api/answer"
POSTS = (JOIN, RUN, UPLOAD)
READS = ("/", "/theme.css", "/favicon.ico", "/manifest.json", DATA, f"{PAGE_API}/app_id", PROGRESS)
FOLDERS = ("/assets/", "/static/", FILE)
OWN = ("/api/", "/run/plots/")  # of the HTTP API, which answers for itself
MAX_PATH, MAX_NAME = 2048, 256  # a longer name is no file's, and the system's error for it would be a 500
JSON_BYTES = 1_000_000  # of a question of the page: paths of uploads


class Routes:
    """Lets through what the page uses."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] == "http" and not f"{scope['path']}/".startswith(OWN):
            methods = _methods(scope["path"])
            if not methods:
                await refuse(send, 404, "nothing here: the page is at /, the HTTP API at /api/")
                return
            if scope["method"] not in methods:
                await refuse(send, 405, f"{scope['method']}: expected {' or '.join(methods)}", (b"allow", ", ".join(methods).encode()))
                return
        await self._app(scope, receive, send)


def _methods(path: str) -> tuple[str, ...]:
    if path in POSTS:
        return ("POST",)
    is_file = path.startswith(FOLDERS) and len(path) < MAX_PATH and all(len(name.encode()) < MAX_NAME for name in path.split("/"))
    return ("GET", "HEAD") if path in READS or is_file else ()


def body_bytes(path: str, limits: Limits) -> int:
    """How large a request's body may be there; 0 where none is read."""
    if path == UPLOAD:
        return limits.request_bytes
    if path == ANSWER:  # in JSON an image is a third larger
        return limits.image_bytes * 4 // 3 + JSON_BYTES
    return JSON_BYTES if path in POSTS else 0
