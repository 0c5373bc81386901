"""A web server with one zip, which answers range requests as a test wants: rightly, or in one of the ways in which servers go wrong."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """An answer about to be sent; a fault changes it."""

    status: int
    first: int
    last: int
    total: int
    body: bytes
    etag: str
    modified: str


@dataclass
class OneZip:
    """What is served. `fault` is called with the number of a request, from 0, and its answer."""

    data: bytes
    etag: str = '"first"'
    modified: str = "Mon, 30 Nov 2026 10:00:00 GMT"
    fault: Callable[[int, Reply], object] = lambda number, reply: None
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    zip: OneZip

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        with self.zip.lock:
            number, self.zip.count = self.zip.count, self.zip.count + 1
            data = self.zip.data
            asked = self.headers.get("Range", f"bytes=0-{len(data) - 1}")
            first, last = (int(place) for place in asked.removeprefix("bytes=").split("-"))
            last = min(last, len(data) - 1)
            reply = Reply(
                206 if "Range" in self.headers else 200, first, last, len(data), data[first : last + 1], self.zip.etag, self.zip.modified
            )
            self.zip.fault(number, reply)
        self.send_response(reply.status)
        if reply.status == 206:
            self.send_header("Content-Range", f"bytes {reply.first}-{reply.last}/{reply.total}")
        for name, value in (("ETag", reply.etag), ("Last-Modified", reply.modified), ("Content-Length", str(len(reply.body)))):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(reply.body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.zip = OneZip(b"")
        super().__init__(("127.0.0.1", 0), type("Handler", (Handler,), {}))
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def serve(self, data: bytes) -> OneZip:
        """Serve another zip from now on."""
        self.zip = self.RequestHandlerClass.zip = OneZip(data)  # type: ignore[attr-defined]
        return self.zip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/set.zip"
