"""Publishing files so that a reader sees all of a file or nothing, on a disk or on object storage.

A location is a `Path`, or for `s3://…` and the like a UPath: pathlib's methods over fsspec.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from fastfashion.disk import room_for
from fastfashion.errors import ConfigError, DiskFullError, FastfashionError, InputError
from fastfashion.extras import install
from fastfashion.locks import lock
from fastfashion.remote import is_remote as is_remote
from fastfashion.scratch import scratch
from fastfashion.words import why

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://")
NO_UTF8 = re.compile("[\ud800-\udfff]")  # in a path: bytes that are none
_OF_SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")  # the temporary file that it writes through, in the folder of its target


def location(text: str) -> Path:
    """The file or folder that a path or a URL such as s3://bucket/set names; raises ConfigError if it cannot be reached from here."""
    if not _SCHEME.match(text):
        return Path(text)
    _check_segments(text)
    try:
        from upath import UPath

        from fastfashion.web import session

        found: Any = UPath(text, get_client=session) if text.startswith(("http://", "https://")) else UPath(text)
        assert found.fs  # imports the package behind the scheme
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{text}: cannot be reached ({error}); {install('remote')} adds s3:// and https://") from error
    return cast(Path, found)


def _check_segments(text: str) -> None:
    """s3://bucket//set: storages keep the empty segment or drop it, and one call writes where the next does not look."""
    scheme, _, rest = text.partition("://")
    if scheme in ("http", "https"):
        return
    if scheme in ("s3", "s3a", "gs", "gcs") and not rest.partition("/")[0]:
        raise ConfigError(f"{text}: no bucket; expected {scheme}://bucket/folder")
    if "//" in rest.strip("/"):
        raise ConfigError(f"{text}: an empty path segment; write it with one slash, {scheme}://{re.sub('/+', '/', rest)}")


def is_address(text: str) -> bool:
    """Whether `location` would name something on another machine."""
    return _SCHEME.match(text) is not None


def publish(path: Path, write: Callable[[Path], object], num_bytes: int | None = None) -> None:
    """Let `write` fill a file, and make it appear at `path` whole, with the umask's mode; on an exception nothing is left.

    It is written beside, flushed, and renamed; for object storage, to a temporary file, and uploaded. Raises DiskFullError.
    """
    if is_remote(path):
        remote: Any = path
        with scratch() as folder:
            with room_for(here := folder / path.name, num_bytes, here):
                write(here)
            remote.fs.put_file(str(here), remote.path)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")  # a process that lingers cannot disturb the one after it
    try:
        with room_for(path, num_bytes, beside):
            with beside.open("wb") as empty:
                mode = stat.S_IMODE(os.fstat(empty.fileno()).st_mode)
            write(beside)
            _settle(beside, mode)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def publish_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` fill a folder, and make it appear at `path`, with the umask's modes; an older one stays until then, or on an error."""
    beside, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    mode = stat.S_IMODE(beside.stat().st_mode) & 0o666  # no file of ours is a program
    try:
        with room_for(path):
            fill(beside)
            for file in (file for file in beside.rglob("*") if file.is_file()):
                _settle(file, mode)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if path.exists():
        path.rename(old)
    beside.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _settle(file: Path, mode: int) -> None:
    """Flush a file to its disk, with this mode: safetensors 0.8.0 writes through a temporary file that its maker alone may read."""
    with file.open("rb" if os.name == "posix" else "r+b") as opened:  # Windows flushes what is open for writing
        if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) != mode:
            file.chmod(mode)
        os.fsync(opened.fileno())


def unreadable(error: OSError) -> str:
    """Why a file cannot be opened, in words that follow its path: "cannot be read (permission denied)"."""
    return f"cannot be read ({(error.strerror or str(error)).lower()})"


def is_unpublished(name: str) -> bool:
    """Whether a file is the unfinished write of a process that was killed."""
    return name.endswith(".partial") or _OF_SAFETENSORS.fullmatch(name) is not None


def clear_unpublished(path: Path) -> None:
    """Remove unfinished writes of killed processes at `path`; only for a place with one writer."""
    for left in path.parent.glob(f".{path.name}.*.partial"):
        left.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers that are not finite become null, bytes of a path that are not UTF-8 the text \\udcff."""
    text = NO_UTF8.sub(lambda odd: f"\\\\u{ord(odd[0]):04x}", json.dumps(value, ensure_ascii=False))
    return json.loads(text, parse_constant=lambda _: None)


def publish_json(path: Path, value: object) -> None:
    """The same for a JSON value, `plain`, indented, in UTF-8."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"
    publish(path, lambda beside: beside.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Raise InputError in place of the OSError of a place, chosen with --out, that cannot be written to."""
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({why(error)}); choose another --out") from error


@contextlib.contextmanager
def hold(path: Path, who: str, refuse: type[FastfashionError]) -> Iterator[None]:
    """Hold a folder through the lock file `path` in it; raises `refuse` with the name of the other `who` ("packer") that holds it."""
    with path.open("a+", encoding="utf-8") as file:
        if not lock(file.fileno(), wait=False):
            file.seek(0)
            raise refuse(
                f"{path.parent}: another {who} holds it: {file.read().strip() or 'it has just started'}; wait for it to end, or stop it"
            )
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise refuse(f"{path.parent}: another {who} has just finished there; run the same command again")
        try:
            with room_for(path):
                file.truncate(0)
                who_we_are = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
                os.write(file.fileno(), who_we_are.encode())  # what stays in a buffer would fail once more when the file is closed
            yield
        finally:
            path.unlink(missing_ok=True)
