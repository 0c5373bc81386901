"""How fast our loaders are, compared with ImageFolder and a DataLoader, and with decoding alone. `python bench/loader.py` adds other peers.

    packed set ─► first rows, one plan ─► round: decode only, then each backend once ─► median, spread, share of the same round's decoding

Every backend does the same work: the same rows, crop boxes and flips of one epoch's plan, the same size, the same number of threads
(worker processes for some peers).
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion import dist
from fastfashion.bars import tqdm
from fastfashion.config import AugmentConfig, DataConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.files import publish_json
from fastfashion.images.codec import decode_rgb
from fastfashion.load import Loader, LoaderSpec, Profile, Selection, make_spec
from fastfashion.load.crops import OWN, decoder_name, is_native
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.scratch import scratch
from fastfashion.shards import open_packed_set
from fastfashion.tables import table_text as table
from fastfashion.words import counted

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

OURS, IMAGE_FOLDER = ("threads", "dali", "resident"), "ImageFolder + DataLoader + Pillow"
PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "webdataset", "datasets", "spdl-io", "Pillow", "simplejpeg", "numpy")
EPOCH = 0  # of the plan, in every round: a peer's processes outlive a round and keep their crop boxes
CHUNK = 16  # images a task of the ceiling, as in the threads backend
STALLED_S = 300  # a worker process that died in a lock ends the benchmark instead of hanging it

Epochs = Callable[[], Iterator[tuple[Any, Any]]]  # runs one epoch: rows int64 (B,), -1 for padding, and images uint8 (B, H, W, 3)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every backend does: rows, crop boxes, size and number of threads; and the images' ids, by row."""

    spec: LoaderSpec
    ids: list[str]

    def cuts(self) -> list[tuple[int, list[int], bool]]:
        """Row, box (y0, x0, y1, x1) and flip of each image, in the epoch's order."""
        steps = self.spec.plan.steps(EPOCH)
        return [cut for step in steps for cut in zip(step.rows.tolist(), step.boxes.tolist(), step.flips.tolist(), strict=True)]

    def encoded(self, row: int) -> bytes:
        return self.spec.images.encoded(row).tobytes()


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to load images. `open` gets the work and an empty folder; raises ImportError or ConfigError if it cannot run here."""

    open: Callable[[Work, Path], AbstractContextManager[Epochs]]
    decodes: bool = True  # False: it keeps decoded images, so that an epoch decodes no JPEG


@contextmanager
def _decode_only(work: Work, folder: Path) -> Iterator[Epochs]:
    """The ceiling: whole images through libjpeg-turbo (simplejpeg), from the memory-mapped shards, in the plan's order."""
    order = work.spec.plan.order(EPOCH)

    def decode(rows: np.ndarray) -> tuple[np.ndarray, None]:
        for row in rows:
            decode_rgb(work.spec.images.encoded(int(row)), own=False)
        return rows, None

    with ThreadPoolExecutor(work.spec.workers, thread_name_prefix="decode") as pool:
        yield lambda: pool.map(decode, [order[at : at + CHUNK] for at in range(0, len(order), CHUNK)])


@contextmanager
def _ours(name: str, work: Work, folder: Path) -> Iterator[Epochs]:
    with closing(Loader(replace(work.spec, backend=name))) as loader:
        yield lambda: ((batch.rows, batch.images) for batch in loader.steps(EPOCH))


class PlannedCrop:
    """A peer's transform: crop to the box of the plan, resize (bilinear, antialiased), flip. Pickled into worker processes."""

    def __init__(self, work: Work) -> None:
        self.height_px, self.width_px = work.spec.size.height_px, work.spec.size.width_px
        self.cuts = {work.ids[cut[0]]: cut for cut in work.cuts()}

    def __call__(self, named: tuple[str, "Image"]) -> tuple["torch.Tensor", int]:
        """An id and its image to uint8 (H, W, 3) and the row, with Pillow."""
        import torch
        from PIL import Image

        key, image = named
        row, (y0, x0, y1, x1), flip = self.cuts[key]
        shown = image.convert("RGB").crop((x0, y0, x1, y1)).resize((self.width_px, self.height_px), Image.Resampling.BILINEAR)
        if flip:
            shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(shown)), row


@contextmanager
def epochs_of(dataset: Any, work: Work, **more: Any) -> Iterator[Epochs]:
    """Epochs of a DataLoader of (images, rows), whose worker processes end with it."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(dataset, num_workers=work.spec.workers, persistent_workers=True, timeout=STALLED_S, **more)
    try:
        yield lambda: ((rows, images) for images, rows in loader)
    finally:
        # Dropping the last reference would do, but the traceback of an exception holds one.
        if (workers := loader._iterator) is not None:
            workers._shutdown_workers()


def _open_named(path: str) -> tuple[str, "Image"]:
    """torchvision's own reading of a file for ImageFolder, with the id."""
    from PIL import Image

    with Path(path).open("rb") as file:
        return Path(path).stem, Image.open(file).convert("RGB")


def image_folder(work: Work, folder: Path, transform: Any = None, open_file: Callable[[str], Any] = _open_named) -> Any:
    """The reference project's way: a folder a class, a file an image, read by ImageFolder. `transform` is PlannedCrop by default."""
    from torchvision.datasets import ImageFolder

    for row in work.spec.plan.rows.tolist():
        path = folder / f"class_{work.spec.labels[row, 0] + 1:04d}" / f"{work.ids[row]}.jpg"  # names of classes may hold a slash
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(work.encoded(row))
    dataset = ImageFolder(str(folder), transform=transform or PlannedCrop(work), loader=open_file)
    place = {Path(path).stem: index for index, (path, _) in enumerate(dataset.samples)}
    batches = [[place[work.ids[row]] for row in step.rows.tolist()] for step in work.spec.plan.steps(EPOCH)]
    return epochs_of(dataset, work, batch_sampler=batches, collate_fn=_without_class)


def _without_class(samples: list[Any]) -> Any:
    from torch.utils.data import default_collate

    return default_collate([sample for sample, _ in samples])


BACKENDS = {name: Backend(open=partial(_ours, name), decodes=name != "resident") for name in OURS}
BACKENDS |= {IMAGE_FOLDER: Backend(open=image_folder)}
CEILING, DECODE_ONLY = "decode only", Backend(open=_decode_only)


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure; raises ConfigError if that cannot be measured."""

    shards: Path
    resolution: str = "auto"
    size: str = "auto"
    threads: int = 2
    batch_size: int = 64
    num_images: int = 4096
    rounds: int = 5
    decoder: str = OWN  # data.decoder of our backends
    backends: tuple[str, ...] = ()  # of `known`, by the start of their names; none: all
    known: Mapping[str, Backend] = field(default_factory=lambda: BACKENDS, repr=False)
    profile: bool = False
    command: str = "fastfashion bench-loader"  # what the record names

    def __post_init__(self) -> None:
        least = {"workers": (self.threads, 1), "batch-size": (self.batch_size, 1), "rounds": (self.rounds, 1)}
        for what, (found, expected) in (least | {"images": (self.num_images, self.batch_size)}).items():
            if found < expected:
                raise ConfigError(f"--{what}: expected {expected} or more{', a whole batch' * (what == 'images')}, found {found}")
        if self.size != "auto":
            Size.parse(self.size)
        for asked in self.backends:
            if not any(name.startswith(asked) for name in self.known):
                more = "" if len(self.known) > len(BACKENDS) else "; a source checkout has others in bench/loader.py"
                raise ConfigError(f"--backend {asked}: expected one of {'; '.join(self.known)}{more}")

    def names(self) -> tuple[str, ...]:
        """The backends to measure; "threads" is always one, since the others are compared with it."""
        return tuple(name for name in self.known if not self.backends or name == "threads" or name.startswith(self.backends))

    def work(self) -> Work:
        """Raises PackedSetError if there is no such set."""
        import torch

        packed = open_packed_set(self.shards)
        chosen = Selection(
            rows=np.arange(min(self.num_images, len(packed))),
            batch_size=self.batch_size,
            tasks=tuple(packed.vocab.classes)[:1],
            augment=AugmentConfig(),
        )
        data = DataConfig(resolution=self.resolution, size=self.size, workers=self.threads, decoder=self.decoder)
        spec = make_spec(packed, chosen, data, dist.World(device=torch.device("cpu")))
        return Work(spec=spec, ids=packed.ids.tolist())

    def line(self) -> str:
        """The command that measures this again, without absolute paths."""
        shards = self.shards.name if self.shards.is_absolute() else self.shards
        line = f"{self.command} --shards {shards} --res {self.resolution} --size {self.size} --workers {self.threads} --batch-size "
        line += f"{self.batch_size} --images {self.num_images} --rounds {self.rounds}"
        line += f" --decoder {self.decoder}" * (self.decoder != OWN)
        return line + "".join(f" --backend {name!r}" for name in self.backends) + " --profile" * self.profile


def bench(request: BenchRequest) -> dict[str, Any]:
    """Measure all backends that run here, round by round; returns the record.

    Rates are images a second. `of_ceiling` is the ratio to decoding alone, above 1 if a backend decodes at a smaller scale or only the
    crop; `of_image_folder`, `of_threads`: to those backends; each the median of the rounds' ratios. A backend that cannot run here has None
    for its figures, and a `why`. Raises ConfigError, PackedSetError, and RuntimeError if a backend loses or repeats images.
    """
    work = request.work()
    rates, missing = _measure(work, request)
    ceiling = spread(rates[CEILING])
    return {
        "command": request.line(),
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
        "decoder": decoder_name(request.decoder),
        "augment": asdict(AugmentConfig()),
        "ceiling_images_per_s": ceiling["median"],
        "ceiling_by_round": ceiling["by_round"],
        "rows": [{"backend": name, "decodes": request.known[name].decodes} | _row(name, rates, missing) for name in request.names()],
        "profile": {name: _profile(name, work) for name in OURS if name in rates} if request.profile else {},
        "machine": machine_info(),
        "versions": package_versions(PACKAGES),
    }


def write_record(out: Path | None, result: Mapping[str, Any]) -> None:
    """Publish a record at `out`, if any."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        publish_json(out, result)


def spread(values: Sequence[float], digits: int = 1, name: str = "median") -> dict[str, Any]:
    """What a record says of the rounds' values: {`name`: median, "low", "high", "by_round"}, rounded."""
    by_round = [round(value, digits) for value in values]
    return {name: round(float(np.median(values)), digits), "low": min(by_round), "high": max(by_round), "by_round": by_round}


def _row(name: str, rates: Mapping[str, list[float]], missing: Mapping[str, str]) -> dict[str, Any]:
    against = {"of_ceiling": rates[CEILING], "of_image_folder": rates.get(IMAGE_FOLDER), "of_threads": rates["threads"]}
    if name in missing:
        return dict.fromkeys(("images_per_s", "low", "high", *against)) | {"why": missing[name]}
    ratios = {key: None if base is None else spread(np.divide(rates[name], base).tolist(), 4)["median"] for key, base in against.items()}
    return spread(rates[name], 1, "images_per_s") | ratios


def _measure(work: Work, request: BenchRequest) -> tuple[dict[str, list[float]], dict[str, str]]:
    """By backend, images a second of each round, and why the others cannot run."""
    known = {CEILING: DECODE_ONLY} | {name: request.known[name] for name in request.names()}
    epochs: dict[str, Epochs] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        for number, (name, backend) in reversed(list(enumerate(known.items()))):  # peers first: they fork, which threads would make unsafe
            own = folder / f"backend{number}"
            own.mkdir()
            try:
                epochs[name] = stack.enter_context(backend.open(work, own))
            except (ImportError, ConfigError) as error:
                missing[name] = f"cannot run here: {error}".replace(sys.prefix, "")
                continue
            rate(name, work, epochs[name])  # starts worker processes, fills caches and what is kept decoded
        names = [name for name in known if name in epochs]
        rates: dict[str, list[float]] = {name: [] for name in names}
        for number in tqdm(range(request.rounds), "rounds", disable=None, leave=False):
            first = number % len(names)  # no backend always runs after the same one
            for name in names[first:] + names[:first]:
                rates[name].append(rate(name, work, epochs[name]))
    return rates, missing


def rate(name: str, work: Work, epoch: Epochs) -> float:
    """Images a second of one epoch. Raises RuntimeError if its rows are not those of the plan, each once; -1 is padding."""
    started = time.perf_counter()
    parts = [np.asarray(rows) for rows, _ in epoch()]
    seconds = time.perf_counter() - started
    rows, expected = np.concatenate(parts), work.spec.plan.rows
    rows = rows[rows >= 0]
    if not np.array_equal(np.sort(rows), np.sort(expected)):
        raise RuntimeError(f"{name}: expected {len(expected)} images, each once; found {len(rows)}, {len(np.unique(rows))} different ones")
    return len(rows) / seconds


def _profile(name: str, work: Work) -> dict[str, float]:
    """Milliseconds an image by stage, in one more epoch; summed over threads, but for `wait`."""
    profile = Profile()
    with closing(Loader(replace(work.spec, backend=name, profile=profile))) as loader:
        for epoch in range(2):  # the first fills what `resident` keeps
            profile.reset()
            for _ in loader.steps(epoch):
                pass
    stages = ("read", "decode", "resize", "copy", "wait")
    return {stage: round(getattr(profile, f"{stage}_s") / profile.num_images * 1e3, 5) for stage in stages}


def table_text(result: dict[str, Any]) -> str:
    """The result of `bench` as a table for people; decoding alone is below the backends that decode."""
    rows: list[list[str]] = []
    for decodes in (True, False):
        rows += [_cells(row) for row in result["rows"] if row["decodes"] is decodes]
        if decodes:
            rows.append(["decode only", f"{result['ceiling_images_per_s']:,.0f}", "", "", ""])
    lines = [
        f"{result['set']}, resolution {result['resolution']}, to {result['size']}, threads {result['threads']}, "
        f"batches of {result['batch_size']}, {counted(result['num_images'], 'image')}, {counted(result['rounds'], 'round')}, "
        f"decoder {result['decoder']}",
        table(["backend", "images/s (median)", "low–high", "times decode only", "times ImageFolder"], rows),
        "decode only: whole images, decoded and dropped",
        *(f"{row['backend']}: {row['why'].splitlines()[0]}" for row in result["rows"] if row["images_per_s"] is None),
    ]
    for name, stages in result["profile"].items():
        lines.append(f"{name}, ms an image: " + ", ".join(f"{stage} {ms:.4f}" for stage, ms in stages.items()))
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    if row["images_per_s"] is None:
        return [row["backend"], "-", "-", "-", "-"]
    decode = f"{row['of_ceiling']:.2f}" if row["decodes"] else "-"  # what is kept decoded is compared with no decoding
    folder = "-" if row["of_image_folder"] is None else f"{row['of_image_folder']:.2f}"
    return [row["backend"], f"{row['images_per_s']:,.0f}", f"{row['low']:,.0f}–{row['high']:,.0f}", decode, folder]
