"""The type of a file that is neither CSV nor zip, by its first bytes, and what to do with it."""

from enum import Enum
from typing import NamedTuple


class Family(Enum):
    """Files for which the same advice holds; the value is that advice if a CSV table was expected."""

    ARCHIVE = "unpack it first"
    TABLE = "write the table as CSV, such as with pandas' to_csv"
    OFFICE = "save the table as CSV (UTF-8)"
    PDF = "a table of text is needed"
    IMAGE = "name the table instead"
    POINTER = "fetch the file itself with git lfs pull"


class Foreign(NamedTuple):
    """A kind of file that is neither a CSV nor a zip."""

    start: bytes
    name: str
    family: Family


_FOREIGN = (
    Foreign(b"\x1f\x8b", "a gzip file (.tar.gz, .csv.gz)", Family.ARCHIVE),
    Foreign(b"BZh", "a bzip2 file (.tar.bz2)", Family.ARCHIVE),
    Foreign(b"\xfd7zXZ\x00", "an xz file (.tar.xz)", Family.ARCHIVE),
    Foreign(b"\x28\xb5\x2f\xfd", "a Zstandard file (.tar.zst)", Family.ARCHIVE),
    Foreign(b"7z\xbc\xaf\x27\x1c", "a 7z archive", Family.ARCHIVE),
    Foreign(b"Rar!", "a RAR archive", Family.ARCHIVE),
    Foreign(b"PAR1", "a Parquet file", Family.TABLE),
    Foreign(b"ARROW1", "an Arrow (Feather) file", Family.TABLE),
    Foreign(b"\x89HDF", "an HDF5 file", Family.TABLE),
    Foreign(b"SQLite format 3\x00", "an SQLite database", Family.TABLE),
    Foreign(b"\x80\x04\x95", "a Python pickle", Family.TABLE),
    Foreign(b"\xd0\xcf\x11\xe0", "an old Office file (.xls, .doc)", Family.OFFICE),
    Foreign(b"\xff\xfe", "UTF-16 text", Family.OFFICE),
    Foreign(b"\xfe\xff", "UTF-16 text", Family.OFFICE),
    Foreign(b"%PDF", "a PDF document", Family.PDF),
    Foreign(b"\xff\xd8\xff", "a single image (JPEG)", Family.IMAGE),
    Foreign(b"\x89PNG", "a single image (PNG)", Family.IMAGE),
    Foreign(b"GIF8", "a single image (GIF)", Family.IMAGE),
    Foreign(b"II*\x00", "a single image (TIFF)", Family.IMAGE),
    Foreign(b"MM\x00*", "a single image (TIFF)", Family.IMAGE),
    Foreign(b"version https://git-lfs", "a pointer of Git LFS, not the file itself", Family.POINTER),
)
_IMAGE = Foreign(b"", "a single image", Family.IMAGE)


def foreign(head: bytes) -> Foreign | None:
    """What a file is by its first bytes, if they identify a binary format that is not read here."""
    if (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1"):
        return _IMAGE
    return next((kind for kind in _FOREIGN if head.startswith(kind.start)), None)


def markup(text: str) -> str:
    """HTML, XML or JSON, by how a text begins; "" for every other text."""
    begin = text.lstrip("\ufeff \t\r\n")[:200].lower()
    if begin.startswith(("<!doctype html", "<html")) or ("<html" in begin and begin.startswith("<")):
        return "HTML"
    if begin.startswith("<"):
        return "XML"
    return "JSON" if begin.startswith(("{", "[")) else ""


def not_csv(data: bytes) -> str:
    """What binary data is, or where its first NUL byte is, with what to do; "" for text."""
    if data.startswith(b"PK\x03\x04"):
        if b"xl/" in data:
            return f"an Excel workbook (.xlsx): {Family.OFFICE.value}"
        if b"opendocument.spreadsheet" in data[:200]:
            return f"an OpenDocument spreadsheet (.ods): {Family.OFFICE.value}"
        return "a zip archive: name the CSV in it"
    if kind := foreign(data[:1024]):
        return f"{kind.name}: {kind.family.value}"
    at = data.find(b"\x00")
    return "" if at < 0 else f"a NUL byte in line {line_of(data, at)}: the file is damaged, or UTF-16 text: {Family.OFFICE.value}"


def line_of(data: bytes, at: int) -> int:
    """The number of the line that a byte is in, whichever characters end lines."""
    before = data[:at]
    return before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1
