"""Every byte of a packed set against its checksums.

set.json ─► catalog, vocab, rejected     ┐
manifest ─► index, tars, their indices   ┴─► read, hash, compare ─► Damage, Damage, …
"""

import contextlib
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from msgspec.structs import asdict

from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote
from fastfashion.remote import children, is_folder, list_anew, list_children, read_range, size_of
from fastfashion.shards.layout import (
    CATALOG,
    INDEX,
    LONGEST_BYTES,
    MANIFEST,
    MOST_BYTES,
    PACK_AGAIN,
    REJECTED,
    SET,
    VOCAB,
    Manifest,
    SetFiles,
    hash_file,
    index_name,
    is_resolution,
    most_idx_bytes,
    most_index_bytes,
    shard_name,
)
from fastfashion.shards.reader import refuse_interrupted
from fastfashion.shards.tables import check_idx, read_catalog, read_index, read_rejected, read_vocab, wrong_in_catalog
from fastfashion.shards.verify_images import wrong_images
from fastfashion.untrusted import open_regular
from fastfashion.words import why

MAX_THREADS = 8  # files read side by side; hashing lets go of the interpreter's lock
MAX_IDS_NAMED = 5


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A file that is not as it was packed."""

    where: str  # relative to the set, such as 224/00003.tar
    resolution: str | None  # None for what lies beside the resolutions, and for files that are no part of the set
    shard: int | None  # None where it is not one shard's
    reason: str


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What was read, and what is wrong with it."""

    damage: tuple[Damage, ...]
    num_files: int
    num_bytes: int
    num_rows: int  # of the catalog, as set.json says; 0 where that is damaged


@dataclass(frozen=True, kw_only=True)
class _Check:
    """A file to read. It has no checksum where it carries its own, or where the file that tells it is damaged."""

    where: str
    resolution: str | None = None
    shard: int | None = None
    sha256: str | None = None
    num_bytes: int | None = None
    most_bytes: int = LONGEST_BYTES  # where nothing tells how many there are

    def damage(self, reason: str) -> Damage:
        return Damage(where=self.where, resolution=self.resolution, shard=self.shard, reason=reason)


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What set.json and the manifests say: None for those that are damaged."""

    set_files: SetFiles | None
    manifests: dict[str, Manifest | None]
    damage: list[Damage]


def verify(
    path: Path,
    on_bytes: Callable[[int], object] = lambda num_bytes: None,
    on_total: Callable[[int], object] = lambda num_bytes: None,
) -> VerifyResult:
    """Read every byte of a set, on a disk or on object storage, and name each file that differs from what was packed.

    `on_total` is told once how many bytes there are to read, `on_bytes` how many more have been. Raises PackedSetError where
    there is no packed set; whatever is wrong within one is in the result.
    """
    listing, resolutions = _list_files(path)
    told = _read_signed(path, resolutions)
    checks = [check for check in _checks(told) if check.where not in {found.where for found in told.damage}]
    on_total(sum(_size(listing[check.where]) for check in checks if check.where in listing))
    lock = threading.Lock()

    def count(num_bytes: int) -> None:
        with lock:
            on_bytes(num_bytes)

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        read = list(pool.map(lambda check: _compare(path, check, count), checks))
    damage = told.damage + [check.damage(reason) for check, (_, reason) in zip(checks, read, strict=True) if reason]
    damage = _name_images(path, damage)
    damage += _contradictions(path, told, {found.where for found in damage})
    damage += _foreign(listing, told, {check.where for check in checks})
    return VerifyResult(
        damage=tuple(sorted(damage, key=lambda found: ("/" in found.where, found.where))),
        num_files=sum(check.where in listing for check in checks),
        num_bytes=sum(num_bytes for num_bytes, _ in read),
        num_rows=told.set_files.num_rows if told.set_files else 0,
    )


def _list_files(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Files of a set by relative name, and the folders of its resolutions. Hidden files at the root are the packer's own."""
    list_anew(path)
    if not is_folder(path):
        raise PackedSetError(f"{path}: no such folder; expected a packed set")
    listing: dict[str, Path] = {}
    resolutions = []
    for entry, below in list_children(path).items():
        if below and not children(entry):
            continue  # no folder there but an empty object that stands for one
        if is_resolution(entry.name) and (is_folder(entry) if below is None else below):
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


def _read_signed(path: Path, resolutions: list[str]) -> _Told:
    damage: list[Damage] = []

    def read(signed: Callable[[Path], T], check: _Check) -> T | None:
        try:
            return signed(path / check.where)
        except PackedSetError as error:
            damage.append(check.damage(_words(path / check.where, error)))
            return None

    return _Told(
        set_files=read(SetFiles.read, _Check(where=SET)),
        manifests={name: read(Manifest.read, _Check(where=f"{name}/{MANIFEST}", resolution=name)) for name in resolutions},
        damage=damage,
    )


def _words(path: Path, error: PackedSetError) -> str:
    """Why a file is refused, without its path and without what does not help: to pack the set again."""
    return str(error).removeprefix(f"{path}: ").removesuffix(f"; {PACK_AGAIN}")


def _checks(told: _Told) -> Iterator[_Check]:
    yield _Check(where=SET, most_bytes=MOST_BYTES[SET])
    for name in (CATALOG, VOCAB, REJECTED):
        yield _Check(where=name, **(asdict(told.set_files.files[name]) if told.set_files else {}))
    for name, manifest in told.manifests.items():
        if manifest:
            yield _Check(where=f"{name}/{MANIFEST}", resolution=name, most_bytes=MOST_BYTES[MANIFEST])
            index = _Check(where=f"{name}/{INDEX}", resolution=name, sha256=manifest.index_sha256)
            yield replace(index, most_bytes=most_index_bytes(manifest.num_rows))
            for shard in manifest.shards:
                tar = _Check(where=f"{name}/{shard_name(shard.number)}", resolution=name, shard=shard.number, sha256=shard.sha256)
                yield replace(tar, num_bytes=shard.num_bytes)
                idx = replace(tar, where=f"{name}/{index_name(shard.number)}", sha256=shard.idx_sha256)
                yield replace(idx, most_bytes=most_idx_bytes(shard.num_rows))


def _compare(path: Path, check: _Check, on_bytes: Callable[[int], None]) -> tuple[int, str | None]:
    """Bytes read, and what is wrong."""
    most_bytes = check.most_bytes if check.num_bytes is None else check.num_bytes
    try:
        num_bytes, sha256 = hash_file(path / check.where, on_bytes, most_bytes)
    except FileNotFoundError:
        return 0, "missing"
    except InputError as error:
        return 0, str(error).removeprefix(f"{path / check.where}: ")
    except OSError as error:
        return 0, f"cannot be read ({error.strerror or error})"
    if check.num_bytes not in (None, num_bytes):
        return num_bytes, f"expected {check.num_bytes} bytes, found {num_bytes}"
    if num_bytes > most_bytes:
        return num_bytes, f"more than {most_bytes} bytes, the most that such a file may have"
    if check.sha256 not in (None, sha256):
        return num_bytes, f"its bytes are not those that were packed: expected sha256 {check.sha256[:12]}…, found {sha256[:12]}…"
    return num_bytes, None


def _name_images(path: Path, damage: list[Damage]) -> list[Damage]:
    """Say of damaged tars which images are hit, where an index that is whole tells where they lie."""
    wheres = {found.where for found in damage}
    tables: dict[str, pd.DataFrame | None] = {}
    named = []
    for found in damage:
        name, number = found.resolution, found.shard
        if name is None or number is None or not found.where.endswith(".tar") or found.reason == "missing":
            named.append(found)
            continue
        if name not in tables:
            tables[name] = None if {f"{name}/{INDEX}", f"{name}/{MANIFEST}", CATALOG, VOCAB, SET} & wheres else _places(path, name)
        table = tables[name]
        hit = "" if table is None else "; " + _images_hit(path / found.where, table[table["shard"] == number])
        named.append(replace(found, reason=found.reason + hit))
    return named


def _places(path: Path, resolution: str) -> pd.DataFrame | None:
    """Where the images of a resolution lie, with their ids; None where that is not told as the format asks."""
    try:
        told = SetFiles.read(path / SET)
        index = read_index(path / resolution, Manifest.read(path / resolution / MANIFEST), told.num_rows)
        return pd.DataFrame(index).assign(id=read_catalog(path, read_vocab(path, told), told)["id"])
    except PackedSetError:
        return None


def _images_hit(tar: Path, images: pd.DataFrame) -> str:
    """Which images have another CRC than the index says."""
    hit = []
    try:
        with contextlib.nullcontext() if is_remote(tar) else open_regular(tar) as file:
            for identity, offset, size, crc32 in images[["id", "offset", "size", "crc32"]].itertuples(index=False):
                if file is not None:
                    file.seek(offset)
                if zlib.crc32(read_range(tar, offset, size) if file is None else file.read(size)) != crc32:
                    hit.append((identity, offset))
    except (OSError, ValueError) as error:
        return f"its images cannot be read ({why(error)})"
    if not hit:
        return "its images are whole: labels, headers or padding between them differ"
    ids = ", ".join(str(identity) for identity, _ in hit[:MAX_IDS_NAMED])
    more = f" and {len(hit) - MAX_IDS_NAMED} more" if len(hit) > MAX_IDS_NAMED else ""
    return f"{len(hit)} of {len(images)} images differ, from byte {hit[0][1]} on: ids {ids}{more}"


def _contradictions(path: Path, told: _Told, damaged: set[str]) -> Iterator[Damage]:
    """Files that are whole, but not as FORMAT.md asks, or not of the same set: what opening refuses, and all values."""
    num_rows = told.set_files.num_rows if told.set_files else None
    if told.set_files:
        yield from _wrong_beside(path, told.set_files, damaged)
    for name, manifest in told.manifests.items():
        if manifest is None:
            continue
        if reason := manifest.contradiction(name, num_rows):
            yield _Check(where=f"{name}/{MANIFEST}", resolution=name).damage(reason)
        elif f"{name}/{INDEX}" not in damaged:
            check = _Check(where=f"{name}/{INDEX}", resolution=name)
            try:
                index = read_index(path / name, manifest)
            except PackedSetError as error:
                yield check.damage(_words(path / check.where, error))
                continue
            if not is_remote(path):
                yield from map(check.damage, wrong_images(path, name, index, damaged))
                yield from _wrong_idx(path, name, manifest, index, damaged)


def _wrong_idx(path: Path, name: str, manifest: Manifest, index: Mapping[str, np.ndarray], damaged: set[str]) -> Iterator[Damage]:
    for entry in manifest.shards:
        check = _Check(where=f"{name}/{index_name(entry.number)}", resolution=name, shard=entry.number)
        if check.where not in damaged:
            here = slice(*np.searchsorted(index["shard"], [entry.number, entry.number + 1]))
            try:
                check_idx(path / name, entry, index["offset"][here], index["size"][here])
            except PackedSetError as error:
                yield check.damage(_words(path / check.where, error))


def _wrong_beside(path: Path, told: SetFiles, damaged: set[str]) -> Iterator[Damage]:
    where = VOCAB
    try:
        if VOCAB not in damaged:
            vocab = read_vocab(path, told)
            where = CATALOG
            if CATALOG not in damaged:
                read_catalog(path, vocab, told)
                if reason := wrong_in_catalog(path, vocab, told):
                    yield _Check(where=CATALOG).damage(reason)
        where = REJECTED
        if REJECTED not in damaged:
            read_rejected(path)
    except PackedSetError as error:
        yield _Check(where=where).damage(_words(path / where, error))


def _foreign(listing: Mapping[str, Path], told: _Told, known: set[str]) -> Iterator[Damage]:
    known |= {found.where for found in told.damage}
    for where in listing:
        if where not in known and told.manifests.get(where.split("/")[0], True):
            yield Damage(where=where, resolution=None, shard=None, reason="no part of the set; remove it")
