"""Getting a data set from Kaggle: one zip, whole or not at all, never unpacked.

    open_archive ─► .NAME.zip.part, which a cut, a kill or a reboot leaves for the next try ─► every CRC-32 ─► NAME.zip

Beside the part lies .NAME.zip.part.json: size and version of the archive that it is of. It goes on only where both are still the same.
"""

import contextlib
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastfashion.errors import ConfigError, InputError
from fastfashion.files import hold, publish, publish_json
from fastfashion.remote import LeastRate, TooSlowError
from fastfashion.sources.kaggle_api import Archive, CutError, KaggleSet, SlowError, failed, network_reason, open_archive
from fastfashion.sources.source import open_source

SETS = {
    "small": KaggleSet(owner="paramaggarwal", name="fashion-product-images-small"),
    "full": KaggleSet(owner="paramaggarwal", name="fashion-product-images-dataset"),
}
TIMEOUT_S = 60.0
RETRY_WAITS_S = (0.5, 2.0, 8.0)  # between tries that bring next to nothing; one that brings a chunk starts the row again
CHUNK_BYTES = 1 << 16
SPARE_BYTES = 64 << 20  # that a disk should have left when the file is there


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Called as bytes come in and as they are checked."""

    on_start: Callable[[str, int, int | None], None] = lambda what, done, total: None  # a stage; bytes that are done, and of all
    on_bytes: Callable[[int], None] = lambda num_bytes: None  # since the last call
    on_note: Callable[[str], None] = lambda line: None  # something worth a line


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """What is there now."""

    data_set: str
    out: str
    num_bytes: int
    images: int
    already_there: bool
    resumed_bytes: int  # that an earlier start of the command had fetched
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where one download is put together."""

    wanted: KaggleSet
    out: Path
    timeout_s: float
    progress: Progress

    @property
    def part(self) -> Path:
        return self.out.with_name(f".{self.out.name}.part")

    @property
    def label(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    @property
    def num_bytes(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def clear(self) -> None:
        self.part.unlink(missing_ok=True)
        self.label.unlink(missing_ok=True)


def download(which: str, folder: Path, *, timeout_s: float = TIMEOUT_S, progress: Progress | None = None) -> Downloaded:
    """Fetch the "small" or the "full" set to `folder`, as NAME.zip; nothing is fetched where that is already there.

    `timeout_s` is how long a connection may be silent before it counts as cut. Raises InputError where it cannot be had, where the disk has
    no room, or where what came is damaged; ConfigError for another name.
    """
    started = time.monotonic()
    if which not in SETS:
        raise ConfigError(f"unknown data set {which!r}: there are {', '.join(SETS)}")
    if timeout_s <= 0:
        raise ConfigError(f"--timeout {timeout_s:g}: expected seconds, more than 0")
    wanted = SETS[which]
    place = _Place(wanted=wanted, out=folder / f"{wanted.name}.zip", timeout_s=timeout_s, progress=progress or Progress())
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / f".{wanted.name}.lock", "download", InputError):
        already = place.out.exists()
        resumed = 0 if already else _fetch(place)
        images = _look_at_existing(place.out) if already else _finish(place)
    return Downloaded(
        data_set=wanted.slug,
        out=str(place.out),
        num_bytes=place.out.stat().st_size,
        images=images,
        already_there=already,
        resumed_bytes=resumed,
        seconds=round(time.monotonic() - started, 1),
    )


def _look_at_existing(out: Path) -> int:
    try:
        return len(open_source(out).images)
    except InputError as error:
        raise InputError(f"{error}\n  {out} is already there, and not what Kaggle has: remove it, and run this again") from error


def _fetch(place: _Place) -> int:
    """Bring the part to its full size, over as many cuts as it takes; returns how much of it was there before."""
    resumed: int | None = None
    waits, before = iter(RETRY_WAITS_S), place.num_bytes
    while True:
        try:
            archive = open_archive(place.wanted, place.timeout_s)
            start = _start_of(place, archive)
            resumed = start if resumed is None else resumed
            _transfer(place, archive, start)
            return resumed
        except CutError as cut:
            if place.num_bytes >= before + CHUNK_BYTES and not isinstance(cut, SlowError):
                waits = iter(RETRY_WAITS_S)
            before = place.num_bytes
            wait_s = next(waits, None)
            if wait_s is None:
                raise InputError(_unreachable(place, cut)) from cut
            place.progress.on_note(f"cut at {_size(before)} ({cut}); trying again")
            time.sleep(wait_s)


def _unreachable(place: _Place, cut: CutError) -> str:
    stays = f"{_size(place.num_bytes)} are here and stay" if place.num_bytes else "nothing is here yet"
    return (
        f"{place.wanted.slug}: the download does not get on ({cut})\n"
        "  see whether this machine reaches https://www.kaggle.com (behind a proxy: export HTTPS_PROXY);\n"
        f"  {stays}: the same command goes on from there"
    )


def _start_of(place: _Place, archive: Archive) -> int:
    """The byte to go on from: 0, with an empty part, where what lies there is of another archive. Raises InputError without room."""
    label = {"data_set": place.wanted.slug, "size": archive.size, "version": archive.version}
    found: Any = None
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(place.label.read_text(encoding="utf-8"))
    start = place.num_bytes
    if found != label or archive.version is None or start > (archive.size or 0):
        if start:
            place.progress.on_note(f"starting anew: the {_size(start)} here are of another version of the archive")
        place.clear()
        start = 0
    free = shutil.disk_usage(place.out.parent).free
    needed = (archive.size or 0) - start
    if archive.size is not None and needed + SPARE_BYTES > free:
        archive.response.close()
        raise InputError(
            f"{place.out.parent}: {_size(needed)} more are needed for {place.out.name}, and {_size(free)} are free; "
            "make room, or name a folder on another disk with --out"
        )
    publish_json(place.label, label)
    return start


def _transfer(place: _Place, archive: Archive, start: int) -> None:
    """Append what is missing. Raises CutError where the connection ends before or is too slow; InputError where the disk ends."""
    import requests
    import urllib3

    if start == archive.size:
        archive.response.close()
        return
    response = archive.response
    try:
        if start:
            response = archive.rest(start, place.timeout_s)
            start = _granted_start(response, start, archive.size)
        place.progress.on_start("download", start, archive.size)
        with response, place.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            _receive(place, response.raw, file, None if archive.size is None else archive.size - start)
    except TooSlowError as error:
        raise SlowError(str(error)) from error
    except requests.RequestException as error:
        raise failed(error, place.wanted) from error
    except urllib3.exceptions.HTTPError as error:
        raise CutError(network_reason(error)) from error
    except OSError as error:
        raise InputError(
            f"{place.out.parent}: {error.strerror or error}; {_size(place.num_bytes)} are here and stay: mend that, and run this again"
        ) from error
    if archive.size is not None and place.num_bytes != archive.size:
        num_bytes = place.num_bytes
        if num_bytes > archive.size:
            place.clear()
        raise CutError(f"the server sent {num_bytes} of {archive.size} bytes")


def _receive(place: _Place, body: Any, file: BinaryIO, expected: int | None) -> None:
    """Write a body as it comes, until it has more bytes than `expected`, or, where that is not known, than the disk has room for."""
    read, rate = getattr(body, "read1", body.read), LeastRate()  # urllib3 before 2 has no read1, and waits for whole chunks
    left = shutil.disk_usage(place.out.parent).free - SPARE_BYTES if expected is None else expected
    while left >= 0 and (data := read(CHUNK_BYTES, decode_content=False)):
        rate.add(len(data))
        file.write(data)
        left -= len(data)
        place.progress.on_bytes(len(data))
    if expected is None and left < 0:
        place.clear()
        raise InputError(
            f"{place.out.parent}: the server does not say how long {place.out.name} is, and it is longer than the disk has room for: "
            f"{_size(SPARE_BYTES)} were to stay free, and what came is removed; make room, or name a folder on another disk with --out"
        )


def _granted_start(response: Any, asked: int, size: int | None) -> int:
    """Where the bytes of an answer to a request for the rest begin."""
    if response.status_code == 206 and response.headers.get("Content-Range", "") == f"bytes {asked}-{(size or 0) - 1}/{size}":
        return asked
    if response.status_code == 200:
        return 0
    response.close()
    raise CutError(f"HTTP {response.status_code} where the rest was asked for")


def _finish(place: _Place) -> int:
    """Check the part to the last byte and let it appear under its name; returns how many images it holds."""
    try:
        _check_members(place)
        images = len(open_source(place.part).images)
    except InputError as error:
        num_bytes = place.num_bytes
        place.clear()
        raise InputError(
            f"{place.out.name}: {_size(num_bytes)} came, and they are damaged ({error}); they are removed. Run this again; where that "
            f"does not help, download {place.wanted.url} in a browser"
        ) from error
    with place.part.open("rb") as file:
        os.fsync(file.fileno())
    publish(place.out, place.part.replace)
    place.label.unlink(missing_ok=True)
    return images


def _check_members(place: _Place) -> None:
    """Read every member, which compares its CRC-32. Raises InputError with the first that differs."""
    name = "the list of its files"
    try:
        with zipfile.ZipFile(place.part) as archive:
            infos = archive.infolist()
            if sum(info.compress_size for info in infos) > place.num_bytes:
                raise InputError("its files overlap, so that reading them might never end")
            place.progress.on_start("check", 0, sum(info.compress_size for info in infos))
            for info in infos:
                name = info.filename
                with archive.open(info) as member:
                    while member.read(1 << 20):
                        pass
                place.progress.on_bytes(info.compress_size)
    except Exception as error:  # zipfile meets damage with half a dozen types
        raise InputError(f"{name}: {error}") from error


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


@contextlib.contextmanager
def bar_progress() -> Iterator[Progress]:
    """A progress bar on the terminal, first of the download, then of the check; notes on stderr."""
    from fastfashion.bars import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None, dynamic_ncols=True, leave=False) as bar:

        def on_start(what: str, done: int, total: int | None) -> None:
            bar.set_description(what, refresh=False)
            bar.reset(float("inf") if total is None else total)
            bar.initial = bar.n = bar.last_print_n = done  # the rate is that of this try

        def on_bytes(num_bytes: int) -> None:
            bar.update(num_bytes)

        yield Progress(on_start=on_start, on_bytes=on_bytes, on_note=lambda line: bar.write(line, file=sys.stderr))
