"""Images that are named on a command line, or uploaded, as a stream.

    file | folder | zip | packed set | - ─► find_inputs ─► InputImage, InputImage, SetInput, … ─► predictor

Nothing is unpacked to the disk: a zip's members are read from the zip, and their names are only names. What cannot be read is an
InputImage whose `read` raises, so that it has its line among the answers.
"""

import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastfashion.errors import InputError, RemoteError
from fastfashion.files import is_remote, location
from fastfashion.images.codec import SUFFIXES, unsupported
from fastfashion.remote import is_file, is_folder, is_web, read, walk
from fastfashion.shards.layout import CATALOG, VOCAB
from fastfashion.sources.listing import identities
from fastfashion.sources.reader import MAX_IMAGE_BYTES, Reader
from fastfashion.sources.skipped import is_hidden
from fastfashion.sources.zips import read_entries, version_of
from fastfashion.untrusted import open_regular
from fastfashion.words import why

STDIN = "-"


@dataclass(frozen=True)
class InputImage:
    """One encoded image; `read` raises InputError or OSError if it cannot be read."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class SetInput:
    """A packed set, which has a loader of its own."""

    path: Path


Input = InputImage | SetInput


def find_inputs(paths: Iterable[str]) -> Iterator[Input]:
    """The images under each path in turn; names in a folder or zip are sorted, those of stdin are taken as they come."""
    for path in paths:
        if path == STDIN:
            lines = (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer)  # bytes, as a name may not be UTF-8
            yield from find_inputs(line for line in lines if line and line != STDIN)
        else:
            yield from _find(location(path))


def _find(path: Path) -> Iterator[Input]:
    try:
        is_zip = path.suffix.lower() == ".zip" and (is_file(path) if is_remote(path) else path.exists())
        # on a web server, to look for a folder is to fetch a page
        is_dir = not (is_web(path) and (is_zip or is_image(path.name))) and is_folder(path)
        is_set = is_dir and is_file(path / CATALOG) and is_file(path / VOCAB)
    except (OSError, RemoteError) as error:  # a name too long, a folder that may not be entered, a server in trouble
        yield refused(str(path), _reason(path, error))
        return
    if is_set:
        yield SetInput(path)
    elif is_dir:
        yield from _in_folder(path)
    elif is_zip:
        yield from in_zip(path, str(path))
    else:
        yield named(str(path), lambda: read_file(path))


def _in_folder(folder: Path) -> Iterator[InputImage]:
    found = 0
    unread: list[OSError] = []
    try:
        walked = _walk(folder, unread.append) if not is_remote(folder) else [("", list(walk(folder)))]
    except RemoteError as trouble:
        yield refused(str(folder), _reason(folder, trouble))
        return
    for root, names in walked:
        for name in sorted(names):
            if is_image(name) or is_unread(name):
                found += 1
                path = Path(root) / name if not is_remote(folder) else folder / name  # a root of os.walk begins with the folder
                yield named(str(path), lambda path=path: read_file(path))  # type: ignore[misc]
    for error in unread:
        yield refused(str(error.filename), f"cannot be read: {error.strerror}")
    if not found and not unread:
        yield refused(str(folder), f"no images in it: expected files that end in {', '.join(SUFFIXES)}, or a packed set")


def _walk(folder: Path, onerror: Callable[[OSError], object]) -> Iterator[tuple[str, list[str]]]:
    """Each folder and the names of its files, as packing walks: hidden folders are skipped, links followed, no folder is listed twice."""
    seen = set(identities([folder, *folder.resolve().parents]))
    for root, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        yield root, names
        below = sorted((os.path.islink(Path(root, name)), name) for name in folders if not is_hidden(name))  # noqa: PTH114 - a path may be too long
        folders.clear()
        for _, name in below:  # links last, so that a folder's own name counts
            found = set(identities([Path(root, name)]))
            if not found or found - seen:  # `onerror` names a folder that cannot be read
                seen |= found
                folders.append(name)


def in_zip(path: Path, shown: str, max_bytes: int = MAX_IMAGE_BYTES) -> Iterator[InputImage]:
    """The images of a zip, by name below `shown`, read one at a time. A name that leads out of the zip is refused."""
    try:
        version = version_of(path) if is_remote(path) else None
        entries = [entry for entry in read_entries(path, version) if is_image(entry.name) or is_unread(entry.name)]
    except RemoteError as error:
        yield refused(shown, _reason(path, error))
        return
    except (zipfile.BadZipFile, OSError, InputError) as error:
        yield refused(shown, f"not a readable zip ({why(error)})")
        return
    if not entries:
        yield refused(shown, f"no images in it: expected files that end in {', '.join(SUFFIXES)}")
    reader = Reader(path, is_zip=True, version=version)
    for entry in sorted(entries):
        name = f"{shown}/{entry.name}"
        if leads_out(entry.name) and not entry.problem:
            yield refused(name, "its name leads out of the zip; it was not read")
        else:
            yield named(name, lambda entry=entry: reader.read(entry, max_bytes))  # type: ignore[misc]


def read_file(path: Path, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """The bytes of a file; raises InputError if it is missing, no file, or larger than `max_bytes`."""
    try:
        if is_remote(path):
            return read(path, max_bytes)
        if not path.is_file():
            raise InputError("no such file" if not path.exists() else "not a file")
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
    except InputError:
        raise
    except (OSError, RemoteError) as error:
        raise InputError(_reason(path, error)) from error
    if len(data) > max_bytes:
        raise InputError(f"more than {max_bytes} bytes, which is more than an image may have")
    return data


def _reason(path: Path, error: OSError | RemoteError) -> str:
    """The error without the path, which is shown beside it."""
    if isinstance(error, RemoteError):
        return str(error).removeprefix(f"{path}: ")
    return f"cannot be read: {error.strerror or error}"


def is_image(name: str) -> bool:
    """Whether it is an image by its name; files that macOS adds to archives are not."""
    return name.lower().endswith(SUFFIXES) and not _is_hidden(name)


def is_unread(name: str) -> bool:
    """Whether a name is that of an image in an unsupported format; its line gets that error."""
    return unsupported(name) is not None and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].startswith("._")


def leads_out(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")  # some programs on Windows write backslashes
    return not parts[0] or ":" in parts[0] or ".." in parts


def named(name: str, read: Callable[[], bytes]) -> InputImage:
    """An image, refused by its name if the format is not supported, as in packing."""
    reason = unsupported(name)
    return InputImage(name, read) if reason is None else refused(name, reason)


def refused(name: str, reason: str) -> InputImage:
    """An image that cannot be read, and why."""

    def read() -> bytes:
        raise InputError(reason)

    return InputImage(name, read)
