"""Files that somebody else may have written."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastfashion.errors import InputError, PackedSetError
from fastfashion.untrusted import Count, Sha256, open_regular, parse_json, read_limited


@dataclass(frozen=True, kw_only=True)
class Entry:
    sha256: Sha256
    num_rows: Count
    loss: float = 0.0


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_fifo, make_link_to_fifo, make_link_to_device])
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "odd")
    with pytest.raises(InputError, match="not a regular file"):
        open_regular(tmp_path / "odd")


def test_a_socket_and_a_folder_are_errors_of_the_system(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        with pytest.raises(OSError):
            open_regular(tmp_path / "s")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_file_and_a_link_to_one_are_read_as_far_as_they_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_limited(tmp_path / "link", 5) == b"12345"
    with pytest.raises(InputError, match="more than 4 bytes"):
        read_limited(tmp_path / "file", 4)


GOOD = '{"sha256": "' + "0a" * 32 + '", "num_rows": 3, "later": "field"}'


def test_a_schema_takes_what_fits_and_ignores_fields_of_later_versions() -> None:
    assert parse_json(GOOD, Entry, "x.json", PackedSetError, "pack again") == Entry(sha256="0a" * 32, num_rows=3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "[]",
        "null",
        GOOD.replace("3", "3.0"),
        GOOD.replace("3", "-3"),
        GOOD.replace("3", "true"),
        GOOD.replace("3", "9" * 5000),
        GOOD.replace("0a0a", "0A0A", 1),
        GOOD.replace("0a0a", "../a", 1),
        GOOD.replace('", "num', '\\n", "num'),
        GOOD.replace('"later": "field"', '"loss": NaN'),
        GOOD.replace('"later": "field"', '"loss": 1e999'),
        GOOD.encode().replace(b"0a0a", b"\xff\xfe", 1),
    ],
)
def test_what_does_not_fit_a_schema_is_one_error_with_its_place(text: str | bytes) -> None:
    with pytest.raises(PackedSetError, match=r"^x\.json: .*pack again$"):
        parse_json(text, Entry, "x.json", PackedSetError, "pack again")
