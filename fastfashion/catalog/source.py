"""Encoded pictures by id and the table beside them, from a folder or straight from the Kaggle zip, never unpacked.

    folder | zip | s3://… ─► open_source ─► Source: id -> Member, where its bytes lie ─► Reader.read_many ─► bytes

A Reader needs no list of files: a worker gets it, and the Members of its own rows.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastfashion.catalog.kinds import list_source, why_no_image, why_no_table
from fastfashion.catalog.listing import TABLE_NAME, Listing, Member, PassedOver, remote_infos
from fastfashion.catalog.reader import Reader
from fastfashion.errors import InputError
from fastfashion.files import is_remote
from fastfashion.image import SUFFIXES
from fastfashion.remote import as_remote

# What a file system reports that changes when a file is replaced, under the names that S3, GCS, HTTP, Hugging Face and memory use.
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "updated", "blob_id", "created")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder or a zip of pictures with a table: in Kaggle's layout a styles.csv with an images folder beside it."""

    path: Path
    table_member: Member
    images: dict[str, Member]  # by id
    reader: Reader
    passed_over: Mapping[str, PassedOver] = field(default_factory=dict)  # by reason: files and folders below it that were left out

    @property
    def table(self) -> str:
        return self.table_member.name

    @property
    def is_zip(self) -> bool:
        return self.reader.is_zip

    def read_table(self) -> bytes:
        return self.reader.read(self.table_member, max_bytes=float("inf"))

    def read(self, identity: str) -> bytes:
        """Encoded bytes of one picture; raises InputError where it is missing or cannot be read."""
        if identity not in self.images:
            raise InputError("no image")
        return self.reader.read(self.images[identity])

    def fingerprint(self) -> str:
        """Changes when a file of the source is replaced: sha256 of sizes and times of change (or entity tags)."""
        names = sorted(member.name for member in self.images.values())
        if not is_remote(self.path):
            stamps = [_stamp(file) for file in ([self.path] if self.is_zip else map(self.path.joinpath, names))]
        else:
            here = as_remote(self.path)
            infos = [here.fs.info(here.path)] if self.is_zip else map(remote_infos(self.path).__getitem__, names)
            stamps = [" ".join([str(info["size"]), *(str(info[name]) for name in _STAMPS if name in info)]) for info in infos]
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()


def open_source(path: Path, table: str = "") -> Source:
    """Find the table and its pictures in a folder or zip, here or remote.

    The table is the CSV that `table` names, else styles.csv, else the only CSV there is. Its pictures are those in the folder `images`
    beside it, or in the one nearest the top, or, where no folder is called so, all; their ids are their names without the suffix.

    Where an archive holds several copies of the table (Kaggle's do), the one nearest the top counts. Names that lead out of the zip
    (`../x`, `/x`, `C:\\x`) are ignored. Raises InputError where there is no table or no picture, and where two have one id.
    """
    listing = list_source(path)
    found = _find_table(listing, table)
    images = _find_pictures(listing, found)
    located = path if is_remote(path) else path.resolve()
    return Source(
        path=located,
        table_member=listing.files[found],
        images=images,
        reader=Reader(located, listing.is_zip),
        passed_over=listing.passed_over,
    )


def _stamp(file: Path) -> str:
    try:
        found = file.stat()
    except OSError as error:  # such as a link to nowhere: its row is rejected
        return str(error.errno)
    return f"{found.st_size} {found.st_mtime_ns}"


def _find_table(listing: Listing, wanted: str) -> str:
    """The name of the table among the files."""
    path, members = listing.path, listing.files
    name = wanted or TABLE_NAME
    if tables := [n for n in members if n == name or n.endswith(f"/{name}")]:
        return min(tables, key=_nearest_top)
    others = sorted((n for n in members if n.lower().endswith(".csv")), key=_nearest_top)
    others = [n for n in others if not members[n].problem] or others
    if len(others) == 1 and not wanted:
        return others[0]
    if others:
        raise InputError(f"{path}: no {name}, but {', '.join(others[:5])}: choose the table with --table")
    raise InputError(f"{path}: no {name}, {why_no_table(listing)}")


def _find_pictures(listing: Listing, table: str) -> dict[str, Member]:
    """Pictures by id."""
    path, members = listing.path, listing.files
    pictures: dict[str, list[tuple[int, str]]] = {}  # folder -> (rank of the suffix, name)
    for name in members:
        folder, _, file = name.rpartition("/")
        stem, dot, suffix = file.rpartition(".")
        if stem and (dot + suffix.lower()) in SUFFIXES:
            pictures.setdefault(folder, []).append((SUFFIXES.index(dot + suffix.lower()), name))
    if not pictures:
        raise InputError(f"{path}: no picture ({', '.join(SUFFIXES)}); {why_no_image(listing, table)}")
    named = [folder for folder in pictures if folder.rpartition("/")[2] == "images"]
    beside = f"{table.rpartition('/')[0]}/images".lstrip("/")
    folders = [beside] if beside in named else [min(named, key=_nearest_top)] if named else list(pictures)
    images: dict[str, Member] = {}
    for folder in folders:
        start = len(folder) + 1 if folder else 0
        found = {name[start : name.rindex(".")]: members[name] for _, name in sorted(pictures[folder], reverse=True)}
        if twice := images.keys() & found.keys():
            first = min(twice)
            raise InputError(
                f"{path}: two pictures have the id {first}, {images[first].name} and {found[first].name}; an id is the name of its file "
                "without the suffix: rename one, or put those that count into a folder named images"
            )
        images |= found
    return images


def _nearest_top(name: str) -> tuple[int, str]:
    return name.count("/"), name
