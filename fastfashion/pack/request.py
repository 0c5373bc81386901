"""What packing is asked for, and what it did."""

from dataclasses import dataclass
from pathlib import Path

from fastfashion.catalog import KAGGLE, Account, Columns
from fastfashion.errors import ConfigError
from fastfashion.images.codec import MAX_PIXELS
from fastfashion.shards.layout import FULL, check_resolution

SUBSAMPLINGS = ("420", "422", "444")
ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class PackRequest:
    """What to pack, and how; raises ConfigError for what cannot be. `source` and `out` may be remote (fastfashion.files.location)."""

    source: Path
    out: Path
    table: str = ""  # its name within the source; found by itself where there is one alone
    columns: Columns = KAGGLE
    resolutions: tuple[str, ...] = ("224",)
    workers: int = 1
    engine: str = "local"
    address: str | None = None  # of a Ray cluster
    max_rejected: int = 1000  # images that may be left out before the run stops
    max_pixels: int = MAX_PIXELS
    quality: int = 90
    subsampling: str = "420"  # a quarter of the chroma samples: a fifth less time to decode than 444 (bench/LOG.md)
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


def descending(resolutions: set[str]) -> tuple[str, ...]:
    """In the order in which they are made: full, then from large to small."""
    return tuple(sorted(resolutions, key=lambda name: (name != FULL, 0 if name == FULL else -int(name))))


@dataclass(frozen=True, kw_only=True)
class PackSummary:
    """What a packing run did. `num_rows` = kept + rejected: the records of the table."""

    out: Path
    num_rows: int
    kept: int
    rejected: int
    images_without_row: int
    table: str
    account: Account  # lines of the table, its separator, cells without a label
    passed_over: dict[str, dict[str, int | str]]  # reason -> count and first name of files and folders of the source that were left out
    packed_now: int
    resumed: int
    resolutions: dict[str, dict[str, int]]  # name -> num_bytes (encoded images), tar_bytes, num_shards; smaller
    seconds: float
