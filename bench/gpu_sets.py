"""The packed sets of the GPU check: real ones if they are available, else stand-ins, drawn within a time limit.

small    the real archive, or drawn 60x80          full and 40
224      drawn 600x800, shrunk                     224
photos   stand-ins of 1800x2400, repeated          full
kinds    a few images of every kind of file      full
drawn    drawn 60x80, for runs of a few seconds    full
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion import dist
from fastfashion.config import AugmentConfig, DataConfig, Size
from fastfashion.csv_files import publish_csv
from fastfashion.images.codec import decode_rgb
from fastfashion.load import LoaderSpec, Selection
from fastfashion.load import make_spec as spec_of
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.sources.synth import COLUMNS, write_synth
from gpu_record import Check, Record
from photos import LABELS, PhotoSpec, make_photos, repeat_photos

if TYPE_CHECKING:
    import torch

TASK = "subCategory"
SMALL_PX = (60, 80)
PROBE_A_CORE = 64  # images drawn and packed, for a guess at how many the time is enough for
LEAST_ROWS = 120  # from 100 on, a drawn set has every kind of product
PHOTO_REPEATS = 16  # 64 different ones of 686 KB would fit into a processor's cache
DRAWN_ROWS = 1200
KIND_COUNT = 8
KINDS = ("baseline", "4:4:4", "progressive", "gray", "CMYK", "PNG named .jpg", "turned by Exif", "odd size")


@dataclass(frozen=True, kw_only=True)
class Stock:
    """How a packed set is used: resolution, input size, batch; and the rates to reach on one H200 with 16 cores, images/s by backend."""

    name: str
    resolution: str
    size: Size
    batch_size: int
    reach: dict[str, int] = field(default_factory=dict)


STOCKS = (
    Stock(name="small", resolution="full", size=Size(80, 64), batch_size=1024, reach={"resident": 200_000}),
    Stock(name="224", resolution="224", size=Size(224, 224), batch_size=256, reach={"dali": 20_000, "threads": 20_000}),
    Stock(name="photos", resolution="full", size=Size(224, 224), batch_size=64, reach={"dali": 1_200, "threads": 1_200}),
)
SMALL_40 = Stock(name="small", resolution="40", size=Size(48, 32), batch_size=256)
OF_KINDS = Stock(name="kinds", resolution="full", size=Size(96, 80), batch_size=KIND_COUNT)


def stock_of(name: str) -> Stock:
    return next(stock for stock in STOCKS if stock.name == name)


def prepare(record: Record) -> None:
    """Make the sets below `check.sets`; those that are there already stay."""
    check, scale = record.check, record.check.scale
    pixels = scale.photo_px[0] * scale.photo_px[1] / (1800 * 2400)
    makers: dict[str, tuple[float, Callable[[Check], str]]] = {
        "kinds": (1, _kinds),
        "drawn": (1, _drawn),
        "224": (scale.draw_s, _at_224),
        "photos": (40 * pixels, _photos),
        "small": (scale.draw_s, _small),
    }
    for name, (needs_s, make) in makers.items():
        record.attempt(name, needs_s, partial(_made, check, name, make))


def _made(check: Check, name: str, make: Callable[[Check], str]) -> dict[str, Any]:
    folder = check.sets / name
    source = make(check) if not folder.exists() else "made before"
    packed = open_packed_set(folder)
    images = packed.open(packed.resolutions[-1])
    return {
        "source": source,
        "rows": len(packed),
        "resolutions": ", ".join(packed.resolutions),
        "mean_bytes": {each: round(float(packed.open(each).num_bytes.mean())) for each in packed.resolutions},
        "median_width_px": int(np.median(images.width_px)),
        "median_height_px": int(np.median(images.height_px)),
    }


def _drawn(check: Check) -> str:
    return _draw(check, "drawn", SMALL_PX, ("full",), min(DRAWN_ROWS, check.scale.most_rows))


def _small(check: Check) -> str:
    if check.real_zip is None:
        return _draw(check, "small", SMALL_PX, ("full", "40"))
    _pack(check, check.real_zip, "small", ("full", "40"))
    return check.real_zip.name


def _at_224(check: Check) -> str:
    return _draw(check, "224", check.scale.drawn_px, ("224",))


def _photos(check: Check) -> str:
    width_px, height_px = check.scale.photo_px
    count = check.scale.photos_a_core * check.threads
    photos = make_photos(check.sets / "source/photos-once", PhotoSpec(count=count, width_px=width_px, height_px=height_px), check.threads)
    rows = min(len(photos) * PHOTO_REPEATS, check.scale.most_rows)
    repeat_photos(photos, check.sets / "source/photos", rows)
    _pack(check, check.sets / "source/photos", "photos", ("full",))
    return f"{count} different stand-ins of {width_px}x{height_px}"


def _draw(check: Check, name: str, size_px: tuple[int, int], resolutions: tuple[str, ...], rows: int | None = None) -> str:
    """Draw and pack; without `rows`, as many as the time allows, from the rate of a few."""
    width_px, height_px = size_px
    if rows is None and check.scale.draw_s:
        probe, started = PROBE_A_CORE * check.threads, time.monotonic()
        _draw(check, f"{name}-probe", size_px, resolutions, probe)
        rows = round(probe * check.scale.draw_s / (time.monotonic() - started))
    rows = min(max(LEAST_ROWS, rows or 0), check.scale.most_rows)
    source = check.sets / "source" / name
    write_synth(source, rows=rows, width_px=width_px, height_px=height_px, workers=check.threads)
    _pack(check, source, name, resolutions)
    return f"drawn at {width_px}x{height_px}"


def _kinds(check: Check) -> str:
    """Each drawn image once as every kind of file; ids are 1000 times the kind's place, and on."""
    drawn, source = check.sets / "source/kinds-drawn", check.sets / "source/kinds"
    write_synth(drawn, rows=KIND_COUNT, width_px=240, height_px=320)
    (source / "images").mkdir(parents=True)
    ids = []
    for number, path in enumerate(sorted((drawn / "images").iterdir())):
        pixels = decode_rgb(path.read_bytes())
        for place, kind in enumerate(KINDS):
            ids.append(str(1000 * (place + 1) + number))
            (source / "images" / f"{ids[-1]}.jpg").write_bytes(_encode(pixels, kind))
    publish_csv(source / "styles.csv", COLUMNS, ([identity, *LABELS] for identity in ids))
    _pack(check, source, "kinds", ("full",))
    return f"{KIND_COUNT} drawn images, each as {', '.join(KINDS)}"


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    from PIL import Image

    image, file, options = Image.fromarray(pixels), io.BytesIO(), dict[str, Any](quality=90, subsampling="4:2:0")
    if kind == "PNG named .jpg":
        image.save(file, "PNG")
        return file.getvalue()
    if kind in ("gray", "CMYK"):
        image = image.convert("L" if kind == "gray" else kind)
    elif kind == "turned by Exif":
        image, options["exif"] = image.rotate(90, expand=True), Image.Exif()
        options["exif"][0x0112] = 6  # to be shown turned clockwise by 90 degrees
    elif kind == "odd size":
        image = image.crop((0, 0, image.width - 3, image.height - 5))
    elif kind == "4:4:4":
        options["subsampling"] = kind
    image.save(file, "JPEG", progressive=kind == "progressive", **options)
    return file.getvalue()


def _pack(check: Check, source: Path, name: str, resolutions: tuple[str, ...]) -> None:
    pack(PackRequest(source=source, out=check.sets / name, resolutions=resolutions, workers=check.threads))


def rows_of_kind(packed: PackedSet, kind: str) -> np.ndarray:
    """Rows of the set `kinds` that are of one kind: int64 (n,)."""
    return np.flatnonzero(packed.table["id"].astype(int).to_numpy() // 1000 == KINDS.index(kind) + 1)


def make_spec(
    check: Check, stock: Stock, *, device: "torch.device", augment: AugmentConfig | None, rows: np.ndarray | None = None, **changes: Any
) -> LoaderSpec:
    """A loader of whole batches alone, of all rows or those given. Raises PackedSetError if the set was not made."""
    packed = open_packed_set(check.sets / stock.name)
    rows = np.arange(len(packed)) if rows is None else rows
    batch_size = min(changes.pop("batch_size", stock.batch_size), check.scale.most_batch, len(rows))
    chosen = Selection(rows=rows[: len(rows) // batch_size * batch_size], batch_size=batch_size, tasks=(TASK,), augment=augment)
    data = DataConfig(resolution=stock.resolution, size=str(changes.pop("size", stock.size)), **changes.pop("fit", {}))
    return replace(spec_of(packed, chosen, data, dist.World(device=device)), **({"workers": check.threads} | changes))


def long_rows(check: Check, stock: Stock) -> np.ndarray:
    """The set's rows, repeated until an epoch is long enough to be timed: int64 (n,)."""
    num_rows = len(open_packed_set(check.sets / stock.name))
    return np.tile(np.arange(num_rows), max(1, -(-check.scale.epoch_rows // num_rows)))
