"""A source that changes, or comes wrong, while it is packed: nothing wrong is published, and what can come right is fetched again."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import S3Server, digests, make_source, zip_folder
from range_server import OneZip, Reply, Server
from workers import fastfashion

from fastfashion.errors import InputError, RemoteError
from fastfashion.files import location
from fastfashion.pack import PackProgress, PackRequest, PackSummary, pack
from fastfashion.predict.inputs import InputImage, find_inputs
from fastfashion.sources.ranges import ChangedError, UnreachableError

ROWS = 10
OPENED = 4  # requests by which the directory and the table are read: the first, the end of the zip, the table, and one to spare


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`set` and its zip; `other.zip` has the same names and lengths, and a byte of each image is another; `packed` is the set of `set`."""
    home = tmp_path_factory.mktemp("changed")
    folder = make_source(home / "set", rows=ROWS, width_px=20, height_px=24)
    zip_folder(folder, home / "set.zip")
    shutil.copytree(folder, home / "other")
    for image in (home / "other" / "images").iterdir():
        data = bytearray(image.read_bytes())
        data[-9] ^= 1
        image.write_bytes(data)
    zip_folder(home / "other", home / "other.zip")
    packed(folder, home / "packed")
    assert (home / "set.zip").stat().st_size == (home / "other.zip").stat().st_size
    return home


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfashion.retry.FIRST_WAIT_S", 0.001)


def packed(source: Path, out: Path, meanwhile: Callable[[], object] | None = None, **more: Any) -> PackSummary:
    """Pack; `meanwhile` happens when the first block is done."""
    steps = iter([meanwhile] if meanwhile else [])
    progress = PackProgress(on_packed=lambda *sums: (next(steps, None) or (lambda: None))())
    return pack(PackRequest(source=source, out=out, resolutions=("full", "16"), rows_per_shard=5, **more), progress)


def refused(
    source: Path, out: Path, error: type[Exception], words: str, meanwhile: Callable[[], object] | None = None, **more: Any
) -> None:
    with pytest.raises(error, match=words):
        packed(source, out, meanwhile, **more)
    assert not [path for path in out.rglob("*") if path.suffix == ".json" and ".staging" not in path.parts], "nothing is published"


# Faults of a server: from some request on, or at one request alone.


def always(change: Callable[[Reply], object]) -> Callable[[int, Reply], object]:
    return lambda number, reply: change(reply) if number > OPENED else None


def once(change: Callable[[Reply], object], at: int = OPENED + 1) -> Callable[[int, Reply], object]:
    return lambda number, reply: change(reply) if number == at else None


def all_of_it(server: Server) -> Callable[[Reply], object]:
    def change(reply: Reply) -> None:
        reply.status, reply.body = 200, server.zip.data

    return change


def cut(reply: Reply) -> None:
    reply.body = reply.body[:-7]
    reply.last -= 7


def cut_untold(reply: Reply) -> None:
    reply.body = reply.body[:-7]


def elsewhere(reply: Reply) -> None:
    reply.first, reply.last = reply.first + 3, reply.last + 3


def longer(reply: Reply) -> None:
    reply.total += 5


def another_etag(reply: Reply) -> None:
    reply.etag = '"second"'


def another_time(reply: Reply) -> None:
    reply.etag, reply.modified = 'W/"weak"', "Mon, 30 Nov 2026 10:00:01 GMT"


def total_of_5000_digits(reply: Reply) -> None:
    reply.total = "9" * 5000  # type: ignore[assignment]


def no_etag(reply: Reply) -> None:
    reply.etag = ""


def garbage(reply: Reply) -> None:
    reply.body = b"\xaa" * len(reply.body)


_number = itertools.count(1)


def other_garbage(reply: Reply) -> None:
    reply.body = bytes([next(_number) % 256]) * len(reply.body)


@pytest.mark.parametrize("at", [1, OPENED + 1], ids=["directory", "image"])
@pytest.mark.parametrize("change", [cut, cut_untold, elsewhere, garbage, all_of_it], ids=lambda change: change.__name__)
def test_what_comes_wrong_once_is_fetched_again(change: Any, at: int, home: Path, server: Server, tmp_path: Path) -> None:
    served = server.serve((home / "set.zip").read_bytes())
    served.fault = once(all_of_it(server) if change is all_of_it else change, at)
    assert packed(location(server.url), tmp_path / "out").kept == ROWS
    assert digests(tmp_path / "out") == digests(home / "packed")
    assert served.count > OPENED + ROWS - 2


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (cut, UnreachableError, "the server sends 'bytes .*' instead of bytes .*, 4 times; download it first"),
        (cut_untold, UnreachableError, "the server sends .* bytes instead of .*, 4 times"),
        (elsewhere, UnreachableError, "instead of bytes .*, 4 times"),
        (all_of_it, UnreachableError, r"the whole file instead of the requested part \(no range requests\), 4 times"),
        (other_garbage, UnreachableError, "returns different bytes each time"),
        (
            total_of_5000_digits,
            UnreachableError,
            "^[^:]*:[^:]*:[^:]*: the server does not say which bytes it sends .*, 4 times; download it",
        ),
        (longer, ChangedError, "the source changed while it was packed .*bytes at first"),
        (
            another_etag,
            ChangedError,
            r"""the source changed while it was packed \("first" at first, "second" now\); .*nothing was published""",
        ),
        (no_etag, ChangedError, r"""\("first" at first, Mon, .* now\)"""),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_comes_wrong_each_time_stops_the_run(
    change: Any, error: type[Exception], words: str, home: Path, server: Server, tmp_path: Path
) -> None:
    served = server.serve((home / "set.zip").read_bytes())
    served.fault = always(all_of_it(server) if change is all_of_it else change)
    refused(location(server.url), tmp_path / "out", error, words)
    served.fault = OneZip.fault
    assert packed(location(server.url), tmp_path / "out").kept == ROWS
    assert digests(tmp_path / "out") == digests(home / "packed")


def test_a_weak_etag_is_no_version_and_a_time_of_change_is(home: Path, server: Server, tmp_path: Path) -> None:
    served = server.serve((home / "set.zip").read_bytes())
    served.etag = 'W/"weak"'
    served.fault = lambda number, reply: setattr(reply, "etag", f'W/"{number}"')
    assert packed(location(server.url), tmp_path / "weak").kept == ROWS
    served.fault, served.count = always(another_time), 0
    refused(location(server.url), tmp_path / "out", ChangedError, "10:00:00 GMT at first, .*10:00:01 GMT now")


@pytest.mark.parametrize("has_version", [True, False])
def test_a_damaged_member_of_a_zip_that_stays_the_same_costs_its_row_alone(
    has_version: bool, home: Path, server: Server, tmp_path: Path
) -> None:
    data = bytearray((home / "set.zip").read_bytes())
    data[data.index(b"images/996.jpg") + 100] ^= 1
    served = server.serve(bytes(data))
    if not has_version:
        served.etag = served.modified = ""
    summary = packed(location(server.url), tmp_path / "out")
    assert (summary.kept, summary.rejected) == (ROWS - 1, 1)
    assert "cannot read images/996.jpg: Bad CRC-32" in (tmp_path / "out" / "rejected.csv").read_text()
    assert served.count == 3 + ROWS + 3 + 2  # to open it, an image each, the damaged one three times more, the directory once more


@pytest.mark.parametrize("tag", ["", '"of a server that never changes it"'])
def test_a_zip_that_was_swapped_is_found_out_where_the_server_does_not_tell(tag: str, home: Path, server: Server, tmp_path: Path) -> None:
    """149 of 400 rows were published, and the rest was called damaged."""
    served = server.serve((home / "set.zip").read_bytes())
    served.etag, served.modified = tag, ""

    def swap() -> None:
        served.data = (home / "other.zip").read_bytes()

    refused(location(server.url), tmp_path / "out", ChangedError, "the source changed while it was packed", swap)
    assert not (tmp_path / "out").exists()  # what was packed of the first zip is of no use
    served.data = (home / "set.zip").read_bytes()
    refused(location(server.url), tmp_path / "out", ChangedError, "the source changed", swap, max_rejected=1)


def test_a_server_that_is_gone_at_the_end_is_no_change_and_what_is_packed_stays(
    home: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfashion.retry.PATIENCE_S", 0.01)
    served = server.serve((home / "set.zip").read_bytes())
    served.fault = lambda number, reply: setattr(reply, "status", 503) if number >= 3 + ROWS else None
    refused(location(server.url), tmp_path / "out", RemoteError, "the server answers 503 .*run the same command again")
    served.fault = OneZip.fault
    assert packed(location(server.url), tmp_path / "out").resumed == ROWS
    assert digests(tmp_path / "out") == digests(home / "packed")


def test_the_command_says_it_in_one_line_and_exits_with_2(home: Path, server: Server, tmp_path: Path) -> None:
    served = server.serve((home / "set.zip").read_bytes())
    served.fault = always(another_etag)
    done = fastfashion("shard", "--source", server.url, "--out", "out", "--res", "16", "--workers", "2", cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(said) == 1 and "the source changed while it was packed" in said[0], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_predict_reads_one_version_of_a_zip(home: Path, server: Server) -> None:
    served = server.serve((home / "set.zip").read_bytes())
    found = [image.read() for image in find_inputs([server.url]) if isinstance(image, InputImage)]
    assert found == [image.read_bytes() for image in sorted((home / "set" / "images").iterdir())]
    reads = [image.read for image in find_inputs([server.url]) if isinstance(image, InputImage)]
    served.fault = lambda number, reply: another_etag(reply)
    with pytest.raises(ChangedError, match='"first" at first, "second" now'):
        reads[3]()
    served.fault = lambda number, reply: setattr(reply, "status", 403)
    [lost] = find_inputs([server.url])
    with pytest.raises(InputError, match="the server answers 403"):
        lost.read()  # type: ignore[union-attr]


# On disks and on object storage.


def in_place(home: Path, source: Path) -> None:
    source.write_bytes((home / "other.zip").read_bytes())


def by_another_of_the_same_time(home: Path, source: Path) -> None:
    beside = source.with_name("beside")
    shutil.copy(home / "other.zip", beside)
    os.utime(beside, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    beside.replace(source)


def an_image(home: Path, source: Path) -> None:
    (source / "images" / "996.jpg").write_bytes((home / "other" / "images" / "996.jpg").read_bytes())


def an_image_removed(home: Path, source: Path) -> None:
    (source / "images" / "997.jpg").unlink()


def the_table(home: Path, source: Path) -> None:
    (source / "styles.csv").write_bytes((home / "set" / "styles.csv").read_bytes().replace(b"Winter", b"Summer"))


def nothing(home: Path, source: Path) -> None:
    """What is no change: a backup's hard link, a mode, another name in the folder, a look at the file."""
    for file in (source / "styles.csv", source / "images" / "996.jpg"):
        os.link(file, source / f"link-{file.name}.txt")
        file.chmod(0o640)
        file.read_bytes()


ZIPPED = (in_place, by_another_of_the_same_time)


@pytest.mark.parametrize("change", [*ZIPPED, an_image, an_image_removed, the_table], ids=lambda change: change.__name__)
def test_a_source_on_a_disk_that_changes_is_not_published(change: Callable[[Path, Path], None], home: Path, tmp_path: Path) -> None:
    if change in ZIPPED:
        source = Path(shutil.copy2(home / "set.zip", tmp_path / "source.zip"))
    else:
        source = Path(shutil.copytree(home / "set", tmp_path / "source"))
    refused(source, tmp_path / "out", ChangedError, "source.*: the source changed while it was packed", lambda: change(home, source))
    assert not (tmp_path / "out").exists()
    if change is an_image:
        assert packed(source, tmp_path / "out").kept == ROWS


def test_links_and_modes_are_no_change_of_a_source(home: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(home / "set", tmp_path / "source"))
    assert packed(source, tmp_path / "out", lambda: nothing(home, source)).kept == ROWS
    assert digests(tmp_path / "out") == digests(home / "packed")


def test_a_table_outside_of_the_source_is_part_of_it(home: Path, tmp_path: Path) -> None:
    table = Path(shutil.copy(home / "set" / "styles.csv", tmp_path / "labels.csv"))
    refused(home / "set.zip", tmp_path / "out", ChangedError, "the source changed", lambda: table.write_text("id\n"), table=str(table))


def test_a_removed_zip_has_changed(home: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(home / "set.zip", tmp_path / "source.zip"))
    refused(source, tmp_path / "out", ChangedError, "the source changed", source.unlink)


@pytest.mark.parametrize("what", ["zip", "image", "image of another length", "removed image", "table"])
def test_an_object_that_is_overwritten_is_not_published(what: str, s3: S3Server, home: Path, tmp_path: Path) -> None:
    folder: Any = location(f"s3://shop/{what.replace(' ', '-')}")
    folder.fs.put(str(home / "set"), folder.path, recursive=True)
    folder.fs.put_file(str(home / "set.zip"), f"{folder.path}.zip")

    def overwrite() -> None:
        if what == "zip":
            folder.fs.put_file(str(home / "other.zip"), f"{folder.path}.zip")
        elif what == "removed image":
            folder.fs.rm_file(f"{folder.path}/images/997.jpg")
        elif what == "table":
            folder.fs.pipe_file(f"{folder.path}/styles.csv", b"id\n")
        else:
            data = (home / "other" / "images" / "996.jpg").read_bytes() + b"x" * (what != "image")
            folder.fs.pipe_file(f"{folder.path}/images/996.jpg", data)

    source = location(f"{folder}.zip") if what == "zip" else folder
    assert packed(source, tmp_path / "as it was").kept == ROWS
    assert digests(tmp_path / "as it was") == digests(home / "packed")
    refused(source, tmp_path / "out", ChangedError, "the source changed while it was packed", overwrite)


def test_a_source_that_is_only_too_bad_is_called_so(home: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(home / "set", tmp_path / "source"))
    for image in (source / "images").iterdir():
        image.write_bytes(b"none")
    refused(source, tmp_path / "out", InputError, "more than --max-rejected 1; nothing was published", max_rejected=1)
