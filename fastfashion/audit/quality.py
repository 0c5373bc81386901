"""Images that something is wrong with: dark, light, blurry, without content, without colour, of an odd shape or size.

images of the smallest resolution, at one small size ─► ground masked ─► measures of the product ─► limits ─► rows, sheets, quality.csv

Products are on a plain ground, mostly white, which is most of an image and always sharp, bright and empty: what is judged is the product.
All measures are relative to the image, so that images of any size are judged alike. bench/quality.py measures what is found of images that
are damaged on purpose, and how many sound ones are flagged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastfashion import dist
from fastfashion.config import DataConfig
from fastfashion.csv_files import publish_csv
from fastfashion.errors import PackedSetError
from fastfashion.files import publish, writing_to
from fastfashion.images.sheets import TILE_WIDTH_PX, Group, draw_sheet, write_sheet
from fastfashion.load import Loader, Selection, make_spec
from fastfashion.shards import PackedSet
from fastfashion.words import counted

TABLE, FLAGGED = "quality.parquet", "quality.csv"
SHORT_PX = 60  # of the size at which images are judged: blur that a thumbnail does not show is not found
BATCH = 256
SHOWN, SHOWN_A_LINE = 48, 8  # images on a sheet
GROUND_LEVELS = 14  # grey levels from the ground's colour that are still ground: JPEG's noise
EDGE_PX = 6  # pixels in a line over which an edge is looked for
SHADOW, HIGHLIGHT = 64, 224  # luma: darker is shadow, lighter is light, between them are mid-tones
LEAST_SHADOWS = 0.3  # share of the product
LEAST_EDGE = 20  # grey levels across them; weaker ones are texture or noise
CHECKS = ("dark", "light", "blurry", "blank", "gray", "odd shape", "odd size")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a measure becomes a finding; chosen on sound and damaged product images (bench/quality.py)."""

    dark_image: float = 128.0  # brightest percent of the image, below: the whole image is dark
    dark_product: float = 56.0  # brightest tenth of the product, below: it is black without any light on it
    midtones: float = 0.07  # share of the product between SHADOW and HIGHLIGHT, below, beside shadows: it was blackened but for white parts
    light: float = 200.0  # darkest percent of the product, above: it is hardly there
    blurry: float = 0.62  # steepest step within an edge as a share of the edge, for the sharpest tenth of the edges, below
    blank: float = 12.0  # difference of the brightest and the darkest percent of the image, below
    gray: float = 2.0  # largest difference of the channels of a pixel, at most
    shape: float = 1.5  # factor between an image's aspect ratio and the set's median, above
    size: float = 3.0  # factor between an image's shorter side and the set's median, above


DEFAULT_LIMITS = Limits()


def measure(images: np.ndarray) -> dict[str, np.ndarray]:
    """What is measured of each image. images: uint8 (B, H, W, 3), RGB.

    float32 (B,) each: `image_light` and `image_dark` (99th and 1st percentile of the image's luma, 0 to 255), `product_light` and
    `product_dark` (90th and 1st percentile of what is not ground; those of the image if all is ground), `sharpness` (0 to 1, see Limits; 1
    if there is no edge), `midtones` and `shadows` (shares of the product), `colour` (largest difference of channels, of all but the most
    colourful thousandth), `product_area` (share of the image).
    """
    luma = _luma(images)
    product = ~_ground(images)
    size = luma[0].size
    of_image = _histograms(luma, np.ones_like(product))
    of_product = _histograms(luma, product)
    none = ~product.any(axis=(1, 2))
    of_product[none] = of_image[none]
    spread = images.max(axis=3) - images.min(axis=3)
    return {
        "image_light": _percentile(of_image, 0.99),
        "image_dark": _percentile(of_image, 0.01),
        "product_light": _percentile(of_product, 0.9),
        "product_dark": _percentile(of_product, 0.01),
        "midtones": _share(of_product, SHADOW, HIGHLIGHT + 1),
        "shadows": _share(of_product, 0, SHADOW),
        "sharpness": _sharpness(luma),
        "colour": _percentile(_histograms(spread, np.ones_like(product)), 0.999),
        "product_area": (product.sum(axis=(1, 2)) / size).astype(np.float32),
    }


def judge(
    measures: Mapping[str, np.ndarray], heights_px: np.ndarray, widths_px: np.ndarray, limits: Limits = DEFAULT_LIMITS
) -> dict[str, np.ndarray]:
    """Which images have which finding: bool (n,) for each of CHECKS.

    A blank image is nothing else. heights_px, widths_px: of the originals, (n,); what is odd is odd beside the median of all.
    """
    blank = measures["image_light"] - measures["image_dark"] < limits.blank
    blackened = (measures["midtones"] < limits.midtones) & (measures["shadows"] > LEAST_SHADOWS)
    dark = (measures["image_light"] < limits.dark_image) | (measures["product_light"] < limits.dark_product) | blackened
    shapes, sides = np.log(heights_px / widths_px), np.log(np.minimum(heights_px, widths_px))
    return {
        "dark": dark & ~blank,
        "light": (measures["product_dark"] > limits.light) & ~blank,
        "blurry": (measures["sharpness"] < limits.blurry) & ~blank,
        "blank": blank,
        "gray": (measures["colour"] <= limits.gray) & ~blank,
        "odd shape": np.abs(shapes - np.median(shapes)) > np.log(limits.shape),
        "odd size": np.abs(sides - np.median(sides)) > np.log(limits.size),
    }


def measure_set(packed: PackedSet, workers: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """The measures of all images of a set that decode; their rows, int64 (n,); and what is wrong with the others.

    Raises PackedSetError if none decodes.
    """
    images = packed.open(packed.resolutions[0])
    height, width = float(np.median(images.height_px)), float(np.median(images.width_px))
    scale = min(1.0, SHORT_PX / min(height, width))
    size = f"{max(16, round(height * scale))}x{max(16, round(width * scale))}"
    data = DataConfig(resolution=images.name, size=size, backend="threads", workers=workers, on_bad="skip")
    rows, found = [], list[dict[str, np.ndarray]]()
    chosen = Selection(rows=np.arange(len(packed)), batch_size=BATCH)
    with Loader(make_spec(packed, chosen, data, dist.alone("cpu"))) as loader:
        for batch in loader.steps(0):
            real = batch.rows.numpy() >= 0
            rows.append(batch.rows.numpy()[real])
            found.append(measure(batch.images.numpy()[real]) if real.any() else {})
        broken = [f"{one.where}: {one.reason}" for _, one in sorted(loader.skipped.items())]
    kept = [each for each in found if each]
    if not kept:
        raise PackedSetError(f"{packed.path}: none of its {len(packed)} images decodes; see why with fastfashion verify {packed.path}")
    return {name: np.concatenate([each[name] for each in kept]) for name in kept[0]}, np.concatenate(rows), broken


def check_quality(packed: PackedSet, out: Path | None = None, workers: int = 0, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Measure all images of a set; with `out`, write quality.parquet (all), quality.csv (findings) and a sheet for each finding there.

    Returns `{"images", "checks": {check: count}, "not_decoded": […], "limits": {…}}`. Raises PackedSetError if no image decodes.
    """
    measures, rows, broken = measure_set(packed, workers)
    findings = judge(measures, packed.column("height")[rows], packed.column("width")[rows], limits)
    if out is not None:
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
            _write(packed, out, measures, rows, findings)
    counts = {check: int(found.sum()) for check, found in findings.items()}
    return {"images": len(rows), "checks": counts, "not_decoded": broken, "limits": vars(limits)}


def _write(packed: PackedSet, out: Path, measures: Mapping[str, np.ndarray], rows: np.ndarray, findings: Mapping[str, np.ndarray]) -> None:
    import pandas as pd

    ids = packed.ids[rows]
    table = pd.DataFrame({"row": rows, "id": ids, **measures, **{check.replace(" ", "_"): found for check, found in findings.items()}})
    publish(out / TABLE, lambda beside: table.to_parquet(beside, index=False))
    shown = {"dark": "product_light", "light": "product_dark", "blurry": "sharpness", "gray": "colour", "blank": "image_light"}
    lines = []
    for check, found in findings.items():
        values = measures[shown[check]] if check in shown else packed.column("height")[rows] / packed.column("width")[rows]
        order = np.flatnonzero(found)[np.argsort(values[found] * (-1 if check == "light" else 1), kind="stable")]  # the worst first
        lines += [(ids[place], check, f"{values[place]:.3f}") for place in order.tolist()]
        _sheet(packed, out / f"quality_{check.replace(' ', '_')}.png", check, rows[order], values[order])
    publish_csv(out / FLAGGED, ["id", "check", "value"], lines)


def _sheet(packed: PackedSet, path: Path, check: str, rows: np.ndarray, values: np.ndarray) -> None:
    """The first images with a finding; none if there are none, and that of an earlier audit is removed."""
    if not len(rows):
        path.unlink(missing_ok=True)
        return
    images = packed.open_for(TILE_WIDTH_PX)
    tiles = [images.tile(row, [f"{value:.2f}"]) for row, value in zip(rows[:SHOWN].tolist(), values[:SHOWN].tolist(), strict=True)]
    header = [f"{check}: {counted(len(rows), 'image')} of {len(packed)}"]
    write_sheet(path, draw_sheet([Group(tiles=[tile]) for tile in tiles], columns=SHOWN_A_LINE, header=header))


def quality_text(result: Mapping[str, Any]) -> str:
    """One line for a terminal."""
    found = [f"{check} {count}" for check, count in result["checks"].items() if count]
    lines = [f"quality of {counted(result['images'], 'image')}: {', '.join(found) or 'nothing found'}"]
    if result["not_decoded"]:
        lines.append(f"  {counted(len(result['not_decoded']), 'image')} do not decode: {result['not_decoded'][0]}")
    return "\n".join(lines)


def _luma(images: np.ndarray) -> np.ndarray:
    """uint8 (B, H, W): the weights of ITU-R BT.601, as JPEG's, in 256ths."""
    red, green, blue = (images[..., channel].astype(np.uint16) for channel in range(3))
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)


def _ground(images: np.ndarray) -> np.ndarray:
    """bool (B, H, W): pixels of the ground's colour, the median of the rim's, that a straight line from the rim reaches over such alone."""
    rim = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    colour = np.median(rim, axis=1).astype(np.int16)[:, None, None]
    alike = (np.abs(images.astype(np.int16) - colour) <= GROUND_LEVELS).all(axis=3)
    reach = np.logical_and.accumulate
    down, right = reach(alike, axis=1), reach(alike, axis=2)
    up, left = reach(alike[:, ::-1], axis=1)[:, ::-1], reach(alike[:, :, ::-1], axis=2)[:, :, ::-1]
    return np.asarray(down | up | right | left)


def _histograms(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """int64 (B, 256): how many of the chosen pixels of each image have each value. values: uint8 (B, …); where: bool of that shape."""
    number = len(values)
    place = values.reshape(number, -1) + (np.arange(number, dtype=np.int64) * 256)[:, None]
    return np.bincount(place[where.reshape(number, -1)], minlength=256 * number).reshape(number, 256)


def _percentile(histograms: np.ndarray, share: float) -> np.ndarray:
    """float32 (B,): the smallest value that at least this share of the pixels does not exceed."""
    sums = histograms.cumsum(axis=1)
    return (sums < np.ceil(share * sums[:, -1:])).sum(axis=1).astype(np.float32)


def _share(histograms: np.ndarray, first: int, end: int) -> np.ndarray:
    """float32 (B,): the share of the pixels whose value is from `first` to below `end`."""
    return (histograms[:, first:end].sum(axis=1) / np.maximum(histograms.sum(axis=1), 1)).astype(np.float32)


def _sharpness(luma: np.ndarray) -> np.ndarray:
    """float32 (B,): the 90th percentile, over strong edges, of the steepest step between neighbours as a share of the whole edge.

    An edge is EDGE_PX pixels in a line or column that differ by at least half of what the strongest ones do. A sharp one is a single step,
    share 1; one that is blurred by a Gaussian of 1 pixel or more has less than half of it in a step.
    """
    number = len(luma)
    shares, strengths = [], []
    for along in (luma, luma.transpose(0, 2, 1)):
        steps = np.abs(np.diff(along.astype(np.int16), axis=2)).astype(np.uint8)
        width = along.shape[2] - EDGE_PX + 1
        if width < 1:
            continue
        pixels = [along[:, :, first : first + width] for first in range(EDGE_PX)]
        between = [steps[:, :, first : first + width] for first in range(EDGE_PX - 1)]
        span = np.maximum.reduce(pixels) - np.minimum.reduce(pixels)
        steepest = np.maximum.reduce(between)
        shares.append((steepest.astype(np.uint16) * 255 // np.maximum(span, 1)).astype(np.uint8).reshape(number, -1))
        strengths.append(span.reshape(number, -1))
    share, strength = np.concatenate(shares, axis=1), np.concatenate(strengths, axis=1)
    strongest = _percentile(_histograms(strength, np.ones(strength.shape, dtype=bool)), 0.99)
    edges = strength >= np.maximum(LEAST_EDGE, strongest / 2)[:, None]
    found = _percentile(_histograms(share, edges), 0.9) / 255
    return np.where(edges.any(axis=1), found, 1.0).astype(np.float32)
