"""Every byte of a packed set against its checksums.

set.json ─► catalog, vocab, rejected     ┐
manifest ─► index, tars, their indices   ┴─► read, hash, compare ─► whole, but as FORMAT.md asks? ─► Damage, Damage, …
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from msgspec.structs import asdict

from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote
from fastfashion.remote import children, is_folder, list_anew, list_children, size_of
from fastfashion.shards import layout
from fastfashion.shards.layout import CATALOG, INDEX, MANIFEST, PACK_AGAIN, REJECTED, SET, VOCAB, Manifest, SetFiles
from fastfashion.shards.reader import refuse_interrupted
from fastfashion.shards.tables import check_idx, read_catalog, read_index, read_rejected, read_vocab, wrong_in_catalog
from fastfashion.shards.verify_images import image_places, images_hit, wrong_images, wrong_table

MAX_THREADS = 8  # files read side by side; hashing releases the interpreter's lock

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A file that is not as it was packed."""

    where: str  # relative to the set, such as 224/00003.tar
    resolution: str | None  # None for what is beside the resolutions, and for files that are not part of the set
    shard: int | None  # None if it is not one shard's
    reason: str


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What was read, and what is wrong with it."""

    damage: tuple[Damage, ...]
    num_files: int
    num_bytes: int
    num_rows: int  # of the catalog, as set.json says; 0 if that is damaged


def verify(
    path: Path,
    on_bytes: Callable[[int], object] = lambda num_bytes: None,
    on_total: Callable[[int], object] = lambda num_bytes: None,
) -> VerifyResult:
    """Read every byte of a set, on a disk or on object storage, and name each file that differs from what was packed.

    `on_total` is called once with the number of bytes to read, `on_bytes` with that of each piece read. Raises PackedSetError if
    there is no packed set; whatever is wrong within one is in the result.
    """
    found = _Verification(path)
    checks = found.checks()
    on_total(sum(_size(found.listing[check.where]) for check in checks if check.where in found.listing))
    lock = threading.Lock()

    def count(num_bytes: int) -> None:
        with lock:
            on_bytes(num_bytes)

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        compared = list(pool.map(lambda check: _compare(path, check, count), checks))
    found.report_differences({check.where: reason for check, (_, reason) in zip(checks, compared, strict=True) if reason})
    found.report_contradictions()
    found.report_foreign({check.where for check in checks})
    return VerifyResult(
        damage=tuple(sorted(found.damage, key=lambda damage: ("/" in damage.where, damage.where))),
        num_files=sum(check.where in found.listing for check in checks),
        num_bytes=sum(num_bytes for num_bytes, _ in compared),
        num_rows=found.set_files.num_rows if found.set_files else 0,
    )


@dataclass(frozen=True, kw_only=True)
class _Check:
    """A file to read. It has no checksum if it contains its own, or if the file that says it is damaged."""

    where: str
    sha256: str | None = None
    num_bytes: int | None = None
    most_bytes: int = layout.LONGEST_BYTES  # if nothing says how many there are


class _Verification:
    """What is known of a set, and the damage found so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listing, resolutions = _list_files(path)
        self.damage: list[Damage] = []
        self._damaged: set[str] = set()
        self.set_files = self._read_signed(SetFiles.read, SET)
        self.manifests = {name: self._read_signed(Manifest.read, f"{name}/{MANIFEST}") for name in resolutions}  # None: damaged

    def report(self, where: str, reason: str | PackedSetError) -> None:
        """Add a file of the set to the damage; of an error's text, its path and the advice to pack again are left out."""
        reason = str(reason).removeprefix(f"{self.path / where}: ").removesuffix(f"; {PACK_AGAIN}")
        folder, _, name = where.rpartition("/")
        stem = name.partition(".")[0]
        shard = int(stem) if folder and stem.isdecimal() else None
        self.damage.append(Damage(where=where, resolution=folder or None, shard=shard, reason=reason))
        self._damaged.add(where)

    @contextlib.contextmanager
    def _reporting(self, where: str) -> Iterator[None]:
        """Inside this context a PackedSetError is damage of that file."""
        try:
            yield
        except PackedSetError as error:
            self.report(where, error)

    def _read_signed(self, read: Callable[[Path], T], where: str) -> T | None:
        with self._reporting(where):
            return read(self.path / where)
        return None

    def checks(self) -> list[_Check]:
        """The files that set.json and the manifests name, and themselves, but for those that are damaged already."""
        return [check for check in self._all_checks() if check.where not in self._damaged]

    def _all_checks(self) -> Iterator[_Check]:
        yield _Check(where=SET, most_bytes=layout.MOST_BYTES[SET])
        for name in (CATALOG, VOCAB, REJECTED):
            yield _Check(where=name, **(asdict(self.set_files.files[name]) if self.set_files else {}))
        for name, manifest in self.manifests.items():
            if manifest is None:
                continue
            yield _Check(where=f"{name}/{MANIFEST}", most_bytes=layout.MOST_BYTES[MANIFEST])
            yield _Check(where=f"{name}/{INDEX}", sha256=manifest.index_sha256, most_bytes=layout.most_index_bytes(manifest.num_rows))
            for shard in manifest.shards:
                yield _Check(where=f"{name}/{layout.shard_name(shard.number)}", sha256=shard.sha256, num_bytes=shard.num_bytes)
                idx_bytes = layout.most_idx_bytes(shard.num_rows)
                yield _Check(where=f"{name}/{layout.index_name(shard.number)}", sha256=shard.idx_sha256, most_bytes=idx_bytes)
                if shard.seek:
                    yield _Check(where=f"{name}/{layout.seek_name(shard.number)}", **asdict(shard.seek))

    def report_differences(self, reasons: dict[str, str]) -> None:
        """Report the files whose bytes differ; of a tar also which images, if an undamaged index has their places."""
        damaged = self._damaged | set(reasons)
        tars = {where for where, reason in reasons.items() if where.endswith(".tar") and reason != "missing"}
        places = {}
        for name in {tar.partition("/")[0] for tar in tars}:
            if self.set_files and not {f"{name}/{INDEX}", CATALOG, VOCAB} & damaged:
                places[name] = image_places(self.path, name, self.set_files)
        for where, reason in reasons.items():
            name, _, tar = where.partition("/")
            table = places.get(name) if where in tars else None
            hit = "" if table is None else "; " + images_hit(self.path / where, table[table["shard"] == int(tar.partition(".")[0])])
            self.report(where, reason + hit)

    def report_contradictions(self) -> None:
        """Report files that are whole, but not as FORMAT.md asks, or not of the same set: what opening refuses, and all values."""
        if self.set_files:
            self._report_beside(self.set_files)
        for name, manifest in self.manifests.items():
            if manifest is None:
                continue
            if reason := manifest.contradiction(name, self.set_files.num_rows if self.set_files else None):
                self.report(f"{name}/{MANIFEST}", reason)
            elif f"{name}/{INDEX}" not in self._damaged:
                self._report_index(name, manifest)

    def _report_beside(self, set_files: SetFiles) -> None:
        vocab = None
        if VOCAB not in self._damaged:
            with self._reporting(VOCAB):
                vocab = read_vocab(self.path, set_files)
        if vocab is not None and CATALOG not in self._damaged:
            with self._reporting(CATALOG):
                read_catalog(self.path, vocab, set_files)
                if reason := wrong_in_catalog(self.path, vocab, set_files):
                    self.report(CATALOG, reason)
        if REJECTED not in self._damaged:
            with self._reporting(REJECTED):
                read_rejected(self.path)

    def _report_index(self, name: str, manifest: Manifest) -> None:
        index = None
        with self._reporting(f"{name}/{INDEX}"):
            index = read_index(self.path / name, manifest)
        if index is None or is_remote(self.path):
            return
        for reason in wrong_images(self.path, name, index, self._damaged):
            self.report(f"{name}/{INDEX}", reason)
        for entry in manifest.shards:
            rows = slice(*np.searchsorted(index["shard"], [entry.number, entry.number + 1]))
            places = index["offset"][rows], index["size"][rows]
            where, tar, table = (f"{name}/{named(entry.number)}" for named in (layout.index_name, layout.shard_name, layout.seek_name))
            if where not in self._damaged:
                with self._reporting(where):
                    check_idx(self.path / name, entry, *places)
            if entry.seek and not {tar, table} & self._damaged and (found := wrong_table(self.path / name, entry, *places)):
                self.report(table, found)

    def report_foreign(self, known: set[str]) -> None:
        """Report files that are not part of the set, but for those of a resolution whose manifest is damaged."""
        known = known | self._damaged
        for where in self.listing:
            if where not in known and self.manifests.get(where.split("/")[0], True):
                self.damage.append(Damage(where=where, resolution=None, shard=None, reason="not part of the set; remove it"))


def _list_files(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Files of a set by relative name, and the names of its resolutions. Hidden files at the root are the packer's own."""
    list_anew(path)
    if not is_folder(path):
        raise PackedSetError(f"{path}: no such folder; expected a packed set")
    listing: dict[str, Path] = {}
    resolutions = []
    for entry, is_dir in list_children(path).items():
        if is_dir and not children(entry):
            continue  # an empty object that only marks a folder
        if layout.is_resolution(entry.name) and (is_folder(entry) if is_dir is None else is_dir):
            resolutions.append(entry.name)
            listing |= {f"{entry.name}/{file.name}": file for file in children(entry)}
        elif not entry.name.startswith("."):
            listing[entry.name] = entry
    if SET not in listing and not any(where.endswith(f"/{MANIFEST}") for where in listing):
        refuse_interrupted(path)
        raise PackedSetError(f"{path}: not a packed set: expected {SET} and at least one resolution with a {MANIFEST}")
    return listing, sorted(resolutions)


def _size(file: Path) -> int:
    try:
        return size_of(file)
    except OSError:  # such as a link to nowhere
        return 0


def _compare(path: Path, check: _Check, on_bytes: Callable[[int], None]) -> tuple[int, str | None]:
    """The number of bytes read, and what is wrong with them."""
    most_bytes = check.most_bytes if check.num_bytes is None else check.num_bytes
    try:
        num_bytes, sha256 = layout.hash_file(path / check.where, on_bytes, most_bytes)
    except FileNotFoundError:
        return 0, "missing"
    except InputError as error:
        return 0, str(error).removeprefix(f"{path / check.where}: ")
    except OSError as error:
        return 0, f"cannot be read ({error.strerror or error})"
    if check.num_bytes not in (None, num_bytes):
        return num_bytes, f"expected {check.num_bytes} bytes, found {num_bytes}"
    if num_bytes > most_bytes:
        return num_bytes, f"more than {most_bytes} bytes, the limit for such a file"
    if check.sha256 not in (None, sha256):
        return num_bytes, f"its bytes are not those that were packed: expected sha256 {check.sha256[:12]}…, found {sha256[:12]}…"
    return num_bytes, None
