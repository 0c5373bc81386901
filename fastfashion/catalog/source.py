"""Encoded images by name and the table beside them, from a folder or straight from the Kaggle zip, never unpacked.

    folder | zip | s3://… ─► open_source ─► Source: name -> Member, where its bytes are ─► Reader.read_many ─► bytes

A Reader needs no list of files: a worker gets it, and the Members of its own rows.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fastfashion.catalog.kinds import list_source, why_no_image, why_no_table
from fastfashion.catalog.listing import TABLE_NAME, UNREADABLE, Listing, Member, PassedOver, remote_infos
from fastfashion.catalog.match import Files, table_seen_from
from fastfashion.catalog.reader import Reader
from fastfashion.errors import InputError
from fastfashion.files import is_remote, location
from fastfashion.image import SUFFIXES, unsupported
from fastfashion.remote import as_remote

# What a file system reports that changes when a file is replaced, under the names that S3, GCS, HTTP, Hugging Face and memory use.
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "updated", "blob_id", "created")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder or a zip of pictures with a table: in Kaggle's layout a styles.csv with an images folder beside it."""

    path: Path
    table_member: Member
    files: dict[str, Member]  # every image, by its name in the source
    reader: Reader
    table_file: Path | None = None  # a table that is not among the files of the source
    passed_over: Mapping[str, PassedOver] = field(default_factory=dict)  # by reason: files and folders below it that were left out
    unread: tuple[str, ...] = ()  # images of formats that are not read
    aliases: Mapping[str, str] = field(default_factory=dict)  # folder that is another name of a listed one -> that one

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
        if self.table_file is None:
            return self.reader.read(self.table_member, max_bytes=float("inf"))
        try:
            return self.table_file.read_bytes()
        except OSError as error:
            raise InputError(f"{self.table_file}: cannot be read ({error.strerror or error})") from error

    def read(self, text: str) -> bytes:
        """Encoded bytes of the image that a text of the table names; raises InputError where it is missing or cannot be read."""
        found = self.finder.find([text])
        if found.members[0] is None:
            raise InputError(found.missing[0])
        return self.reader.read(found.members[0])

    def unreadable(self) -> str:
        """What to add to the reason of a row without an image, which may be in a folder that cannot be read."""
        found = {reason: entry for reason, entry in self.passed_over.items() if reason.startswith(UNREADABLE)}
        return "".join(f", but {entry.first} is {reason}" for reason, entry in found.items())

    def passed_over_counts(self) -> dict[str, dict[str, int | str]]:
        """For each reason, how many files and folders were left out, and the first name."""
        return {reason: {"count": entry.count, "first": entry.first} for reason, entry in self.passed_over.items()}

    def fingerprint(self) -> str:
        """Changes when a file of the source is replaced: sha256 of sizes and times of change (or entity tags)."""
        names = sorted(self.files)
        if not is_remote(self.path):
            stamps = [_stamp(file) for file in ([self.path] if self.is_zip else map(self.path.joinpath, names))]
        else:
            here = as_remote(self.path)
            infos = [here.fs.info(here.path)] if self.is_zip else map(remote_infos(self.path).__getitem__, names)
            stamps = [" ".join([str(info["size"]), *(str(info[name]) for name in _STAMPS if name in info)]) for info in infos]
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()


def open_source(path: Path, table: str = "") -> Source:
    """Find the table and all images in a folder or zip, here or remote; which image is whose, catalog/match.py says.

    The table is the CSV that `table` names, in the source or by any other path, else styles.csv, else the only CSV there is. Where an
    archive holds several copies of the table (Kaggle's do), the one nearest the top counts. Names that lead out of the zip (`../x`, `/x`,
    `C:\\x`) are ignored. Raises InputError where there is no table, or no image.
    """
    listing = list_source(path)
    name, outside = _find_table(listing, table)
    files = {n: member for n, member in listing.files.items() if n.lower().endswith(SUFFIXES)}
    if not files:
        raise InputError(f"{path}: no image ({', '.join(SUFFIXES)}); {why_no_image(listing, name)}")
    located = path if is_remote(path) else path.resolve()
    return Source(
        path=located,
        table_member=listing.files.get(name, Member(name)),
        files=files,
        reader=Reader(located, listing.is_zip),
        table_file=outside,
        passed_over=listing.passed_over,
        unread=tuple(sorted(n for n in listing.files if unsupported(n))),
        aliases=listing.aliases,
    )


def _stamp(file: Path) -> str:
    try:
        found = file.stat()
    except OSError as error:  # such as a link to nowhere: its row is rejected
        return str(error.errno)
    return f"{found.st_size} {found.st_mtime_ns}"


def _find_table(listing: Listing, wanted: str) -> tuple[str, Path | None]:
    """The name of the table, and where it is if not among the files of the source."""
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
