"""Remote places: reading and listing them, what their errors mean, and how long to wait for them."""

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urljoin

from fastfashion.errors import FastfashionError, RemoteError
from fastfashion.words import one_line

T = TypeVar("T")

PATIENCE_S = 300.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
LEAST_BYTES_PER_S, RATE_OVER_S = 1000.0, 60.0  # a tenth of a slow line; a server that sends a byte a second is none
MOST_BYTES = 256 << 20  # of a body of which nobody said how long it may be, such as an image
MOST_PAGES = 1000  # of a tree of folders on a web server
LISTING_BYTES = 64 << 20  # of a web server's index page: 300,000 files and more

# By name, since the packages behind s3:// and https:// need not be installed: Python's, aiohttp's, botocore's and urllib3's.
_PASSING = {
    *("ConnectionError", "TimeoutError", "gaierror", "ClientConnectionError", "ClientPayloadError"),
    *("HTTPClientError", "IncompleteRead", "ResponseParserError"),
}
_BROKEN = {  # in mid-answer
    *("ClientPayloadError", "ServerDisconnectedError", "IncompleteRead", "ResponseStreamingError"),
    *("TooSlowError", "NoAnswerError", "SocketTimeoutError"),
}
_PASSING_CODES = {errno.EIO, errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.ENETUNREACH, errno.EHOSTUNREACH}
_PASSING_STATUS = {408, 429}  # and 500 to 599
_STATUS_ADVICE = {
    401: "it requires a login: download the file and use that, or use a signed URL",
    403: "access is denied: check the credentials, and whether a signed URL has expired",
    404: "there is nothing at this address",
    429: "it answers too many requests at once: wait a while and run the same command again",
}


class UnexpectedBodyError(Exception):
    """A server sends something else than was asked for: more bytes, or compressed ones. Asking again would bring the same."""


def is_remote(path: Path) -> bool:
    return not isinstance(path, Path)


def as_remote(path: Path) -> Any:
    """The location as a UPath, whose `.fs` and `.path` pathlib does not have."""
    return path


def is_web(path: Path) -> bool:
    """Whether a location is on a web server, which has files but no folders to list."""
    return is_remote(path) and as_remote(path).protocol in ("http", "https")


def list_anew(path: Path) -> None:
    """Clear fsspec's cache of a storage's listings: other processes may have written there since."""
    if is_remote(path):
        as_remote(path).fs.invalidate_cache()


_most: ContextVar[int] = ContextVar("most bytes of a body", default=MOST_BYTES)


@contextlib.contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    """Inside this context, the most bytes of a whole file that this thread accepts from a web server; a part has its own length."""
    token = _most.set(num_bytes)
    try:
        yield
    finally:
        _most.reset(token)


def most_bytes() -> int:
    """That number: fsspec's own thread works in the context of who asked."""
    return _most.get()


def ask(path: Path, what: Callable[[], T]) -> T:
    """What `what` returns, asked patiently. Raises FileNotFoundError if the place says that nothing is there, else RemoteError."""
    try:
        return patiently(path, what)
    except (FastfashionError, NotADirectoryError):
        raise
    except Exception as error:  # every file system has its own
        if is_missing(error):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise RemoteError(f"{path}: cannot be read ({describe(error)})") from error


def read(path: Path, max_bytes: int) -> bytes:
    """All bytes of a remote file. Raises RemoteError if it has more than `max_bytes`, about as many of which are read; and as `ask`."""
    data = ask(path, lambda: _fetch(path, max_bytes))
    if len(data) > max_bytes:
        raise RemoteError(f"{path}: more than {max_bytes} bytes, the limit for such a file")
    return data


def read_range(path: Path, start: int, num_bytes: int) -> bytes:
    """A part of a remote file; fewer bytes if the file ends before. Raises as `ask`, and RemoteError if a server knows no ranges."""
    data = ask(path, lambda: bytes(as_remote(path).fs.cat_file(as_remote(path).path, start=start, end=start + num_bytes)))
    if len(data) > num_bytes:
        raise RemoteError(f"{path}: the server sends more than the requested part (no range requests); copy it to a disk")
    return data


def _fetch(path: Path, max_bytes: int) -> bytes:
    place = as_remote(path)
    if is_web(path):  # not every server knows ranges
        with at_most(max_bytes):
            return bytes(place.fs.cat_file(place.path))
    try:
        return bytes(place.fs.cat_file(place.path, start=0, end=max_bytes + 1))
    except OSError as error:
        if status_of(error) == 416:  # an empty file has no such range
            return b""
        raise


def open_stream(path: Path, max_bytes: int) -> BinaryIO:
    """A remote file, read from start to end, in one request if it is on a web server. Raises as `ask`."""
    how = {"block_size": 0} if is_web(path) else {}
    with at_most(max_bytes):
        return cast(BinaryIO, ask(path, lambda: as_remote(path).fs.open(as_remote(path).path, "rb", **how)))


def is_file(path: Path) -> bool:
    """Whether there is a file, here or remote. Raises RemoteError if a remote place does not say."""
    if not is_remote(path):
        return path.is_file()
    try:
        return bool(_info(path)["type"] == "file")
    except FileNotFoundError:
        return False


def size_of(path: Path) -> int:
    """How many bytes a file has, here or remote; 0 if a web server does not say. Raises as `ask`, or OSError."""
    return (_info(path)["size"] or 0) if is_remote(path) else path.stat().st_size


def _info(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], ask(path, lambda: as_remote(path).fs.info(as_remote(path).path)))


def children(path: Path) -> list[Path]:
    """Files and folders directly below a folder. Empty objects in place of a folder are not among them."""
    return list(list_children(path))


def is_folder(path: Path) -> bool:
    """Whether there is a folder; beside an empty object of the same name, object storage says that there is a file."""
    if not is_remote(path):
        return path.is_dir()
    try:
        return bool(children(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def list_children(path: Path) -> dict[Path, bool | None]:
    """The same, and whether each is a folder; None if that takes another look, which of a web server is a request for the file."""
    if not is_remote(path):
        return dict.fromkeys(path.iterdir())
    if is_web(path):
        return _linked(path)
    here = as_remote(path).path.rstrip("/")
    infos = ask(path, lambda: as_remote(path).fs.ls(here, detail=True))
    folders = {info["name"].rstrip("/") for info in infos if info["type"] == "directory"}
    found = {
        info["name"].rstrip("/").rpartition("/")[2]: info["type"] == "directory"
        for info in infos
        if info["name"].rstrip("/") != here and not (info["type"] != "directory" and stands_for_folder(info, folders))
    }
    return {path / name: folder for name, folder in found.items()}


def walk(folder: Path) -> Iterator[str]:
    """The names of all files below a remote folder, relative to it. Raises as `ask`, and RemoteError for a tree that has no end."""
    if not is_web(folder):
        here = as_remote(folder).path.rstrip("/") + "/"
        yield from (name.removeprefix(here) for name in ask(folder, lambda: as_remote(folder).fs.find(here)))
        return
    todo, seen = [folder], 0
    while todo:
        seen += 1
        if seen > MOST_PAGES:
            raise RemoteError(f"{folder}: more than {MOST_PAGES} index pages below it: download it, and name the folder")
        for path, below in list_children(todo.pop()).items():
            if below:
                todo.append(path)
            else:
                yield str(path).removeprefix(str(folder)).lstrip("/")


def _linked(path: Path) -> dict[Path, bool | None]:
    """What the index page of a folder on a web server links to directly below it; a folder if the link ends in a slash.

    fsspec reads all of the page, and with patterns that take forever on some pages; this one looks at each byte a few times at most.
    """
    here = str(path).rstrip("/") + "/"
    page = read(path, LISTING_BYTES).decode("utf-8", errors="replace")
    links = (urljoin(here, (link[1] or link[2]).partition("?")[0].partition("#")[0]) for link in _LINK.finditer(page))
    names = {link.removeprefix(here).rstrip("/"): link.endswith("/") or None for link in links if link.startswith(here)}
    return {path / name: below for name, below in names.items() if name and "/" not in name and name not in (".", "..")}


_LINK = re.compile(r"""href="([^"<>]{1,2000})"|href='([^'<>]{1,2000})'""", re.IGNORECASE)


def stands_for_folder(info: dict[str, Any], folders: set[str]) -> bool:
    """Whether a file that a storage lists is an empty object that a storage console or another program made in place of a folder."""
    name: str = info["name"]
    return info.get("size") == 0 and (name.endswith(("/", "_$folder$")) or name in folders)


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that an error of a remote file system, or one of its causes, carries."""
    while error is not None:
        response = getattr(error, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}  # botocore's
        named = (getattr(error, "status", None), getattr(error, "status_code", None), getattr(response, "status_code", None))
        for status in (*named, metadata.get("HTTPStatusCode")):
            if isinstance(status, int) and status:  # aiohttp's TooManyRedirects has 0
                return status
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def is_missing(error: BaseException) -> bool:
    """Whether an error means that a place has nothing. fsspec also reports that for a web server that does not answer, or answers 503."""
    status, cause = status_of(error), error.__cause__
    if status is not None or not isinstance(cause, Exception):
        return isinstance(error, FileNotFoundError) and status in (None, 404, 410)
    return isinstance(error, FileNotFoundError) and not passes(cause) and not isinstance(cause, UnexpectedBodyError)


def _unwrapped(error: Exception) -> Exception:
    """The error that fsspec replaced by its own FileNotFoundError or timeout."""
    wraps = type(error).__name__ == "FSTimeoutError" or (isinstance(error, FileNotFoundError) and not is_missing(error))
    return error.__cause__ if wraps and isinstance(error.__cause__, Exception) else error


def describe(error: Exception) -> str:
    """What an error says; for an HTTP status also what to do about it."""
    status = status_of(error)
    error = _unwrapped(error)
    if isinstance(error, UnexpectedBodyError):
        return str(error)
    if type(error).__name__ == "TooManyRedirects":
        return "the server redirects from one address to the next without end"
    said = one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    if status is None:
        return said
    advice = _STATUS_ADVICE.get(status, "the server has a problem: run the same command again later" if status >= 500 else "")
    message = getattr(error, "message", "") or getattr(error.__cause__, "message", "")
    words = f"the server answers {status}{f' {one_line(message)}' if message else ''}"
    return f"{words}; {advice}" if advice else f"{words} ({said})"


def passes(error: Exception) -> bool:
    """Whether a failure is temporary: no connection, a broken one, no answer, a server in trouble."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUS
    if any(kind.__name__ in _PASSING for kind in type(error).__mro__):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING_CODES


def refuses(error: Exception) -> bool:
    """Whether asking again would bring the same answer: no access, or nothing there."""
    status = status_of(error)
    if isinstance(error, PermissionError | UnexpectedBodyError):
        return True
    return status is not None and 400 <= status < 500 and status not in _PASSING_STATUS


class Patience:
    """How long to wait before the next try: longer and longer, `patience_s` in all."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s, self.waited_s, self.waits, self._spent_s = patience_s, 0.0, 0, 0.0
        self._wait_s = FIRST_WAIT_S

    def next_wait_s(self, error: Exception) -> float | None:
        """Seconds to wait after a failure, at least as long as the server asks for; None once patience is used up."""
        if isinstance(_unwrapped(error), TimeoutError):
            self._spent_s += RATE_OVER_S  # the try itself took as long
        if self.waited_s + self._spent_s >= self.patience_s:
            return None
        wait_s = min(max(self._wait_s, _retry_after_s(error)), self.patience_s - self.waited_s)
        self.waited_s += wait_s
        self.waits += 1
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        return wait_s


class TooSlowError(TimeoutError):
    """A server sends so little that the transfer would never end."""


class NoAnswerError(TimeoutError):
    """A server takes a request and does not begin to answer it."""


class LeastRate:
    """Ends a transfer that brings fewer than LEAST_BYTES_PER_S over RATE_OVER_S, which timeouts of a silent connection never do."""

    def __init__(self) -> None:
        self._since_s, self._num_bytes = time.monotonic(), 0

    def add(self, num_bytes: int) -> None:
        """Count bytes that have come. Raises TooSlowError, which `passes`."""
        self._num_bytes += num_bytes
        seconds = time.monotonic() - self._since_s
        if seconds < RATE_OVER_S:
            return
        if self._num_bytes < LEAST_BYTES_PER_S * seconds:
            raise TooSlowError(f"{self._num_bytes} bytes in {seconds:.0f} s, expected at least {LEAST_BYTES_PER_S:g} a second")
        self._since_s, self._num_bytes = time.monotonic(), 0


def retrying(
    ask: Callable[[], T],
    patience: Patience,
    retry: Callable[[Exception], bool],
    *,
    on_wait: Callable[[Exception], object] = lambda error: None,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """What `ask` returns, retried after errors that `retry` accepts until `patience` is used up; `on_wait` is called before `pause`."""
    while True:
        try:
            return ask()
        except Exception as error:  # each storage has errors of its own
            wait_s = patience.next_wait_s(error) if retry(error) else None
            if wait_s is None:
                raise
            on_wait(error)
        pause(wait_s)


def patiently(path: Path, ask: Callable[[], T]) -> T:
    """What `ask` returns, retried if a server answers 429 or 5xx, or breaks off. Every other error is raised at once.

    That includes a host that does not answer: at the first contact the name is more likely wrong than the host down.
    """
    patience = Patience(PATIENCE_S)

    def retry(error: Exception) -> bool:
        broken = any(kind.__name__ in _BROKEN for kind in type(_unwrapped(error)).__mro__)
        return broken or (status_of(error) is not None and passes(error))

    return retrying(ask, patience, retry, on_wait=lambda error: say_waiting(path, error, patience))


def say_waiting(path: Path, error: Exception, patience: Patience) -> None:
    """Print the reason on stderr before the first wait."""
    if patience.waits <= 1:
        print(f"{path}: cannot be fetched ({describe(error)}); retrying for {patience.patience_s:.0f} s", file=sys.stderr, flush=True)


def _retry_after_s(error: BaseException | None) -> float:
    """Seconds of an answer's Retry-After (RFC 9110, 10.2.3); 0 if there is none, or a date."""
    while error is not None:
        headers = getattr(error, "headers", None)
        if headers and str(headers.get("Retry-After", "")).isdecimal():
            return float(headers["Retry-After"])
        error = error.__cause__
    return 0.0
