"""Repacking just the shards that `verify` found damaged.

damage ─► shard numbers ─► their rows, from index and catalog ─► the packer's own blocks ─► same sha256? ─► into place
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from fastfashion.catalog import Columns, old_id
from fastfashion.errors import InputError, PackedSetError
from fastfashion.files import is_remote, publish
from fastfashion.images.compiled import INSTALL_AGAIN
from fastfashion.pack.block import Block, Job
from fastfashion.pack.engines import open_engine
from fastfashion.pack.plan import PackPlan, make_plan
from fastfashion.pack.request import MADE_BY, RESAMPLER, UNSHRUNK, PackRequest, encoder_differences
from fastfashion.pack.staging import STAGING, lock
from fastfashion.scratch import scratch
from fastfashion.shards import PackedSet, open_packed_set, seek
from fastfashion.shards.layout import (
    FULL,
    INDEX,
    MANIFEST,
    Manifest,
    ShardEntry,
    check_resolution,
    hash_file,
    seek_name,
    shard_name,
)
from fastfashion.shards.tables import read_index
from fastfashion.shards.verify import Damage

NEEDED = ("set.json", "catalog.parquet", MANIFEST, INDEX)  # to know which rows a shard holds


def repair(path: Path, source: Path, damage: Iterable[Damage], workers: int, table: str = "", id_column: str = "id") -> list[str]:
    """Pack damaged shards again from the source that the set was made of; returns their names within the set.

    `table` and `id_column` as they were then. A shard is put in place only if it has the bytes that the manifest says. Raises
    PackedSetError if it is not known which rows a shard holds, or library versions or the source are not those of then.
    """
    shards: dict[str, set[int]] = {}
    for found in damage:
        if found.where.rsplit("/", 1)[-1] in NEEDED:
            raise PackedSetError(
                f"{path}: {found.where} is damaged ({found.reason}), so it is not known which rows the shards hold; only shards can be "
                f"repaired: pack the set again into another folder, fastfashion shard --source {source}"
            )
        if found.resolution is not None and found.shard is not None:
            shards.setdefault(found.resolution, set()).add(found.shard)
    repaired = []
    with lock(path), _scratch(path) as work:
        packed = open_packed_set(path)
        columns = Columns(id=id_column, labels=tuple(packed.vocab.classes))
        request = PackRequest(source=source, out=path, table=table, columns=columns, workers=workers)
        with contextlib.closing(open_engine("local", workers, None)) as engine:
            plan = make_plan(request)
            if "path" not in packed.table:  # of format version 2
                rows = plan.styles.table.assign(id=[old_id(text) for text in plan.styles.table["path"]])
                plan = replace(plan, styles=replace(plan.styles, table=rows))
            for name, numbers in sorted(shards.items()):
                manifest = Manifest.read(path / name / MANIFEST)
                job = _make_job(plan, manifest, work / name, path / name)
                blocks = _blocks(packed, plan, path / name, manifest, numbers)
                for number in engine.run(job, blocks, lambda images, num_bytes, rejected: None):
                    _replace(path / name, job.folders[name], manifest, number)
                    repaired.append(f"{name}/{shard_name(number)}")
    return sorted(repaired)


@contextlib.contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder on the set's own disk if it is on one; the next run removes it if this one is killed."""
    if is_remote(path):
        with scratch() as folder:
            yield folder
        return
    (path / STAGING).mkdir(exist_ok=True)
    with scratch(path / STAGING) as folder:
        yield folder
    with contextlib.suppress(OSError):
        (path / STAGING).rmdir()


class _Encoder(msgspec.Struct):
    """The field `encoder` of a manifest of ours, as far as a job depends on it."""

    cascade: tuple[str, ...] = (FULL,)
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 90
    subsampling: Literal["420", "422", "444"] = "420"

    def __post_init__(self) -> None:
        for name in self.cascade:
            check_resolution(name)


def _make_job(plan: PackPlan, manifest: Manifest, work: Path, folder: Path) -> Job:
    """The job that made a resolution, as far as its bytes depend on it."""
    found: dict[str, Any] = manifest.encoder or {}
    try:
        encoder = msgspec.convert(found, _Encoder)
    except msgspec.ValidationError as error:
        raise PackedSetError(f"{folder / MANIFEST}: encoder: {error}; fastfashion cannot make its bytes again") from error
    cascade, by_pillow = encoder.cascade, RESAMPLER not in found
    if manifest.resolution not in cascade:
        raise PackedSetError(f"{folder / MANIFEST}: encoder: expected {manifest.resolution} in its cascade, found {', '.join(cascade)}")
    if found and (different := encoder_differences((MADE_BY if by_pillow else {}) | found, encoder.quality, encoder.subsampling)):
        raise PackedSetError(
            f"{folder}: packed with {', '.join(different)}; with these its bytes cannot be made again: install those, or pack it again"
        )
    resolutions = tuple(cascade[: cascade.index(manifest.resolution) + 1])
    folders = {name: work / name for name in resolutions}
    for made in (records := work / "blocks", *folders.values()):
        made.mkdir(parents=True)
    return Job(
        reader=plan.source.reader,
        resolutions=resolutions,
        quality=encoder.quality,
        subsampling=encoder.subsampling,
        max_pixels=2**40,  # what was packed was not too large
        keep_unshrunk=UNSHRUNK in found,
        folders=folders,
        records=records,
        by_pillow=by_pillow,
    )


def _blocks(packed: PackedSet, plan: PackPlan, folder: Path, manifest: Manifest, numbers: set[int]) -> list[Block]:
    shard = read_index(folder, manifest, len(packed), max_pixels=2**62)["shard"]
    position = {identity: place for place, identity in reversed([*enumerate(plan.styles.table["id"])]) if plan.members[place] is not None}
    blocks = []
    for number in sorted(numbers):
        ids = packed.table["id"].to_numpy()[shard == number]
        if gone := [identity for identity in ids if identity not in position]:
            raise PackedSetError(f"{folder / shard_name(number)}: {plan.source.path} lacks its image {gone[0]}; is that its source?")
        blocks.append(Block(number=number, samples=plan.samples(np.array([position[identity] for identity in ids]))))
    return blocks


def _replace(folder: Path, made: Path, manifest: Manifest, number: int) -> None:
    entry = next(entry for entry in manifest.shards if entry.number == number)
    tar = made / shard_name(number)
    index = tar.with_suffix(".idx")
    found = tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in (tar, index))
    if found != (entry.sha256, entry.idx_sha256):
        is_version_2 = manifest.encoder is not None and UNSHRUNK not in manifest.encoder
        profiles = ", or it has images with a colour profile, which fastfashion did not convert when it packed this set"
        raise PackedSetError(
            f"{folder / shard_name(number)}: packing it again from this source gives other bytes: expected sha256 {entry.sha256}, found "
            f"{found[0]}; the source's images or labels have changed since{profiles if is_version_2 else ''}"
        )
    for file in (*_seek_table(folder, tar, entry), index, tar):
        publish(folder / file.name, lambda beside, file=file: beside.write_bytes(file.read_bytes()))  # type: ignore[misc]


def _seek_table(folder: Path, tar: Path, entry: ShardEntry) -> list[Path]:
    """The seek table that was made beside `tar`, if it must be put in place."""
    if entry.seek is None:
        return []
    there, made = folder / seek_name(entry.number), tar.with_suffix(".seek")
    expected = (entry.seek.num_bytes, entry.seek.sha256)
    with contextlib.suppress(OSError, InputError):
        if hash_file(there, max_bytes=entry.seek.num_bytes) == expected:
            return []
    if not made.is_file() or hash_file(made) != expected:
        found, advice = f"found {hash_file(made)[1]}" if made.is_file() else "found none", "pack the set again"
        if not seek.can_read():
            found = "fastfashion was installed without the native code, which makes it"
            advice = INSTALL_AGAIN
        raise PackedSetError(f"{there}: its bytes cannot be made again: expected sha256 {expected[1]}, {found}; {advice}")
    return [made]
