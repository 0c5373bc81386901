"""What other people load images with, doing the same work: the plan's rows, boxes and flips, the same size, the same number of cores.

Each peer is a backend as fastfashion/bench.py describes it. None turns images by EXIF orientation.
"""

import json
import math
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.bench import EPOCH, STALLED_S, Backend, Epochs, PlannedCrop, Work, epochs_of, image_folder
from fastfashion.errors import ConfigError
from fastfashion.shards.writer import ShardWriter

if TYPE_CHECKING:
    import torch

ROWS_PER_TAR = 1000  # as in packed sets
FFCV_PYTHON = "FASTFASHION_FFCV_PYTHON"  # an interpreter that has FFCV, whose releases need an older numpy than ours


class PeersCrop(PlannedCrop):
    """The planned crop in the forms that the peers call it in."""

    def of_sample(self, sample: dict[str, Any]) -> tuple["torch.Tensor", int]:
        """The same for a decoded sample of webdataset."""
        return self((sample["__key__"], sample["jpg"]))

    def of_table(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The same for rows of Hugging Face datasets."""
        done = [self(named) for named in zip(columns["key"], columns["image"], strict=True)]
        return {"image": [image for image, _ in done], "row": [row for _, row in done]}

    def of_file(self, path: str) -> tuple["torch.Tensor", int]:
        """The same with torchvision: its JPEG decoder, and its v2 transforms."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg, read_file
        from torchvision.transforms import v2
        from torchvision.transforms.v2 import functional

        row, (y0, x0, y1, x1), flip = self.cuts[Path(path).stem]
        shown = decode_jpeg(read_file(path), ImageReadMode.RGB)
        where = (self.height_px, self.width_px)
        shown = functional.resized_crop(shown, y0, x0, y1 - y0, x1 - x0, where, v2.InterpolationMode.BILINEAR, antialias=True)
        if flip:
            shown = functional.horizontal_flip(shown)
        return shown.permute(1, 2, 0).contiguous(memory_format=torch.contiguous_format), row


def _torchvision(work: Work, folder: Path) -> Any:
    return image_folder(work, folder, PeersCrop(work).of_file, str)


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
    dataset = dataset.decode("pil").map(PeersCrop(work).of_sample).batched(work.spec.plan.batch_size, collation_fn=default_collate)
    return epochs_of(dataset, work, batch_size=None)


def _hugging_face(work: Work, folder: Path) -> Any:
    """Hugging Face datasets: an Arrow file with an Image column, decoded by Pillow, cropped in the dataset's own transform."""
    import datasets

    datasets.disable_progress_bars()
    rows = work.spec.plan.rows.tolist()
    columns = {"key": [work.ids[row] for row in rows], "image": [{"bytes": work.encoded(row), "path": None} for row in rows]}
    features = datasets.Features({"key": datasets.Value("string"), "image": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    table = datasets.load_from_disk(str(folder)).with_transform(PeersCrop(work).of_table)
    place = {row: index for index, row in enumerate(rows)}
    batches = [[place[row] for row in step.rows.tolist()] for step in work.spec.plan.steps(EPOCH)]
    return epochs_of(table, work, batch_sampler=batches, collate_fn=_stack)


def _stack(samples: list[dict[str, Any]]) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    return torch.stack([sample["image"] for sample in samples]), torch.tensor([sample["row"] for sample in samples])


@contextmanager
def _stock_dali(work: Work, folder: Path) -> Iterator[Epochs]:
    """DALI's own webdataset reader, over tars in the plan's order; the boxes come alongside."""
    import torch
    from nvidia.dali import fn, pipeline_def, types

    tars = _write_tars(work, folder, math.ceil(len(work.spec.plan.rows) / ROWS_PER_TAR))
    rows, boxes, flips = (np.array(values) for values in zip(*work.cuts(), strict=True))
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
        return tuple(values.astype(np.int32) for values in (boxes[batch, :2], boxes[batch, 2:], flips[batch]))

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

    def epoch() -> Iterator[tuple[Any, Any]]:
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
    size = work.spec.size

    def decode(item: tuple[int, list[int], bool]) -> tuple[int, Any]:
        row, (y0, x0, y1, x1), flip = item
        filters = f"crop={x1 - x0}:{y1 - y0}:{x0}:{y0}:exact=1,scale={size.width_px}:{size.height_px}:flags=bilinear"
        filters += ",hflip" * flip + ",format=pix_fmts=rgb24"
        return row, spdl.io.decode_packets(spdl.io.demux_image(work.encoded(row)), filter_desc=filters)

    def stack(items: list[tuple[int, Any]]) -> tuple["torch.Tensor", "torch.Tensor"]:
        return torch.tensor([row for row, _ in items]), spdl.io.to_torch(spdl.io.convert_frames([frames for _, frames in items]))

    def epoch() -> Iterator[tuple[Any, Any]]:
        builder: Any = PipelineBuilder()
        builder = builder.add_source(work.cuts())
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
    rows, boxes, _ = (np.array(values) for values in zip(*work.cuts(), strict=True))
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
            raise ConfigError(f"FFCV printed nothing for {STALLED_S} s")
        if not (line := child.stdout.readline()):
            raise ConfigError(f"FFCV ended: {child.stderr.read().strip().splitlines()[-1:]}")
        return line

    def epoch() -> Iterator[tuple[Any, Any]]:
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


PEERS = {
    "ImageFolder + DataLoader + torchvision": Backend(open=_torchvision),
    "webdataset + Pillow": Backend(open=_webdataset),
    "Hugging Face datasets + Pillow": Backend(open=_hugging_face),
    "DALI's webdataset reader": Backend(open=_stock_dali),
    "SPDL": Backend(open=_spdl),
    "FFCV, JPEG": Backend(open=partial(_ffcv, raw=False)),
    "FFCV, raw": Backend(open=partial(_ffcv, raw=True), decodes=False),
}
