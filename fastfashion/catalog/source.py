"""Encoded pictures by id and the table beside them, from a folder or straight from the Kaggle zip, never unpacked."""

import hashlib
import os
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fastfashion.errors import InputError

TABLE_NAME = "styles.csv"
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder or a zip in Kaggle's layout: a styles.csv with an images folder beside it.

    Cheap to send to another process, which opens its own file handle at the first read.
    """

    path: Path
    table: str  # styles.csv, relative to the folder or within the zip
    images: dict[str, str]  # id -> file, likewise
    _zip: list[zipfile.ZipFile] = field(default_factory=list, repr=False, compare=False)

    @property
    def is_zip(self) -> bool:
        return self.path.is_file()

    def read_table(self) -> bytes:
        return self._read(self.table)

    def read(self, identity: str) -> bytes:
        """Encoded bytes of one picture; raises InputError where it is missing or cannot be read."""
        if identity not in self.images:
            raise InputError("no image")
        return self._read(self.images[identity])

    def fingerprint(self) -> str:
        """Changes when a file of the source is replaced: sha256 of sizes and times of change."""
        files = [self.path] if self.is_zip else [self.path / name for name in sorted(self.images.values())]
        stats = (file.stat() for file in files)
        return hashlib.sha256("\n".join(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats).encode()).hexdigest()

    def _read(self, name: str) -> bytes:
        try:
            if not self.is_zip:
                return (self.path / name).read_bytes()
            if not self._zip:
                self._zip.append(zipfile.ZipFile(self.path))
            return self._zip[0].read(name)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise InputError(f"cannot read {name}: {error}") from error

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "table": self.table, "images": self.images, "_zip": []}


def open_source(path: Path) -> Source:
    """Find the styles.csv and its pictures in a folder or zip.

    Where an archive holds several copies (Kaggle's do), the one nearest the top counts. Raises InputError where there is no table
    or no picture.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a folder or zip with {TABLE_NAME} and images/")
    names = _zip_names(path) if path.is_file() else _folder_names(path)
    tables = sorted((n for n in names if PurePosixPath(n).name == TABLE_NAME), key=_nearest_top)
    if not tables:
        raise InputError(f"{path}: no {TABLE_NAME} among its {len(names)} files; expected it beside a folder of pictures named images")
    pictures = [n for n in names if PurePosixPath(n).suffix.lower() in PICTURE_SUFFIXES and PurePosixPath(n).parent.name == "images"]
    if not pictures:
        raise InputError(f"{path}: no picture in a folder named images; expected images/<id>.jpg beside {tables[0]}")
    folders = sorted({str(PurePosixPath(n).parent) for n in pictures}, key=_nearest_top)
    beside = str(PurePosixPath(tables[0]).parent / "images")
    folder = beside if beside in folders else folders[0]
    images = {PurePosixPath(n).stem: n for n in sorted(pictures, reverse=True) if str(PurePosixPath(n).parent) == folder}
    return Source(path=path.resolve(), table=tables[0], images=images)


def _nearest_top(name: str) -> tuple[int, str]:
    return name.count("/"), name


def _zip_names(path: Path) -> list[str]:
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; expected a zip, download it again")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: not a readable zip ({error}); expected the archive as downloaded from Kaggle, or a folder") from error
    if not names:
        raise InputError(f"{path}: the zip holds no file; expected {TABLE_NAME} and images/, download it again")
    return names


def _folder_names(path: Path) -> list[str]:
    return [
        (Path(root) / name).relative_to(path).as_posix()
        for root, _, files in os.walk(path, followlinks=True)  # images/ may be a link to another disk
        for name in files
        if name == TABLE_NAME or name.lower().endswith(PICTURE_SUFFIXES)
    ]
