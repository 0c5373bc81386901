"""How fast packing is: against the plain Pillow way, against img2dataset's resizer, and against decoding alone.

    stand-ins (photos.py) ─► round: every contestant once ─► images/s, core-seconds an image ─► ratios of the same round ─► median, spread

Every contestant gets the same files, 1800x2400 JPEGs of about 700 KB with the entropy of photographs, and the same number of processes,
whose start counts. Packing ends with shards, indices and checksums on the disk (fsync); the peers' files need not have left the page
cache. Core-seconds are the user and system time of this process and of its children.
"""

import os
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import peers
from command import Out, run
from fastfashion.bars import tqdm
from fastfashion.bench import spread, write_record
from fastfashion.dist import cores_per_process
from fastfashion.errors import ConfigError
from fastfashion.images.codec import fit_short_side
from fastfashion.pack import PackRequest, pack
from fastfashion.pack.engines import own_process
from fastfashion.pack.plan import make_plan
from fastfashion.places import check_place
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.scratch import scratch
from fastfashion.shards import open_packed_set
from fastfashion.tables import table_text as table
from fastfashion.words import counted
from memory import check_memory_can_be_measured, measure_memory
from photos import PhotoSpec, make_photos, repeat_photos

OURS, OURS_512, OURS_BOTH = "pack 224", "pack 512", "pack 224 512"
OURS_FULL, OURS_ALONE = "pack 224 512 full", "pack 224, 1 worker"
PILLOW, PILLOW_FULL, IMG2DATASET = "Pillow 224", "Pillow 224 512 and copy", "img2dataset 224"
CEILING, COPY = "decode only", "copy and fsync"
REAL, REAL_40 = "source, pack full", "source, pack full 40"
PACKAGES = ("fastfashion", "simplejpeg", "Pillow", "numpy", "opencv-python-headless", "img2dataset", "albumentations", "albucore")

NUM_DISTINCT = 64  # stand-ins: 45 MB, repeated under other ids
ROWS_PER_SHARD = 64  # so that a few hundred images make enough blocks for all workers; packed sets have 1,000
FILES_PER_TASK = 8
OVERSAMPLE = 2  # of the ceiling, a side: what a bicubic resize needs to keep 48 dB
REAL_IMAGES_PER_S = 5000


@dataclass(frozen=True, kw_only=True)
class BenchShardRequest:
    """What to measure; raises ConfigError if that cannot be measured."""

    num_images: int = 1024
    workers: int = 2
    rounds: int = 5
    photos: Path | None = None  # folder where the stand-ins are made, and found again the next time
    source: Path | None = None  # a real data set, measured as well
    memory: bool = False
    width_px: int = 1800
    height_px: int = 2400
    out: Path | None = None

    def __post_init__(self) -> None:
        least = {"--images": (self.num_images, 1), "--workers": (self.workers, 1), "--rounds": (self.rounds, 1)}
        for what, (found, expected) in (least | {"width_px": (self.width_px, 32), "height_px": (self.height_px, 32)}).items():
            if found < expected:
                raise ConfigError(f"{what}: expected {expected} or more, found {found}")
        if self.out is not None and self.out.is_dir():
            raise ConfigError(f"--out {self.out}: expected a file to write, found a folder")
        if self.photos is not None and self.photos.is_file():
            raise ConfigError(f"--photos {self.photos}: expected a folder, found a file")
        if self.source is not None and not self.source.exists():
            raise ConfigError(f"--source {self.source}: no such file or folder")
        if self.memory:
            check_memory_can_be_measured()


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """`run` gets an empty folder and returns how many images it has processed; `left` counts those in each output."""

    num_images: int
    run: Callable[[Path], int]
    left: Callable[[Path], list[int]] = lambda out: []


@dataclass(frozen=True, kw_only=True)
class Timing:
    seconds: float
    core_s: float


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Wall seconds of some contestants over those of others, in the same round; and what it should reach."""

    name: str
    over: tuple[str, ...]
    under: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None


def ratios(workers: int) -> list[Ratio]:
    found = [
        Ratio(name="pack 224: times Pillow's rate", over=(PILLOW,), under=(OURS,), at_least=6),
        Ratio(name="pack 224 512 full: times Pillow's rate", over=(PILLOW_FULL,), under=(OURS_FULL,), at_least=4),
        Ratio(name="pack 224: times img2dataset's rate", over=(IMG2DATASET,), under=(OURS,)),
        Ratio(name="pack 224: share of the ceiling", over=(CEILING,), under=(OURS,), at_least=1.15),
        Ratio(name="pack 224 512: time of pack 512", over=(OURS_BOTH,), under=(OURS_512,), at_most=1.2),
        Ratio(name="pack 224 512 full: time of pack 224 512 and a copy", over=(OURS_FULL,), under=(OURS_BOTH, COPY), at_most=1.0),
    ]
    if workers > 1:
        found.append(Ratio(name=f"{workers} workers: times the rate of 1", over=(OURS_ALONE,), under=(OURS,), at_least=0.9 * workers))
    return found


def bench(request: BenchShardRequest) -> dict[str, Any]:
    """Measure all contestants that run here, round by round, and write the record to `request.out`.

    A contestant that cannot run here has None for its figures, and a `why`. Needs room for three copies of the images in the folder
    for temporary files, or in `request.photos`. Raises ConfigError, InputError, and RuntimeError if a contestant loses images.
    """
    if request.source is not None:
        make_plan(PackRequest(source=request.source, out=Path("unused")))  # an error of the source comes before the measurements
    if request.photos is not None:
        request.photos.mkdir(parents=True, exist_ok=True)
    # beside the stand-ins: hard links do not reach another file system
    beside = request.photos.resolve().parent if request.photos is not None else None
    with scratch(beside) as folder:
        count = min(NUM_DISTINCT, request.num_images)
        spec = PhotoSpec(count=count, width_px=request.width_px, height_px=request.height_px)
        photos = make_photos(request.photos or folder / "photos", spec, request.workers)
        files = repeat_photos(photos, folder / "source", request.num_images)
        mean_bytes = sum(file.stat().st_size for file in files) // len(files)
        contestants, missing = _contestants(request, folder, files)
        timings = _measure(contestants, request.rounds, folder / "out")
        memory = measure_memory(photos, request.num_images, request.workers, folder) if request.memory else None
    rows = [_row(name, contestant.num_images, timings[name]) for name, contestant in contestants.items()]
    result = {
        "command": _command(request),
        "commit": git_commit(),
        "source": request.source.resolve().name if request.source is not None else None,
        "workers": request.workers,
        "rounds": request.rounds,
        "num_images": request.num_images,
        "photos": asdict(spec) | {"mean_bytes": mean_bytes},
        "rows_per_shard": ROWS_PER_SHARD,
        "rows": rows + [_missing_row(name, why) for name, why in missing.items()],
        "ratios": [_ratio(ratio, timings) for ratio in ratios(request.workers) if timings.keys() >= {*ratio.over, *ratio.under}],
        "memory": memory,
        "machine": machine_info(),
        "versions": package_versions(PACKAGES),
    }
    write_record(request.out, result)
    return result


def _contestants(request: BenchShardRequest, folder: Path, files: Sequence[Path]) -> tuple[dict[str, Contestant], dict[str, str]]:
    """By name, those that run here; and why the others do not."""
    ours = partial(_packing, folder / "source", len(files), rows_per_shard=ROWS_PER_SHARD)
    pooled = partial(_pooled, request.workers, files)
    min_px = fit_short_side(request.height_px, request.width_px, OVERSAMPLE * 224)  # of 1800x2400: a quarter
    found = {
        OURS: ours(("224",), request.workers),
        OURS_512: ours(("512",), request.workers),
        OURS_BOTH: ours(("224", "512"), request.workers),
        OURS_FULL: ours(("224", "512", "full"), request.workers),
        PILLOW: pooled(lambda out: partial(peers.with_pillow, out, (224,), False), ("224",)),
        PILLOW_FULL: pooled(lambda out: partial(peers.with_pillow, out, (224, 512), True), ("224", "512", "full")),
        CEILING: pooled(lambda out: partial(peers.decode_only, *min_px), ()),
        COPY: Contestant(num_images=len(files), run=partial(_copy, request.workers, files)),
    }
    missing = {}
    try:
        peers.load_resizer(224)
        found[IMG2DATASET] = pooled(lambda out: partial(peers.with_img2dataset, out, 224), ("224",))
    except (ImportError, AttributeError) as error:
        missing[IMG2DATASET] = f"cannot run here: {error}; to install it: {peers.INSTALL_IMG2DATASET}"
    if request.workers > 1:
        found[OURS_ALONE] = ours(("224",), 1)
    if request.source is not None:
        num_images = _num_packable(request.source, request.workers, folder / "packable")
        found[REAL] = _packing(request.source, num_images, ("full",), request.workers)
        found[REAL_40] = _packing(request.source, num_images, ("full", "40"), request.workers)
    return found, missing


def _packing(source: Path, num_images: int, resolutions: tuple[str, ...], workers: int, rows_per_shard: int = 1000) -> Contestant:
    def run(out: Path) -> int:
        request = PackRequest(source=source, out=out, resolutions=resolutions, workers=workers, rows_per_shard=rows_per_shard)
        with own_process():  # as the command
            return pack(request).packed_now

    def left(out: Path) -> list[int]:
        packed = open_packed_set(out)
        return [len(packed), *(len(packed.open(name).num_bytes) for name in resolutions)]

    return Contestant(num_images=num_images, run=run, left=left)


def _pooled(
    workers: int, files: Sequence[Path], task: Callable[[Path], Callable[[Sequence[Path]], int]], outputs: tuple[str, ...]
) -> Contestant:
    """`task(out)` is done to a few files at a time by processes that start and end with the run."""
    chunks = [files[at : at + FILES_PER_TASK] for at in range(0, len(files), FILES_PER_TASK)]

    def run(out: Path) -> int:
        for name in outputs:
            (out / name).mkdir()
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            return sum(pool.map(task(out), chunks))

    def left(out: Path) -> list[int]:
        return [sum(file.stat().st_size > 0 for file in (out / name).iterdir()) for name in outputs]

    return Contestant(num_images=len(files), run=run, left=left)


def _copy(workers: int, files: Sequence[Path], out: Path) -> int:
    """As many files as there are shards, side by side; threads will do, since copying holds no lock."""
    groups = [files[at : at + ROWS_PER_SHARD] for at in range(0, len(files), ROWS_PER_SHARD)]
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(peers.copy_files, [out / f"{number:05d}" for number in range(len(groups))], groups))


def _num_packable(source: Path, workers: int, out: Path) -> int:
    """Rows with an image that decodes; reading them also fills the page cache."""
    kept = pack(PackRequest(source=source, out=out, resolutions=("full",), workers=workers)).kept
    shutil.rmtree(out)
    return kept


def _measure(contestants: dict[str, Contestant], rounds: int, out: Path) -> dict[str, list[Timing]]:
    for name in (OURS, CEILING):  # fills the page cache, imports what packing needs
        _time(name, contestants[name], out)
    timings: dict[str, list[Timing]] = {name: [] for name in contestants}
    for number in tqdm(range(rounds), "rounds", disable=None, leave=False):
        first = number % len(contestants)  # nobody always runs after the same neighbour
        for name in [*list(contestants)[first:], *list(contestants)[:first]]:
            timings[name].append(_time(name, contestants[name], out))
    return timings


def _time(name: str, contestant: Contestant, out: Path) -> Timing:
    """One run into an empty folder, which is checked for lost images and removed."""
    out.mkdir()
    try:
        os.sync()  # nobody waits for bytes that another one has written
        core_s, started = _core_s(), time.perf_counter()
        done = contestant.run(out)
        timing = Timing(seconds=time.perf_counter() - started, core_s=_core_s() - core_s)
        if {done, *(left := contestant.left(out))} != {contestant.num_images}:
            raise RuntimeError(f"{name}: expected {contestant.num_images} images, found {done} done, {left} left in its outputs")
    finally:
        shutil.rmtree(out)
    return timing


def _core_s() -> float:
    """User and system time so far, of this process and of the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _row(name: str, num_images: int, timings: Sequence[Timing]) -> dict[str, Any]:
    return {
        "contestant": name,
        "num_images": num_images,
        "images_per_s": spread([num_images / timing.seconds for timing in timings], 1),
        "core_s_per_image": spread([timing.core_s / num_images for timing in timings], 6),
        "at_least_images_per_s": REAL_IMAGES_PER_S if name in (REAL, REAL_40) else None,
    }


def _missing_row(name: str, why: str) -> dict[str, Any]:
    return {"contestant": name, "num_images": 0, "images_per_s": None, "core_s_per_image": None, "why": why}


def _ratio(ratio: Ratio, timings: dict[str, list[Timing]]) -> dict[str, Any]:
    over, under = (np.sum([[t.seconds for t in timings[name]] for name in names], axis=0) for names in (ratio.over, ratio.under))
    return {"ratio": ratio.name, **spread((over / under).tolist(), 3), "at_least": ratio.at_least, "at_most": ratio.at_most}


def _command(request: BenchShardRequest) -> str:
    """The command that measures this again, without absolute paths."""
    parts = [f"python bench/shard.py --images {request.num_images} --workers {request.workers} --rounds {request.rounds}"]
    if request.photos is not None:
        parts.append(f"--photos {request.photos.name if request.photos.is_absolute() else request.photos}")
    if request.source is not None:
        parts.append(f"--source {request.source.name if request.source.is_absolute() else request.source}")
    return " ".join(parts + ["--memory"] * request.memory)


def table_text(result: dict[str, Any]) -> str:
    """The result of `bench` as tables for people: rates, ratios with what they should reach, memory."""
    photos = result["photos"]
    rows = []
    for row in result["rows"]:
        if row["images_per_s"] is None:
            rows.append([row["contestant"], None, None])
            continue
        core_ms = 1e3 * row["core_s_per_image"]["median"]
        rows.append([row["contestant"], _between(row["images_per_s"], ",.0f"), f"{core_ms:.2f}"])
    lines = [
        f"{counted(result['num_images'], 'image')} of {photos['width_px']}x{photos['height_px']}, {photos['mean_bytes'] / 1e3:.0f} KB "
        f"({photos['count']} different), {counted(result['workers'], 'worker')}, {counted(result['rounds'], 'round')}; median (low–high)",
        table(["", "images/s", "core-ms an image"], rows),
        *(f"{row['contestant']}: {row['why']}" for row in result["rows"] if row["images_per_s"] is None),
    ]
    for ratio in result["ratios"]:
        limits = ((">=", ratio["at_least"]), ("<=", ratio["at_most"]))
        wanted = "".join(f", should be {sign} {limit:g}" for sign, limit in limits if limit is not None)
        lines.append(f"{ratio['ratio']}: {_between(ratio, '.2f')}{wanted}")
    for peak in result["memory"] or []:
        who = f"parent {peak['parent_mb']:.0f} MB, largest worker {peak['worker_mb']:.0f} MB"
        lines.append(f"peak memory, {peak['rows']:,} rows of {peak['images']}: {who}")
    return "\n".join(lines)


def _between(found: dict[str, Any], form: str) -> str:
    return f"{found['median']:{form}} ({found['low']:{form}}–{found['high']:{form}})"


def main(
    photos: Annotated[Path | None, typer.Option(help="Folder to make the stand-ins in, once, and keep them.")] = None,
    source: Annotated[Path | None, typer.Option(help="Also pack this real zip or folder.")] = None,
    images: Annotated[int, typer.Option(help="Images per measurement, the same for every contestant.")] = 1024,
    workers: Annotated[int, typer.Option(help="Worker processes; default: one per core.")] = 0,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of every contestant.")] = 5,
    memory: Annotated[bool, typer.Option("--memory", help="Also measure peak memory, with few and with 8 times as many rows.")] = False,
    out: Out = None,
) -> None:
    """Compare packing with Pillow, with img2dataset's resizer, and with decoding alone, on stand-ins for photographs."""
    if photos is not None:
        check_place(photos, "--photos", is_folder=True)
    threads = workers or cores_per_process(1)
    request = BenchShardRequest(num_images=images, workers=threads, rounds=rounds, photos=photos, source=source, memory=memory, out=out)
    print(table_text(bench(request)))


if __name__ == "__main__":
    run(main)
