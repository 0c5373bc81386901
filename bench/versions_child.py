"""One side of bench/versions.py: an epoch for each line on stdin, its rate on stdout. Runs with older versions, too."""

import dataclasses
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

CHUNK = 16  # images a task of decoding alone
SEEK_S = 600.0  # for the seek tables of a set that has none


def make_spec(asked: dict[str, Any]) -> Any:
    """The first rows, with the default augmentation but for the smallest crop."""
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
        augment=AugmentConfig(min_area=asked["min_area"]),
    )
    first = dataclasses.fields(load.LoaderSpec)[0].name  # it had another name until 22a9065
    made: Any = load.LoaderSpec
    if asked["side"] == "without_seek" and hasattr(made, "seeks"):
        made.seeks = False
    return made(
        **{first: images},
        plan=plan,
        labels=np.zeros((len(packed), 1), dtype=np.int64),
        size=size,
        device=torch.device("cpu"),
        backend=asked["backend"],
        workers=asked["workers"],
    )


def digest(plan: Any) -> str:
    """Of the rows, crops and flips of an epoch."""
    hashed = hashlib.sha256()
    for step in plan.steps(0):
        for values in (step.rows, step.boxes, step.flips):
            hashed.update(np.ascontiguousarray(values).tobytes())
    return hashed.hexdigest()


def open_loader(spec: Any, stack: ExitStack) -> Callable[[int], int]:
    """A function that loads an epoch; returns its number of images."""
    from fastfashion import load

    loader: Any = stack.enter_context(closing((getattr(load, "open_loader", None) or load.Loader)(spec)))
    return lambda epoch: sum(int((batch.rows >= 0).sum()) for batch in loader.steps(epoch))


def open_decoder(spec: Any, stack: ExitStack) -> Callable[[int], int]:
    """A function that decodes an epoch's images with libjpeg-turbo (simplejpeg), in full, to RGB; returns their number.

    Images that it does not decode go through images/codec.py.
    """
    import simplejpeg

    from fastfashion.images.codec import decode_rgb

    pool = stack.enter_context(ThreadPoolExecutor(spec.workers))

    def decode(rows: np.ndarray) -> int:
        for row in rows.tolist():
            encoded = spec.images.encoded(row)
            try:
                simplejpeg.decode_jpeg(encoded)
            except ValueError:
                decode_rgb(encoded)
        return len(rows)

    def epoch(number: int) -> int:
        order = spec.plan.order(number)
        return sum(pool.map(decode, [order[at : at + CHUNK] for at in range(0, len(order), CHUNK)]))

    return epoch


def wait_for_seek_tables() -> None:
    """They are made in the background, from the first epoch on, by a thread that sleeps once all are made; its time then stays as it is."""
    ends, before = time.monotonic() + SEEK_S, None
    while time.monotonic() < ends:
        threads = [thread.native_id for thread in threading.enumerate() if thread.name.startswith("seek")]
        used = [Path(f"/proc/self/task/{number}/schedstat").read_text().split()[:2] for number in threads]  # running, and waiting to run
        if used == before or not threads:
            return
        before = used
        time.sleep(1)


def main() -> None:
    asked = json.loads(sys.argv[1])
    with os.fdopen(os.dup(1), "w") as out, ExitStack() as stack:
        os.dup2(2, 1)  # libraries print there
        spec = make_spec(asked)
        epoch = (open_decoder if asked["side"] == "decode_only" else open_loader)(spec, stack)
        print(json.dumps({"plan": digest(spec.plan)}), file=out, flush=True)
        for number, _ in enumerate(sys.stdin):
            started = time.perf_counter()
            count = epoch(number)
            print(json.dumps({"images_per_s": count / (time.perf_counter() - started)}), file=out, flush=True)
            if number == 0:
                wait_for_seek_tables()


if __name__ == "__main__":
    main()
