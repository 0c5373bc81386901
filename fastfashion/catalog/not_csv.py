"""What a file is that was given as a CSV and is none, in words that say what to do."""

SAVE = "save the table as CSV (UTF-8)"
_STARTS = (
    (b"PAR1", "a Parquet file: write it as CSV, such as pandas' to_csv"),
    (b"ARROW1", "an Arrow (Feather) file: write it as CSV"),
    (b"\x1f\x8b", "gzip-compressed data: unpack it first"),
    (b"BZh", "bzip2-compressed data: unpack it first"),
    (b"\xfd7zXZ", "xz-compressed data: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "Zstandard-compressed data: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"an old Office file (.xls): {SAVE}"),
    (b"SQLite format 3\x00", "an SQLite database: write the table as CSV"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file: write the table as CSV"),
    (b"%PDF", "a PDF document: a table of text is needed"),
    (b"\xff\xd8\xff", "a JPEG image: name the table instead"),
    (b"\x89PNG", "a PNG image: name the table instead"),
    (b"\x80\x04\x95", "a Python pickle: write the table as CSV"),
    (b"\xff\xfe", f"UTF-16 text: {SAVE}"),
    (b"\xfe\xff", f"UTF-16 text: {SAVE}"),
)


def no_text(data: bytes) -> str:
    """What binary data is, or where its first NUL byte is; "" for text."""
    if data.startswith(b"PK\x03\x04"):
        if b"xl/" in data:
            return f"an Excel workbook (.xlsx): {SAVE}"
        if b"opendocument.spreadsheet" in data[:200]:
            return f"an OpenDocument spreadsheet (.ods): {SAVE}"
        return "a zip archive: name the CSV in it"
    if what := next((what for start, what in _STARTS if data.startswith(start)), ""):
        return what
    at = data.find(b"\x00")
    if at < 0:
        return ""
    return f"a NUL byte in line {line_of(data, at)}: the file is damaged, or UTF-16 text: {SAVE}"


def no_utf8(data: bytes, where: str, at: int) -> str:
    return f"{where}, line {line_of(data, at)}: expected UTF-8, found byte 0x{data[at]:02x}; save the file as UTF-8"


def other_text(text: str) -> str:
    """What text is that begins as JSON, HTML or XML do; "" for other text."""
    begin = text.lstrip()[:200].lower()
    if begin.startswith("["):
        return "JSON: write the table as CSV"
    if begin.startswith("{"):
        return "JSON lines, or JSON: write the table as CSV"
    if begin.startswith(("<!doctype html", "<html")):
        return "a web page (HTML), such as a sign-in form: download the table itself"
    if begin.startswith("<"):
        return "XML or HTML: write the table as CSV"
    return ""


def line_of(data: bytes, at: int) -> int:
    """The number of the line that a byte is in, whatever ends lines."""
    before = data[:at]
    return before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1
