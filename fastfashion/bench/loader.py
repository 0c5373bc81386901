"""How fast the loaders are: against each other, against what people use today, and against decoding alone.

    packed set ─► first rows, one plan ─► round: decode only, then each backend once ─► median, spread, share of the same round's decoding

Every backend does the same work: the same rows, crop boxes and flips of one epoch's plan, the same size, the same number of threads
(of worker processes for the peers); out come uint8 (B, H, W, 3) and labels, in this process. The peers decode with Pillow, completely,
and crop and resize as torchvision's RandomResizedCrop does, without its random numbers. They do not turn pictures by EXIF orientation.
"""

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.files import publish_json
from fastfashion.image import decode_rgb
from fastfashion.load import LoaderSpec, Plan, choose_pictures, open_loader
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.shards import open_packed_set
from fastfashion.shards.writer import ShardWriter

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch.utils.data import DataLoader

IMAGE_FOLDER, WEBDATASET = "ImageFolder + DataLoader + Pillow", "webdataset + Pillow"
BACKENDS = ("dali", "threads", IMAGE_FOLDER, WEBDATASET)
PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "webdataset", "Pillow", "simplejpeg", "opencv-python-headless")

TASK = "subCategory"
EPOCH = 0  # of the plan, in every round: the peers' processes outlive a round and keep their crop boxes
CHUNK = 16  # pictures a task of the ceiling, as in the threads backend
ROWS_PER_TAR = 1000  # as in packed sets
STALLED_S = 300  # a worker process that died in a lock ends the benchmark instead of hanging it

Batches = Iterator[tuple["torch.Tensor", "torch.Tensor"]]


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure; raises ConfigError where that cannot be measured."""

    shards: Path
    size: str = "auto"
    threads: int = 2
    batch_size: int = 64
    num_images: int = 4096
    rounds: int = 5
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


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every backend does: rows, crop boxes, size and number of threads; and the pictures' ids, by row."""

    spec: LoaderSpec
    ids: list[str]

    @classmethod
    def of(cls, request: BenchRequest) -> "Work":
        import torch

        packed = open_packed_set(request.shards)
        pictures, size = choose_pictures(packed, "auto", request.size)
        plan = Plan(
            rows=np.arange(min(request.num_images, len(packed))),
            heights_px=pictures.height_px,
            widths_px=pictures.width_px,
            batch_size=request.batch_size,
            augment=AugmentConfig(),
        )
        labels = packed.vocab.codes(packed.table, [TASK])
        cpu = torch.device("cpu")
        spec = LoaderSpec(pictures=pictures, plan=plan, labels=labels, size=size, device=cpu, workers=request.threads)
        return cls(spec=spec, ids=packed.table["id"].tolist())


def bench(request: BenchRequest) -> dict[str, Any]:
    """Measure all backends that run here, round by round, and write the record where `request.out` says.

    Rates are pictures a second; `of_ceiling` is a share of the decode-only rate, which a backend may exceed where it decodes at a
    smaller scale or only the crop. A backend that cannot run here has None for them, and a `why`. Needs twice the pictures' bytes in
    the folder for temporary files. Raises ConfigError, PackedSetError, and RuntimeError where a backend loses or repeats pictures.
    """
    work = Work.of(request)
    ceiling, rates, missing = _measure(work, request.rounds)
    rows: list[dict[str, Any]] = []
    for name in BACKENDS:
        if name in missing:
            nothing = dict.fromkeys(("images_per_s", "low", "high", "of_ceiling"))
            rows.append({"backend": name, **nothing, "why": missing[name]})
        else:
            share = float(np.median(np.divide(rates[name], ceiling)))
            rows.append({"backend": name, **_spread(rates[name]), "of_ceiling": round(share, 4)})
    result = {
        "command": _command(request),
        "commit": git_commit(),
        "set": request.shards.resolve().name,
        "resolution": work.spec.pictures.name,
        "size": str(work.spec.size),
        "device": "cpu",
        "threads": request.threads,
        "batch_size": request.batch_size,
        "num_images": len(work.spec.plan.rows),
        "rounds": request.rounds,
        "augment": asdict(AugmentConfig()),
        "ceiling_images_per_s": _spread(ceiling)["images_per_s"],
        "ceiling_by_round": _spread(ceiling)["by_round"],
        "rows": rows,
        "machine": machine_info(),
        "versions": package_versions(PACKAGES),
    }
    if request.out is not None:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        publish_json(request.out, result)
    return result


def _measure(work: Work, rounds: int) -> tuple[list[float], dict[str, list[float]], dict[str, str]]:
    """Pictures a second by round: of decoding alone, of each backend; and why the others cannot run."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastfashion-bench-")))
        epochs: dict[str, Callable[[], Batches]] = {}
        missing: dict[str, str] = {}
        for name in reversed(BACKENDS):  # peers first: they fork, which threads of the others would make unsafe
            try:
                epochs[name] = stack.enter_context(open_backend(name, work, folder))
            except (ImportError, ConfigError) as error:
                missing[name] = f"cannot run here: {error}".replace(sys.prefix, "")
                continue
            _rate(name, work, (rows for rows, _ in epochs[name]()))  # starts worker processes, fills caches
        decode = stack.enter_context(_decode_only(work))
        _rate("decode only", work, decode())
        ceiling: list[float] = []
        rates: dict[str, list[float]] = {name: [] for name in BACKENDS if name in epochs}
        for number in range(rounds):
            ceiling.append(_rate("decode only", work, decode()))
            first = number % len(rates)  # nobody always runs after the same neighbour
            for name in [*list(rates)[first:], *list(rates)[:first]]:
                rates[name].append(_rate(name, work, (rows for rows, _ in epochs[name]())))
    return ceiling, rates, missing


def _rate(name: str, work: Work, batches: Iterable[Any]) -> float:
    """Pictures a second of one epoch, whose rows (padding is -1) must be those of the plan, each once."""
    started = time.perf_counter()
    parts = list(batches)
    seconds = time.perf_counter() - started
    rows = np.concatenate([np.asarray(part) for part in parts])
    rows = rows[rows >= 0]
    if not np.array_equal(np.sort(rows), np.sort(work.spec.plan.rows)):
        raise RuntimeError(
            f"{name}: expected {len(work.spec.plan.rows)} pictures, each once; found {len(rows)}, {len(np.unique(rows))} different ones"
        )
    return len(rows) / seconds


@contextmanager
def open_backend(name: str, work: Work, folder: Path) -> Iterator[Callable[[], Batches]]:
    """Open one of BACKENDS; each call of what is handed out runs the epoch: rows int64 (B,), images uint8 (B, H, W, 3).

    The peers write the pictures below `folder` first. Raises ImportError or ConfigError where the backend cannot run here.
    """
    if name in (IMAGE_FOLDER, WEBDATASET):
        peer = _image_folder(work, folder / "images") if name == IMAGE_FOLDER else _webdataset(work, folder / "tars")
        try:
            yield lambda: ((rows, images) for (images, rows), _ in peer)
        finally:
            # Dropping the last reference would do, but the traceback of an exception holds one.
            if (workers := getattr(peer, "_iterator", None)) is not None:
                workers._shutdown_workers()
        return
    loader = open_loader(replace(work.spec, backend=name))
    try:
        yield lambda: ((batch.rows, batch.images) for batch in loader.steps(EPOCH))
    finally:
        loader.close()


@contextmanager
def _decode_only(work: Work) -> Iterator[Callable[[], Iterator[np.ndarray]]]:
    """The ceiling: whole pictures through libjpeg-turbo, from the memory-mapped shards, in the plan's order."""
    order = work.spec.plan.order(EPOCH)
    chunks = [order[at : at + CHUNK] for at in range(0, len(order), CHUNK)]

    def decode(rows: np.ndarray) -> np.ndarray:
        for row in rows:
            decode_rgb(work.spec.pictures.encoded(int(row)))
        return rows

    with ThreadPoolExecutor(work.spec.workers, thread_name_prefix="decode") as pool:
        yield lambda: pool.map(decode, chunks)


class PlannedCrop:
    """The peers' transform: crop to the box of the plan, resize (bilinear, antialiased), flip. Pickled into worker processes."""

    def __init__(self, work: Work) -> None:
        self._size = (work.spec.size.width_px, work.spec.size.height_px)
        self._cuts: dict[str, tuple[int, tuple[int, int, int, int], bool]] = {}
        for step in work.spec.plan.steps(EPOCH):
            for row, (y0, x0, y1, x1), flip in zip(step.rows.tolist(), step.boxes.tolist(), step.flips.tolist(), strict=True):
                self._cuts[work.ids[row]] = (row, (x0, y0, x1, y1), flip)

    def __call__(self, named: tuple[str, "Image"]) -> tuple["torch.Tensor", int]:
        """An id and its picture to uint8 (H, W, 3) and the row."""
        import torch
        from PIL import Image

        key, picture = named
        row, box, flip = self._cuts[key]
        shown = picture.crop(box).resize(self._size, Image.Resampling.BILINEAR)
        if flip:
            shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(shown)), row

    def of_sample(self, sample: dict[str, Any]) -> tuple[tuple["torch.Tensor", int], int]:
        """The same for a decoded sample of webdataset, with its label."""
        return self((sample["__key__"], sample["jpg"])), sample["cls"]


def _open_named(path: str) -> tuple[str, "Image"]:
    """torchvision's own reading of a file for ImageFolder, with the id."""
    from PIL import Image

    with Path(path).open("rb") as file:
        return Path(path).stem, Image.open(file).convert("RGB")


def _image_folder(work: Work, root: Path) -> "DataLoader[Any]":
    """The reference project's way: a folder a class, a file a picture."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    for row in work.spec.plan.rows.tolist():
        path = root / f"class_{work.spec.labels[row, 0] + 1:04d}" / f"{work.ids[row]}.jpg"  # names of classes may hold a slash
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(work.spec.pictures.encoded(row).tobytes())
    dataset = ImageFolder(str(root), transform=PlannedCrop(work), loader=_open_named)
    place = {Path(path).stem: index for index, (path, _) in enumerate(dataset.samples)}
    batches = [[place[work.ids[row]] for row in step.rows.tolist()] for step in work.spec.plan.steps(EPOCH)]
    return DataLoader(dataset, batch_sampler=batches, num_workers=work.spec.workers, persistent_workers=True, timeout=STALLED_S)


def _webdataset(work: Work, folder: Path) -> "DataLoader[Any]":
    """webdataset over tars that hold the plan's order already, so that it needs no shuffle buffer; the same number for every worker."""
    import webdataset as wds
    from torch.utils.data import DataLoader, default_collate

    folder.mkdir()
    order = work.spec.plan.order(EPOCH)
    num_tars = min(len(order), work.spec.workers * math.ceil(len(order) / (work.spec.workers * ROWS_PER_TAR)))
    for number, rows in enumerate(np.array_split(order, num_tars)):
        with ShardWriter(folder, number) as shard:
            for row in rows.tolist():
                shard.add(work.ids[row], {"jpg": work.spec.pictures.encoded(row).tobytes(), "cls": str(work.spec.labels[row, 0]).encode()})
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    # nodesplitter=None: this is one process, whatever WORLD_SIZE says. empty_check: a worker may have no tar.
    dataset = wds.WebDataset(tars, shardshuffle=False, nodesplitter=None, workersplitter=wds.split_by_worker, empty_check=False)
    dataset = dataset.decode("pil").map(PlannedCrop(work).of_sample).batched(work.spec.plan.batch_size, collation_fn=default_collate)
    return DataLoader(dataset, batch_size=None, num_workers=work.spec.workers, persistent_workers=True, timeout=STALLED_S)


def _spread(rates: list[float]) -> dict[str, Any]:
    by_round = [round(rate, 1) for rate in rates]
    return {"images_per_s": round(float(np.median(rates)), 1), "low": min(by_round), "high": max(by_round), "by_round": by_round}


def _command(request: BenchRequest) -> str:
    """The command that measures this again, without absolute paths."""
    shards = request.shards.name if request.shards.is_absolute() else request.shards
    return (
        f"fastfashion bench-loader --shards {shards} --size {request.size} --workers {request.threads} "
        f"--batch-size {request.batch_size} --images {request.num_images} --rounds {request.rounds}"
    )


def table_text(result: dict[str, Any]) -> str:
    """The result of `bench` as a table for people; the ceiling stands in the last line."""
    width = max(len(row["backend"]) for row in result["rows"])
    lines = [
        f"{result['set']}, resolution {result['resolution']}, to {result['size']}, threads {result['threads']}, "
        f"batches of {result['batch_size']}, {result['num_images']} pictures, {result['rounds']} rounds",
        f"{'backend':{width}}  {'images/s (median)':>17}  {'low–high':>17}  {'of ceiling':>10}",
    ]
    for row in result["rows"]:
        if row["images_per_s"] is None:
            lines.append(f"{row['backend']:{width}}  {'-':>17}  {row['why'].splitlines()[0]}")
            continue
        between = f"{row['low']:,.0f}–{row['high']:,.0f}"
        lines.append(f"{row['backend']:{width}}  {row['images_per_s']:>17,.0f}  {between:>17}  {row['of_ceiling']:>10.0%}")
    lines.append(f"{'decode only':{width}}  {result['ceiling_images_per_s']:>17,.0f}  the ceiling")
    return "\n".join(lines)
