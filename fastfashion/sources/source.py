"""Encoded images by name and the table beside them, from a folder or straight from the Kaggle zip, never unpacked.

    folder | zip | s3://… ─► open_source ─► Source: name -> Member, where its bytes are ─► Reader.read_many ─► bytes

A Reader needs no list of files: a worker gets it, and the Members of its own rows.
"""

import hashlib
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from fastfashion.errors import FastfashionError, InputError, RemoteError
from fastfashion.files import location
from fastfashion.images.codec import SUFFIXES, unsupported
from fastfashion.remote import as_remote, ask, is_file, is_folder, is_remote, is_web, list_anew, size_of
from fastfashion.retry import passes
from fastfashion.sources.explain import TABLE_NAME, WANTED, what_file, why_no_image, why_no_table, why_no_zip
from fastfashion.sources.listing import UNREADABLE, Listing, Member, SkippedFiles, kind_of_file, list_folder, list_zip, remote_infos
from fastfashion.sources.match import Files, table_seen_from
from fastfashion.sources.ranges import RemoteVersion, changed, read_part, stamp, tried_again
from fastfashion.sources.reader import Reader
from fastfashion.sources.zips import read_entries
from fastfashion.untrusted import open_regular, read_limited
from fastfashion.words import why

HEAD_BYTES = 1024
MOST_TABLE_BYTES = 8 << 30  # of a table that is named by itself: 40 million lines


class SourceState(NamedTuple):
    """Digests of what file systems report of a source's files. A replaced file has another inode and another change time.

    One of the two alone may differ for files that nobody touched: a FUSE mount may renumber its files, a hard link counts as a change.
    """

    images: str  # sizes and times (or entity tags) of the images
    by_inode: str  # of the table too, with inodes
    by_change: str  # the same with change times


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder or a zip of images with a table: in Kaggle's layout a styles.csv with an images folder beside it."""

    path: Path
    table_member: Member
    files: dict[str, Member]  # every image, by its name in the source
    reader: Reader
    table_file: Path | None = None  # a table that is not among the files of the source
    skipped: Mapping[str, SkippedFiles] = field(default_factory=dict)  # by reason: files and folders below it that are not part of it
    unread: tuple[str, ...] = ()  # images of formats that are not read
    aliases: Mapping[str, str] = field(default_factory=dict)  # folder that is another name of a listed one -> that one
    state: SourceState = field(default=SourceState("", "", ""))  # when it was opened

    @property
    def table(self) -> str:
        return self.table_member.name

    @property
    def is_zip(self) -> bool:
        return self.reader.is_zip

    @cached_property
    def finder(self) -> Files:
        """Finds the images of the rows of the table."""
        on_disk = not self.is_zip and not is_remote(self.path)
        return Files(self.path, self.files, self.table, str(self.path) if on_disk else None, self.aliases, self.unread)

    @cached_property
    def images(self) -> dict[str, Member]:
        """What a table finds by names without folder and suffix, such as Kaggle's ids."""
        return self.finder.images_by_stem()

    def read_table(self) -> bytes:
        """The table's bytes. Raises InputError if it cannot be read, and as `read_limited`."""
        if self.table_file is None:
            return self.reader.read(self.table_member, max_bytes=float("inf"))
        try:
            return read_limited(self.table_file, MOST_TABLE_BYTES)
        except OSError as error:
            raise InputError(f"{self.table_file}: cannot be read ({error.strerror or error})") from error

    def read(self, text: str) -> bytes:
        """Encoded bytes of the image that a text of the table names; raises InputError if it is missing or cannot be read."""
        found = self.finder.find([text])
        if found.members[0] is None:
            raise InputError(found.missing[0])
        return self.reader.read(found.members[0])

    def unreadable(self) -> str:
        """What to add to the reason of a row without an image, which may be in a folder that cannot be read."""
        return "".join(f", but {entry['first']} is {reason}" for reason, entry in self.skipped.items() if reason.startswith(UNREADABLE))

    def fingerprint(self) -> str:
        """Changes when an image of the source is replaced: sha256 of sizes and change times (or entity tags), as it was opened."""
        return self.state.images

    def check_unchanged(self) -> None:
        """Raises ChangedError if a file of the source has changed since it was opened; RemoteError if that cannot be checked."""
        try:
            now = _look(self)
        except (FastfashionError, OSError) as error:
            if isinstance(error, RemoteError) or (isinstance(error.__cause__, Exception) and passes(error.__cause__)):
                raise RemoteError(f"{error}; run the same command again when it can be read") from error
            raise changed(self.path, why(error)) from error
        if now.by_inode != self.state.by_inode and now.by_change != self.state.by_change:
            raise changed(self.path)


def open_source(path: Path, table: str = "") -> Source:
    """Find the table and all images in a folder or zip, here or remote; sources/match.py says which image belongs to which row.

    The table is the CSV that `table` names, in the source or by any other path, else styles.csv, else the only CSV there is. If an
    archive holds several copies of the table (Kaggle's do), the one nearest the top counts. Names that lead out of the zip (`../x`, `/x`,
    `C:\\x`) are ignored. Raises InputError if there is no table, or no image.
    """
    before = None if is_remote(path) else _here(path)
    listing = list_source(path)
    name, outside = _find_table(listing, table)
    files = {n: member for n, member in listing.files.items() if n.lower().endswith(SUFFIXES)}
    if not files:
        raise InputError(f"{path}: no image ({', '.join(SUFFIXES)}); {why_no_image(listing, name)}")
    located = path if is_remote(path) else path.resolve()
    source = Source(
        path=located,
        table_member=listing.files.get(name, Member(name)),
        files=files,
        reader=Reader(located, listing.is_zip, listing.version),
        table_file=outside,
        skipped=listing.skipped,
        unread=tuple(sorted(n for n in listing.files if unsupported(n))),
        aliases=listing.aliases,
    )
    return replace(source, state=_look(source, listing, before))


def list_source(path: Path) -> Listing:
    """The files of a folder or a zip, here or remote. Raises InputError that says what `path` is, if it is neither."""
    if is_remote(path):
        return _list_remote(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return list_folder(path)
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: {kind_of_file(mode)}; {WANTED}")
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise InputError(f"{path}: a link to {path.readlink()}, which does not exist; {WANTED}") from None
        raise InputError(f"{path}: no such file or folder; {WANTED}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _list_zip(path, head, None)


def _list_remote(path: Path) -> Listing:
    """Raises RemoteError if the place cannot be read, as `remote.ask`."""
    list_anew(path)
    if not is_web(path) and (not is_file(path) or size_of(path) == 0) and is_folder(path):
        return ask(path, lambda: list_folder(path))
    try:
        head, version = ask(path, lambda: read_part(path, 0, HEAD_BYTES))
    except FileNotFoundError:
        said = "no such file on this server (404); check the address" if is_web(path) else f"no such file or folder; {WANTED}"
        raise InputError(f"{path}: {said}") from None
    return _list_zip(path, head, version)


def _list_zip(path: Path, head: bytes, version: RemoteVersion | None) -> Listing:
    """`version`: of a remote zip."""
    if not head:
        raise InputError(f"{path}: the file is empty; expected a zip, download or copy it again")
    if not head.startswith(b"PK") and (what := what_file(path, head)):
        raise InputError(f"{path}: {what}")
    try:
        entries = tried_again(lambda: list(read_entries(path, version)), zipfile.BadZipFile) if version else [*read_entries(path)]
    except FastfashionError:
        raise
    except Exception as error:  # damage of any kind
        raise InputError(f"{path}: not a readable zip ({type(error).__name__}: {error}); {why_no_zip(path, head)}") from error
    if not entries:
        raise InputError(f"{path}: the zip holds no file; {WANTED}")
    if any(entry.name == "xl/workbook.xml" for entry in entries):
        raise InputError(f"{path}: an Excel workbook; save the sheet as CSV beside the images, and name their folder with --source")
    return list_zip(path, entries, version)


def _look(source: Source, listing: Listing | None = None, before: tuple[str, str, str] | None = None) -> SourceState:
    """What the file systems report now; of a zip, `listing` and `before` spare a second look right after it was opened."""
    path, names = source.path, sorted(source.files)
    if source.is_zip and is_remote(path):
        listing = listing or list_source(path)
        directory = hashlib.sha256(repr(sorted(listing.files.values())).encode(errors="backslashreplace")).hexdigest()
        images = [(str(listing.version), directory, directory)]
    elif source.is_zip:
        images = [before or _here(path)]
    elif is_remote(path):
        infos = ask(path, lambda: remote_infos(path))
        images = [_there(infos.get(name)) for name in names]
    else:
        images = [_here(path / name) for name in names]
    table = source.table_file or (None if source.is_zip else path / source.table)
    tables = [] if table is None else [_here(table)]
    return SourceState(
        _digest(plain for plain, *_ in images),
        _digest(f"{plain} {inode}" for plain, inode, _ in images + tables),
        _digest(f"{plain} {change}" for plain, _, change in images + tables),
    )


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _here(file: Path) -> tuple[str, str, str]:
    """Size and time, inode, change time; of a remote file as `_there`."""
    if is_remote(file):
        try:
            return _there(ask(file, lambda: as_remote(file).fs.info(as_remote(file).path)))
        except FileNotFoundError:
            return _there(None)
    try:
        found = file.stat()
    except (OSError, ValueError) as error:  # such as a link to nowhere: its row is rejected
        return str(error), "", ""
    return f"{found.st_size} {found.st_mtime_ns}", str(found.st_ino), str(found.st_ctime_ns)


def _there(info: dict[str, Any] | None) -> tuple[str, str, str]:
    return "gone" if info is None else stamp(info), "", ""


def _find_table(listing: Listing, wanted: str) -> tuple[str, Path | None]:
    """The name of the table, and its path if it is not among the files of the source."""
    path, members = listing.path, listing.files
    name = wanted or TABLE_NAME
    if tables := sorted((n for n in members if n == name or n.endswith(f"/{name}")), key=_nearest_top):
        if len(tables) > 1 and tables[0].count("/") == tables[1].count("/"):
            raise InputError(f"{path}: which table? There are {', '.join(tables[:5])}: choose with --table")
        return tables[0], None
    if wanted and (outside := next((place for place in (location(wanted), path / wanted) if place.is_file()), None)) is not None:
        if listing.is_zip or is_remote(path) or is_remote(outside):
            return outside.name, outside
        return table_seen_from(path, outside), outside
    others = sorted((n for n in members if n.lower().endswith((".csv", ".tsv"))), key=_nearest_top)
    others = [n for n in others if not members[n].problem] or others
    if len(others) == 1 and not wanted:
        return others[0], None
    if others:
        raise InputError(f"{path}: no {name}, but {', '.join(others[:5])}: choose the table with --table")
    raise InputError(f"{path}: no {name}, {why_no_table(listing)}")


def _nearest_top(name: str) -> tuple[int, str]:
    return name.count("/"), name
