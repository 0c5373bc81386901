"""What an image is said to take before it is decoded, compared with what a process takes; and the order in which requests get room."""

import asyncio
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hostile import cut_short, encoded, with_bits_flipped
from odd_images import odd_images
from odd_writers import ADOBE_GAMMA, ADOBE_XYZ, png, png_chunk, rgb_profile, tiff
from PIL import Image

from fastfashion.errors import InputError
from fastfashion.images import codec
from fastfashion.predict import decoding
from fastfashion.predict.decode_cost import FIXED, cost
from fastfashion.predict.decode_worker import load_encoded
from fastfashion.predict.decoding import Decoders, Memory
from fastfashion.predict.semaphore import BusyError, FairSemaphore
from fastfashion.serve.limits import Gate, Limits

HEIGHT, WIDTH = 1500, 2000
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which this system does not have")


@cache
def drawn(mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (HEIGHT // 20, WIDTH // 20, 4), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).convert(mode)


def saved(mode: str, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    drawn(mode).save(file, form, **options)
    return file.getvalue()


def wide(channels: int) -> np.ndarray:
    return np.asarray(drawn("RGBA"))[..., :channels].astype(np.uint16) * 257


EXIF = Image.Exif()
EXIF[0x0112] = 6
CASES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved("RGB", "JPEG", exif=EXIF),
    "jpeg, progressive": lambda: saved("RGB", "JPEG", progressive=True),
    "jpeg, progressive, 4:4:4, with a profile": lambda: saved(
        "RGB", "JPEG", progressive=True, subsampling=0, icc_profile=rgb_profile(ADOBE_XYZ, ADOBE_GAMMA)
    ),
    "jpeg, cmyk, progressive": lambda: saved("CMYK", "JPEG", progressive=True, exif=EXIF),
    "png, turned, with a profile": lambda: saved(
        "RGBA", "PNG", compress_level=1, exif=EXIF, icc_profile=rgb_profile(ADOBE_XYZ, ADOBE_GAMMA)
    ),
    "png, palette": lambda: saved("P", "PNG", compress_level=1),
    "png, 16 bits": lambda: png(wide(4), 6),
    "png, 16 bits, one colour transparent": lambda: png(wide(3), 2, before=png_chunk(b"tRNS", bytes(6))),
    "gif": lambda: saved("P", "GIF"),
    "bmp": lambda: saved("P", "BMP"),
    "webp": lambda: saved("RGBA", "WEBP", method=0, exif=EXIF),
    "webp, lossless": lambda: saved("RGBA", "WEBP", lossless=True, method=0, quality=0),
    "avif": lambda: saved("RGBA", "AVIF", speed=10, subsampling="4:4:4"),
    "tiff, lzw": lambda: saved("RGBA", "TIFF", compression="tiff_lzw"),
    "tiff, jpeg": lambda: saved("RGB", "TIFF", compression="jpeg"),
    "tiff, 16 bits": lambda: tiff(wide(1)[..., 0]),
    "tiff, float": lambda: tiff(wide(1)[..., 0].astype(np.float32) / 65535),
}
PEAK = """
import json, os, re, sys
from pathlib import Path
import numpy as np
from fastfashion.predict.decode_worker import load_encoded, prepare
prepare()
def status():
    return {name: int(kb) << 10 for name, kb in re.findall(r"(Vm\\w+):\\s+(\\d+) kB", Path("/proc/self/status").read_text())}
for name in sys.argv[1:]:
    read, write = os.pipe()
    if os.fork() == 0:
        data, before = Path(name).read_bytes(), status()
        errors = load_encoded([data], np.empty((1, 96, 72, 3), dtype=np.uint8))
        after = status()
        os.write(write, json.dumps([errors, after["VmPeak"] - before["VmSize"], after["VmHWM"] - before["VmRSS"]]).encode())
        os._exit(0)
    os.wait()
    print(os.read(read, 10000).decode())
"""


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, int]]:
    """Each image, and the memory beyond what was there that a worker takes for it."""
    folder, images = tmp_path_factory.mktemp("images"), {name: draw() for name, draw in CASES.items()}
    paths = [folder / str(number) for number in range(len(images))]
    for path, data in zip(paths, images.values(), strict=True):
        path.write_bytes(data)
    command = [sys.executable, "-c", PEAK, *map(str, paths)]
    environment = os.environ | decoding.ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = {}
    for (name, data), line in zip(images.items(), done.stdout.splitlines(), strict=True):
        errors, virtual_bytes, resident_bytes = json.loads(line)
        assert not errors
        found[name] = (data, max(virtual_bytes, resident_bytes))
    return found


@needs_proc
@pytest.mark.parametrize("name", CASES)
def test_a_cost_is_above_what_decoding_takes_and_not_far_above(peaks: dict[str, tuple[bytes, int]], name: str) -> None:
    data, peak = peaks[name]
    said = cost(data, 96, 72)
    assert sorted((said.height_px, said.width_px)) == [HEIGHT, WIDTH]
    # Half of what every image is given on top is not needed at this size: what each pixel is given must be enough.
    assert peak <= said.num_bytes - FIXED // 2, f"{peak / 1e6:.1f} MB"
    assert said.num_bytes - FIXED <= 3 * peak + FIXED // 2, f"{peak / 1e6:.1f} MB"


@pytest.mark.parametrize("name", odd_images())
def test_the_header_says_the_size_that_decoding_finds(name: str) -> None:
    data = odd_images()[name].data
    said = cost(data)
    assert sorted((said.height_px, said.width_px)) == sorted(codec.decode_rgb(data).shape[:2])


def test_sizes_that_are_said_in_other_ways() -> None:
    gif = bytearray(encoded("GIF", 40, 30))
    gif[6:10] = b"\x0a\0\x0a\0"  # a screen smaller than its frame
    commented = (
        bytes(gif[:13]) + bytes(gif[13 : 13 + 768]) + b"\x21\xfe\x2c" + b"," * 44 + b"\x21" + b"!" * 33 + b"\0" + bytes(gif[13 + 768 :])
    )
    for data in (bytes(gif), commented):
        assert cost(data)[1:3] == (40, 30) and cost(data).format == "GIF"
    assert cost(encoded("TIFF", 40, 30, big_tiff=True))[1:3] == (40, 30)
    os2 = b"BM" + bytes(12) + b"\x0c\0\0\0" + b"\x1e\0\x28\0\x01\0\x18\0"
    assert cost(os2)[1:3] == (40, 30)
    upside_down = b"BM" + bytes(12) + b"\x28\0\0\0" + b"\x1e\0\0\0" + (-40).to_bytes(4, "little", signed=True)
    assert cost(upside_down)[1:3] == (40, 30)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "TIFF"])
def test_any_header_has_a_cost(form: str) -> None:
    data = encoded(form)
    assert cost(data).format == form and cost(data).pixels == 12 * 16
    for damaged in itertools.chain(cut_short(data, 3), with_bits_flipped(data, 300)):
        assert cost(damaged).num_bytes >= FIXED
    assert cost(b"").pixels == cost(b"<html>").pixels == 0


def test_what_takes_more_than_one_image_may_is_refused_in_words() -> None:
    images = [encoded("PNG"), saved("RGBA", "WEBP", method=0), encoded("JPEG")]
    there, here = (np.ones((3, 40, 32, 3), dtype=np.uint8) for _ in range(2))
    load_encoded(images, here)
    here[1] = 0
    with closing(Decoders(1, memory=Memory(one_bytes=60_000_000))) as decoders:
        errors = decoders.fit(images, there)
        with pytest.raises(InputError, match=r"WEBP of 2000x1500 pixels takes up to 8\d MB"):
            decoders.decode_rgb(images[1])
    assert list(errors) == [1] and "more than the 60 MB that one image may take here: shrink it" in errors[1]
    np.testing.assert_array_equal(there, here)
    assert Limits().decoding_bytes > cost(encoded("WEBP")).num_bytes + 19 * Limits().image_pixels


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_DATA")
def test_a_worker_holds_to_the_cost_and_the_others_are_intact(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a header had lied: a valid image with a cost that is far too low."""
    monkeypatch.setattr(decoding, "cost", lambda data, *size: cost(data, *size)._replace(num_bytes=1))
    file = io.BytesIO()
    Image.new("RGB", (5000, 4000)).save(file, "PNG")
    images = [encoded("PNG"), file.getvalue(), encoded("JPEG")]
    there, here = (np.ones((3, 40, 32, 3), dtype=np.uint8) for _ in range(2))
    load_encoded(images, here)
    here[1] = 0
    with closing(Decoders(1)) as decoders:
        for _ in range(2):
            errors = decoders.fit(images, there)
            assert list(errors) == [1] and "not enough memory for it" in errors[1]
            np.testing.assert_array_equal(there, here)
        monkeypatch.undo()
        assert decoders.fit(images, there) == {}


def test_room_is_given_in_turn_and_never_more_than_there_is() -> None:
    room, inside, most, order = FairSemaphore(10), [0], [0], []

    def ask(number: int, amount: int) -> None:
        with room.take(amount):
            order.append(number)
            inside[0] += min(amount, 10)
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= min(amount, 10)

    with room.take(10):
        threads = []
        for number, amount in enumerate([3, 3, 3, 100, 1, 7, 2, 10, 10, 1]):
            threads.append(threading.Thread(target=ask, args=(number, amount)))
            threads[-1].start()
            while len(room._line) < number + 1:
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert most[0] <= 10 and sorted(order[:3]) == [0, 1, 2] and order[3] == 3 and len(order) == 10


def test_who_stops_waiting_for_room_leaves_it_to_others() -> None:
    room = FairSemaphore(10)

    async def hold(amount: int) -> None:
        async with room.taking(amount):
            await asyncio.sleep(60)

    async def main() -> None:
        first, second = (asyncio.create_task(hold(8)) for _ in range(2))
        await asyncio.sleep(0.01)
        second.cancel()
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        async with asyncio.timeout(5), room.taking(10):
            pass

    asyncio.run(main())


def test_large_images_and_all_others_are_counted_apart() -> None:
    gate = Gate(1)
    with gate.enter(is_large=True), gate.enter() as place, pytest.raises(BusyError, match="1 requests"):
        place.move(is_large=True)
    with gate.enter() as place:
        place.move(is_large=True)
        with gate.enter(), pytest.raises(BusyError), gate.enter():
            pass
    with gate.enter(), gate.enter(is_large=True):
        pass
