"""Names, versions and checksums of a packed set. shards/FORMAT.md is the specification."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import msgspec

from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.files import publish, unreadable
from fastfashion.remote import ask, is_remote, open_stream
from fastfashion.untrusted import Count, Format, Sha256, open_regular, parse_json, read_limited, read_version
from fastfashion.words import why

T = TypeVar("T")
# Version 2: without the column `kind` of the index and `path` of the catalog. Version 4: a manifest that names seek tables.
FORMAT = Format("fastfashion-packed-set", oldest=2, newest=4, sealed=2)
USUAL, WITH_SEEK = 3, 4

SET = "set.json"
CATALOG = "catalog.parquet"
VOCAB = "vocab.json"
REJECTED = "rejected.csv"
INDEX = "index.parquet"
MANIFEST = "manifest.json"
FULL = "full"
STAGING, STAGED_PLAN = ".staging", "plan.json"  # of an unfinished packing run, beside the resolutions

LONGEST_BYTES = 1 << 40  # of a file whose size nothing limits
READ_BYTES = 1 << 20  # at once, if a file may be larger than memory
# A manifest of 40 million images has 11 MB.
MOST_BYTES = {SET: 1 << 20, MANIFEST: 64 << 20, VOCAB: 16 << 20, REJECTED: 256 << 20, STAGED_PLAN: 1 << 20}
PACK_AGAIN = "pack the set again"

Rows = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


def most_index_bytes(num_rows: int) -> int:
    """The limit for an index file: a row has eight numbers."""
    return (1 << 20) + 128 * num_rows


def most_idx_bytes(num_rows: int) -> int:
    """The limit for the index of a shard for other readers: a line has four numbers and two names."""
    return 512 * (num_rows + 1)


def most_seek_bytes(num_rows: int, tar_bytes: int) -> int:
    """The limit for the seek table of a shard."""
    return 12 + 4 * num_rows + tar_bytes // 50


def most_catalog_bytes(num_bytes: int) -> int:
    """The limit for a catalog, from its size in set.json: its labels may have been corrected since."""
    return (1 << 20) + 2 * num_bytes


def read_file(path: Path, max_bytes: int) -> bytes:
    """All bytes of a file of a set; raises PackedSetError if it is missing, no regular file, or longer than `max_bytes`."""
    try:
        return read_limited(path, max_bytes)
    except FileNotFoundError:
        raise PackedSetError(f"{path}: missing: packing the set did not finish; run fastfashion shard again") from None
    except InputError as error:
        raise PackedSetError(str(error)) from error
    except PermissionError as error:
        raise PackedSetError(f"{path}: {unreadable(error)}") from error
    except OSError as error:
        raise PackedSetError(f"{path}: not readable ({why(error)}); {PACK_AGAIN}") from error


def read_json(path: Path, schema: type[T], max_bytes: int) -> T:
    """A JSON file of a set; raises PackedSetError as `read_file`, and where it does not fit the schema."""
    return parse_json(read_file(path, max_bytes), schema, str(path), PackedSetError, PACK_AGAIN)


def check_resolution(name: str) -> str:
    """ "full", or the shorter side in pixels; raises ConfigError for anything else."""
    if name == FULL or (name.isdecimal() and str(int(name)) == name and 16 <= int(name) <= 4096):
        return name
    raise ConfigError(f"unknown resolution {name!r}: expected full, or the shorter side in pixels, 16 to 4096")


def is_resolution(name: str) -> bool:
    try:
        return check_resolution(name) == name
    except ConfigError:
        return False


def shard_name(number: int) -> str:
    return f"{number:05d}.tar"


def index_name(number: int) -> str:
    return f"{number:05d}.idx"


def seek_name(number: int) -> str:
    return f"{number:05d}.seek"


def hash_file(path: Path, on_bytes: Callable[[int], None] = lambda num_bytes: None, max_bytes: int = LONGEST_BYTES) -> tuple[int, str]:
    """Size and sha256 of a regular file (else InputError), read in blocks up to `max_bytes`; `on_bytes` gets the size of each."""

    def read() -> tuple[int, str]:
        digest, num_bytes = hashlib.sha256(), 0
        with open_stream(path, max_bytes + 2 * READ_BYTES) if is_remote(path) else open_regular(path) as file:
            while num_bytes <= max_bytes and (block := file.read(READ_BYTES)):
                digest.update(block)
                num_bytes += len(block)
                on_bytes(len(block))
        return num_bytes, digest.hexdigest()

    return ask(path, read) if is_remote(path) else read()


class _Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """FORMAT.md's fields, and no others."""


class FileEntry(_Schema, frozen=True, kw_only=True):
    """One file beside the resolutions."""

    num_bytes: Count
    sha256: Sha256


class _Signed(_Schema, frozen=True, kw_only=True):
    """A JSON file whose last field, `sha256`, is that of all bytes before it: any reader can check it without our JSON writer."""

    format: str = FORMAT.name
    version: int = USUAL

    def write(self, path: Path) -> None:
        signed = json.dumps(msgspec.to_builtins(self), indent=2, ensure_ascii=False).removesuffix("\n}").encode()
        publish(path, lambda beside: beside.write_bytes(signed + _signature(signed)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises PackedSetError if the file is missing, damaged, not as FORMAT.md asks, or of another format version."""
        data = read_file(path, MOST_BYTES[path.name])
        read_version(data, FORMAT, str(path), PackedSetError, f"{PACK_AGAIN}, or use the fastfashion that wrote it")
        signed = data[: -len(_signature(b""))]
        if data[len(signed) :] != _signature(signed):
            raise PackedSetError(f"{path}: damaged: its bytes differ from the checksum at its end; {PACK_AGAIN}")
        return parse_json(signed + b"}", cls, str(path), PackedSetError, PACK_AGAIN)


def _signature(signed: bytes) -> bytes:
    return f',\n  "sha256": "{hashlib.sha256(signed).hexdigest()}"\n}}\n'.encode()


class SetFiles(_Signed, frozen=True, kw_only=True):
    """The files of a set beside its resolutions; written after them and before the first resolution."""

    num_rows: Rows
    files: dict[str, FileEntry]

    def __post_init__(self) -> None:
        if set(self.files) != {CATALOG, VOCAB, REJECTED}:
            raise ValueError(f"expected the files {CATALOG}, {VOCAB} and {REJECTED}, found {', '.join(self.files)}")

    @classmethod
    def of(cls, folder: Path, num_rows: int) -> "SetFiles":
        """Hash the catalog, the vocabulary and the rejected rows in a folder."""
        files = {name: hash_file(folder / name) for name in (CATALOG, VOCAB, REJECTED)}
        return cls(num_rows=num_rows, files={name: FileEntry(num_bytes=size, sha256=sha256) for name, (size, sha256) in files.items()})


class ShardEntry(_Schema, frozen=True, kw_only=True, omit_defaults=True):
    """One tar of a resolution, its index for other readers, and its seek table, if it has one."""

    number: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    num_rows: Rows
    num_bytes: Count  # of the tar
    sha256: Sha256  # of the tar
    idx_sha256: Sha256
    seek: FileEntry | None = None  # since version 4

    def __post_init__(self) -> None:
        if self.seek and self.seek.num_bytes > (most := most_seek_bytes(self.num_rows, self.num_bytes)):
            raise ValueError(f"a seek table of {self.seek.num_bytes} bytes, more than {most}")


class Manifest(_Signed, frozen=True, kw_only=True):
    """The shards of a resolution; written last, so that its presence means that everything else is there."""

    resolution: str
    num_rows: Rows
    index_sha256: Sha256
    encoder: dict[str, Any] | None  # None: the original bytes were kept
    shards: tuple[ShardEntry, ...]

    def __post_init__(self) -> None:
        check_resolution(self.resolution)
        if len({entry.number for entry in self.shards}) != len(self.shards):
            raise ValueError("two shards have the same number")
        if self.version < WITH_SEEK and any(entry.seek for entry in self.shards):
            raise ValueError(f"a seek table in version {self.version}; expected version {WITH_SEEK}")

    @staticmethod
    def version_for(shards: Iterable[ShardEntry]) -> int:
        """The oldest version that can describe these shards, so that older readers open what they can."""
        return WITH_SEEK if any(entry.seek for entry in shards) else USUAL

    def contradiction(self, name: str, num_rows: int | None) -> str | None:
        """What contradicts the folder's name or the number of rows of the set; None if nothing does."""
        if self.resolution != name:
            return f"expected resolution {name} as its folder is named, found {self.resolution}"
        if num_rows not in (None, self.num_rows):
            return f"expected {num_rows} rows as in {SET}, found {self.num_rows}"
        if (in_shards := sum(entry.num_rows for entry in self.shards)) != self.num_rows:
            return f"expected {self.num_rows} rows in its shards, found {in_shards}"
        return None
