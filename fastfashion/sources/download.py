"""Download a data set from Kaggle: one zip, whole or not at all, never unpacked.

    open_archive ─► .NAME.zip.part, which survives a cut, a kill or a reboot ─► every CRC-32 checked ─► NAME.zip

Beside the part is .NAME.zip.part.json: size and version of its archive. A download resumes only if both are still the same.
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
from fastfashion.fields import Result
from fastfashion.files import hold, publish, publish_json
from fastfashion.retry import LeastRate, TooSlowError
from fastfashion.sources.kaggle_api import Archive, CutError, KaggleSet, SlowError, failed, network_reason, open_archive
from fastfashion.sources.source import open_source

SETS = {
    "small": KaggleSet(owner="paramaggarwal", name="fashion-product-images-small"),
    "full": KaggleSet(owner="paramaggarwal", name="fashion-product-images-dataset"),
}
TIMEOUT_S = 60.0
RETRY_WAITS_S = (0.5, 2.0, 8.0)  # between tries that bring next to nothing; one that brings a chunk starts again with the first
CHUNK_BYTES = 1 << 16
SPARE_BYTES = 64 << 20  # that a disk should have left when the file is there


@dataclass(frozen=True, kw_only=True)
class DownloadProgress:
    """Called as bytes arrive and as they are checked."""

    on_start: Callable[[str, int, int | None], None] = lambda what, done, total: None  # a stage; bytes that are done, and of all
    on_bytes: Callable[[int], None] = lambda num_bytes: None  # since the last call
    on_note: Callable[[str], None] = lambda line: None  # something worth a line


@dataclass(frozen=True, kw_only=True)
class Downloaded(Result):
    """The result of a download."""

    data_set: str
    out: str
    num_bytes: int
    images: int
    already_there: bool
    resumed_bytes: int  # that an earlier start of the command had fetched
    seconds: float


def download(which: str, folder: Path, *, timeout_s: float = TIMEOUT_S, progress: DownloadProgress | None = None) -> Downloaded:
    """Fetch the "small" or the "full" set to `folder`, as NAME.zip; nothing is fetched if that exists.

    A connection that is silent for `timeout_s` counts as cut. Raises InputError if Kaggle does not give it, the disk has no room,
    or if the file is damaged; ConfigError for another name.
    """
    started = time.monotonic()
    if which not in SETS:
        raise ConfigError(f"unknown data set {which!r}: there are {', '.join(SETS)}")
    if timeout_s <= 0:
        raise ConfigError(f"--timeout {timeout_s:g}: expected seconds, more than 0")
    wanted = SETS[which]
    out = folder / f"{wanted.name}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / f".{wanted.name}.lock", "download", InputError):
        already, resumed = out.exists(), 0
        if not already:
            part = _Part(wanted, out, timeout_s, progress or DownloadProgress())
            resumed = part.fetch()
            part.finish()
        try:
            images = len(open_source(out).images)
        except InputError as error:
            raise InputError(f"{error}\n  {out} already exists and differs from Kaggle's file: remove it and run this again") from error
    return Downloaded(
        data_set=wanted.slug,
        out=str(out),
        num_bytes=out.stat().st_size,
        images=images,
        already_there=already,
        resumed_bytes=resumed,
        seconds=round(time.monotonic() - started, 1),
    )


class _Part:
    """The partial file of a download, beside its target."""

    def __init__(self, wanted: KaggleSet, out: Path, timeout_s: float, progress: DownloadProgress) -> None:
        self._wanted, self._out, self._timeout_s, self._progress = wanted, out, timeout_s, progress
        self._path = out.with_name(f".{out.name}.part")
        self._label = self._path.with_name(f"{self._path.name}.json")

    @property
    def _num_bytes(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _clear(self) -> None:
        self._path.unlink(missing_ok=True)
        self._label.unlink(missing_ok=True)

    def fetch(self) -> int:
        """Complete the part, over any number of cuts that bring something; returns how many bytes an earlier download had fetched."""
        resumed: int | None = None
        waits, before = iter(RETRY_WAITS_S), self._num_bytes
        while True:
            try:
                archive = open_archive(self._wanted, self._timeout_s)
                start = self._start(archive)
                resumed = start if resumed is None else resumed
                self._transfer(archive, start)
                return resumed
            except CutError as cut:
                if self._num_bytes >= before + CHUNK_BYTES and not isinstance(cut, SlowError):
                    waits = iter(RETRY_WAITS_S)
                before = self._num_bytes
                wait_s = next(waits, None)
                if wait_s is None:
                    raise InputError(self._given_up(cut)) from cut
                self._progress.on_note(f"cut at {_size(before)} ({cut}); retrying")
                time.sleep(wait_s)

    def _given_up(self, cut: CutError) -> str:
        kept = f"{_size(self._num_bytes)} are kept" if self._num_bytes else "nothing has arrived yet"
        return (
            f"{self._wanted.slug}: the download makes no progress ({cut})\n"
            "  check that this machine reaches https://www.kaggle.com (behind a proxy: export HTTPS_PROXY);\n"
            f"  {kept}: the same command resumes from there"
        )

    def _start(self, archive: Archive) -> int:
        """The byte to resume from: 0, with an empty part, if the part is of another archive. Raises InputError without room."""
        label = {"data_set": self._wanted.slug, "size": archive.size, "version": archive.version}
        found: Any = None
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._label.read_text(encoding="utf-8"))
        start = self._num_bytes
        if found != label or archive.version is None or start > (archive.size or 0):
            if start:
                self._progress.on_note(f"starting from the beginning: the {_size(start)} on disk are from another version of the archive")
            self._clear()
            start = 0
        free = shutil.disk_usage(self._out.parent).free
        needed = (archive.size or 0) - start
        if archive.size is not None and needed + SPARE_BYTES > free:
            archive.response.close()
            raise InputError(
                f"{self._out.parent}: {_size(needed)} more are needed for {self._out.name}, and {_size(free)} are free; "
                "make room, or name a folder on another disk with --out"
            )
        publish_json(self._label, label)
        return start

    def _transfer(self, archive: Archive, start: int) -> None:
        """Append what is missing. Raises CutError if the connection ends early or is too slow; InputError if the disk is full."""
        import requests
        import urllib3

        if start == archive.size:
            archive.response.close()
            return
        response = archive.response
        try:
            if start:
                response = archive.rest(start, self._timeout_s)
                start = _granted_start(response, start, archive.size)
            self._progress.on_start("download", start, archive.size)
            with response, self._path.open("r+b" if start else "wb") as file:
                file.seek(start)
                self._receive(response.raw, file, None if archive.size is None else archive.size - start)
        except TooSlowError as error:
            raise SlowError(str(error)) from error
        except requests.RequestException as error:
            raise failed(error, self._wanted) from error
        except urllib3.exceptions.HTTPError as error:
            raise CutError(network_reason(error)) from error
        except OSError as error:
            kept = f"{_size(self._num_bytes)} are kept: fix that, and run this again"
            raise InputError(f"{self._out.parent}: {error.strerror or error}; {kept}") from error
        num_bytes = self._num_bytes
        if archive.size is not None and num_bytes != archive.size:
            if num_bytes > archive.size:
                self._clear()
            raise CutError(f"the server sent {num_bytes} of {archive.size} bytes")

    def _receive(self, body: Any, file: BinaryIO, expected: int | None) -> None:
        """Write a body as it arrives, until it has more bytes than `expected`, or, if that is not known, than the disk has room for."""
        read, rate = getattr(body, "read1", body.read), LeastRate()  # urllib3 before 2 has no read1, and waits for whole chunks
        left = shutil.disk_usage(self._out.parent).free - SPARE_BYTES if expected is None else expected
        while left >= 0 and (data := read(CHUNK_BYTES, decode_content=False)):
            rate.add(len(data))
            file.write(data)
            left -= len(data)
            self._progress.on_bytes(len(data))
        if expected is None and left < 0:
            self._clear()
            raise InputError(
                f"{self._out.parent}: the server does not say how long {self._out.name} is, and it is longer than the disk has room for: "
                f"{_size(SPARE_BYTES)} must stay free, so the download was removed; make room, or name a folder on another disk with --out"
            )

    def finish(self) -> None:
        """Check the part to the last byte and publish it under its name."""
        try:
            self._check_members()
            open_source(self._path)
        except InputError as error:
            num_bytes = self._num_bytes
            self._clear()
            raise InputError(
                f"{self._out.name}: the download ({_size(num_bytes)}) is damaged ({error}) and was removed. Run this again; if that "
                f"does not help, download {self._wanted.url} in a browser"
            ) from error
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        publish(self._out, self._path.replace)
        self._label.unlink(missing_ok=True)

    def _check_members(self) -> None:
        """Read every member, which checks its CRC-32. Raises InputError with the first that differs."""
        name = "the list of its files"
        try:
            with zipfile.ZipFile(self._path) as archive:
                infos = archive.infolist()
                total = sum(info.compress_size for info in infos)
                if total > self._num_bytes:
                    raise InputError("its files overlap, so that reading them might never end")
                self._progress.on_start("check", 0, total)
                for info in infos:
                    name = info.filename
                    with archive.open(info) as member:
                        while member.read(1 << 20):
                            pass
                    self._progress.on_bytes(info.compress_size)
        except Exception as error:  # zipfile reports damage with half a dozen types
            raise InputError(f"{name}: {error}") from error


def _granted_start(response: Any, asked: int, size: int | None) -> int:
    """Where the bytes of an answer to a request for the rest begin."""
    if response.status_code == 206 and response.headers.get("Content-Range", "") == f"bytes {asked}-{(size or 0) - 1}/{size}":
        return asked
    if response.status_code == 200:
        return 0
    response.close()
    raise CutError(f"HTTP {response.status_code} instead of the rest")


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


@contextlib.contextmanager
def bar_progress() -> Iterator[DownloadProgress]:
    """A progress bar on the terminal, first of the download, then of the check; notes on stderr."""
    from fastfashion.bars import tqdm

    with tqdm(unit="B", unit_scale=True, disable=None, dynamic_ncols=True, leave=False) as bar:

        def on_start(what: str, done: int, total: int | None) -> None:
            bar.set_description(what, refresh=False)
            bar.reset(float("inf") if total is None else total)
            bar.initial = bar.n = bar.last_print_n = done  # the rate is that of this try

        def on_bytes(num_bytes: int) -> None:
            bar.update(num_bytes)

        yield DownloadProgress(on_start=on_start, on_bytes=on_bytes, on_note=lambda line: bar.write(line, file=sys.stderr))
