"""Publishing files: written beside, flushed to disk, renamed, so that a reader sees all of a file or nothing."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


def publish(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to disk, and rename it into place; on an exception nothing is left."""
    beside = path.with_name(f".{path.name}.partial")
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
