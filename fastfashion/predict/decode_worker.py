"""The process that may die: bytes to pixels, for one image or several, with the code of the loader (`load/crops.py`).

It imports neither torch nor pandas, so that it starts quickly and is small. `predict/decoding.py` starts it and sends requests:

    JSON {"work": "fit" | "decode", …}, then each image's bytes  ─►  JSON {"errors": {place: text}, "shape": […], "kept": …}, then pixels
                                                                    JSON {"failed": text}

Each request says how much memory decoding may take; the kernel refuses more, which is that image's error or the end of this process.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastfashion.errors import InputError
from fastfashion.images import codec, pillow
from fastfashion.load.crops import OWN, load_crops
from fastfashion.load.fit import DEFAULT_FIT, Fit

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

READY = b"ready"
KEPT_BYTES = 64 << 20  # of freed memory that the allocator may keep; more than its settings allow (decoding.py)


def main(descriptor: int, nice: int = 0) -> None:
    """Answer at this socket until the other side is closed, which also happens when the parent ends, however it ends."""
    os.nice(nice)
    prepare()
    used = data_bytes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it may be inherited as ignored, or blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(READY)
        while True:
            asked = json.loads(pipe.recv_bytes())
            limit_memory(used + KEPT_BYTES + asked["memory"])
            encoded = [pipe.recv_bytes() for _ in range(asked["count"])]
            # The kernel ends a decoder that hangs: SIGALRM ends the process by default.
            signal.setitimer(signal.ITIMER_REAL, asked["timeout_s"])
            try:
                errors, pixels = work(asked, encoded)
            except MemoryError:
                pipe.send_bytes(
                    json.dumps({"failed": f"takes more than the {asked['memory'] / 1e6:.0f} MB that its header asks for"}).encode()
                )
                return  # nobody knows what it still holds
            except Exception as error:  # of any kind; the parent finds out which image it was
                pipe.send_bytes(json.dumps({"failed": f"does not decode: {type(error).__name__}: {error}"}).encode())
                continue
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            encoded.clear()  # so that `kept` counts only what is left over
            pipe.send_bytes(json.dumps({"errors": errors, "shape": pixels.shape, "kept": data_bytes() - used}).encode())
            if pixels.size:
                pipe.send_bytes(np.ascontiguousarray(pixels).data.cast("B"))


def prepare() -> None:
    """Load what Pillow loads once, so that memory taken later belongs to an image."""
    assert pillow.FORMATS  # imported, where codec.py waits for the first image that needs it
    with contextlib.suppress(ImportError):  # Pillow has it from 11.3 on
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each has a stack and buffers of its own
    Image.init()


def data_bytes() -> int:
    """Private writable memory in bytes, which RLIMIT_DATA counts; 0 if the system does not say."""
    if resource is None:
        return 0
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def limit_memory(num_bytes: int) -> None:
    """Have the kernel refuse more memory. Not on macOS, which has no such limit, nor on Windows."""
    if resource is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes if most == resource.RLIM_INFINITY else min(num_bytes, most), most))


def work(asked: dict[str, Any], encoded: Sequence[bytes]) -> tuple[dict[int, str], np.ndarray]:
    """Why images could not be decoded, by place, and the pixels, uint8."""
    if asked["work"] == "fit":
        out = np.empty((len(encoded), *asked["size"], 3), dtype=np.uint8)
        fit = Fit(**asked["fit"] | {"pad_color": tuple(asked["fit"]["pad_color"])})
        return load_encoded(encoded, out, asked["max_pixels"], fit, asked["decoder"]), out
    height_px, width_px = asked["size"]
    try:
        return {}, codec.decode_rgb(encoded[0], min_height_px=height_px, min_width_px=width_px, max_pixels=asked["max_pixels"])
    except InputError as error:
        return {0: str(error)}, np.empty((0, 0, 3), dtype=np.uint8)


def load_encoded(
    encoded: Sequence[bytes], out: np.ndarray, max_pixels: int = codec.MAX_PIXELS, fit: Fit = DEFAULT_FIT, decoder: str = OWN
) -> dict[int, str]:
    """Fill `out`, uint8 (n, H, W, 3), with images as evaluation fits them; returns why those could not be decoded that are left black, by
    place. `decoder` is data.decoder.

    An image of more than `max_pixels` by its header is refused before any is decoded.
    """
    errors: dict[int, str] = {}
    sizes, kinds = np.ones((len(encoded), 2), dtype=np.int32), np.zeros(len(encoded), dtype=np.int8)
    for place, data in enumerate(encoded):
        try:
            info = codec.probe(data, max_pixels=sys.maxsize)
        except InputError as error:
            errors[place] = str(error)
            continue
        if info.height_px * info.width_px > max_pixels:
            errors[place] = too_many_pixels(info.height_px, info.width_px, max_pixels)
        sizes[place], kinds[place] = (info.height_px, info.width_px), info.kind
    good = [place for place in range(len(encoded)) if place not in errors]
    (heights, widths), (height_px, width_px) = sizes[good].T.astype(np.int64), out.shape[1:3]
    boxes = fit.whole(heights, widths, (height_px, width_px))
    padding = fit.padding(fit.places(boxes, (height_px, width_px)))
    filled = out if len(good) == len(out) else np.empty((len(good), *out.shape[1:]), dtype=np.uint8)
    arrays = [np.frombuffer(encoded[place], dtype=np.uint8) for place in good]
    flips = np.zeros(len(good), dtype=bool)
    wrong = load_crops(arrays, boxes, sizes[good], flips, filled, np.zeros(3), kinds[good], padding, decoder) if good else {}
    errors |= {good[i]: str(error) for i, error in wrong.items()}
    if filled is not out:
        out[:] = 0
        out[good] = filled
    return errors


def too_many_pixels(height_px: int, width_px: int, max_pixels: int) -> str:
    return f"{width_px}x{height_px} pixels, more than the {max_pixels} that are decoded here: shrink the image"


if __name__ == "__main__":
    main(int(sys.argv[1]))
