"""Names, versions and checksums of a packed set. shards/FORMAT.md is the specification."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastfashion.errors import ConfigError, PackedSetError, RemoteError
from fastfashion.files import publish
from fastfashion.remote import ask, is_remote, open_stream
from fastfashion.untrusted import open_regular, read_limited
from fastfashion.words import why

FORMAT_NAME = "fastfashion-packed-set"
FORMAT_VERSION = 3  # what is written
READABLE_VERSIONS = (2, 3)  # 2: without the column `kind` of the index and `path` of the catalog

SET = "set.json"
CATALOG = "catalog.parquet"
VOCAB = "vocab.json"
REJECTED = "rejected.csv"
INDEX = "index.parquet"
MANIFEST = "manifest.json"
FULL = "full"
STAGING, STAGED_PLAN = ".staging", "plan.json"  # what a packing run that is not finished leaves beside the resolutions

LONGEST_BYTES = 1 << 40  # of a file of which nothing says how long it may be
READ_BYTES = 1 << 20  # at once, where a file may be larger than memory
MOST_BYTES = {SET: 1 << 20, MANIFEST: 64 << 20, VOCAB: 16 << 20}  # a manifest of 40 million images has 11 MB


def most_index_bytes(num_rows: int) -> int:
    """Of an index file: a row has eight numbers."""
    return (1 << 20) + 128 * num_rows


def most_catalog_bytes(num_bytes: int) -> int:
    """Of a catalog, by what set.json says: somebody may have corrected labels in it since."""
    return (1 << 20) + 2 * num_bytes


def check_resolution(name: str) -> str:
    """ "full", or the shorter side in pixels; raises ConfigError for anything else."""
    if name == FULL or (name.isdecimal() and str(int(name)) == name and 16 <= int(name) <= 4096):
        return name
    raise ConfigError(f"unknown resolution {name!r}: expected full, or the shorter side in pixels, 16 to 4096")


def shard_name(number: int) -> str:
    return f"{number:05d}.tar"


def index_name(number: int) -> str:
    return f"{number:05d}.idx"


def hash_file(path: Path, on_bytes: Callable[[int], None] = lambda num_bytes: None, max_bytes: int = LONGEST_BYTES) -> tuple[int, str]:
    """Size in bytes and sha256 of a file, read in blocks; `on_bytes` is told the size of each. No block is read past `max_bytes`."""

    def read() -> tuple[int, str]:
        digest, num_bytes = hashlib.sha256(), 0
        with open_stream(path, max_bytes + 2 * READ_BYTES) if is_remote(path) else open_regular(path) as file:
            while num_bytes <= max_bytes and (block := file.read(READ_BYTES)):
                digest.update(block)
                num_bytes += len(block)
                on_bytes(len(block))
        return num_bytes, digest.hexdigest()

    return ask(path, read) if is_remote(path) else read()


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file beside the resolutions."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SetFiles:
    """What a set holds beside its resolutions; written after those files and before the first resolution."""

    num_rows: int
    files: Mapping[str, FileEntry]

    @classmethod
    def of(cls, folder: Path, num_rows: int) -> "SetFiles":
        """Hashes the catalog, the vocabulary and the rejected rows that lie in a folder."""
        files = {name: hash_file(folder / name) for name in (CATALOG, VOCAB, REJECTED)}
        return cls(num_rows=num_rows, files={name: FileEntry(num_bytes=size, sha256=sha256) for name, (size, sha256) in files.items()})

    def write(self, path: Path) -> None:
        _write_signed(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "SetFiles":
        """Raises PackedSetError where the file is missing, damaged, or of another format version."""
        values = _read_signed(path)
        try:
            found = cls(**values | {"files": {name: FileEntry(**entry) for name, entry in values["files"].items()}})
            if set(found.files) != {CATALOG, VOCAB, REJECTED}:
                raise ValueError(f"expected the files {CATALOG}, {VOCAB} and {REJECTED}, found {', '.join(found.files)}")
            _check_fields(found, *found.files.values())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PackedSetError(f"{path}: not written as the format asks ({error}); pack the set again") from error
        return found


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar of a resolution, and its index for other readers."""

    number: int
    num_rows: int
    num_bytes: int  # of the tar
    sha256: str  # of the tar
    idx_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a resolution consists of; written last, so that its presence means that all the rest is there."""

    resolution: str
    num_rows: int
    index_sha256: str
    encoder: Mapping[str, Any] | None  # None where the original bytes were kept
    shards: tuple[ShardEntry, ...]

    def write(self, path: Path) -> None:
        _write_signed(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises PackedSetError where the file is missing, damaged, or of another format version."""
        values = _read_signed(path)
        try:
            found = cls(**values | {"shards": tuple(ShardEntry(**entry) for entry in values["shards"])})
            _check_fields(found, *found.shards)
        except (KeyError, TypeError, ValueError) as error:
            raise PackedSetError(f"{path}: not written as the format asks ({error}); pack the set again") from error
        return found


def _check_fields(*entries: Any) -> None:
    """Whoever follows FORMAT.md may have written them: numbers are whole and not negative, and text is text."""
    for entry in entries:
        for name, kind in type(entry).__annotations__.items():
            value = getattr(entry, name)
            if kind in (int, str) and (type(value) is not kind or (kind is int and value < 0)):
                raise ValueError(f"{name}: expected {'a number of 0 or more' if kind is int else 'text'}, found {value!r}")


def _write_signed(path: Path, values: Mapping[str, Any]) -> None:
    """JSON whose last field, `sha256`, is that of all the bytes before it: a reader need not write JSON as we do to check it."""
    text = json.dumps({"format": FORMAT_NAME, "version": FORMAT_VERSION, **values}, indent=2, ensure_ascii=False)
    signed = text.removesuffix("\n}").encode()
    publish(path, lambda beside: beside.write_bytes(signed + _signature(signed)))


def _signature(signed: bytes) -> bytes:
    return f',\n  "sha256": "{hashlib.sha256(signed).hexdigest()}"\n}}\n'.encode()


def _read_signed(path: Path) -> dict[str, Any]:
    try:
        data = read_limited(path, MOST_BYTES[path.name])
        values = json.loads(data)
    except RemoteError:
        raise
    except FileNotFoundError:
        raise PackedSetError(f"{path}: missing; it was not packed to its end, run fastfashion shard again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PackedSetError(f"{path}: not readable ({why(error)}); pack the set again") from error
    found = (values.pop("format", None), values.pop("version", None)) if isinstance(values, dict) else (None, None)
    if found[0] != FORMAT_NAME or found[1] not in READABLE_VERSIONS:
        readable = " or ".join(map(str, READABLE_VERSIONS))
        raise PackedSetError(
            f"{path}: expected {FORMAT_NAME} version {readable}, found {found[0]} version {found[1]}; "
            "pack the set again, or use the fastfashion that wrote it"
        )
    signature = _signature(b"")
    if data[-len(signature) :] != _signature(data[: -len(signature)]):
        raise PackedSetError(f"{path}: damaged: its bytes differ from the checksum at its end; pack the set again")
    del values["sha256"]
    return values
