"""Publishing files so that a reader sees all of a file or nothing, on a disk or on object storage.

A location is a `Path`, or for `s3://…` and the like a UPath: pathlib's methods over fsspec.
"""

import csv
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from fastfashion.errors import ConfigError

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://")


def location(text: str) -> Path:
    """The file or folder that a path or a URL such as s3://bucket/set names; raises ConfigError where it cannot be reached from here."""
    if not _SCHEME.match(text):
        return Path(text)
    try:
        from upath import UPath

        found: Any = UPath(text)
        assert found.fs  # imports the package behind the scheme
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{text}: cannot be reached ({error}); pip install 'fastfashion[remote]' brings s3:// and https://") from error
    return cast(Path, found)


def is_remote(path: Path) -> bool:
    return not isinstance(path, Path)


def publish(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file, and make it appear at `path` whole; on an exception nothing is left.

    On a disk it is written beside, flushed, and renamed. On object storage it is written to a temporary file and uploaded.
    """
    if is_remote(path):
        remote: Any = path
        with tempfile.TemporaryDirectory(prefix="fastfashion-") as folder:
            write(Path(folder) / path.name)
            remote.fs.put_file(str(Path(folder) / path.name), remote.path)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")  # a process that lingers cannot disturb the one after it
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def publish_json(path: Path, value: object) -> None:
    """The same for a JSON value, indented, in UTF-8."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    publish(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def publish_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The same for a table, comma-separated, in UTF-8."""

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)

    publish(path, write)
