"""Fuzz fastfashion/images/native under AddressSanitizer and UndefinedBehaviorSanitizer: `make fuzz`, or this file with --help.

    seeds by our own encoder ─► mutate: bits, bytes, lengths, cuts, segments ─► _native.c, built with -fsanitize ─► a report, or none

What runs in a batch depends on (--seed, number of the batch) alone: a report names both, and --seed S --first N --batches 1 repeats it.
libjpeg-turbo is the system's, not instrumented: what it does with memory of its own is not checked. A crash inside it should be reported
to its maintainers in words, and its input is not to be committed.
"""

import argparse
import ctypes
import io
import mmap
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sanitized import ADDRESS, DEBUG, NATIVE, compile_all

OPTIONS = {
    # Python keeps memory at its end, and libjpeg asks for as much as a header says.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2048:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=99",
    "PYTHONMALLOC": "malloc",  # so that the ends of Python's own objects are guarded, too
}
# libjpeg puts what it saves of a marker into memory with room to spare, where a read past its end would not be seen.
GUARD = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
static inline int guarded_read_header(j_decompress_ptr jpeg, boolean whole) {
    int result = jpeg_read_header(jpeg, whole);
    for (jpeg_saved_marker_ptr marker = jpeg->marker_list; marker; marker = marker->next) {
        JOCTET *copy = malloc(marker->data_length); /* never freed: a few bytes a marker */
        marker->data = memcpy(copy, marker->data, marker->data_length);
    }
    return result;
}
#define jpeg_read_header guarded_read_header
"""
BATCH = 16
MAX_PIXELS = 1_000_000  # of a mutated header that is given on: more takes long and shows nothing else
HANGS_S = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--batches", type=int, default=0, help=f"end after this many batches of {BATCH} images instead")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first batch")
    parser.add_argument("--native", type=Path, default=NATIVE, help="folder of the sources to build")
    parser.add_argument("--objects", type=Path, help="folder for what is compiled, which a later run uses again")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return fuzz(asked, *asked.child)
    with tempfile.TemporaryDirectory(prefix="fastfashion-fuzz-") as folder:
        home = Path(folder)
        compiler = os.environ.get("CC", "gcc")
        if shutil.which(compiler) is None or not Path(runtime().split(":")[0]).is_file():
            print(f"error: {compiler} with AddressSanitizer's libasan.so is not here: install gcc, or name one with CC", file=sys.stderr)
            return 2
        (home / "seeds").write_bytes(pickle.dumps(make_seeds()))
        (home / "counter").write_bytes(bytes(16))
        return watch(asked, build(asked.native, asked.objects or home, home), home)


def build(source: Path, objects: Path, home: Path) -> Path:
    """The extension with sanitizers; plain gcc is enough."""
    module, guard = home / "_native.abi3.so", objects / "guard.h"
    objects.mkdir(parents=True, exist_ok=True)
    guard.write_text(GUARD)
    compiler = os.environ.get("CC", "gcc")
    flags = [*DEBUG, *ADDRESS]
    groups: tuple[list[Path], list[Path], list[Path]] = ([], [], [])  # with neither header, with Python's, with libjpeg's
    for path in sorted(source.glob("*.c")):
        text = path.read_text(encoding="utf-8")
        groups[1 if "Python.h" in text else 2 if "jpeglib.h" in text else 0].append(path)
    more = ([], [f"-I{sysconfig.get_paths()['include']}"], ["-include", str(guard)])
    compiled: list[Path] = []
    for paths, own in zip(groups, more, strict=True):
        compiled += compile_all(compiler, paths, source, objects, [*flags, *own])
    subprocess.run([compiler, *flags, "-shared", *map(str, compiled), "-o", str(module), "-ljpeg", "-lm"], check=True)
    return module


def runtime() -> str:
    """Libraries that must be loaded first: the sanitizer's, and C++'s, whose exceptions it intercepts."""
    compiler = os.environ.get("CC", "gcc")
    names = ("libasan.so", "libstdc++.so.6")
    return ":".join(subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip() for name in names)


def watch(asked: argparse.Namespace, module: Path, home: Path) -> int:
    """Run the fuzzer in a process that may die; 0 if it ends by itself."""
    limits = ["--seconds", str(asked.seconds), "--batches", str(asked.batches), "--seed", str(asked.seed), "--first", str(asked.first)]
    command = [sys.executable, __file__, *limits, "--child", str(module), str(home / "seeds"), str(home / "counter")]
    process = subprocess.Popen(command, env=os.environ | OPTIONS | {"LD_PRELOAD": runtime()}, stderr=subprocess.PIPE)
    last, moved = -1, time.monotonic()
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    said = b""
    while process.poll() is None:
        time.sleep(0.1)
        said += process.stderr.read() or b""
        done = counted(home / "counter")[0]
        if done != last:
            last, moved = done, time.monotonic()
        elif time.monotonic() - moved > HANGS_S:
            process.kill()
            said += f"\nno batch ended for {HANGS_S} s".encode()
    said += process.stderr.read() or b""
    sys.stderr.write(said.decode(errors="backslashreplace"))
    if process.returncode == 0:
        return 0
    batch = asked.first + counted(home / "counter")[0]
    print(f"\nfailed (status {process.returncode}) in batch {batch}: repeat with --seed {asked.seed} --first {batch} --batches 1")
    if not any(path.name.encode() in said for path in asked.native.glob("*.c")) and b"ERROR: AddressSanitizer" in said:
        print("no line of ours in the report: a fault of another library: report it to its maintainers")
    return 1


def counted(path: Path) -> tuple[int, int]:
    """Batches and images that are done."""
    batches, images = np.frombuffer(path.read_bytes(), np.int64).tolist()
    return batches, images


# Seeds.


def make_seeds() -> list[bytes]:
    """Small JPEGs of every kind that the native decoder takes, and some that it leaves to others."""
    from PIL import Image

    from fastfashion.images.codec import encode_jpeg

    seeds = []
    for height, width in ((48, 36), (17, 33), (8, 8), (1, 40), (96, 64)):
        ramp = (np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3) * 37 % 251).astype(np.uint8)
        seeds += [encode_jpeg(ramp, 85, subsampling) for subsampling in ("420", "422", "444")]
        for image, options in (
            (Image.fromarray(ramp), {"progressive": True}),
            (Image.fromarray(ramp), {"restart_marker_blocks": 1}),
            (Image.fromarray(ramp[..., 0]), {}),
            (Image.fromarray(ramp[..., 0]), {"progressive": True}),
            (Image.fromarray(ramp).convert("CMYK"), {}),
        ):
            file = io.BytesIO()
            image.save(file, "JPEG", quality=85, **options)
            seeds.append(file.getvalue())
    entry = b"\x12\1\3\0\1\0\0\0\1\0\0\0"  # upright
    for entries, said in ((1, 1), (1, 2), (3, 3), (3, 4), (0, 1)):
        exif = b"Exif\0\0II*\0\x08\0\0\0" + bytes([said, 0]) + entry * entries
        seeds += [data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:] for data in seeds[:3]]
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import jpeg_zoo

    return seeds + [image.data for image in list(jpeg_zoo.zoo().values())[::4] if len(image.data) < 4000]


# In the process that may die.


def segments(data: bytes) -> list[tuple[int, int]]:
    """(place, length) of the segments before the first scan, as far as they make sense."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((at, length))
        if data[at + 1] == 0xDA:
            break
        at += length
    return found


def mutate(data: bytes, others: list[bytes], draw: np.random.Generator) -> bytes:
    """One to four changes, of a kind each; some inputs stay as they are."""
    new = bytearray(data)
    for _ in range(int(draw.integers(0, 5))):
        if len(new) < 4:
            break
        at, how = int(draw.integers(len(new))), int(draw.integers(8))
        heads = segments(bytes(new))
        place, length = heads[int(draw.integers(len(heads)))] if heads else (2, 4)
        if how == 0:
            new[at] ^= 1 << int(draw.integers(8))
        elif how == 1:
            new[at] = int(draw.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, 0xD0, 0xD9]))
        elif how == 2:
            del new[at:]
        elif how == 3:  # a byte of a segment: a table, a size, a sampling factor
            new[min(place + int(draw.integers(2, max(3, min(length, 24)))), len(new) - 1)] = int(draw.integers(256))
        elif how == 4:  # a length that lies
            new[place + 2 : place + 4] = (int(draw.choice([0, 1, 2, length - 3, length - 1, -1])) & 0xFFFF).to_bytes(2, "big")
        elif how == 5:  # a segment of another one
            other = others[int(draw.integers(len(others)))]
            theirs = segments(other)
            begin, size = theirs[int(draw.integers(len(theirs)))]
            new[place:place] = other[begin : begin + size]
        elif how == 6:  # a segment cut short, with its length; nothing of it is left if that is too short
            kept = int(draw.integers(0, length + 1))
            body = bytes(new[place + 4 : place + kept])
            new[place : place + length] = bytes(new[place : place + 2]) + (kept - 2).to_bytes(2, "big") + body if kept >= 4 else b""
        else:  # a marker amid the scan
            new[at : at + 2] = bytes([0xFF, int(draw.choice([0xC0, 0xC4, 0xD0, 0xD7, 0xD9, 0xDA, 0xDD]))])
    return bytes(new)


def size_said(data: bytes) -> tuple[int, int]:
    """(height, width) of its first frame header; an index of a hostile set may say the same."""
    for place, length in segments(data):
        if 0xC0 <= data[place + 1] <= 0xCF and data[place + 1] not in (0xC4, 0xC8, 0xCC) and place + 9 <= len(data) and length > 8:
            return int.from_bytes(data[place + 5 : place + 7], "big"), int.from_bytes(data[place + 7 : place + 9], "big")
    return 0, 0


def fuzz(asked: argparse.Namespace, module: str, seeds: str, counter: str) -> int:
    import importlib.util

    spec = importlib.util.spec_from_file_location("_native", module)
    assert spec is not None and spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    assert hasattr(ctypes.CDLL(None), "__asan_init"), "the sanitizer is not loaded"
    corpus: list[bytes] = pickle.loads(Path(seeds).read_bytes())
    with open(counter, "r+b") as file:  # noqa: PTH123
        done = np.frombuffer(mmap.mmap(file.fileno(), 16), np.int64)
    started, batch, decoded = time.monotonic(), asked.first, 0
    while batch - asked.first < asked.batches if asked.batches else time.monotonic() - started < asked.seconds:
        decoded += one_batch(native, corpus, np.random.default_rng([asked.seed, batch]))
        batch += 1
        done += np.array([1, BATCH])
    seconds, images = time.monotonic() - started, int(done[1])
    print(f"{images} images in {seconds:.0f} s, {images / seconds:.0f} a second, {decoded} of them decoded: no report; seed {asked.seed}")
    assert decoded > images // 20, "hardly one was decoded: the mutations do not reach the decoder"
    return 0


def one_batch(native: Any, corpus: list[bytes], draw: np.random.Generator) -> int:
    """Images through both functions, with any box, size, flip and place; returns how many were decoded."""
    files = [mutate(corpus[int(draw.integers(len(corpus)))], corpus, draw) for _ in range(BATCH)]
    sizes = np.empty((BATCH, 2), np.int32)
    for i, data in enumerate(files):
        height, width = size_said(data)
        wild = not (height and width and height * width <= MAX_PIXELS) or draw.random() < 0.05
        sizes[i] = draw.integers(1, 100, 2) if wild else (height, width)
    whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    boxes = np.where(draw.random((BATCH, 1)) < 0.3, whole, any_boxes(sizes, draw)).astype(np.int32)
    height, width = (int(value) for value in draw.integers(1, 70, 2))
    out, status, flips = np.empty((BATCH, height, width, 3), np.uint8), np.ones(BATCH, np.uint8), draw.random(BATCH) < 0.5
    oversample = float(draw.choice([1.0, 1.5, 2.0]))
    arrays = [np.frombuffer(data, np.uint8).copy() for data in files]  # each in memory of its own, with guarded ends
    around = any_places(height, width, draw)
    shown, own = (height, width, oversample, status, np.zeros(3)), bool(draw.random() < 0.7)
    native.set_simd(int(draw.integers(-1, 3)))
    called(
        lambda: native.load_crops(arrays, boxes, sizes, flips, out, *shown, *(around or (None, None)), own, *any_marks(draw)), around, out
    )
    assert set(status.tolist()) <= {0, 1}
    for data, (high, wide) in zip(arrays, sizes.tolist(), strict=True):
        eighths = int(draw.choice([1, 2, 4, 8]))
        native.decode_rgb(data, eighths, np.empty((-(-high * eighths // 8), -(-wide * eighths // 8), 3), np.uint8))
    some, size = 4, draw.integers(1, 60, 2)
    images = draw.integers(0, 256, (some, *size, 3), dtype=np.uint8)
    index, boxes = draw.integers(0, some, BATCH), any_boxes(np.tile(size, (BATCH, 1)), draw)
    around = any_places(height, width, draw)
    called(lambda: native.resize_crops(images, *map(int, size), index, boxes, flips, out, BATCH, height, width, *around), around, out)
    return int((status == 0).sum())


def any_marks(draw: np.random.Generator) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Places in scans that are made up, and whose they are."""
    if draw.random() < 0.5:
        return None, None
    first = np.concatenate([[0], np.sort(draw.integers(0, 3 * BATCH, BATCH))])
    marks = np.sort(draw.integers(0, 9, (int(first[-1]), 5), dtype=np.int32), axis=0) * int(draw.choice([1, 100, 2**27]))
    return marks.astype(np.int32), first.astype(np.int64)


def any_places(height: int, width: int, draw: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The last arguments: none, or places and their colour; in one batch of a hundred, a place is outside of the output."""
    if draw.random() < 0.5:
        return ()
    places = any_boxes(np.tile(np.array([height, width]), (BATCH, 1)), draw)
    if draw.random() < 0.02:
        places[int(draw.integers(BATCH)), int(draw.integers(4))] = int(draw.choice([-1, 71, 2**31 - 1, -(2**31)]))
    return places, draw.integers(0, 256, 3, dtype=np.uint8)


def called(call: Callable[[], None], around: tuple[np.ndarray, ...], out: np.ndarray) -> None:
    """Call it; places outside of the output must be refused."""
    wrong = False
    if around:
        (height, width), (y0, x0, y1, x1) = out.shape[1:3], around[0].T
        wrong = not ((y0 >= 0) & (y0 < y1) & (y1 <= height) & (x0 >= 0) & (x0 < x1) & (x1 <= width)).all()
    try:
        call()
    except ValueError:
        assert wrong
    else:
        assert not wrong, "a place outside of the output was not refused"


def any_boxes(sizes: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(y0, x0, y1, x1) inside of images, int32 (n, 4), of any size from a pixel on."""
    low = (draw.random(sizes.shape) * sizes).astype(np.int32)
    high = low + 1 + (draw.random(sizes.shape) * (sizes - low)).astype(np.int32)
    return np.ascontiguousarray(np.concatenate([low, np.minimum(high, sizes)], axis=1).astype(np.int32))


if __name__ == "__main__":
    sys.exit(main())
