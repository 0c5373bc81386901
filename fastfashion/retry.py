"""Retries of remote places: which errors are worth a retry, how long to wait (Retry-After included), and what an error says.

an error ─► passes? refuses? ─► Patience.next_wait_s ─► the next try, until patience is used up ─► describe
"""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fastfashion.words import one_line

T = TypeVar("T")

PATIENCE_S = 300.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
LEAST_BYTES_PER_S, RATE_OVER_S = 1000.0, 60.0  # a tenth of a slow line; a server that sends a byte a second is none

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
