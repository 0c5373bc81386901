"""The image in the body of a request: the body itself, a form's file, or base64 text in JSON."""

import base64
import binascii
import re
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastfashion.errors import InputError
from fastfashion.serve.asgi import RefusedError
from fastfashion.untrusted import parse_json

if TYPE_CHECKING:
    from starlette.requests import Request

SLACK_BYTES = 65_536  # of a form's heads and a JSON document, around an image
FORM = re.compile(rb"[\w.%+*\[\]-]{1,100}=[\x20-\x7e\r\n\t]*")  # the start of a form without files
TEXT = re.compile(rb"[\x20-\x7e\r\n\t]*")
BASE64 = re.compile(rb'(?:\xef\xbb\xbf)?\s{0,64}[{["]|[dD][aA][tT][aA]:')  # the start of JSON, or of a data: URL
URL_SAFE = bytes.maketrans(b"-_", b"+/")
BOM = b"\xef\xbb\xbf"  # PowerShell writes one before its JSON
SNIFFED_BYTES = 512
_ONE_AT_A_TIME = threading.Lock()  # base64 takes three times its size while it is decoded


@dataclass(frozen=True, kw_only=True)
class Found:
    """The image in a body, and `top` if the body has it."""

    image: bytes
    top: str | None = None


@dataclass(frozen=True, kw_only=True)
class JsonBody:
    """A body in JSON."""

    image: str  # base64, or a data: URL
    top: int | float | str | bool | None = None  # a wrong one gets the error of an address; no lists, which take much memory


async def read_image(request: "Request", max_bytes: int) -> Found:
    """The encoded image in a request, of at most `max_bytes`. Raises RefusedError if there is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        raise RefusedError(415, f"the body is encoded with {coding[:40]!r}: {_call(request)}")
    if kind == "multipart/form-data":
        return await _from_form(request, max_bytes)
    return await _from_body(request, kind, max_bytes)


async def _from_body(request: "Request", kind: str, max_bytes: int) -> Found:
    from starlette.concurrency import run_in_threadpool

    body = bytearray()
    async for part in request.stream():
        body += part
        most = max_bytes * 4 // 3 + SLACK_BYTES if BASE64.match(body) else max_bytes
        if len(body) > most:
            raise _too_large(max_bytes)
    if BASE64.match(body):
        return await run_in_threadpool(_from_text, body, max_bytes, _call(request))
    start, is_text = body[:SNIFFED_BYTES], kind == "application/json" or kind.startswith("text/")
    if start and (FORM.fullmatch(start) or (is_text and TEXT.fullmatch(start))):
        raise RefusedError(415, f"the body is text, not an image: {_call(request)}")
    return Found(image=bytes(body))


def _from_text(body: bytearray, max_bytes: int, call: str) -> Found:
    with _ONE_AT_A_TIME:
        if body[:5].lower() == b"data:":
            return Found(image=_from_base64(body.decode("latin-1"), max_bytes, call))
        try:
            found = parse_json(body.removeprefix(BOM), JsonBody, "the JSON", InputError, 'send {"image": "the image in base64"}')
        except InputError as error:
            raise RefusedError(415, f"{error}, or {call}") from error
        body.clear()
        return Found(image=_from_base64(found.image, max_bytes, call), top=None if found.top is None else str(found.top))


def _from_base64(text: str, max_bytes: int, call: str) -> bytes:
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise RefusedError(415, f"image: a data: URL that is not base64: {call}")
    elif "://" in text[:16]:
        raise RefusedError(415, f"image: the server fetches no addresses: {call}")
    plain = text.encode("ascii", "replace").translate(URL_SAFE, b" \t\r\n=")
    try:
        image = base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise RefusedError(415, f"image: expected base64 ({error}), or {call}") from error
    if len(image) > max_bytes:
        raise _too_large(max_bytes)
    return image


async def _from_form(request: "Request", max_bytes: int) -> Found:
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def limited() -> AsyncGenerator[bytes, None]:
        seen = 0
        async for part in request.stream():
            seen += len(part)
            if seen > max_bytes + SLACK_BYTES:
                raise _too_large(max_bytes)
            yield part

    parser = MultiPartParser(request.headers, limited(), max_files=2, max_fields=8, max_part_size=SLACK_BYTES)
    parser.spool_max_size = max_bytes + SLACK_BYTES  # in memory, as a body of its own is
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusedError(415, f"the form cannot be read ({error.message}): {_call(request)}") from error
    files = [one for _, one in form.multi_items() if not isinstance(one, str)]
    try:
        if len(files) != 1:
            raise RefusedError(415, f"expected one file in the form, found {len(files)}: {_call(request)}")
        image, top = await files[0].read(), form.get("top")
        if len(image) > max_bytes:
            raise _too_large(max_bytes)
        return Found(image=image, top=top if isinstance(top, str) else None)
    finally:
        await form.close()


def _call(request: "Request") -> str:
    return f"send the image itself: curl --data-binary @image.jpg '{request.url.replace(query='')}'"


def _too_large(max_bytes: int) -> RefusedError:
    return RefusedError(413, f"more than the {max_bytes / 1e6:.0f} MB that an image may have here")
