"""Kaggle, through its own package, which finds the credentials, and asks without any if it finds none.

    KaggleSet ─► open_archive ─► Archive: a response whose bytes are still to come, their number, and their version

The package (2.2.4) does what a library must not do: importing it signs in, prints, and may raise SystemExit; its requests wait forever;
with $VERBOSE it prints the bytes of an answer. This module contains all of that.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastfashion.errors import InputError
from fastfashion.extras import require
from fastfashion.words import one_line

SETTINGS_URL = "https://www.kaggle.com/settings/api"
CONNECT_S = 10.0  # for a server to take a connection; the time for its bytes is an option
TEXT_CHARS = 200  # of what a server says about an error


class CutError(Exception):
    """The network, or Kaggle for the moment, failed; a retry may help."""


class SlowError(CutError):
    """So few bytes came in a minute that the download would never end."""


@dataclass(frozen=True, kw_only=True)
class KaggleSet:
    """A data set on Kaggle."""

    owner: str
    name: str

    @property
    def slug(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def url(self) -> str:
        return f"https://www.kaggle.com/datasets/{self.slug}"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The zip of a data set, before its bytes."""

    response: Any  # requests.Response, its body unread
    size: int | None  # bytes; None if the server does not say
    version: str | None  # ETag or time of change; None if the server gives neither

    def rest(self, start: int, timeout_s: float) -> Any:
        """A response with the bytes from `start`, or with all of them (status 200) if the archive has changed."""
        import requests

        self.response.close()
        request = self.response.request.copy()  # to the storage that Kaggle redirects to, with its headers
        request.headers["Range"] = f"bytes={start}-"
        request.headers["If-Range"] = self.version or ""
        with _guarded(timeout_s), requests.Session() as session:
            settings = session.merge_environment_settings(request.url, {}, True, None, None)
            return session.send(request, **settings)


def open_archive(wanted: KaggleSet, timeout_s: float) -> Archive:
    """Ask Kaggle for a data set's zip.

    Raises CutError if a retry may help, InputError, with what to do in three lines, if none will, ConfigError without Kaggle's package.
    """
    require("kaggle", "a download from Kaggle", "kaggle", "requests")
    import requests

    try:
        with _silence(), _guarded(timeout_s):
            response = _ask(wanted)
    except requests.HTTPError as error:
        raise _explain(error, wanted) from error
    except requests.RequestException as error:
        raise failed(error, wanted) from error
    except InputError:
        raise
    except Exception as error:  # of any type, from the package's own settings and files
        raise InputError(
            f"the kaggle package cannot be used here ({type(error).__name__}: {error}); check that its files in ~/.kaggle, "
            f"~/.config/kaggle or $KAGGLE_CONFIG_DIR can be read and written, or download {wanted.url} in a browser"
        ) from error
    if response.headers.get("Content-Type", "").startswith("text/html"):
        response.close()
        raise _refusal(wanted, response, "it answered with a web page")
    etag, length = response.headers.get("ETag", "W/"), response.headers.get("Content-Length")
    if length is not None and not (length.isascii() and length.isdecimal()):
        response.close()
        raise _unusable(wanted, f"it says that the archive has {length[:40]!r} bytes, which is not a number")
    return Archive(
        response=response,
        size=None if length is None else int(length),
        version=response.headers.get("Last-Modified") if etag.startswith("W/") else etag,  # a weak one may be the same for other bytes
    )


def _ask(wanted: KaggleSet) -> Any:
    try:
        import kaggle
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        api = kaggle.api
        api.args = [word for word in api.args if word not in ("-v", "--verbose")]  # which reads the whole body, to print it
        if not getattr(api, "_authenticated", False):  # importing tries once, and hides what failed
            api.authenticate()
    except SystemExit:  # raised if there are no credentials
        pass
    request = ApiDownloadDatasetRequest()
    request.owner_slug, request.dataset_slug = wanted.owner, wanted.name
    with kaggle.api.build_kaggle_client() as client:
        return client.datasets.dataset_api_client.download_dataset(request)


def credentials() -> str | None:
    """The credentials that Kaggle's own tool would use here, and where they are, in words; None if there are none. Sends no request."""
    from kagglesdk.kaggle_env import get_access_token_from_env

    with contextlib.suppress(OSError), _silence():  # a token too long for a file name, a file that cannot be read
        token, place = get_access_token_from_env()
        if token:
            return "the access token from " + (f"${place}" if place.isupper() else f"~/.kaggle/{place}")
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "the access token from $KAGGLE_API_TOKEN"
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        return "the API key from $KAGGLE_USERNAME and $KAGGLE_KEY"
    home = Path("~/.kaggle").expanduser()
    elsewhere = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "kaggle"
    folder = Path(os.environ["KAGGLE_CONFIG_DIR"]) if os.environ.get("KAGGLE_CONFIG_DIR") else home if home.exists() else elsewhere
    for file in (folder / "kaggle.json", home / "kaggle.json"):
        if file.is_file():
            return f"the API key from {_short(file)}"
    return f"the login in {_short(home / 'credentials.json')}" if (home / "credentials.json").is_file() else None


def _short(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def network_reason(error: Exception) -> str:
    """What failed, without the address, since a storage address gives access to the file."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    return f"{type(error).__name__}: {one_line(getattr(inner, 'reason', None) or inner)}"


def failed(error: Any, wanted: KaggleSet) -> Exception:
    """The error to raise for one of requests: CutError, but for a redirect that cannot be followed."""
    from requests import exceptions

    if isinstance(error, exceptions.InvalidSchema | exceptions.InvalidURL | exceptions.MissingSchema):
        return _unusable(wanted, "it redirects to an address that is not on the web")
    if isinstance(error, exceptions.TooManyRedirects):
        return _unusable(wanted, "it redirects from one address to the next without end")
    return CutError(network_reason(error))


def _unusable(wanted: KaggleSet, what: str) -> InputError:
    return InputError(f"{wanted.slug}: Kaggle's answer cannot be used ({what}); try again later, or download {wanted.url} in a browser")


def _explain(error: Any, wanted: KaggleSet) -> Exception:
    """The error for an answer with an error status, with what to do."""
    response = error.response
    status, said = response.status_code, one_line(error)
    from_storage = bool(response.history)  # Kaggle gave an address, which has expired
    if status in (408, 429) or status >= 500 or (from_storage and status in (401, 403, 410)):
        return CutError(f"HTTP {status}: {said}")
    if status in (401, 403):
        return _refusal(wanted, response, f"HTTP {status}: {said}")
    if status == 404:
        return InputError(
            f"Kaggle has no data set {wanted.slug} (HTTP 404): it was moved, or made private\n"
            f"  see {wanted.url} in a browser; a zip from anywhere else in the same layout\n"
            "  (styles.csv beside images/<id>.jpg) does as well: fastfashion shard --source ZIP"
        )
    return InputError(f"{wanted.slug}: Kaggle answered HTTP {status} ({said}); see {wanted.url} in a browser")


def _refusal(wanted: KaggleSet, response: Any, why: str) -> InputError:
    """The error for credentials that Kaggle refuses, or that are missing."""
    shown = (response.history or [response])[0].request.headers.get("Authorization")
    if shown is None:
        said = f"without an account ({why})\n  make a token at {SETTINGS_URL}, put it into $KAGGLE_API_TOKEN or ~/.kaggle/access_token"
    else:
        said = (
            f"for {credentials() or 'the credentials found here'} ({why})\n"
            f"  put a new one from {SETTINGS_URL} there, or remove it to ask without an account"
        )
    browser = f"  or download {wanted.url} in a browser, as data/{wanted.name}.zip"
    return InputError(f"Kaggle does not give {wanted.slug} {said}, and run this again;\n{browser}")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discard what the package prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _guarded(timeout_s: float) -> Iterator[None]:
    """Requests within it, those of redirects too, use https and have a time limit, also while their body is read."""
    import requests

    send = requests.Session.send

    def guarded(self: Any, request: Any, **settings: Any) -> Any:
        scheme, _, rest = request.url.partition("://")
        if scheme.lower() == "http":  # requests knows no other scheme
            raise InputError(
                f"Kaggle redirects to http://{rest.partition('/')[0][:TEXT_CHARS]}, where anybody on the way could change the file; "
                "check whether a proxy or a portal of your network is in between, and try again"
            )
        if settings.get("timeout") is None:
            settings["timeout"] = (CONNECT_S, timeout_s)
        return send(self, request, **settings)

    requests.Session.send = guarded  # type: ignore[method-assign]
    try:
        yield
    finally:
        requests.Session.send = send  # type: ignore[method-assign]
