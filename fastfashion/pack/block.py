"""Packing one block of rows: the work of one worker, under any engine.

    block of rows ─► read ─► decode once ─► every resolution: resize, encode ─► one tar each ─► blocks/NNNNN.json (done)

A block becomes one shard of each resolution.
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
import numpy as np

from fastfashion.catalog.duplicates import fingerprint
from fastfashion.errors import InputError
from fastfashion.files import publish
from fastfashion.images import codec
from fastfashion.images.resampling import resize_rgb
from fastfashion.shards.layout import FULL, ShardEntry
from fastfashion.shards.seek import make_entry
from fastfashion.shards.writer import ShardWriter
from fastfashion.sources.listing import Member
from fastfashion.sources.reader import Reader
from fastfashion.untrusted import Count

# Decoding to 1.75 times the target before the bicubic step keeps at least 45 dB PSNR against decoding in full on drawn products, 51 dB on
# stand-ins for photographs; to the target itself, 40 dB and less (bench/LOG.md). A version is made from another one of twice its size.
OVERSAMPLE, CASCADED = 1.75, 2
OLD_OVERSAMPLE = 2  # of sets that Pillow resized
# Enough for a fingerprint. For `full` alone no more is decoded: a smaller scale reads every byte anyway.
LOOK_SHORT_PX = 128
TICK_S = 0.25

Tick = Callable[[int, int, int], None]  # images, encoded bytes and rejected images since the last call


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all blocks of a packing run share."""

    reader: Reader
    resolutions: tuple[str, ...]  # descending, "full" first
    quality: int
    subsampling: str
    max_pixels: int
    keep_unshrunk: bool  # in numbered resolutions: the source's bytes of plain, upright, baseline JPEGs that are not shrunk
    folders: dict[str, Path]  # resolution -> where its shards are written
    records: Path
    by_pillow: bool = False  # resized by Pillow, as in sets whose manifests name no resampler: to repair them


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive rows of the table that become one shard."""

    number: int
    samples: Sequence[tuple[str, Member, dict[str, str]]]  # id, its image in the source, labels as written

    @property
    def ids_text(self) -> str:
        """Its first and last id, for messages."""
        return f"ids {self.samples[0][0]} to {self.samples[-1][0]}"


class _Columns(msgspec.Struct):
    """Columns of one length."""

    def add(self, *values: Any) -> None:
        for column, value in zip(msgspec.structs.astuple(self), values, strict=True):
            column.append(value)


class KeptColumns(_Columns):
    """An entry for each image that was packed; sizes in pixels, as shown."""

    id: list[str] = []
    height: list[Count] = []
    width: list[Count] = []
    fingerprint: list[str] = []  # hex


class ImageColumns(_Columns):
    """An entry for each image at one resolution: its place in the tar and what the index says of it."""

    offset: list[Count] = []
    size: list[Count] = []
    height: list[Count] = []
    width: list[Count] = []
    crc32: list[Count] = []
    kind: list[Count] = []


class RecordFile(msgspec.Struct):
    """The JSON file that says that a block is packed: kept + rejected are its rows, in order."""

    kept: KeptColumns
    images: dict[str, ImageColumns]  # by resolution
    rejected: list[dict[str, str]]  # id, reason
    shards: dict[str, ShardEntry | None]  # by resolution; None if no image was kept

    def __post_init__(self) -> None:
        columns = [column for table in (self.kept, *self.images.values()) for column in msgspec.structs.astuple(table)]
        if len({len(column) for column in columns}) > 1 or set(self.images) != set(self.shards):
            raise ValueError("columns of different lengths, or of different resolutions")


def record_path(records: Path, number: int) -> Path:
    return records / f"{number:05d}.json"


def pack_block(job: Job, block: Block, tick: Tick = lambda images, num_bytes, rejected: None) -> tuple[int, int, int]:
    """Write the shards of one block, then its record; returns its images, encoded bytes and rejected images."""
    shards: dict[str, ShardEntry | None] = dict.fromkeys(job.resolutions)
    record = RecordFile(kept=KeptColumns(), images={name: ImageColumns() for name in job.resolutions}, rejected=[], shards=shards)
    ticker = _Ticker(tick)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(ShardWriter(job.folders[name], block.number)) for name in job.resolutions}
        encoded = job.reader.read_many([member for _, member, _ in block.samples])
        for (identity, _, labels), data in zip(block.samples, encoded, strict=True):
            try:
                if isinstance(data, InputError):
                    raise data
                about, versions = make_versions(job, data)
            except InputError as error:
                record.rejected.append({"id": identity, "reason": str(error)})
                ticker.add(0, 1)
                continue
            labelled = json.dumps({"id": identity} | labels, ensure_ascii=False).encode()
            for name, (jpg, height_px, width_px, kind) in versions.items():
                offset = writers[name].add(identity, {"jpg": jpg, "json": labelled}, make_entry(jpg, width_px, kind))["jpg"]
                record.images[name].add(offset, len(jpg), height_px, width_px, zlib.crc32(jpg), kind)
            record.kept.add(identity, *about)
            ticker.add(sum(len(version.jpg) for version in versions.values()), 0)
    shards.update({name: writer.entry for name, writer in writers.items()})
    publish(record_path(job.records, block.number), lambda beside: beside.write_bytes(msgspec.json.encode(record)))
    ticker.flush()
    return len(block.samples), sum(sum(columns.size) for columns in record.images.values()), len(record.rejected)


class _Ticker:
    """Adds up what is done, and reports it a few times a second."""

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
    """Decode once, and make every resolution from the smallest image made so far that is at least twice as large.

    Returns the image's height and width as shown and its fingerprint (hex), and its version at each resolution. Raises InputError if
    the image does not decode completely.
    """
    shown = codec.probe(data, max_pixels=job.max_pixels)
    pixels = _decode(job, data, shown)
    box = codec.content_box(pixels, shown)
    kind = shown.kind
    keep = job.keep_unshrunk and kind is not codec.Kind.OTHER and shown.turn == 1 and shown.is_baseline
    resize = codec.resize if job.by_pillow else _resize
    levels = [pixels]
    versions: dict[str, Version] = {}
    for name in job.resolutions:
        if name == FULL:
            versions[name] = Version(data, shown.height_px, shown.width_px, kind)
            continue
        height_px, width_px = codec.fit_short_side(shown.height_px, shown.width_px, int(name))
        large = next((level for level in reversed(levels) if level.shape[0] >= CASCADED * height_px), pixels)
        levels.append(resize(large, height_px, width_px, box if large is pixels else None))
        if keep and (height_px, width_px) == (shown.height_px, shown.width_px):
            versions[name] = Version(data, height_px, width_px, kind)
            continue
        encoded = codec.encode_jpeg(levels[-1], job.quality, job.subsampling)
        versions[name] = Version(encoded, height_px, width_px, codec.Kind.COLOR)
    looked_at = next((level for level in reversed(levels) if min(level.shape[:2]) >= LOOK_SHORT_PX), pixels)
    return (shown.height_px, shown.width_px, fingerprint(looked_at).hex()), versions


def _decode(job: Job, data: bytes, shown: codec.ImageInfo) -> np.ndarray:
    """All that the resolutions need: uint8 (H, W, 3) at a scale of the decoder's."""
    largest = max((int(name) for name in job.resolutions if name != FULL), default=0)
    if job.by_pillow and largest:
        height_px, width_px = codec.fit_short_side(shown.height_px, shown.width_px, OLD_OVERSAMPLE * largest)
    else:
        height_px, width_px = codec.scaled_size(shown, OVERSAMPLE * largest or LOOK_SHORT_PX)
    return codec.decode_rgb(data, min_height_px=height_px, min_width_px=width_px, max_pixels=job.max_pixels, info=shown)


def _resize(image: np.ndarray, height_px: int, width_px: int, box: codec.Box | None) -> np.ndarray:
    """Bicubic, in whole numbers: the same bytes with the native code and without."""
    left, upper, right, lower = box or (0, 0, image.shape[1], image.shape[0])
    if (0, 0, height_px, width_px) == (upper, left, lower, right):
        return image
    return resize_rgb(image, (upper, left, lower, right), height_px, width_px)
