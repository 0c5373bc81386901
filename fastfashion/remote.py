"""Files and folders on object storage and web servers: read, listed, measured. Retries are in retry.py, limits of a body in web.py."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urljoin

from fastfashion.errors import FastfashionError, RemoteError
from fastfashion.retry import describe, is_missing, patiently, status_of

T = TypeVar("T")

MOST_BYTES = 256 << 20  # of a body of which nobody said how long it may be, such as an image
MOST_PAGES = 1000  # of a tree of folders on a web server
LISTING_BYTES = 64 << 20  # of a web server's index page: 300,000 files and more


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
    """The limit that `at_most` set; fsspec's own thread works in the caller's context."""
    return _most.get()


def ask(path: Path, what: Callable[[], T]) -> T:
    """What `what` returns, with retries. Raises FileNotFoundError if the place reports that nothing is there, else RemoteError."""
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
