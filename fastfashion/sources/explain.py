"""What a source is that cannot be read, in words that say what to do: only folders and zips are read."""

import itertools
import tarfile
from pathlib import Path

from fastfashion.catalog.file_types import Family, foreign, markup
from fastfashion.images.codec import SUFFIXES, unsupported
from fastfashion.remote import is_remote, is_web
from fastfashion.sources.listing import Listing, skipped_text
from fastfashion.sources.skipped import SET

TABLE_NAME = "styles.csv"
WANTED = f"expected a folder or a zip with image files and a CSV table, such as {TABLE_NAME} beside images/"
TAR_NAMES = 40  # examined
_NO_FOLDER = "a folder on a web server cannot be listed: name a zip, on a server that answers range requests, or download it"
_UNPACK = "unpack it and name the folder with --source"
_AS_FILES = "write its images into a folder and its labels into a CSV beside them, and name that folder with --source"
_IMAGE_ALONE = "name the folder that holds the images and their table; fastfashion predict answers for single images"
_ADVICE = {
    Family.ARCHIVE: _UNPACK,
    Family.TABLE: _AS_FILES,
    Family.OFFICE: "save it as CSV beside the images, and name their folder",
    Family.PDF: WANTED,
    Family.IMAGE: _IMAGE_ALONE,
    Family.POINTER: "fetch it with git lfs pull",
}
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")
_TABLES = (".xlsx", ".xls", ".ods", ".parquet", ".jsonl", ".ndjson", ".json", ".tsv")
_TEXTS = (".csv", ".tsv", ".txt")


def what_file(path: Path, head: bytes) -> str:
    """What a file is that is not a zip, by its first bytes, with what to do; "" if they do not say."""
    if head[257:262] == b"ustar":
        names = [head[:100].rstrip(b"\x00").decode(errors="replace")]
        names = names if is_remote(path) else _tar_names(path) or names
        if said := _webdataset(names):
            return f"{said}; {_AS_FILES}"
        return f"a tar archive (it begins with {names[0]}); {_UNPACK}"
    if kind := foreign(head):
        return f"{kind.name}; {_ADVICE[kind.family]}"
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    found = markup(text)
    if found == "HTML" and is_web(path):
        return f"an HTML page, not an archive: {_NO_FOLDER}, and check whether the address asks for a login"
    if found == "HTML":
        return (
            "an HTML page, not an archive: a sign-in or an error page was saved under this name. Download the file itself while you are "
            "signed in; fastfashion download fetches Kaggle's"
        )
    if found == "XML":
        return f"an XML text, not an archive, perhaps a storage's error message: {text[:120]!r}"
    if found == "JSON" and path.suffix.lower() not in (".csv", ".tsv"):
        return f"a JSON text, not an archive: {text[:120]!r}; {WANTED}"
    is_text = (b"\x00" not in head and head.isascii()) or "\ufffd" not in text[:-4]
    if path.suffix.lower() in _TEXTS or (is_text and any(mark in text.partition("\n")[0] for mark in ",;\t|")):
        return f"a table alone, without images; name the folder that holds both: --source {path.parent} --table {path.name}"
    return ""


def why_no_zip(path: Path, head: bytes) -> str:
    """What to do about a file whose zip directory cannot be read."""
    begins = head.startswith(b"PK\x03\x04")
    if begins and is_web(path):
        return (
            "it begins as a zip, and was cut or is on a server without range requests: download it, check that it opens, and name the file"
        )
    if begins:
        return "it begins as a zip and has no whole directory at its end, like a file that was cut: download or copy it again"
    return _NO_FOLDER if is_web(path) else f"it begins with {head[:16]!r}; {WANTED}"


def why_no_table(listing: Listing) -> str:
    """What a source without a table holds instead, and what to do: the end of a message."""
    files = _nearest_first(listing)
    images = [name for name in files if _suffix(name) in SUFFIXES]
    if packed := _to_unpack(listing, files):
        return packed
    if table := next((name for name in files if _suffix(name) in _TABLES), None):
        return f"but it holds {table}: save it as CSV and name that with --table{_left_out(listing)}"
    if not images:
        return f"among its {len(files)} file{'s' * (len(files) != 1)}; {WANTED}{_left_out(listing)}"
    what = f"but {len(images)} images"
    if len(folders := {name.rpartition("/")[0] for name in images}) > 1:
        named = ", ".join(sorted(name.rpartition("/")[2] or "." for name in folders)[:4]) + (", …" if len(folders) > 4 else "")
        what += f" in {len(folders)} folders ({named})"
    return (
        f"{what}, and no table that says what they are: write a CSV with a line for each image, columns file (its path, such as "
        f"{images[0]}) and label, and run with --table labels.csv --id-column file --label-columns label{_left_out(listing)}"
    )


def why_no_image(listing: Listing, table: str) -> str:
    """The same for a source with a table and no image."""
    files = _nearest_first(listing)
    if unread := next((name for name in files if unsupported(name)), None):
        return f"but it holds {unread}: {unsupported(unread)}"
    return _to_unpack(listing, files) or f"expected images/<id>.jpg beside {table}{_left_out(listing)}"


def _nearest_first(listing: Listing) -> list[str]:
    return sorted(listing.files, key=lambda name: (name.count("/"), name))


def _left_out(listing: Listing) -> str:
    return f"; skipped: {skipped_text(listing.skipped)}" if listing.skipped else ""


def _to_unpack(listing: Listing, files: list[str]) -> str:
    """What a source holds that has to be unpacked first; "" if it holds no such thing."""
    inner = next((name for ending in (".zip", _ARCHIVES) for name in files if name.lower().endswith(ending)), None)
    if inner is not None:
        local = inner.endswith(".tar") and not listing.is_zip and not is_remote(listing.path)
        if local and (said := _webdataset(_tar_names(listing.path / inner))):
            return f"but it holds {inner}, {said}; {_AS_FILES}"
        result = "it" if inner.lower().endswith(".zip") else "the folder"
        return f"but it holds {inner}: unpack that one and name {result} with --source"
    if not any(_suffix(name) in SUFFIXES for name in files) and SET in listing.skipped:
        found = listing.skipped[SET]["first"]
        return f"but it holds a packed set, {found}, not a source: train on it with fastfashion train {listing.path / found}"
    return ""


def _tar_names(path: Path) -> list[str]:
    """The first names in a tar; fewer, or none, if it is damaged."""
    names: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            names.extend(itertools.islice((member.name for member in archive if member.isfile()), TAR_NAMES))
    except (tarfile.TarError, OSError, ValueError):
        pass
    return names


def _webdataset(names: list[str]) -> str:
    """A phrase for the tar of these names if neighbours share a name up to the first dot and differ after it; "" otherwise."""
    split = [(name.rpartition("/")[0], *name.rpartition("/")[2].partition(".")[::2]) for name in names]
    if any(a[:2] == b[:2] and a[2] != b[2] for a, b in itertools.pairwise(split)):
        return f"a WebDataset tar (samples such as {', '.join(names[:2])})"
    return ""


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return dot + suffix.lower() if stem else ""
