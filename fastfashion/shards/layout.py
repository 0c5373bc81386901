"""Names, versions and the manifest of a packed set. shards/FORMAT.md is the specification."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.files import publish_json

FORMAT_NAME = "fastfashion-packed-set"
FORMAT_VERSION = 1

CATALOG = "catalog.parquet"
VOCAB = "vocab.json"
REJECTED = "rejected.csv"
INDEX = "index.parquet"
MANIFEST = "manifest.json"
FULL = "full"


def check_resolution(name: str) -> str:
    """ "full", or the shorter side in pixels; raises ConfigError for anything else."""
    if name == FULL or (name.isdecimal() and str(int(name)) == name and 16 <= int(name) <= 4096):
        return name
    raise ConfigError(f"unknown resolution {name!r}: expected full, or the shorter side in pixels, 16 to 4096")


def shard_name(number: int) -> str:
    return f"{number:05d}.tar"


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar of a resolution."""

    number: int
    num_rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a resolution consists of; written last, so that its presence means that all the rest is there."""

    resolution: str
    num_rows: int
    index_sha256: str
    encoder: Mapping[str, Any] | None  # None where the original bytes were kept
    shards: tuple[ShardEntry, ...]

    def write(self, path: Path) -> None:
        publish_json(path, {"format": FORMAT_NAME, "version": FORMAT_VERSION} | asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises PackedSetError where the file is missing, unreadable, or of another format version."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PackedSetError(f"{path}: no manifest; this resolution was not packed to its end, run fastfashion shard again") from None
        except ValueError as error:
            raise PackedSetError(f"{path}: not a readable manifest ({error}); pack the set again") from error
        found = (values.pop("format", None), values.pop("version", None)) if isinstance(values, dict) else (None, None)
        if found != (FORMAT_NAME, FORMAT_VERSION):
            raise PackedSetError(
                f"{path}: expected {FORMAT_NAME} version {FORMAT_VERSION}, found {found[0]} version {found[1]}; "
                "pack the set again, or use the fastfashion that wrote it"
            )
        try:
            return cls(**values | {"shards": tuple(ShardEntry(**entry) for entry in values["shards"])})
        except (KeyError, TypeError) as error:
            raise PackedSetError(f"{path}: damaged manifest ({error}); pack the set again") from error
