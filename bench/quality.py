"""What `audit` finds of images that are damaged on purpose, and how many sound ones it flags.

    images of a set at the size that audit judges ─► damaged, each in the same way ─► share found by its check; undamaged ─► share flagged

Rates are of measuring alone and of measuring with loading. The set's own faults count as false alarms.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from command import Out, command_line, run
from fastfashion import dist
from fastfashion.audit.quality import BATCH, DEFAULT_LIMITS, judge, measure, measure_set
from fastfashion.bench import write_record
from fastfashion.config import DataConfig
from fastfashion.load import Loader, Selection, make_spec
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.shards import open_packed_set
from fastfashion.tables import table_text

JUDGED = ("dark", "light", "blurry", "blank")


def _blackened(image: np.ndarray) -> np.ndarray:
    """The product at a fifth of its light on its white ground."""
    return np.where(image.min(axis=2, keepdims=True) >= 240, image, (image * 0.2).astype(np.uint8))


DAMAGES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "blurred, standard deviation 1 px": ("blurry", lambda image: cv2.GaussianBlur(image, (0, 0), 1)),
    "blurred, 1.5 px": ("blurry", lambda image: cv2.GaussianBlur(image, (0, 0), 1.5)),
    "blurred, 3 px": ("blurry", lambda image: cv2.GaussianBlur(image, (0, 0), 3)),
    "darkened to 30 %": ("dark", lambda image: (image * 0.3).astype(np.uint8)),
    "product blackened to 20 %": ("dark", _blackened),
    "bleached to 20 % of its contrast": ("light", lambda image: (255 - 0.2 * (255.0 - image)).astype(np.uint8)),
    "bleached to 25 %": ("light", lambda image: (255 - 0.25 * (255.0 - image)).astype(np.uint8)),
    "white all over": ("blank", lambda image: np.full_like(image, 255)),
    "gray all over": ("blank", lambda image: np.full_like(image, 128)),
}


def bench(shards: Path, images: int) -> dict[str, Any]:
    """Shares found by check and damage, over up to `images` images, and the shares of all images that are flagged undamaged."""
    packed = open_packed_set(shards)
    started = time.perf_counter()
    measures, rows, _ = measure_set(packed)
    seconds = time.perf_counter() - started
    findings = judge(measures, packed.column("height")[rows], packed.column("width")[rows])
    flagged = np.logical_or.reduce([findings[check] for check in JUDGED])
    opened = packed.open(packed.resolutions[0])
    size = f"{round(float(np.median(opened.height_px)))}x{round(float(np.median(opened.width_px)))}"
    chosen = Selection(rows=np.random.default_rng(0).permutation(len(packed))[:images], batch_size=BATCH)
    data = DataConfig(resolution=opened.name, size=size, backend="threads", on_bad="skip")
    with Loader(make_spec(packed, chosen, data, dist.alone("cpu"))) as loader:
        sound = np.concatenate([batch.images.numpy()[batch.rows.numpy() >= 0] for batch in loader.steps(0)])
    started = time.perf_counter()
    for first in range(0, len(sound), BATCH):
        measure(sound[first : first + BATCH])
    alone = time.perf_counter() - started
    found = {}
    for name, (check, damage) in DAMAGES.items():
        values = measure(np.stack([damage(image) for image in sound]))
        judged = judge(values, np.ones(len(sound)), np.ones(len(sound)))
        wanted = judged[check] | (judged["blank"] if check == "light" else False)  # nothing left of it is worse than little
        found[name] = {"check": check, "found": round(float(wanted.mean()), 4)}
    return {
        "command": command_line(),
        "set": packed.path.name,
        "images": len(rows),
        "size": size,
        "damaged_images": len(sound),
        "found": found,
        "flagged": {check: round(float(each.mean()), 5) for check, each in findings.items()},
        "flagged_by_any_of_dark_light_blurry_blank": round(float(flagged.mean()), 5),
        "limits": vars(DEFAULT_LIMITS),
        "images_per_s": round(len(rows) / seconds, 1),
        "measured_images_per_s": round(len(sound) / alone, 1),
        "commit": git_commit(),
        "machine": machine_info(),
        "versions": package_versions(("fastfashion", "numpy", "opencv-python-headless")),
    }


def main(
    shards: Annotated[Path, typer.Argument(help="Packed set.")],
    images: Annotated[int, typer.Option(help="Images to damage.")] = 5000,
    out: Out = None,
) -> None:
    """Measure what audit finds of images that are damaged on purpose, and what it flags of sound ones."""
    result = bench(shards, images)
    write_record(out, result)
    lines = [[name, each["check"], f"{each['found']:.4f}"] for name, each in result["found"].items()]
    lines += [["undamaged", check, f"{share:.5f}"] for check, share in result["flagged"].items()]
    print(table_text(["images", "check", "share"], lines))
    print(f"{result['images_per_s']:.0f} images/s with loading, {result['measured_images_per_s']:.0f} measured alone")


if __name__ == "__main__":
    run(main)
