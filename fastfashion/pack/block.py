"""Packing one block of rows: what a worker does, whoever runs it.

    block of rows ─► read ─► decode once ─► every resolution: resize, encode ─► one tar each ─► blocks/NNNNN.json (done)

A block is the unit of work and becomes one shard a resolution.
"""

import json
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fastfashion.catalog.duplicates import fingerprint
from fastfashion.errors import InputError
from fastfashion.files import publish
from fastfashion.images import codec
from fastfashion.shards.layout import FULL
from fastfashion.shards.writer import ShardWriter
from fastfashion.sources.listing import Member
from fastfashion.sources.reader import Reader

# Twice the target before the bicubic step keeps 48 dB PSNR against decoding in full; once the target only 33 dB.
OVERSAMPLE = 2
# Enough for a fingerprint. For `full` alone no more is decoded: a smaller scale reads every byte all the same.
LOOK_SHORT_PX = 128
TICK_S = 0.25

Tick = Callable[[int, int, int], None]  # images, encoded bytes and rejected images since the last call


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every block of a packing run shares."""

    reader: Reader
    resolutions: tuple[str, ...]  # descending, "full" first
    quality: int
    subsampling: str
    max_pixels: int
    keep_unshrunk: bool  # in numbered resolutions: the source's bytes of plain, upright, baseline JPEGs that are not shrunk
    folders: dict[str, Path]  # resolution -> where its shards are written
    records: Path


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive rows of the table that become one shard."""

    number: int
    samples: Sequence[tuple[str, Member, dict[str, str]]]  # id, where its image lies, labels as written


def record_path(records: Path, number: int) -> Path:
    return records / f"{number:05d}.json"


def pack_block(job: Job, block: Block, tick: Tick = lambda images, num_bytes, rejected: None) -> None:
    """Write the shards of one block, then its record.

    The record: `kept` (columns id, height, width, fingerprint), `images` (resolution -> columns offset, size, height, width,
    crc32, kind, in the same order), `rejected` (id, reason), `shards` (resolution -> manifest entry, or null where nothing was kept).
    """
    kept: dict[str, list[Any]] = {name: [] for name in ("id", "height", "width", "fingerprint")}
    places: dict[str, dict[str, list[int]]] = {
        name: {column: [] for column in ("offset", "size", "height", "width", "crc32", "kind")} for name in job.resolutions
    }
    rejected: list[dict[str, str]] = []
    told = _Telling(tick)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(ShardWriter(job.folders[name], block.number)) for name in job.resolutions}
        encoded = job.reader.read_many([member for _, member, _ in block.samples])
        for (identity, _, labels), data in zip(block.samples, encoded, strict=True):
            try:
                if isinstance(data, InputError):
                    raise data
                info, versions = make_versions(job, data)
            except InputError as error:
                rejected.append({"id": identity, "reason": str(error)})
                told.add(0, 1)
                continue
            labelled = json.dumps({"id": identity} | labels, ensure_ascii=False).encode()
            for name, (jpg, height_px, width_px, kind) in versions.items():
                offset = writers[name].add(identity, {"jpg": jpg, "json": labelled})["jpg"]
                place = (offset, len(jpg), height_px, width_px, zlib.crc32(jpg), kind)
                for column, number in zip(places[name].values(), place, strict=True):
                    column.append(number)
            for name, value in zip(kept, (identity, *info), strict=True):
                kept[name].append(value)
            told.add(sum(len(version.jpg) for version in versions.values()), 0)
    shards = {name: writer.entry and msgspec.structs.asdict(writer.entry) for name, writer in writers.items()}
    text = json.dumps({"kept": kept, "images": places, "rejected": rejected, "shards": shards}, ensure_ascii=False)
    publish(record_path(job.records, block.number), lambda beside: beside.write_text(text, encoding="utf-8"))
    told.flush()


class _Telling:
    """Passes on what is done, a few times a second."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._sums = [0, 0, 0]
        self._next_s = time.monotonic() + TICK_S

    def add(self, num_bytes: int, rejected: int) -> None:
        self._sums = [self._sums[0] + 1, self._sums[1] + num_bytes, self._sums[2] + rejected]
        if time.monotonic() >= self._next_s:
            self.flush()

    def flush(self) -> None:
        self._tick(*self._sums)
        self._sums = [0, 0, 0]
        self._next_s = time.monotonic() + TICK_S


class Version(NamedTuple):
    """An image at one resolution, encoded; sizes in pixels, as shown."""

    jpg: bytes
    height_px: int
    width_px: int
    kind: codec.Kind


def make_versions(job: Job, data: bytes) -> tuple[tuple[int, int, str], dict[str, Version]]:
    """Decode once, and make every resolution from the smallest image at hand that is at least twice as large.

    Returns the image's shown height and width and its fingerprint (hex), and the version for each resolution. Raises InputError where
    the image does not decode completely.
    """
    shown = codec.probe(data, max_pixels=job.max_pixels)
    shorts = [int(name) for name in job.resolutions if name != FULL]
    wanted = codec.fit_short_side(shown.height_px, shown.width_px, OVERSAMPLE * max(shorts) if shorts else LOOK_SHORT_PX)
    pixels = codec.decode_rgb(data, min_height_px=wanted[0], min_width_px=wanted[1], max_pixels=job.max_pixels, info=shown)
    box = codec.content_box(pixels, shown)
    kind = shown.kind
    keep = job.keep_unshrunk and kind is not codec.Kind.OTHER and shown.turn == 1 and shown.is_baseline
    levels = [pixels]
    versions: dict[str, Version] = {}
    for name in job.resolutions:
        if name == FULL:
            versions[name] = Version(data, shown.height_px, shown.width_px, kind)
            continue
        height_px, width_px = codec.fit_short_side(shown.height_px, shown.width_px, int(name))
        large = next((level for level in reversed(levels) if level.shape[0] >= OVERSAMPLE * height_px), pixels)
        levels.append(codec.resize(large, height_px, width_px, box if large is pixels else None))
        if keep and (height_px, width_px) == (shown.height_px, shown.width_px):
            versions[name] = Version(data, height_px, width_px, kind)
            continue
        encoded = codec.encode_jpeg(levels[-1], job.quality, job.subsampling)
        versions[name] = Version(encoded, height_px, width_px, codec.Kind.COLOR)
    looked_at = next((level for level in reversed(levels) if min(level.shape[:2]) >= LOOK_SHORT_PX), pixels)
    return (shown.height_px, shown.width_px, fingerprint(looked_at).hex()), versions
