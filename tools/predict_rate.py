"""How fast `fastfashion predict` answers, beside the model alone and the loop that people write by hand.

    python tools/predict_rate.py runs/NAME photos.zip --set shards/NAME --images 2048 --rounds 5 --out bench/results/predict.json

In each round, one after the other: the model alone, on one batch that is there already; predict on the first images of the zip; on
those of the packed set; and a loop of Pillow's open, convert and resize, the same batches and the same model, one after the other in one
thread. The model has the same threads in all of them.
"""

import argparse
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastfashion import dist
from fastfashion.bench import spread
from fastfashion.predict.inputs import SUFFIXES, find_inputs
from fastfashion.predict.predictor import Predictor
from fastfashion.provenance import git_commit, machine_info, package_versions


def model_alone(predictor: Predictor, num: int, batch_size: int) -> int:
    batch = np.zeros((batch_size, predictor.size.height_px, predictor.size.width_px, 3), dtype=np.uint8)
    for _ in range(num // batch_size):
        predictor.probabilities(batch)
    return num // batch_size * batch_size


def predict_files(predictor: Predictor, path: Path, num: int, batch_size: int) -> int:
    return sum(len(one.names) for one in predictor.answer(islice(find_inputs([str(path)]), num), batch_size=batch_size))


def predict_set(predictor: Predictor, path: Path, num: int, batch_size: int) -> int:
    return sum(len(one.names) for one in islice(predictor.answer(find_inputs([str(path)]), batch_size=batch_size), num // batch_size))


def by_hand(predictor: Predictor, path: Path, num: int, batch_size: int) -> int:
    size = (predictor.size.width_px, predictor.size.height_px)
    done = 0
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(SUFFIXES)][:num]
        for at in range(0, len(names), batch_size):
            images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize(size) for name in names[at : at + batch_size]]
            predictor.probabilities(np.stack([np.asarray(image) for image in images]))
            done += len(images)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("zip", type=Path, help="a zip of images")
    parser.add_argument("--set", type=Path, required=True, dest="packed", help="a packed set")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    options = parser.parse_args()
    if options.images < options.batch_size:
        parser.error(f"--images {options.images}: expected at least a batch, {options.batch_size}")
    world = dist.start()
    predictor = Predictor(options.run, world.device, workers=dist.cores_per_process(1))
    num, batch_size = options.images, options.batch_size
    ways: dict[str, Callable[[], int]] = {
        "model alone": lambda: model_alone(predictor, num, batch_size),
        "predict, zip": lambda: predict_files(predictor, options.zip, num, batch_size),
        "predict, packed set": lambda: predict_set(predictor, options.packed, num, batch_size),
        "Pillow by hand, zip": lambda: by_hand(predictor, options.zip, num, batch_size),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    model_alone(predictor, batch_size, batch_size)
    for _ in range(options.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            done = way()
            rates[name].append(done / (time.perf_counter() - started))
    rows = {}
    for name, values in rates.items():
        shares = [value / alone for value, alone in zip(values, rates["model alone"], strict=True)]
        rows[name] = spread(values, 1, "images_per_s") | {"of_model_alone": spread(shares, 3)["median"]}
    result = {
        "rows": rows,
        "model": predictor.description.model,
        "size": str(predictor.size),
        "flip_average": predictor.model.flip_average,
        "images": num,
        "batch_size": batch_size,
        "rounds": options.rounds,
        "threads": predictor.workers,
        "command": " ".join(["python", *sys.argv]),
        "commit": git_commit(),
        "machine": machine_info(),
        "versions": package_versions(["fastfashion", "torch", "timm", "simplejpeg", "pillow"]),
        "torch_threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
