"""Encoded pictures by id and the table beside them, from a folder or straight from the Kaggle zip, never unpacked.

    folder | zip | s3://… ─► open_source ─► Source: id -> Member, where its bytes lie ─► Reader.read_many ─► bytes

A Reader needs no list of files: a worker gets it, and the Members of its own rows.
"""

import hashlib
import os
import struct
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fastfashion.errors import InputError
from fastfashion.files import is_remote
from fastfashion.image import SUFFIXES

TABLE_NAME = "styles.csv"
MAX_PICTURE_BYTES = 256 << 20  # a JPEG of 100 megapixels has some 50 MiB; a zip bomb unpacks to gigabytes
REQUESTS = 16  # on their way to object storage at once: at 50 ms a request, 320 pictures a second
RETRY_WAITS_S = (0.5, 2.0, 8.0)
# What a file system reports that changes when a file is replaced, under the names that S3, GCS, HTTP, Hugging Face and memory use.
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "updated", "blob_id", "created")
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and the extra field (APPNOTE.TXT 4.3.7)
_EXTRA_BYTES = 64  # a guess at the extra field, so that header and picture come with one read
_ENCRYPTED = -1


class UnreachableError(InputError):
    """A remote place does not answer any more. That says nothing about the picture, so a run stops rather than leave it out."""


class Member(NamedTuple):
    """Where one encoded picture lies; small, and the same in every process."""

    name: str  # file relative to the folder, or name within the zip
    offset: int = -1  # of the local header, zip only
    packed: int = -1  # bytes in the zip
    size: int = -1  # bytes of the picture, -1 where unknown
    method: int = zipfile.ZIP_STORED
    crc32: int = 0  # of the picture, zip only


@dataclass(frozen=True)
class Reader:
    """Bytes of members. Goes to other processes, where it opens its own file handle at the first read."""

    path: Path
    is_zip: bool
    _file: list[BinaryIO] = field(default_factory=list, repr=False, compare=False)

    def read(self, member: Member, max_bytes: float = MAX_PICTURE_BYTES) -> bytes:
        """The bytes of one member.

        Raises InputError where it is missing, damaged, or larger than `max_bytes`, UnreachableError where a remote place is silent.
        """
        try:
            if max(member.size, member.packed) > max_bytes:
                raise InputError(f"{max(member.size, member.packed)} bytes, more than a picture may have ({max_bytes}): remove it")
            if self.is_zip:
                return self._read_zipped(member)
            if is_remote(self.path):
                return self._fetch(member.name, None, None)
            with (self.path / member.name).open("rb") as file:
                if os.fstat(file.fileno()).st_size > max_bytes:
                    raise InputError(f"more bytes than a picture may have ({max_bytes}): remove it")
                return file.read()
        except UnreachableError:
            raise
        except (OSError, OverflowError, zlib.error, InputError) as error:
            raise InputError(f"cannot read {member.name}: {error}") from error

    def read_many(self, members: Iterable[Member]) -> Iterator[bytes | InputError]:
        """The bytes of each member in turn, or why there are none. From remote places, several requests run ahead.

        Raises UnreachableError where a remote place does not answer any more.
        """
        if not is_remote(self.path):
            yield from map(self._attempt, members)
            return
        pool = ThreadPoolExecutor(REQUESTS)
        try:
            ahead: deque[Future[bytes | InputError]] = deque()
            for member in members:
                ahead.append(pool.submit(self._attempt, member))
                if len(ahead) == REQUESTS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _attempt(self, member: Member) -> bytes | InputError:
        try:
            return self.read(member)
        except UnreachableError:
            raise
        except InputError as error:
            return error

    def _read_zipped(self, member: Member) -> bytes:
        """zipfile reads the whole central directory first, and takes 12 µs a picture where this takes 2."""
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "encrypted" if member.method == _ENCRYPTED else f"compressed by method {member.method}"
            raise InputError(f"it is {how}; expected stored or deflated, write the zip anew")
        guess = _LOCAL_HEADER.size + len(member.name.encode(errors="replace")) + _EXTRA_BYTES + member.packed
        head = self._fetch("", member.offset, member.offset + guess)
        if len(head) < _LOCAL_HEADER.size or not head.startswith(b"PK\x03\x04"):
            raise InputError(f"no file header at byte {member.offset} of the zip; download it again")
        start = _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack_from(head)[1:])
        data = head[start : start + member.packed]
        if start + member.packed > guess:  # an extra field longer than guessed
            data = self._fetch("", member.offset + start, member.offset + start + member.packed)
        if member.method == zipfile.ZIP_DEFLATED:  # a byte more than there should be tells of a bomb
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
        if len(data) != member.size:
            raise InputError(f"{len(data)} bytes instead of {member.size}; download the zip again")
        if zlib.crc32(data) != member.crc32:
            raise InputError("Bad CRC-32; download the zip again")
        return data

    def _fetch(self, name: str, start: int | None, end: int | None) -> bytes:
        """Bytes of a file below `path`, or of `path` itself, from `start` to `end`; fewer where it ends before."""
        if is_remote(self.path):
            return _patiently(self.path / name if name else self.path, start, end)
        assert start is not None and end is not None
        if not self._file:
            self._file.append(self.path.open("rb", buffering=0))
        data = os.pread(self._file[0].fileno(), end - start, start)
        while len(data) < end - start and (more := os.pread(self._file[0].fileno(), end - start - len(data), start + len(data))):
            data += more  # Linux gives 2 GiB at most in one go, and a table may have more
        return data

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "is_zip": self.is_zip, "_file": []}


def _patiently(path: Any, start: int | None, end: int | None) -> bytes:
    """Bytes of a remote file; a request that fails is repeated, as networks are."""
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            data = bytes(path.fs.cat_file(path.path, start=start, end=end))
            break
        except Exception as error:  # every file system has its own: aiohttp's and botocore's are no OSError
            missing = isinstance(error, FileNotFoundError)
            if missing and start is None:  # one picture of a folder, not the zip that holds all
                raise
            if missing or wait_s is None:
                raise UnreachableError(
                    f"{path}: cannot be read any more ({type(error).__name__}: {error}); run the same command again when it can"
                ) from error
            time.sleep(wait_s)
    if start is not None and end is not None and len(data) > end - start:
        raise UnreachableError(f"{path}: the server sends all of it where a part was asked for (no range requests); download it first")
    return data


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder or a zip of pictures with a table: in Kaggle's layout a styles.csv with an images folder beside it."""

    path: Path
    table_member: Member
    images: dict[str, Member]  # by id
    reader: Reader

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
            stats = (file.stat() for file in ([self.path] if self.is_zip else map(self.path.joinpath, names)))
            stamps = [f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats]
        else:
            infos = [_remote(self.path).fs.info(_remote(self.path).path)] if self.is_zip else map(_found(self.path).__getitem__, names)
            stamps = [" ".join([str(info["size"]), *(str(info[name]) for name in _STAMPS if name in info)]) for info in infos]
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()


def open_source(path: Path, table: str = "") -> Source:
    """Find the table and its pictures in a folder or zip, here or remote.

    The table is the CSV that `table` names, else styles.csv, else the only CSV there is. Its pictures are those in the folder `images`
    beside it, or in the one nearest the top, or, where no folder is called so, all; their ids are their names without the suffix.

    Where an archive holds several copies of the table (Kaggle's do), the one nearest the top counts. Names that lead out of the zip
    (`../x`, `/x`, `a\\x`) are ignored. Raises InputError where there is no table or no picture, and where two have one id.
    """
    is_zip, members = _members(path)
    found = _find_table(path, members, table)
    images = _find_pictures(path, members, found)
    located = path if is_remote(path) else path.resolve()
    return Source(path=located, table_member=members[found], images=images, reader=Reader(located, is_zip))


def _find_table(path: Path, members: dict[str, Member], wanted: str) -> str:
    """The name of the table among the files."""
    name = wanted or TABLE_NAME
    if tables := [n for n in members if n == name or n.endswith(f"/{name}")]:
        return min(tables, key=_nearest_top)
    others = sorted((n for n in members if n.lower().endswith(".csv")), key=_nearest_top)
    if len(others) == 1 and not wanted:
        return others[0]
    if others:
        raise InputError(f"{path}: no {name}, but {', '.join(others[:5])}: choose the table with --table")
    nested = next((n for n in members if n.lower().endswith(".zip")), None)
    if nested:
        raise InputError(f"{path}: no {name}, but it holds {nested}: unpack that one and name it with --source")
    raise InputError(f"{path}: no {name} among its {len(members)} files; expected it beside a folder of pictures named images")


def _find_pictures(path: Path, members: dict[str, Member], table: str) -> dict[str, Member]:
    """Pictures by id."""
    pictures: dict[str, list[tuple[int, str]]] = {}  # folder -> (rank of the suffix, name)
    for name in members:
        folder, _, file = name.rpartition("/")
        stem, dot, suffix = file.rpartition(".")
        if stem and (dot + suffix.lower()) in SUFFIXES:
            pictures.setdefault(folder, []).append((SUFFIXES.index(dot + suffix.lower()), name))
    if not pictures:
        raise InputError(f"{path}: no picture ({', '.join(SUFFIXES)}); expected images/<id>.jpg beside {table}")
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


def _members(path: Path) -> tuple[bool, dict[str, Member]]:
    """Whether it is a zip, and its files by name."""
    on_web_server = is_remote(path) and _remote(path).protocol in ("http", "https")
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; expected a folder or zip with {TABLE_NAME} and images/")
        is_zip = on_web_server or path.is_file()
        return is_zip, _zip_members(path) if is_zip else _folder_members(path)
    except InputError:
        raise
    except Exception as error:  # zipfile meets damage with half a dozen types, and every remote file system has its own
        advice = "expected the archive as downloaded from Kaggle, or a folder: download it again"
        if on_web_server:
            advice = "a folder on a web server cannot be listed: name a zip, on a server that answers range requests, or download it"
        raise InputError(f"{path}: not a readable zip ({type(error).__name__}: {error}); {advice}") from error


def _nearest_top(name: str) -> tuple[int, str]:
    return name.count("/"), name


def _zip_members(path: Path) -> dict[str, Member]:
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; expected a zip, download it again")
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    if not infos:
        raise InputError(f"{path}: the zip holds no file; expected {TABLE_NAME} and images/, download it again")
    return {  # of two members with one name the last counts, as in zipfile
        i.filename: Member(
            i.filename, i.header_offset, i.compress_size, i.file_size, _ENCRYPTED if i.flag_bits & 1 else i.compress_type, i.CRC
        )
        for i in infos
        if not i.filename.startswith("/") and "\\" not in i.filename and ".." not in i.filename.split("/")
    }


def _folder_members(path: Path) -> dict[str, Member]:
    """The tables and pictures below a folder; links may lead out of it, to another disk."""
    if is_remote(path):
        return {name: Member(name, size=info["size"]) for name, info in _found(path).items()}
    files = (
        os.path.join(root, name)[len(os.path.join(path, "")) :]  # noqa: PTH118 (a Path costs 5 µs, and there are millions)
        for root, _, names in os.walk(path, followlinks=True)
        for name in names
        if name.lower().endswith((".csv", *SUFFIXES))
    )
    return {name: Member(name) for name in files}


def _remote(path: Path) -> Any:
    """The same as UPath, whose `.fs` and `.path` pathlib does not have."""
    return path


def _found(path: Path) -> dict[str, dict[str, Any]]:
    """What a remote file system reports of each file below a folder, by relative name."""
    root = _remote(path).path.rstrip("/") + "/"
    return {name.removeprefix(root): info for name, info in _remote(path).fs.find(root, detail=True).items()}
