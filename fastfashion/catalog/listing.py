"""The files of a source by name: below a folder, in a zip, here or at a remote place."""

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from fastfashion.errors import InputError
from fastfashion.files import is_remote
from fastfashion.image import SUFFIXES

TABLE_NAME = "styles.csv"
ENCRYPTED = -1


class Member(NamedTuple):
    """Where one encoded picture lies; small, and the same in every process."""

    name: str  # file relative to the folder, or name within the zip
    offset: int = -1  # of the local header, zip only
    packed: int = -1  # bytes in the zip
    size: int = -1  # bytes of the picture, -1 where unknown
    method: int = zipfile.ZIP_STORED
    crc32: int = 0  # of the picture, zip only


def list_members(path: Path) -> tuple[bool, dict[str, Member]]:
    """Whether it is a zip, and its files by name."""
    on_web_server = is_remote(path) and as_remote(path).protocol in ("http", "https")
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


def _zip_members(path: Path) -> dict[str, Member]:
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; expected a zip, download it again")
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    if not infos:
        raise InputError(f"{path}: the zip holds no file; expected {TABLE_NAME} and images/, download it again")
    return {  # of two members with one name the last counts, as in zipfile
        i.filename: Member(
            i.filename, i.header_offset, i.compress_size, i.file_size, ENCRYPTED if i.flag_bits & 1 else i.compress_type, i.CRC
        )
        for i in infos
        if not i.filename.startswith("/") and "\\" not in i.filename and ".." not in i.filename.split("/")
    }


def _folder_members(path: Path) -> dict[str, Member]:
    """The tables and pictures below a folder; links may lead out of it, to another disk."""
    if is_remote(path):
        return {name: Member(name, size=info["size"]) for name, info in remote_infos(path).items()}
    files = (
        os.path.join(root, name)[len(os.path.join(path, "")) :]  # noqa: PTH118 (a Path costs 5 µs, and there are millions)
        for root, _, names in os.walk(path, followlinks=True)
        for name in names
        if name.lower().endswith((".csv", *SUFFIXES))
    )
    return {name: Member(name) for name in files}


def as_remote(path: Path) -> Any:
    """The same as UPath, whose `.fs` and `.path` pathlib does not have."""
    return path


def remote_infos(path: Path) -> dict[str, dict[str, Any]]:
    """What a remote file system reports of each file below a folder, by relative name."""
    root = as_remote(path).path.rstrip("/") + "/"
    return {name.removeprefix(root): info for name, info in as_remote(path).fs.find(root, detail=True).items()}
