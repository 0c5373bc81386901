"""Kaggle and its storage on loopback, reached as the real ones are: by their names, over TLS, through the proxy in $HTTPS_PROXY.

So the code under test is the shipped one, kaggle's package included; only documented variables of the environment point it here.
"""

import json
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

API, STORAGE = "api.kaggle.com", "storage.googleapis.com"


def write_certificate(folder: Path) -> Path:
    """A certificate, with its key, for the names of Kaggle and its storage, which signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(API), x509.DNSName(STORAGE)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "loopback.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass
class Seen:
    """A request that arrived."""

    host: str
    path: str
    body: Any
    authorization: str | None
    range: str | None


@dataclass
class Kaggle:
    """What the server does; tests set it. Each fault is for one request for the archive, in turn."""

    archive: bytes = b""
    etag: str | None = '"first"'
    length: int | str | None = None  # what it says the archive has, where that is a lie; 0: it does not say
    moved: dict[str, str] = field(default_factory=dict)  # path of the storage -> where it redirects to
    content_range: str = ""  # of the rest, where that is a lie
    status: int = 200  # of the request to Kaggle
    page: bytes = b""  # a web page in place of an answer
    accepts: tuple[str, ...] | None = None  # values of the Authorization header; None: anybody
    tokens: tuple[str, ...] = ()  # that are known
    faults: list[Callable[["Handler", bytes], None] | None] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def fetched(self) -> list[str | None]:
        """Range of each request to the storage."""
        return [seen.range for seen in self.seen if seen.host == STORAGE]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kaggle: Kaggle
    tls: ssl.SSLContext
    host = ""

    def log_message(self, *args: Any) -> None: ...

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.host = self.path.partition(":")[0]
        self.request = self.tls.wrap_socket(self.connection, server_side=True)
        self.setup()
        self.close_connection = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note(body)
        assert self.host == API
        if self.path.endswith("/IntrospectToken"):
            known = body["token"] in self.kaggle.tokens
            self._json(200 if known else 400, {"active": True, "username": "somebody"} if known else {"code": 400, "message": "bad token"})
        elif self.kaggle.page:
            self._send(200, self.kaggle.page, {"Content-Type": "text/html; charset=utf-8"})
        elif self.kaggle.status != 200:
            self._json(self.kaggle.status, {"code": self.kaggle.status, "message": f"says {self.kaggle.status}"})
        elif self.kaggle.accepts is not None and self.headers.get("Authorization") not in self.kaggle.accepts:
            self._json(401, {"code": 401, "message": "Unauthenticated"})
        else:
            assert self.path == "/v1/datasets.DatasetApiService/DownloadDataset"
            place = f"https://{STORAGE}/{body['ownerSlug']}/{body['datasetSlug']}.zip?signature=secret"
            self._send(302, b"", {"Location": place})

    def do_GET(self) -> None:
        self._note(None)
        assert self.host == STORAGE
        if place := self.kaggle.moved.get(self.path.partition("?")[0]):
            self._send(302, b"", {"Location": place})
            return
        data, status = self.kaggle.archive, 200
        headers = {"Content-Type": "application/zip", "Accept-Ranges": "bytes"} | ({"ETag": self.kaggle.etag} if self.kaggle.etag else {})
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") in (None, self.kaggle.etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            headers["Content-Range"] = self.kaggle.content_range or headers["Content-Range"]
            data, status = data[start:], 206
        if self.kaggle.length != 0:
            headers["Content-Length"] = str(self.kaggle.length or len(data))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        fault = self.kaggle.faults.pop(0) if self.kaggle.faults else None
        if fault:
            fault(self, data)
        else:
            self.wfile.write(data)
        self.close_connection = True

    def _note(self, body: Any) -> None:
        self.kaggle.seen.append(Seen(self.host, self.path, body, self.headers.get("Authorization"), self.headers.get("Range")))

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def cut_after(num_bytes: int) -> Callable[[Handler, bytes], None]:
    return lambda handler, data: handler.wfile.write(data[:num_bytes])


def silent_after(num_bytes: int, ended: threading.Event) -> Callable[[Handler, bytes], None]:
    """The connection stays open, and nothing comes any more until the test ends."""

    def fault(handler: Handler, data: bytes) -> None:
        handler.wfile.write(data[:num_bytes])
        ended.wait(60)

    return fault


def drip(handler: Handler, data: bytes) -> None:
    """A byte at a time, a little apart."""
    for at in range(len(data)):
        handler.wfile.write(data[at : at + 1])
        time.sleep(0.01)


def without_end(num_bytes: int) -> Callable[[Handler, bytes], None]:
    """More and more, until the other end closes; `num_bytes` is where even that ends."""

    def fault(handler: Handler, data: bytes) -> None:
        for _ in range(0, num_bytes, 1 << 16):
            handler.wfile.write(bytes(1 << 16))

    return fault


def slowly(pieces: int, pause_s: float) -> Callable[[Handler, bytes], None]:
    def fault(handler: Handler, data: bytes) -> None:
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            handler.wfile.write(data[start : start + size])
            time.sleep(pause_s)

    return fault


def client_environment(home: Path, port: int, certificate: Path) -> dict[str, str]:
    """This process's environment, without what it may have of Kaggle's, and with the way to the server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_") and "proxy" not in name.lower()}
    own = {"HOME": str(home), "XDG_CONFIG_HOME": "", "HTTPS_PROXY": f"http://127.0.0.1:{port}", "REQUESTS_CA_BUNDLE": str(certificate)}
    home.mkdir(parents=True, exist_ok=True)
    return kept | own


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # the other end was killed, or would not wait


def serve(kaggle: Kaggle, certificate: Path) -> Server:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"kaggle": kaggle, "tls": tls}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server
