"""Load on a page that `fastfashion serve` shows: many clients, each asking again as soon as it is answered.

    fastfashion serve runs/NAME --port 7860 &
    python tools/serve_load.py http://127.0.0.1:7860/ image.jpg --clients 50 --seconds 60 --out bench/results/serve.json

Says how many requests were answered, turned away (503, asked again) or lost, how long answers took, and, where the server is a
process of this machine (--pid), what memory it had over time: flat means that the second half needed no more than the first.

With --largest N clients send the largest images that are allowed, in every format and drawn here, beside one with the image given:

    python tools/serve_load.py http://127.0.0.1:7860/ image.jpg --largest 64 --pid PID --out bench/results/serve-memory-2-cores.json

Says the most memory (PSS) that the server and its processes had together, what was lost, and how long the one client's answers took, alone
and meanwhile.
"""

import argparse
import contextlib
import http.client
import io
import itertools
import json
import math
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from fastfashion.provenance import git_commit, machine_info, package_versions

TIMEOUT_S, LARGEST_TIMEOUT_S = 60, 900  # a large image waits for those before it
ALONE_S = 10
WAIT_S = 0.25  # of a client that was turned away


@dataclass
class Tally:
    """What the clients saw."""

    milliseconds: list[float] = field(default_factory=list)
    turned_away: int = 0
    lost: list[str] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def client(url: str, image: bytes, until: float, tally: Tally, timeout_s: float = TIMEOUT_S, source: str = "") -> None:
    """One visitor with one connection, from an address of this machine."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=timeout_s, source_address=(source, 0) if source else None)
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            connection.request("POST", "/api/answer?top=1", image)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            with tally.lock:
                tally.lost.append(repr(error))
            connection.close()
            continue
        with tally.lock:
            if response.status == 200:
                tally.milliseconds.append(1000 * (time.monotonic() - started))
                tally.answers.add(json.dumps(json.loads(body)["answers"]))
            elif response.status == 503:
                tally.turned_away += 1
            else:
                tally.lost.append(f"{response.status}: {body[:200].decode(errors='replace')}")
        if response.status == 503:
            time.sleep(WAIT_S)


def memory_mb(pid: int) -> float:
    """Resident memory of a process of this machine."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"error: process {pid} has no memory to show: has the server ended?")


def largest(max_pixels: int, max_bytes: int) -> dict[str, bytes]:
    """An image of most formats at the limit of pixels, and some near the limit of bytes."""
    side = math.isqrt(max_pixels)
    down, across = np.mgrid[:side, :side].astype(np.float32) / side
    smooth = np.stack([255 * across, 255 * down, 127 * across + 127 * down, 255 - 200 * across * down], axis=-1).astype(np.uint8)
    rgba = Image.fromarray(smooth)
    rgb, wide = rgba.convert("RGB"), Image.fromarray(smooth[..., 0].astype(np.uint16) * 257)
    grain = np.random.default_rng(0).integers(0, 256, (math.isqrt(max_bytes // 4), math.isqrt(max_bytes // 4), 3), dtype=np.uint8)
    rough = Image.fromarray(np.tile(grain[:64, :64], (side // 64 + 1, side // 64 + 1, 1))[:side, :side])
    drawn = {
        "jpeg": saved(rgb, "JPEG", quality=95, subsampling=0),
        "jpeg, near the bytes": next(
            data for quality in (60, 40, 20, 5, 1) if len(data := saved(rough, "JPEG", quality=quality)) <= max_bytes
        ),
        "jpeg, progressive": saved(rgb, "JPEG", progressive=True, subsampling=0),
        "jpeg, cmyk, progressive": saved(rgb.convert("CMYK"), "JPEG", progressive=True),
        "png": saved(rgba, "PNG", compress_level=1),
        "png, near the bytes": saved(Image.fromarray(grain), "PNG", compress_level=1),
        "png, 16 bits": saved(wide, "PNG", compress_level=1),
        "gif": saved(rgb.quantize(16), "GIF"),
        "webp": saved(rgba, "WEBP", method=0),
        "webp, lossless": saved(rgba, "WEBP", lossless=True, method=0, quality=0),
        "avif": saved(rgba, "AVIF", speed=10, subsampling="4:4:4"),
        "tiff": saved(rgba, "TIFF", compression="tiff_adobe_deflate"),
    }
    return {name: data for name, data in drawn.items() if len(data) <= max_bytes}


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def tree_mb(pid: int) -> float:
    """Memory of a process and all below it, each shared page once (PSS)."""
    below: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            below.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    total_kb, tree = 0, [pid]
    for one in tree:
        tree += below.get(one, [])
        with contextlib.suppress(OSError):
            total_kb += int(Path(f"/proc/{one}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
    return total_kb / 1024


def run_largest(options: argparse.Namespace) -> dict[str, object]:
    """One client with a small image, alone and then beside many with large ones."""
    small, images = options.image.read_bytes(), largest(options.max_pixels, options.max_mb * 1_000_000)
    alone, beside = Tally(), Tally()
    # Of another address than all others, as on a network: on Linux any of 127.0.0.0/8 is this machine.
    source = "127.0.0.2" if urlsplit(options.url).hostname == "127.0.0.1" and sys.platform == "linux" else ""
    client(options.url, small, time.monotonic() + min(ALONE_S, options.seconds), alone, source=source)
    before_mb, memory = tree_mb(options.pid), [0.0]
    tallies = {name: Tally() for name in images}
    started = time.monotonic()
    until = started + options.seconds
    names = itertools.islice(itertools.cycle(images), options.largest)
    asks = [(options.url, images[name], until, tallies[name], LARGEST_TIMEOUT_S) for name in names]
    asks.append((options.url, small, until, beside, TIMEOUT_S, source))
    clients = [threading.Thread(target=client, args=args) for args in asks]
    for one in clients:
        one.start()
    while any(one.is_alive() for one in clients):
        memory.append(tree_mb(options.pid))
        time.sleep(0.5)
    lost = [text for tally in (alone, beside, *tallies.values()) for text in tally.lost]
    ratios = {name: figure(beside) / figure(alone) for name, figure in (("median", median_ms), ("p95", p95_ms))}
    return {
        "clients": options.largest,
        "seconds": round(time.monotonic() - started, 1),
        "images": {name: {"bytes": len(data), "answered": len(tallies[name].milliseconds)} for name, data in images.items()},
        "answered": sum(len(tally.milliseconds) for tally in tallies.values()),
        "turned_away": sum(tally.turned_away for tally in (beside, *tallies.values())),
        "lost": len(lost),
        "first_lost": lost[:3],
        "different_answers": max(len(tally.answers) for tally in (alone, beside, *tallies.values())),
        "longest_ms": round(max(max(tally.milliseconds, default=0) for tally in tallies.values()), 1),
        "memory_mb": {"before": round(before_mb), "most": round(max(memory))},
        "small": {
            name: {"answered": len(tally.milliseconds), "median_ms": round(median_ms(tally), 1), "p95_ms": round(p95_ms(tally), 1)}
            for name, tally in (("alone", alone), ("beside", beside))
        },
        "small_ratio": {name: round(ratio, 2) for name, ratio in ratios.items()},
    }


def median_ms(tally: Tally) -> float:
    return statistics.median(tally.milliseconds or [float("nan")])


def p95_ms(tally: Tally) -> float:
    times = sorted(tally.milliseconds)
    return times[int(0.95 * (len(times) - 1))] if times else float("nan")


def run(options: argparse.Namespace) -> dict[str, object]:
    image, tally = options.image.read_bytes(), Tally()
    started = time.monotonic()
    until = started + options.seconds
    clients = [threading.Thread(target=client, args=(options.url, image, until, tally)) for _ in range(options.clients)]
    for one in clients:
        one.start()
    memory = []
    while options.pid and time.monotonic() < until:
        memory.append(round(memory_mb(options.pid), 1))
        time.sleep(1)
    for one in clients:
        one.join()
    seconds = time.monotonic() - started
    times = sorted(tally.milliseconds)
    if not times:
        raise SystemExit(f"error: {options.url} answered nothing: {tally.lost[:1]}")
    half = len(memory) // 2
    return {
        "clients": options.clients,
        "seconds": round(seconds, 1),
        "answered": len(times),
        "answers_per_s": round(len(times) / seconds, 1),
        "turned_away": tally.turned_away,
        "lost": len(tally.lost),
        "first_lost": tally.lost[:3],
        "different_answers": len(tally.answers),
        "median_ms": round(median_ms(tally), 1),
        "p95_ms": round(p95_ms(tally), 1),
        "longest_ms": round(times[-1], 1),
        "memory_mb": {
            "first": memory[:1],
            "first_half_max": max(memory[:half], default=None),
            "second_half_max": max(memory[half:], default=None),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the page")
    parser.add_argument("image", type=Path, help="what everyone asks about")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pid", type=int, default=0, help="process of the server, to watch its memory")
    parser.add_argument(
        "--largest", type=int, default=0, help="clients with the largest images allowed, in place of --clients; needs --pid"
    )
    parser.add_argument("--max-pixels", type=int, default=40_000_000, help="with --largest: the server's limit")
    parser.add_argument("--max-mb", type=int, default=20, help="with --largest: the server's limit")
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    options = parser.parse_args()
    if options.largest and not options.pid:
        parser.error("--largest needs --pid, the process of the server")
    result = run_largest(options) if options.largest else run(options)
    result |= {
        "command": " ".join(["python", *sys.argv]),
        "commit": git_commit(),
        "machine": machine_info(),
        "versions": package_versions(["fastfashion", "torch", "timm", "gradio", "pillow"]),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if result["lost"] or result["different_answers"] != 1 else 0)


if __name__ == "__main__":
    main()
