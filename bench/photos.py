"""Stand-ins for photographs: drawn products with the texture and the noise of a camera's images, so that JPEG finds as much in them.

    drawing at half size ─► enlarged: edges a few pixels wide ─► times 1/f texture ─► plus sensor noise ─► JPEG, quality 90, 4:2:0

Natural images have the same contrast in every octave of spatial frequency: their amplitude falls as 1/f (D. J. Field, 1987, Relations
between the statistics of natural images and the response properties of cortical cells). The texture is one noise field an octave, all
equally strong; the noise grows with the square root of the light, as that of photons does. At 1800x2400 pixels the 64 images of
seed 0 take 144 to 898 KB, 686 in the mean. Decoded at a quarter of the scale (one thread) they take 8.3 ns a byte; the two photographs
that come with scikit-learn, repeated to the same size and saved to the same bytes, take 8.3 and 8.8, and 7.7 if half is blank.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from fastfashion.csv_files import publish_csv
from fastfashion.errors import ConfigError
from fastfashion.files import publish_json
from fastfashion.images.codec import decode_rgb, encode_jpeg
from fastfashion.scratch import scratch
from fastfashion.sources.synth import COLUMNS, write_synth

QUALITY, SUBSAMPLING = 90, "420"
ENLARGED = 2
TEXTURE = 0.02  # standard deviation of one octave, relative to the light
FINEST_PX = 2  # period of the finest octave: no lens draws finer
NOISE = 0.1  # standard deviation in grey levels, relative to the square root of the light: 1.6 at white
DESCRIPTION = "photos.json"
LABELS = ["Men", "Apparel", "Topwear", "Tshirts", "Blue", "Summer", "2012", "Casual", "a stand-in"]


@dataclass(frozen=True, kw_only=True)
class PhotoSpec:
    """Stand-ins to make; the same numpy, OpenCV, Pillow and libjpeg-turbo make the same bytes of it."""

    count: int
    width_px: int
    height_px: int
    seed: int = 0


def make_photos(folder: Path, spec: PhotoSpec, workers: int) -> list[Path]:
    """Make the stand-ins in `folder`, or take those that it has; returns their files.

    Raises ConfigError if the folder holds something else.
    """
    description = asdict(spec) | {"quality": QUALITY, "subsampling": SUBSAMPLING, "texture": TEXTURE, "noise": NOISE}
    described = folder / DESCRIPTION
    if not described.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder}: expected an empty folder or stand-ins of this benchmark, found files without {DESCRIPTION}")
        _make_all(folder, spec, workers, description)
    found = json.loads(described.read_text(encoding="utf-8"))
    if found != description:
        differing = [name for name in description if found.get(name) != description[name]]
        said = ", ".join(f"{name} {found.get(name)} instead of {description[name]}" for name in differing)
        raise ConfigError(f"{folder}: holds other stand-ins ({said}): name another folder, or remove it")
    return sorted(folder.glob("*.jpg"))


def _make_all(folder: Path, spec: PhotoSpec, workers: int, description: dict[str, Any]) -> None:
    """Beside the folder first, so that an interrupted run leaves nothing that looks whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch(folder.parent) as beside:
        drawn, made = beside / "drawn", beside / "made"
        made.mkdir()
        width_px, height_px = spec.width_px // ENLARGED, spec.height_px // ENLARGED
        write_synth(drawn, rows=spec.count, width_px=width_px, height_px=height_px, seed=spec.seed, workers=workers)
        drawings = sorted((drawn / "images").iterdir())
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(_make_one, made, spec), drawings, range(spec.count)))
        publish_json(made / DESCRIPTION, description)
        made.replace(folder)


def _make_one(folder: Path, spec: PhotoSpec, drawing: Path, number: int) -> None:
    rng = np.random.default_rng([spec.seed, number])
    pixels = photograph(decode_rgb(drawing.read_bytes()), spec.width_px, spec.height_px, rng)
    (folder / f"{number:04d}.jpg").write_bytes(encode_jpeg(pixels, QUALITY, SUBSAMPLING))


def photograph(drawing: np.ndarray, width_px: int, height_px: int, rng: np.random.Generator) -> np.ndarray:
    """A drawing, uint8 (h, w, 3), as a camera would see it: uint8 (height_px, width_px, 3)."""
    import cv2

    light = cv2.resize(drawing, (width_px, height_px), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    light *= 1 + TEXTURE * octaves(width_px, height_px, rng)[..., None]
    light += NOISE * np.sqrt(np.maximum(light, 0)) * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(light + 0.5, 0, 255).astype(np.uint8)


def octaves(width_px: int, height_px: int, rng: np.random.Generator) -> np.ndarray:
    """1/f noise: fields of variance 1, from a period of FINEST_PX to one of the image's size: float32 (height_px, width_px)."""
    import cv2

    total = np.zeros((height_px, width_px), np.float32)
    period_px = FINEST_PX
    while period_px < max(width_px, height_px):
        coarse = rng.standard_normal((-(-height_px // period_px), -(-width_px // period_px)), dtype=np.float32)
        field = cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
        total += field / field.std()
        period_px *= 2
    return total


def repeat_photos(photos: Sequence[Path], folder: Path, rows: int) -> list[Path]:
    """A source in Kaggle's layout that repeats the images, as hard links under `rows` ids; returns its images."""
    (folder / "images").mkdir(parents=True)
    ids = [str(10_000 + row) for row in range(rows)]
    publish_csv(folder / "styles.csv", COLUMNS, ([identity, *LABELS] for identity in ids))
    links = [folder / "images" / f"{identity}.jpg" for identity in ids]
    for row, link in enumerate(links):
        os.link(photos[row % len(photos)], link)
    return links
