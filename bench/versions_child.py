"""One version's loader for bench/versions.py: an epoch for each line on stdin, its rate on stdout. Runs with older versions, too."""

import dataclasses
import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch


def open_loader(asked: dict[str, Any]) -> Any:
    """A loader of the first rows, with the default augmentation."""
    from pathlib import Path

    from fastfashion import load
    from fastfashion.config import AugmentConfig
    from fastfashion.shards import open_packed_set

    packed = open_packed_set(Path(asked["shards"]))
    choose: Any = getattr(load, "choose_images", None) or load.choose_pictures  # as it was until 22a9065
    images, size = choose(packed, asked["res"], asked["size"])
    plan = load.Plan(
        rows=np.arange(min(asked["images"], len(packed))),
        heights_px=images.height_px,
        widths_px=images.width_px,
        batch_size=asked["batch_size"],
        augment=AugmentConfig(),
    )
    first = dataclasses.fields(load.LoaderSpec)[0].name  # it had another name until 22a9065
    spec: Any = load.LoaderSpec(
        **{first: images},
        plan=plan,
        labels=np.zeros((len(packed), 1), dtype=np.int64),
        size=size,
        device=torch.device("cpu"),
        backend=asked["backend"],
        workers=asked["workers"],
    )
    opened = getattr(load, "open_loader", None) or load.Loader
    return opened(spec)


def main() -> None:
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # libraries print there
        loader = open_loader(json.loads(sys.argv[1]))
        print(json.dumps({"open": True}), file=out, flush=True)
        for epoch, _ in enumerate(sys.stdin):
            started, count = time.perf_counter(), 0
            for batch in loader.steps(epoch):
                count += int((batch.rows >= 0).sum())
            print(json.dumps({"images_per_s": count / (time.perf_counter() - started)}), file=out, flush=True)
        loader.close()


if __name__ == "__main__":
    main()
