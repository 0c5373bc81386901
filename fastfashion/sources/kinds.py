"""What a source is, in words: a folder and a zip are read, of everything else the way out is said."""

import itertools
import stat
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

from fastfashion.errors import InputError
from fastfashion.files import is_remote
from fastfashion.images.codec import SUFFIXES, unsupported
from fastfashion.remote import describe, is_folder, is_web, list_anew, patiently, status_of
from fastfashion.sources.listing import TABLE_NAME, Listing, kind_of_file, list_folder, list_zip
from fastfashion.sources.passed_over import SET
from fastfashion.sources.ranges import UnreachableError, Version, read_part, tried_again
from fastfashion.sources.zip_directory import read_entries
from fastfashion.untrusted import open_regular

HEAD_BYTES = 1024
TAR_NAMES = 40  # looked at
WANTED = f"expected a folder or a zip with image files and a CSV table, such as {TABLE_NAME} beside images/"
_NO_FOLDER = "a folder on a web server cannot be listed: name a zip, on a server that answers range requests, or download it"
_DOWNLOAD = "download it, see whether it opens, and name the file"
UNPACK = "unpack it and name the folder with --source"
AS_FILES = "write its images into a folder and its labels into a CSV beside them, and name that folder with --source"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")
_TABLES = (".xlsx", ".xls", ".ods", ".parquet", ".jsonl", ".ndjson", ".json", ".tsv")
# The first bytes of a file -> what it is, and the way out.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip file (.tar.gz, .csv.gz)", UNPACK),
    (b"BZh", "a bzip2 file (.tar.bz2)", UNPACK),
    (b"\xfd7zXZ\x00", "an xz file (.tar.xz)", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file (.tar.zst)", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"PAR1", "a Parquet file", AS_FILES),
    (b"ARROW1", "an Arrow file", AS_FILES),
    (b"\x89HDF", "an HDF5 file", AS_FILES),
    (b"SQLite format 3\x00", "an SQLite database", AS_FILES),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save it as CSV beside the images, and name their folder"),
    (b"\xff\xd8\xff", "a single image (JPEG)", ""),
    (b"\x89PNG", "a single image (PNG)", ""),
    (b"GIF8", "a single image (GIF)", ""),
    (b"II*\x00", "a single image (TIFF)", ""),
    (b"MM\x00*", "a single image (TIFF)", ""),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it with git lfs pull"),
)


def list_source(path: Path) -> Listing:
    """The files of a folder or a zip, here or remote. Raises InputError that says what `path` is, where it is neither."""
    if is_web(path):
        return _list_zip(path, *_fetch_head(path))
    if is_remote(path):
        return _list_stored(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return list_folder(path)
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: {kind_of_file(mode)}; {WANTED}")
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise InputError(f"{path}: a link to {path.readlink()}, which is not there; {WANTED}") from None
        raise InputError(f"{path}: no such file or folder; {WANTED}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return _list_zip(path, head, None)


def _list_stored(path: Path) -> Listing:
    """On object storage."""
    list_anew(path)
    try:
        there, is_file = patiently(path, lambda: (path.exists(), path.is_file()))
        head, version = patiently(path, lambda: read_part(path, 0, HEAD_BYTES)) if is_file else (b"", None)
        is_file = is_file and not (head == b"" and is_folder(path))
        listing = None if is_file or not there else patiently(path, lambda: list_folder(path))
    except InputError:
        raise
    except Exception as error:  # every file system has its own
        raise InputError(f"{path}: cannot be read: {describe(error)}") from error
    if not there:
        raise InputError(f"{path}: no such file or folder; {WANTED}")
    return listing or _list_zip(path, head, version)


def _fetch_head(path: Path) -> tuple[bytes, Version]:
    try:
        return patiently(path, lambda: read_part(path, 0, HEAD_BYTES))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file on this server (404); check the address") from None
    except UnreachableError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read: {describe(error)}") from error


def _list_zip(path: Path, head: bytes, version: Version | None) -> Listing:
    """`version`: of a remote zip."""
    if not head:
        raise InputError(f"{path}: the file is empty; expected a zip, download or copy it again")
    if not head.startswith(b"PK") and (what := what_file(path, head)):
        raise InputError(f"{path}: {what}")
    try:
        entries = tried_again(lambda: list(read_entries(path, version)), zipfile.BadZipFile) if version else [*read_entries(path)]
    except UnreachableError:
        raise
    except Exception as error:  # damage, and every remote file system has its own
        if is_remote(path) and status_of(error) is not None:
            raise InputError(f"{path}: cannot be read: {describe(error)}") from error
        raise InputError(f"{path}: not a readable zip ({type(error).__name__}: {error}); {_zip_advice(path, head)}") from error
    if not entries:
        raise InputError(f"{path}: the zip holds no file; {WANTED}")
    if any(entry.name == "xl/workbook.xml" for entry in entries):
        raise InputError(f"{path}: an Excel workbook; save the sheet as CSV beside the images, and name their folder with --source")
    return list_zip(path, entries, version)


def _zip_advice(path: Path, head: bytes) -> str:
    begins = head.startswith(b"PK\x03\x04")
    if is_web(path):
        return f"it begins as a zip, and was cut or is on a server without range requests: {_DOWNLOAD}" if begins else _NO_FOLDER
    if begins:
        return "it begins as a zip and has no whole directory at its end, as a file that was cut: download or copy it again"
    return f"it begins with {head[:16]!r}; {WANTED}"


def what_file(path: Path, head: bytes) -> str | None:
    """What a file that is no zip is, by its first bytes, with the way out; None where they say nothing."""
    if is_tar(head):
        return _what_tar(path, head)
    if what := next(((what, way) for magic, what, way in _MAGIC if head.startswith(magic)), None):
        return f"{what[0]}; " + (what[1] or _IMAGE_ALONE)
    if (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1"):
        return f"a single image; {_IMAGE_ALONE}"
    return _what_text(path, head)


_IMAGE_ALONE = "name the folder that holds the images and their table; fastfashion predict answers for single images"


def _what_text(path: Path, head: bytes) -> str | None:
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    low = text.lower()
    if low.startswith(("<!doctype html", "<html")) or "<html" in low[:200]:
        if is_web(path):
            return f"an HTML page, not an archive: {_NO_FOLDER}, and check whether the address asks for a login"
        return (
            "an HTML page, not an archive: a sign-in or an error page was saved under this name. Download the file itself while you are "
            "signed in; fastfashion download fetches Kaggle's"
        )
    if low.startswith(("<?xml", "<error")):
        return f"an XML text, not an archive, perhaps a storage's error message: {text[:120]!r}"
    if text.startswith(("{", "[")) and path.suffix.lower() not in (".csv", ".tsv"):
        return f"a JSON text, not an archive: {text[:120]!r}; {WANTED}"
    first = text.partition("\n")[0]
    printable = (b"\x00" not in head and head.isascii()) or "\ufffd" not in text[:-4]
    if path.suffix.lower() in (".csv", ".tsv", ".txt") or (printable and any(first.count(mark) for mark in ",;\t|")):
        return f"a table alone, without images; name the folder that holds both: --source {path.parent} --table {path.name}"
    return None


def is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _what_tar(path: Path, head: bytes) -> str:
    names = [head[:100].rstrip(b"\x00").decode(errors="replace")]
    if not is_remote(path):
        names = tar_names(path) or names
    if is_webdataset(names):
        return f"a WebDataset tar (samples such as {', '.join(names[:2])}); {AS_FILES}"
    return f"a tar archive (it begins with {names[0]}); {UNPACK}"


def tar_names(path: Path) -> list[str]:
    """The first names in a tar; fewer, or none, where it is damaged."""
    names: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    names.append(member.name)
                if len(names) == TAR_NAMES:
                    break
    except (tarfile.TarError, OSError, ValueError):
        pass
    return names


def is_webdataset(names: list[str]) -> bool:
    """Whether neighbours share a name up to the first dot and differ after it."""
    split = [(name.rpartition("/")[0], *name.rpartition("/")[2].partition(".")[::2]) for name in names]
    return any(a[:2] == b[:2] and a[2] != b[2] for a, b in itertools.pairwise(split))


def why_no_table(listing: Listing) -> str:
    """What a source without a table holds instead, and the way out: the end of a message."""
    files = sorted(listing.files, key=lambda name: (name.count("/"), name))
    images = [name for name in files if _suffix(name) in SUFFIXES]
    left_out = f"; passed over: {listing.passed_over_text()}" if listing.passed_over else ""
    if packed := _packed(listing, files):
        return packed
    if table := next((name for name in files if _suffix(name) in _TABLES), None):
        return f"but it holds {table}: save it as CSV and name that with --table{left_out}"
    if images:
        folders = Counter(name.rpartition("/")[0] for name in images)
        if len(folders) > 1:
            named = ", ".join(sorted(name.rpartition("/")[2] or "." for name in folders)[:4]) + (", …" if len(folders) > 4 else "")
            what = f"but {len(images)} images in {len(folders)} folders ({named})"
        else:
            what = f"but {len(images)} images"
        return (
            f"{what}, and no table that says what they are: write a CSV with a line for each image, columns file (its path, such as "
            f"{images[0]}) and label, and run with --table labels.csv --id-column file --label-columns label{left_out}"
        )
    return f"among its {len(files)} file{'s' * (len(files) != 1)}; {WANTED}{left_out}"


def why_no_image(listing: Listing, table: str) -> str:
    """The same for a source with a table and no image."""
    files = sorted(listing.files, key=lambda name: (name.count("/"), name))
    left_out = f"; passed over: {listing.passed_over_text()}" if listing.passed_over else ""
    if unread := next((name for name in files if unsupported(name)), None):
        return f"but it holds {unread}: {unsupported(unread)}"
    return _packed(listing, files) or f"expected images/<id>.jpg beside {table}{left_out}"


def _packed(listing: Listing, files: list[str]) -> str | None:
    """What a source holds that has to be unpacked first."""
    if inner := next((name for name in files if name.lower().endswith(".zip")), None):
        return f"but it holds {inner}: unpack that one and name it with --source"
    if inner := next((name for name in files if name.lower().endswith(_ARCHIVES)), None):
        if inner.endswith(".tar") and not listing.is_zip and not is_remote(listing.path):
            names = tar_names(listing.path / inner)
            if is_webdataset(names):
                return f"but it holds {inner}, a WebDataset tar (samples such as {', '.join(names[:2])}); {AS_FILES}"
        return f"but it holds {inner}: unpack that one and name the folder with --source"
    if not any(_suffix(name) in SUFFIXES for name in files) and SET in listing.passed_over:
        found = listing.passed_over[SET].first
        return f"but it holds a packed set, {found}, which is no source: train on it with fastfashion train --shards {listing.path / found}"
    return None


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return dot + suffix.lower() if stem else ""
