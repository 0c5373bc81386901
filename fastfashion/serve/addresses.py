"""The addresses that the page and the HTTP API use. Every other one is a 404, even if the page framework has it."""

from fastfashion.serve.asgi import RefusedError, Scope
from fastfashion.serve.limits import Limits

PAGE_API = "/gradio_api"
UPLOAD, PROGRESS = f"{PAGE_API}/upload", f"{PAGE_API}/upload_progress"
JOIN, RUN, FILE = f"{PAGE_API}/queue/join", f"{PAGE_API}/run/predict", f"{PAGE_API}/file="
DATA = f"{PAGE_API}/queue/data"
ANSWER, PLOTS = "/api/answer", "/run/plots/"
POSTS = (JOIN, RUN, UPLOAD)
READS = ("/", "/theme.css", "/favicon.ico", "/manifest.json", DATA, f"{PAGE_API}/app_id", PROGRESS)
FOLDERS = ("/assets/", "/static/", FILE)
OWN = ("/api/", PLOTS)  # of the HTTP API, which refuses by itself
MAX_PATH, MAX_NAME = 2048, 256  # no file has a longer name, and the system's error for it would be a 500
JSON_BYTES = 1_000_000  # of a question that the page asks: paths of uploads


def is_own(path: str) -> bool:
    """Whether the HTTP API answers there."""
    return f"{path}/".startswith(OWN)


def check_address(scope: Scope) -> None:
    """Raises RefusedError for what neither the page nor the HTTP API uses."""
    if is_own(scope["path"]):
        return
    methods = _methods(scope["path"])
    if not methods:
        raise RefusedError(404, "nothing here: the page is at /, the HTTP API at /api/")
    if scope["method"] not in methods:
        allow = (b"allow", ", ".join(methods).encode())
        raise RefusedError(405, f"{scope['method']}: expected {' or '.join(methods)}", allow)


def _methods(path: str) -> tuple[str, ...]:
    if path in POSTS:
        return ("POST",)
    is_file = path.startswith(FOLDERS) and len(path) < MAX_PATH and all(len(name.encode()) < MAX_NAME for name in path.split("/"))
    return ("GET", "HEAD") if path in READS or is_file else ()


def body_bytes(path: str, limits: Limits) -> int:
    """How large a request's body may be there; 0 if none is read."""
    if path == UPLOAD:
        return limits.request_bytes
    if path == ANSWER:  # in JSON an image is a third larger
        return limits.image_bytes * 4 // 3 + JSON_BYTES
    return JSON_BYTES if path in POSTS else 0
