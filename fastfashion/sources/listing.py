"""The files of a source by name: below a folder, in a zip, on this machine or at a remote place.

Only regular files are read, each folder is read once, and what is not part of a source is skipped and counted (skipped.py).
"""

import contextlib
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from fastfashion.errors import InputError
from fastfashion.remote import as_remote, is_remote, list_anew, stands_for_folder
from fastfashion.sources.ranges import RemoteVersion
from fastfashion.sources.skipped import HIDDEN, SET, SkipRules, is_hidden, what_folder

ENCRYPTED = -1
UNREADABLE = "a folder that cannot be read"
ABOVE = "a link to a folder that holds the source"  # / would be the whole disk
OUTSIDE = "a name that leads out of the zip"
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Member(NamedTuple):
    """The place of one encoded image; small, and the same in every process."""

    name: str  # file relative to the folder, or name within the zip, with / between folders
    offset: int = -1  # of the local header, zip only
    packed: int = -1  # bytes in the zip
    size: int = -1  # bytes of the image, -1 if unknown
    method: int = zipfile.ZIP_STORED
    crc32: int = 0  # of the image, zip only
    problem: str = ""  # why it cannot be read, such as "a link to nowhere": a row that needs it is rejected with this reason


class SkippedFiles(TypedDict):
    """The files and folders that were skipped for one reason."""

    count: int
    first: str


@dataclass(kw_only=True)
class Listing:
    """The files of a source that may be part of it."""

    path: Path
    is_zip: bool
    version: RemoteVersion | None = None  # of a remote zip
    files: dict[str, Member] = field(default_factory=dict)  # by name; those with a problem too
    skipped: dict[str, SkippedFiles] = field(default_factory=dict)  # by reason
    aliases: dict[str, str] = field(default_factory=dict)  # folder that is another name of a listed one (a link) -> that one

    def skip(self, reason: str, name: str) -> None:
        entry = self.skipped.setdefault(reason, {"count": 0, "first": ""})
        entry["count"] += 1
        entry["first"] = entry["first"] or name.encode(errors="backslashreplace").decode()  # names on a disk need not be text


def skipped_text(skipped: Mapping[str, Mapping[str, object]]) -> str:
    """Such as "a packed set: shards/small; a link to nowhere: 3, such as images/7.jpg"; empty if nothing was skipped."""
    named = ((reason, entry["count"], entry["first"]) for reason, entry in skipped.items())
    return "; ".join(f"{reason}: {first if count == 1 else f'{count}, such as {first}'}" for reason, count, first in named)


def list_folder(path: Path) -> Listing:
    """The files below a folder, here or on object storage. Links may lead out of it, to another disk."""
    listing = Listing(path=path, is_zip=False)
    if is_remote(path):
        _take(listing, {name: Member(name, size=info["size"]) for name, info in remote_infos(path).items()})
    else:
        _Walk(listing).run()
    return listing


def list_zip(path: Path, entries: Iterable[Member], version: RemoteVersion | None) -> Listing:
    """The files in a zip's directory. A backslash counts as /, since some programs on Windows write it."""
    listing = Listing(path=path, is_zip=True, version=version)
    members: dict[str, Member] = {}
    for entry in entries:
        name = (written := entry.name).replace("\\", "/")
        if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
            listing.skip(OUTSIDE, written)
        elif name == written or name not in members:  # of two members with one name the last counts, as in zipfile
            members[name] = entry._replace(name=name)
    _take(listing, members)
    return listing


def _take(listing: Listing, members: dict[str, Member]) -> None:
    """Add those of a flat list of names that may be part of the source."""
    rules = SkipRules(members)
    _refuse_set(listing.path, rules.top)
    reasons: set[tuple[str, str]] = set()
    for name, member in members.items():
        if reason := rules.reason(name):
            if reason not in reasons:
                reasons.add(reason)
                listing.skip(*reason)
            continue
        listing.files[name] = member
        if member.problem:
            listing.skip(member.problem, name)


def _refuse_set(path: Path, names: Iterable[str]) -> None:
    """Raise InputError if the source itself is a packed set. A lock that a killed packer left in it does not count."""
    if what_folder([name for name in names if not is_hidden(name)]) == SET:
        raise InputError(
            f"{path}: a packed set, not a source: train on it with fastfashion train {path}, or name the folder or the zip that "
            "it was packed from"
        )


def kind_of_file(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def identities(folders: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Device and inode of each folder that can be read: they are the same under every name of a folder."""
    for folder in folders:
        with contextlib.suppress(OSError):
            found = folder.stat()
            yield found.st_dev, found.st_ino


class _Walk:
    """Walks a folder of this machine. Opens no file, and reads a folder once that has two names."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._seen: dict[tuple[int, int], str] = {}
        self._above = set(identities(listing.path.resolve().parents))
        self._links: list[tuple[str, os.stat_result]] = []  # read last, so that a folder's own name counts

    def run(self) -> None:
        self._folder("", self._listing.path.stat())
        while self._links:
            links, self._links = self._links, []
            for name, found in sorted(links, key=lambda link: (link[0].count("/"), link[0])):
                self._folder(name, found)

    def _folder(self, top: str, found: os.stat_result) -> None:
        todo = [(top, found)]
        while todo:
            folder, found = todo.pop()
            key = (found.st_dev, found.st_ino)
            if key in self._above and folder.rpartition("/")[2] != "images":
                self._listing.skip(ABOVE, folder)
            elif key in self._seen:
                self._listing.aliases[folder] = self._seen[key]
            else:
                self._seen[key] = folder
                # the last is read first: `images`, if a link of this name leads to a folder with another name
                todo += sorted(self._entries(folder), key=lambda below: (below[0].endswith("images"), below[0]))

    def _entries(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """Add the files of one folder, and yield its folders."""
        listing = self._listing
        try:
            with os.scandir(os.path.join(listing.path, folder)) as found:  # noqa: PTH118 (a Path costs 5 µs, and there are millions)
                entries = list(found)
        except OSError as error:
            if not folder:
                raise InputError(f"{listing.path}: the folder cannot be read ({error.strerror})") from error
            listing.skip(f"{UNREADABLE} ({error.strerror})", folder)
            return
        names = [entry.name for entry in entries]
        if not folder:
            _refuse_set(listing.path, names)
        elif what := what_folder(names):
            listing.skip(what, folder)
            return
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if is_hidden(entry.name):
                listing.skip(HIDDEN, name)
            elif (below := self._entry(entry, name)) is not None:
                yield name, below

    def _entry(self, entry: os.DirEntry[str], name: str) -> os.stat_result | None:
        """Add a file, or return the status of a folder."""
        problem = ""
        try:
            if not entry.is_file(follow_symlinks=False):  # known of most files without another call
                found = entry.stat()
                if stat.S_ISDIR(found.st_mode):
                    if not entry.is_symlink() or entry.name == "images":
                        return found
                    self._links.append((name, found))
                    return None
                problem = "" if stat.S_ISREG(found.st_mode) else f"{kind_of_file(found.st_mode)}, no regular file"
        except FileNotFoundError:
            problem = "a link to nowhere"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            self._listing.skip(problem, name)
        self._listing.files[name] = Member(name, problem=problem)
        return None


def remote_infos(path: Path) -> dict[str, dict[str, Any]]:
    """What a remote file system reports of each file below a folder, by relative name, without the empty objects in place of folders."""
    root = as_remote(path).path.rstrip("/") + "/"
    list_anew(path)
    infos: dict[str, dict[str, Any]] = as_remote(path).fs.find(root, detail=True)
    empty = {name for name, info in infos.items() if info.get("size") == 0}
    folders = {name.rpartition("/")[0] for name in infos} if empty else set()
    return {name.removeprefix(root): info for name, info in infos.items() if name not in empty or not stands_for_folder(info, folders)}
