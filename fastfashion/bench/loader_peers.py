"""What others load images with, doing the same work: the plan's rows, boxes and flips, the same size, the same number of cores.

Each peer is a context manager that gets the work and a folder of its own, and hands out what runs an epoch: rows int64 (B,), -1 for
padding, and images uint8 (B, H, W, 3). Raises ImportError or ConfigError where it cannot run here. None turns images by EXIF orientation.
"""

import json
import math
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.errors import ConfigError
from fastfashion.load import LoaderSpec
from fastfashion.shards.writer import ShardWriter

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch.utils.data import DataLoader

EPOCH = 0  # of the plan, in every round: the peers' processes outlive a round and keep their crop boxes
ROWS_PER_TAR = 1000  # as in packed sets
STALLED_S = 300  # a worker process that died in a lock ends the benchmark instead of hanging it
FFCV_PYTHON = "FASTFASHION_FFCV_PYTHON"  # an interpreter that has FFCV, whose releases want an older numpy than ours

Batches = Iterator[tuple["torch.Tensor", "torch.Tensor"]]
Epochs = Callable[[], Batches]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every backend does: rows, crop boxes, size and number of threads; and the images' ids, by row."""

    spec: LoaderSpec
    ids: list[str]

    def whole_plan(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, boxes and flips in the epoch's order: int64 (n,), int32 (n, 4), bool (n,)."""
        steps = list(self.spec.plan.steps(EPOCH))
        return tuple(np.concatenate([getattr(step, name) for step in steps]) for name in ("rows", "boxes", "flips"))  # type: ignore[return-value]

    def encoded(self, row: int) -> bytes:
        return self.spec.images.encoded(row).tobytes()


class PlannedCrop:
    """The peers' transform: crop to the box of the plan, resize (bilinear, antialiased), flip. Pickled into worker processes."""

    def __init__(self, work: Work) -> None:
        self._height, self._width = work.spec.size.height_px, work.spec.size.width_px
        rows, boxes, flips = (values.tolist() for values in work.whole_plan())
        self._cuts = {work.ids[row]: (row, box, flip) for row, box, flip in zip(rows, boxes, flips, strict=True)}

    def with_pillow(self, key: str, image: "Image") -> tuple["torch.Tensor", int]:
        """An image and its id to uint8 (H, W, 3) and the row."""
        import torch
        from PIL import Image

        row, (y0, x0, y1, x1), flip = self._cuts[key]
        shown = image.convert("RGB").crop((x0, y0, x1, y1)).resize((self._width, self._height), Image.Resampling.BILINEAR)
        if flip:
            shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(shown)), row

    def of_named(self, named: tuple[str, "Image"]) -> tuple["torch.Tensor", int]:
        return self.with_pillow(*named)

    def of_sample(self, sample: dict[str, Any]) -> tuple["torch.Tensor", int]:
        """The same for a decoded sample of webdataset."""
        return self.with_pillow(sample["__key__"], sample["jpg"])

    def of_table(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The same for rows of Hugging Face datasets."""
        done = [self.with_pillow(key, original) for key, original in zip(columns["key"], columns["image"], strict=True)]
        return {"image": [image for image, _ in done], "row": [row for _, row in done]}

    def of_file(self, path: str) -> tuple["torch.Tensor", int]:
        """The same with torchvision: its JPEG decoder, and its v2 transforms."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg, read_file
        from torchvision.transforms import v2
        from torchvision.transforms.v2 import functional

        row, (y0, x0, y1, x1), flip = self._cuts[Path(path).stem]
        shown = decode_jpeg(read_file(path), ImageReadMode.RGB)
        where = (self._height, self._width)
        shown = functional.resized_crop(shown, y0, x0, y1 - y0, x1 - x0, where, v2.InterpolationMode.BILINEAR, antialias=True)
        if flip:
            shown = functional.horizontal_flip(shown)
        return shown.permute(1, 2, 0).contiguous(memory_format=torch.contiguous_format), row


@contextmanager
def _run(loader: "DataLoader[Any]") -> Iterator[Epochs]:
    """Epochs of a DataLoader of (images, rows), whose worker processes end with it."""
    try:
        yield lambda: ((rows, images) for images, rows in loader)
    finally:
        # Dropping the last reference would do, but the traceback of an exception holds one.
        if (workers := getattr(loader, "_iterator", None)) is not None:
            workers._shutdown_workers()


def _load(dataset: Any, work: Work, **more: Any) -> "DataLoader[Any]":
    from torch.utils.data import DataLoader

    return DataLoader(dataset, num_workers=work.spec.workers, persistent_workers=True, timeout=STALLED_S, **more)


def _write_files(work: Work, root: Path) -> None:
    """A folder a class, a file an image."""
    for row in work.spec.plan.rows.tolist():
        path = root / f"class_{work.spec.labels[row, 0] + 1:04d}" / f"{work.ids[row]}.jpg"  # names of classes may hold a slash
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(work.encoded(row))


def _open_named(path: str) -> tuple[str, "Image"]:
    """torchvision's own reading of a file for ImageFolder, with the id."""
    from PIL import Image

    with Path(path).open("rb") as file:
        return Path(path).stem, Image.open(file).convert("RGB")


def _image_folder(work: Work, folder: Path, *, torchvision: bool) -> Any:
    """The reference project's way: ImageFolder, read and cropped with Pillow; or read and cropped with torchvision."""
    from torchvision.datasets import ImageFolder

    _write_files(work, folder)
    crop = PlannedCrop(work)
    transform, open_file = (crop.of_file, str) if torchvision else (crop.of_named, _open_named)
    dataset = ImageFolder(str(folder), transform=transform, loader=open_file)
    place = {Path(path).stem: index for index, (path, _) in enumerate(dataset.samples)}
    batches = [[place[work.ids[row]] for row in step.rows.tolist()] for step in work.spec.plan.steps(EPOCH)]
    return _run(_load(dataset, work, batch_sampler=batches, collate_fn=_without_class))


def _without_class(samples: list[Any]) -> Any:
    from torch.utils.data import default_collate

    return default_collate([sample for sample, _ in samples])


def _write_tars(work: Work, folder: Path, num_tars: int) -> list[Path]:
    """Tars in the plan's order, the same number of images in each but for one."""
    for number, rows in enumerate(np.array_split(work.spec.plan.order(EPOCH), num_tars)):
        with ShardWriter(folder, number) as shard:
            for row in rows.tolist():
                shard.add(work.ids[row], {"jpg": work.encoded(row), "cls": str(work.spec.labels[row, 0]).encode()})
    return sorted(folder.glob("*.tar"))


def _webdataset(work: Work, folder: Path) -> Any:
    """webdataset over tars that hold the plan's order already, so that it needs no shuffle buffer; the same number for every worker."""
    import webdataset as wds
    from torch.utils.data import default_collate

    count, workers = len(work.spec.plan.rows), work.spec.workers
    tars = [str(path) for path in _write_tars(work, folder, min(count, workers * math.ceil(count / (workers * ROWS_PER_TAR))))]
    # nodesplitter=None: this is one process, whatever WORLD_SIZE says. empty_check: a worker may have no tar.
    dataset = wds.WebDataset(tars, shardshuffle=False, nodesplitter=None, workersplitter=wds.split_by_worker, empty_check=False)
    dataset = dataset.decode("pil").map(PlannedCrop(work).of_sample).batched(work.spec.plan.batch_size, collation_fn=default_collate)
    return _run(_load(dataset, work, batch_size=None))


def _hugging_face(work: Work, folder: Path) -> Any:
    """Hugging Face datasets: an Arrow file with an Image column, decoded by Pillow, cropped in the dataset's own transform."""
    import datasets

    datasets.disable_progress_bars()
    rows = work.spec.plan.rows.tolist()
    columns = {"key": [work.ids[row] for row in rows], "image": [{"bytes": work.encoded(row), "path": None} for row in rows]}
    features = datasets.Features({"key": datasets.Value("string"), "image": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    table = datasets.load_from_disk(str(folder)).with_transform(PlannedCrop(work).of_table)
    place = {row: index for index, row in enumerate(rows)}
    batches = [[place[row] for row in step.rows.tolist()] for step in work.spec.plan.steps(EPOCH)]
    return _run(_load(table, work, batch_sampler=batches, collate_fn=_stack))


def _stack(samples: list[dict[str, Any]]) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    return torch.stack([sample["image"] for sample in samples]), torch.tensor([sample["row"] for sample in samples])


@contextmanager
def _stock_dali(work: Work, folder: Path) -> Iterator[Epochs]:
    """DALI's own webdataset reader, over tars in the plan's order; the boxes come alongside."""
    import torch
    from nvidia.dali import fn, pipeline_def, types

    tars = _write_tars(work, folder, math.ceil(len(work.spec.plan.rows) / ROWS_PER_TAR))
    rows, boxes, flips = work.whole_plan()
    size, batch_size = work.spec.size, work.spec.plan.batch_size
    num_batches = math.ceil(len(rows) / batch_size)
    padded = np.minimum(np.arange(num_batches * batch_size), len(rows) - 1)  # as the reader does with pad_last_batch
    at: Iterator[np.ndarray] = iter(())

    def cuts() -> tuple[np.ndarray, ...]:
        nonlocal at
        batch = next(at, None)
        if batch is None:
            at = iter(padded.reshape(num_batches, batch_size))
            batch = next(at)
        return boxes[batch, :2].copy(), boxes[batch, 2:].copy(), flips[batch].astype(np.int32)

    @pipeline_def(batch_size=batch_size, num_threads=work.spec.workers, device_id=None)
    def stock() -> Any:
        paths, indices = [str(tar) for tar in tars], [str(tar.with_suffix(".idx")) for tar in tars]
        encoded = fn.readers.webdataset(paths=paths, index_paths=indices, ext="jpg", pad_last_batch=True, name="reader")
        start, end, flip = fn.external_source(source=cuts, num_outputs=3, dtype=types.INT32)
        shown = fn.decoders.image_slice(encoded, start=start, end=end, axis_names="HW")
        shown = fn.resize(shown, resize_y=size.height_px, resize_x=size.width_px, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(shown, horizontal=flip)

    pipeline = stock()
    pipeline.build()

    def epoch() -> Batches:
        for number in range(num_batches):
            images = torch.from_numpy(pipeline.run()[0].as_array().copy())
            delivered = rows[number * batch_size : (number + 1) * batch_size]
            yield torch.from_numpy(np.pad(delivered, (0, batch_size - len(delivered)), constant_values=-1)), images

    yield epoch


@contextmanager
def _spdl(work: Work, folder: Path) -> Iterator[Epochs]:
    """SPDL: FFmpeg decodes, crops, scales and flips in threads; the encoded images come from the packed set's own memory maps."""
    import spdl.io
    import torch
    from spdl.pipeline import PipelineBuilder

    if not any(importable(f"spdl.io.lib._spdl_ffmpeg{version}") for version in range(4, 9)):
        raise ImportError("SPDL finds no FFmpeg libraries (Debian: libavcodec59 libavformat59 libavfilter8 libavdevice59)")
    plan, size = work.whole_plan(), work.spec.size

    def decode(item: tuple[int, list[int], bool]) -> tuple[int, Any]:
        row, (y0, x0, y1, x1), flip = item
        filters = f"crop={x1 - x0}:{y1 - y0}:{x0}:{y0}:exact=1,scale={size.width_px}:{size.height_px}:flags=bilinear"
        filters += ",hflip" * flip + ",format=pix_fmts=rgb24"
        return row, spdl.io.decode_packets(spdl.io.demux_image(work.encoded(row)), filter_desc=filters)

    def stack(items: list[tuple[int, Any]]) -> tuple["torch.Tensor", "torch.Tensor"]:
        return torch.tensor([row for row, _ in items]), spdl.io.to_torch(spdl.io.convert_frames([frames for _, frames in items]))

    def epoch() -> Batches:
        builder: Any = PipelineBuilder()
        builder = builder.add_source(list(zip(*(values.tolist() for values in plan), strict=True)))
        builder = builder.pipe(decode, concurrency=work.spec.workers, output_order="input").aggregate(work.spec.plan.batch_size)
        with (pipeline := builder.pipe(stack).add_sink(3).build(num_threads=work.spec.workers, max_failures=0)).auto_stop():
            yield from pipeline

    yield epoch


def importable(module: str) -> bool:
    import importlib

    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


@contextmanager
def _ffcv(work: Work, folder: Path, *, raw: bool) -> Iterator[Epochs]:
    """FFCV in a process of its own; "raw" keeps decoded images. The flips are its own random ones, and labels and images stay there."""
    import torch

    python = os.environ.get(FFCV_PYTHON)
    if not python:
        raise ImportError(f"name an interpreter that can import ffcv in ${FFCV_PYTHON}: it does not install beside our numpy")
    rows, boxes, _ = work.whole_plan()
    np.savez(folder / "plan.npz", rows=rows, boxes=boxes)
    with (folder / "images.bin").open("wb") as joined:
        sizes = [joined.write(work.encoded(row)) for row in rows.tolist()]
    size = [work.spec.size.height_px, work.spec.size.width_px]
    settings = {"raw": raw, "size": size, "batch_size": work.spec.plan.batch_size, "workers": work.spec.workers, "bytes": sizes}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    script = Path(__file__).with_name("loader_ffcv.py")
    child = subprocess.Popen(
        [python, str(script), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None

    def answer() -> str:
        assert child.stdout is not None and child.stderr is not None
        if not select.select([child.stdout], [], [], STALLED_S)[0]:
            raise ConfigError(f"FFCV has said nothing for {STALLED_S} s")
        if not (line := child.stdout.readline()):
            raise ConfigError(f"FFCV ended: {child.stderr.read().strip().splitlines()[-1:]}")
        return line

    def epoch() -> Batches:
        assert child.stdin is not None
        child.stdin.write("epoch\n")
        child.stdin.flush()
        delivered = torch.tensor(json.loads(answer()))
        yield delivered, torch.empty(0)

    try:
        answer()
        yield epoch
    finally:
        child.kill()
        child.communicate()


IMAGE_FOLDER = "ImageFolder + DataLoader + Pillow"
PEERS: dict[str, Callable[[Work, Path], Any]] = {
    IMAGE_FOLDER: partial(_image_folder, torchvision=False),
    "ImageFolder + DataLoader + torchvision": partial(_image_folder, torchvision=True),
    "webdataset + Pillow": _webdataset,
    "Hugging Face datasets + Pillow": _hugging_face,
    "DALI's webdataset reader": _stock_dali,
    "SPDL": _spdl,
    "FFCV, JPEG": partial(_ffcv, raw=False),
    "FFCV, raw": partial(_ffcv, raw=True),
}
# They keep decoded images, so that no JPEG is decoded in an epoch that is measured.
DECODED_BEFORE = ("resident", "FFCV, raw")
