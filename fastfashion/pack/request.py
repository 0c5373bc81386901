"""The request to pack, the progress that packing reports, and its result."""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastfashion.catalog import KAGGLE, Account, Columns
from fastfashion.errors import ConfigError
from fastfashion.fields import Result
from fastfashion.images.codec import MAX_PIXELS
from fastfashion.shards.layout import FULL, check_resolution
from fastfashion.sources.listing import SkippedFiles
from fastfashion.words import counted

SUBSAMPLINGS = ("420", "422", "444")
ENGINES = ("local", "ray")
UNSHRUNK, CASCADE, DECODER, RESAMPLER = "unshrunk", "cascade", "decoder", "resampler"
# What decodes and resizes, whose bytes are the same with the native code and without (shards/FORMAT.md): change a number with the bytes.
MADE_BY = {DECODER: "fastfashion 1", RESAMPLER: "fastfashion 1"}


@dataclass(frozen=True, kw_only=True)
class PackRequest:
    """What to pack, and how. `source` and `out` may be remote (fastfashion.files.location). Raises ConfigError for a value out of range."""

    source: Path
    out: Path
    table: str = ""  # its name within the source; "" finds it if there is only one
    columns: Columns = KAGGLE
    resolutions: tuple[str, ...] = ("224",)
    workers: int = 1
    engine: str = "local"
    address: str | None = None  # of a Ray cluster
    max_rejected: int = 1000  # images that may be left out before the run stops
    max_pixels: int = MAX_PIXELS
    quality: int = 90
    subsampling: str = "420"  # a quarter of the chroma samples: faster to decode than 444 (bench/LOG.md)
    rows_per_shard: int = 1000

    def __post_init__(self) -> None:
        if not self.resolutions:
            raise ConfigError("--res: expected at least one resolution, found none")
        for name in self.resolutions:
            check_resolution(name)
        for what, value, low, high in (
            ("--workers", self.workers, 1, 1024),
            ("--quality", self.quality, 1, 100),
            ("--max-pixels", self.max_pixels, 1, 2**40),
            ("rows_per_shard", self.rows_per_shard, 1, 1_000_000),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{what}: expected {low} to {high}, found {value}")
        if self.subsampling not in SUBSAMPLINGS:
            raise ConfigError(f"subsampling: expected {', '.join(SUBSAMPLINGS)}, found {self.subsampling!r}")
        if self.max_rejected < 0:
            raise ConfigError(f"--max-rejected: expected 0 or more, found {self.max_rejected}")
        if self.engine not in ENGINES:
            raise ConfigError(f"--engine: expected {' or '.join(ENGINES)}, found {self.engine!r}")
        if self.address is not None and self.engine != "ray":
            raise ConfigError(f"--address {self.address}: only --engine ray has an address; add it, or leave --address out")


def encoder_settings(quality: int, subsampling: str) -> dict[str, Any]:
    """What the bytes of a numbered resolution depend on besides its images: the field `encoder` of its manifest.

    `unshrunk`: plain, upright, baseline JPEGs that need not be shrunk keep their bytes. A manifest also has `cascade`: the resolutions
    made in the same pass, each from a larger one.
    """
    versions = {name.lower(): importlib.metadata.version(name) for name in ("simplejpeg", "Pillow")}
    ours = {"format": "jpeg", "quality": quality, "subsampling": subsampling, "resize": "bicubic", UNSHRUNK: "kept"}
    return ours | MADE_BY | versions


def encoder_differences(found: Mapping[str, Any], quality: int, subsampling: str) -> list[str]:
    """How a manifest's settings differ from ours.

    Sets of version 2 have no `unshrunk`: there every image was encoded. Older sets of version 3 name no resampler: Pillow's was used.
    """
    ours = encoder_settings(quality, subsampling)
    theirs = {UNSHRUNK: ours[UNSHRUNK], **found}
    names = [name for name in dict.fromkeys([*ours, *theirs]) if name != CASCADE]
    return [
        f"{name} {theirs.get(name, 'not named')} (here {ours.get(name, 'not named')})"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]


def descending(resolutions: set[str]) -> tuple[str, ...]:
    """In the order in which they are made: full, then from large to small."""
    return tuple(sorted(resolutions, key=lambda name: (name != FULL, 0 if name == FULL else -int(name))))


@dataclass(frozen=True, kw_only=True)
class _SourceCounts(Result):
    """Where every line of the table and every image of the source went. num_rows = kept + rejected."""

    out: Path
    table: str
    account: Account  # lines of the table, its separator, cells without a label
    num_rows: int  # records of the table
    rejected: int
    images_without_row: int
    passed_over: dict[str, SkippedFiles]  # reason -> count and first name of skipped files and folders
    resumed: int  # images packed by an interrupted run


@dataclass(frozen=True, kw_only=True)
class PackSummary(_SourceCounts):
    """What a packing run did."""

    kept: int
    packed_now: int
    resolutions: dict[str, dict[str, int]]  # name -> num_bytes (encoded images), tar_bytes, num_shards; smaller
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DryRun(_SourceCounts):
    """What packing would do. `rejected` counts the rows known before an image is read; sizes are estimates from sampled images."""

    to_pack: int  # images, the resumed ones included
    num_shards: int  # of each resolution
    already_packed: tuple[str, ...]
    sampled: int
    tar_bytes: dict[str, int]  # resolution -> estimate
    smaller: dict[str, int]  # numbered resolution -> sampled images whose shorter side is smaller
    free_bytes: int | None  # None on object storage


@dataclass(frozen=True, kw_only=True)
class PackProgress:
    """Callbacks, called a few times a second with images and encoded bytes since the last call, and the number rejected so far."""

    on_start: Callable[[int], None] = lambda total: None
    on_resume: Callable[[int], None] = lambda images: None  # images packed by an interrupted run
    on_packed: Callable[[int, int, int], None] = lambda images, num_bytes, rejected: None


@contextmanager
def bar_progress() -> Iterator[PackProgress]:
    """A progress bar on the terminal: images with rate and time left, megabytes a second, rejected."""
    import sys

    from fastfashion.bars import tqdm

    with tqdm(unit=" images", disable=None, dynamic_ncols=True) as bar:
        written = before = 0

        def on_resume(images: int) -> None:
            nonlocal before
            bar.write(f"resuming: {counted(images, 'image')} packed by an interrupted run", file=sys.stderr)
            bar.initial, before = bar.n, written  # the rate is that of this run

        def on_packed(images: int, num_bytes: int, rejected: int) -> None:
            nonlocal written
            written += num_bytes
            rate = (written - before) / 1e6 / max(1e-9, bar.format_dict["elapsed"])
            bar.set_postfix_str(f"{rate:.1f} MB/s, {rejected} rejected", refresh=False)
            bar.update(images)

        yield PackProgress(on_start=bar.reset, on_resume=on_resume, on_packed=on_packed)
