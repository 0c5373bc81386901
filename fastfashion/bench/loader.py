"""How fast the loaders are: against each other, against what people use today, and against decoding alone.

    packed set ─► first rows, one plan ─► round: decode only, then each backend once ─► median, spread, share of the same round's decoding

Every backend does the same work: the same rows, crop boxes and flips of one epoch's plan, the same size, the same number of threads
(of worker processes for some peers); out come uint8 (B, H, W, 3) and rows, in this process (FFCV's stay in its own).
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastfashion.bars import tqdm
from fastfashion.bench.loader_peers import DECODED_BEFORE, EPOCH, IMAGE_FOLDER, PEERS, Batches, Work
from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.files import publish_json
from fastfashion.images.codec import decode_rgb
from fastfashion.load import LoaderSpec, Plan, Profile, choose_images, open_loader
from fastfashion.load.crops import is_native
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.scratch import scratch
from fastfashion.shards import open_packed_set
from fastfashion.words import counted

OURS = ("threads", "dali", "resident")
BACKENDS = (*OURS, *PEERS)
PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "webdataset", "datasets", "spdl-io", "Pillow", "simplejpeg", "numpy")

CHUNK = 16  # images a task of the ceiling, as in the threads backend
BUSY = 0.8  # of a step's time is what the loader takes for a batch, where the main thread is measured


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure; raises ConfigError where that cannot be measured."""

    shards: Path
    resolution: str = "auto"
    size: str = "auto"
    threads: int = 2
    batch_size: int = 64
    num_images: int = 4096
    rounds: int = 5
    backends: tuple[str, ...] = ()  # of BACKENDS, by the beginning of their names; none: all
    profile: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        least = {"workers": (self.threads, 1), "batch-size": (self.batch_size, 1), "rounds": (self.rounds, 1)}
        for what, (found, expected) in (least | {"images": (self.num_images, self.batch_size)}).items():
            if found < expected:
                raise ConfigError(f"--{what}: expected {expected} or more{', a whole batch' * (what == 'images')}, found {found}")
        if self.size != "auto":
            Size.parse(self.size)
        if self.out is not None and self.out.is_dir():
            raise ConfigError(f"--out {self.out}: expected a file to write, found a folder")
        self.names()

    def names(self) -> tuple[str, ...]:
        """The backends that are meant; "threads" is always one, since the others are compared with it."""
        for asked in self.backends:
            if not any(name.startswith(asked) for name in BACKENDS):
                raise ConfigError(f"--backend {asked}: there are {'; '.join(BACKENDS)}")
        return tuple(name for name in BACKENDS if not self.backends or name == "threads" or name.startswith(self.backends))

    def work(self) -> Work:
        import torch

        packed = open_packed_set(self.shards)
        images, size = choose_images(packed, self.resolution, self.size)
        plan = Plan(
            rows=np.arange(min(self.num_images, len(packed))),
            heights_px=images.height_px,
            widths_px=images.width_px,
            batch_size=self.batch_size,
            augment=AugmentConfig(),
        )
        labels = packed.vocab.codes(packed.table, list(packed.vocab.classes)[:1])
        cpu = torch.device("cpu")
        spec = LoaderSpec(images=images, plan=plan, labels=labels, size=size, device=cpu, workers=self.threads)
        return Work(spec=spec, ids=packed.table["id"].tolist())


def bench(request: BenchRequest) -> dict[str, Any]:
    """Measure all backends that run here, round by round, and write the record where `request.out` says.

    Rates are images a second. `of_ceiling` is a share of the decode-only rate, which a backend may exceed where it decodes at a smaller
    scale or only the crop; `of_image_folder` and `of_threads` are ratios to those backends; medians of the rounds' ratios, all of them.
    `busy_main`: what an epoch takes on a main thread that is busy (sleeping, as if it waited for an accelerator) for as long that the
    loader needs BUSY of it, against that thread alone. A backend that cannot run here has None for its figures, and a `why`. Needs eight
    times the images' bytes in the folder for temporary files, and room there for them decoded once. Raises ConfigError, PackedSetError,
    and RuntimeError where a backend loses or repeats images.
    """
    work = request.work()
    found = _measure(work, request)
    rows: list[dict[str, Any]] = []
    for name in request.names():
        row: dict[str, Any] = {"backend": name, "decodes": name not in DECODED_BEFORE}
        if name in found.missing:
            figures = ("images_per_s", "low", "high", "of_ceiling", "of_image_folder", "of_threads")
            rows.append(row | dict.fromkeys(figures) | {"why": found.missing[name]})
            continue
        against = {"of_ceiling": found.ceiling, "of_image_folder": found.rates.get(IMAGE_FOLDER), "of_threads": found.rates["threads"]}
        ratios = {key: None if base is None else _ratio(found.rates[name], base) for key, base in against.items()}
        rows.append(row | _spread(found.rates[name]) | ratios)
    result = {
        "command": _command(request),
        "commit": git_commit(),
        "set": request.shards.resolve().name,
        "resolution": work.spec.images.name,
        "size": str(work.spec.size),
        "device": "cpu",
        "threads": request.threads,
        "batch_size": request.batch_size,
        "num_images": len(work.spec.plan.rows),
        "bytes_a_image": round(float(work.spec.images.num_bytes[work.spec.plan.rows].mean())),
        "rounds": request.rounds,
        "native": is_native(),
        "augment": asdict(AugmentConfig()),
        "ceiling_images_per_s": _spread(found.ceiling)["images_per_s"],
        "ceiling_by_round": _spread(found.ceiling)["by_round"],
        "rows": rows,
        "busy_main": {"ratio": round(float(np.median(found.busy)), 4), "by_round": [round(ratio, 4) for ratio in found.busy]},
        "profile": found.profiles,
        "machine": machine_info(),
        "versions": package_versions(PACKAGES),
    }
    if request.out is not None:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        publish_json(request.out, result)
    return result


@dataclass(frozen=True, kw_only=True)
class _Found:
    """By round: images a second of decoding alone and of each backend; and why the others cannot run."""

    ceiling: list[float]
    rates: dict[str, list[float]]
    missing: dict[str, str]
    busy: list[float]
    profiles: dict[str, dict[str, float]]


def _measure(work: Work, request: BenchRequest) -> _Found:
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        epochs: dict[str, Callable[[], Batches]] = {}
        missing: dict[str, str] = {}
        for name in reversed(request.names()):  # peers first: they fork, which threads of the others would make unsafe
            try:
                epochs[name] = stack.enter_context(open_backend(name, work, folder))
            except (ImportError, ConfigError) as error:
                missing[name] = f"cannot run here: {error}".replace(sys.prefix, "")
                continue
            _rate(name, work, (rows for rows, _ in epochs[name]()))  # starts worker processes, fills caches and what is kept decoded
        decode = stack.enter_context(_decode_only(work))
        _rate("decode only", work, decode())
        ceiling: list[float] = []
        busy: list[float] = []
        rates: dict[str, list[float]] = {name: [] for name in request.names() if name in epochs}
        for number in tqdm(range(request.rounds), "rounds", disable=None, leave=False):
            ceiling.append(_rate("decode only", work, decode()))
            first = number % len(rates)  # nobody always runs after the same neighbour
            for name in [*list(rates)[first:], *list(rates)[:first]]:
                rates[name].append(_rate(name, work, (rows for rows, _ in epochs[name]())))
            busy.append(_busy_main(epochs["threads"], work.spec.plan.batch_size / rates["threads"][-1] / BUSY))
        profiles = {name: _profile(name, work) for name in rates if name in OURS} if request.profile else {}
    return _Found(ceiling=ceiling, rates=rates, missing=missing, busy=busy, profiles=profiles)


def _rate(name: str, work: Work, batches: Iterable[Any]) -> float:
    """Images a second of one epoch, whose rows (padding is -1) must be those of the plan, each once."""
    started = time.perf_counter()
    parts = list(batches)
    seconds = time.perf_counter() - started
    rows = np.concatenate([np.asarray(part) for part in parts])
    rows = rows[rows >= 0]
    if not np.array_equal(np.sort(rows), np.sort(work.spec.plan.rows)):
        raise RuntimeError(
            f"{name}: expected {len(work.spec.plan.rows)} images, each once; found {len(rows)}, {len(np.unique(rows))} different ones"
        )
    return len(rows) / seconds


def _busy_main(epoch: Callable[[], Batches], step_s: float) -> float:
    """Seconds of an epoch whose consumer is busy for `step_s` a batch, over those of the consumer alone."""
    started, steps = time.perf_counter(), 0
    for _ in epoch():
        time.sleep(step_s)
        steps += 1
    together = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(steps):
        time.sleep(step_s)
    return together / (time.perf_counter() - started)


def _profile(name: str, work: Work) -> dict[str, float]:
    """Milliseconds an image by stage, in one more epoch; summed over threads, but for `wait`."""
    profile = Profile()
    loader = open_loader(replace(work.spec, backend=name, profile=profile))
    try:
        for epoch in range(2):  # the first fills what `resident` keeps
            profile.reset()
            for _ in loader.steps(epoch):
                pass
    finally:
        loader.close()
    stages = {
        "read": profile.read_s,
        "decode": profile.decode_s,
        "resize": profile.resize_s,
        "copy": profile.copy_s,
        "wait": profile.wait_s,
    }
    return {stage: round(seconds / profile.num_images * 1e3, 5) for stage, seconds in stages.items()}


@contextmanager
def open_backend(name: str, work: Work, folder: Path) -> Iterator[Callable[[], Batches]]:
    """Open one of BACKENDS; each call of what is handed out runs the epoch: rows int64 (B,), images uint8 (B, H, W, 3).

    The peers write the images below `folder` first. Raises ImportError or ConfigError where the backend cannot run here.
    """
    if name in PEERS:
        own = folder / f"peer{list(PEERS).index(name)}"
        own.mkdir(parents=True)
        with PEERS[name](work, own) as epoch:
            yield epoch
        return
    loader = open_loader(replace(work.spec, backend=name))
    try:
        yield lambda: ((batch.rows, batch.images) for batch in loader.steps(EPOCH))
    finally:
        loader.close()


@contextmanager
def _decode_only(work: Work) -> Iterator[Callable[[], Iterator[np.ndarray]]]:
    """The ceiling: whole images through libjpeg-turbo (simplejpeg), from the memory-mapped shards, in the plan's order."""
    order = work.spec.plan.order(EPOCH)
    chunks = [order[at : at + CHUNK] for at in range(0, len(order), CHUNK)]

    def decode(rows: np.ndarray) -> np.ndarray:
        for row in rows:
            decode_rgb(work.spec.images.encoded(int(row)))
        return rows

    with ThreadPoolExecutor(work.spec.workers, thread_name_prefix="decode") as pool:
        yield lambda: pool.map(decode, chunks)


def _ratio(rates: list[float], base: list[float]) -> float:
    return round(float(np.median(np.divide(rates, base))), 4)


def _spread(rates: list[float]) -> dict[str, Any]:
    by_round = [round(rate, 1) for rate in rates]
    return {"images_per_s": round(float(np.median(rates)), 1), "low": min(by_round), "high": max(by_round), "by_round": by_round}


def _command(request: BenchRequest) -> str:
    """The command that measures this again, without absolute paths."""
    shards = request.shards.name if request.shards.is_absolute() else request.shards
    backends = "".join(f" --backend {name!r}" for name in request.backends)
    return (
        f"fastfashion bench-loader --shards {shards} --res {request.resolution} --size {request.size} --workers {request.threads} "
        f"--batch-size {request.batch_size} --images {request.num_images} --rounds {request.rounds}{backends}"
        + " --profile"
        * request.profile
    )


def table_text(result: dict[str, Any]) -> str:
    """The result of `bench` as a table for people; the ceiling stands below those that decode."""
    width = max(len(row["backend"]) for row in result["rows"])
    lines = [
        f"{result['set']}, resolution {result['resolution']}, to {result['size']}, threads {result['threads']}, "
        f"batches of {result['batch_size']}, {counted(result['num_images'], 'image')}, {counted(result['rounds'], 'round')}",
        f"{'':{width}}  {'':>17}  {'':>17}  {'times the rate of':^29}",
        f"{'backend':{width}}  {'images/s (median)':>17}  {'low–high':>17}  {'decode only':>12}  {'ImageFolder':>15}",
    ]
    for decodes in (True, False):
        lines += [_line(row, width) for row in result["rows"] if row["decodes"] is decodes]
        if decodes:
            lines.append(f"{'decode only':{width}}  {result['ceiling_images_per_s']:>17,.0f}  whole images, decoded and dropped")
    busy = result["busy_main"]["ratio"]
    lines.append(f"a main thread that is busy for 1 / {BUSY} of the loader's time takes {busy:.3f} of its own time for an epoch")
    for name, stages in result["profile"].items():
        lines.append(f"{name}, ms an image: " + ", ".join(f"{stage} {ms:.4f}" for stage, ms in stages.items()))
    return "\n".join(lines)


def _line(row: dict[str, Any], width: int) -> str:
    if row["images_per_s"] is None:
        return f"{row['backend']:{width}}  {'-':>17}  {row['why'].splitlines()[0]}"
    between = f"{row['low']:,.0f}–{row['high']:,.0f}"
    folder = "-" if row["of_image_folder"] is None else f"{row['of_image_folder']:.2f}"
    decode = f"{row['of_ceiling']:.2f}" if row["decodes"] else "-"  # what is kept decoded is compared with no decoding
    return f"{row['backend']:{width}}  {row['images_per_s']:>17,.0f}  {between:>17}  {decode:>12}  {folder:>15}"
