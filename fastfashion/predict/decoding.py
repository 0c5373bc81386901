"""Decoding in processes that may die: what kills a decoder is one image's error, and never ends the caller.

    bytes ─► cost (decode_cost.py) ─► room for it ─► a free worker (decode_worker.py) ─► pixels
              └ more than one image may take: refused              └ it dies, takes too long or too much ─► that image's error, a new worker

Each worker is a Python process that decodes one request at a time, in no more memory than was asked for. It gets no signal from the
terminal, and ends when the socket to its parent is closed, so that none is left over however the parent ends.

On a server, large images have workers of their own, of a lower priority, which share one room of memory: no small image waits for a
large one, and a large one waits only for those before it. Within a lane, first come, first served.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from fastfashion.errors import ConfigError, FastfashionError, InputError
from fastfashion.images.codec import MAX_PIXELS
from fastfashion.load.crops import OWN
from fastfashion.load.fit import DEFAULT_FIT, Fit
from fastfashion.predict.decode_cost import COPIES, MOST_A_PIXEL, Cost, cost
from fastfashion.predict.decode_worker import KEPT_BYTES, READY, too_many_pixels
from fastfashion.predict.semaphore import FairSemaphore

START_S = 120.0  # for a worker to start, on a busy machine
TIMEOUT_S = 60.0  # a request may take; 100 million progressive pixels take some seconds
GRACE_S = 5.0  # after which a worker is killed that the kernel's timer did not end
ENDED = "not decoded: decoding has ended"
LARGE_PIXELS, LARGE_BYTES = 5_000_000, 1_000_000  # an image of more is large
LARGE_NICE = 10
# glibc's allocator: large blocks are returned at once; of the rest it keeps no more than decode_worker.KEPT_BYTES allows for.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(8 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)} | {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
}


class Died(Exception):
    """A worker ended while decoding."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How much decoding may take, by cost: one image, and all together. An image that costs more than all may take is decoded alone."""

    one_bytes: int = MOST_A_PIXEL * MAX_PIXELS
    all_bytes: int = MOST_A_PIXEL * 40_000_000


class _Lane:
    """Workers for images of one kind, and the memory that these share."""

    def __init__(self, workers: int, room: FairSemaphore, nice: int = 0) -> None:
        self.room, self.places, self.nice = room, FairSemaphore(workers), nice
        self.idle: list[_Worker] = []


class Decoders:
    """Up to `workers` processes, each started when it is first needed. Any thread may call its methods, which wait for a free one.

    With `large`, up to that many more processes decode all large images. `decoder` is data.decoder, for `fit`.
    """

    def __init__(
        self, workers: int, timeout_s: float = TIMEOUT_S, *, large: int = 0, memory: Memory = Memory(), decoder: str = OWN
    ) -> None:
        self._timeout_s, self.memory, self.workers, self.large, self.decoder = timeout_s, memory, workers, large, decoder
        # There is room for any number of small images: their size is bounded.
        self._small = _Lane(workers, FairSemaphore(memory.all_bytes if not large else sys.maxsize))
        self._large = _Lane(large, FairSemaphore(memory.all_bytes), LARGE_NICE) if large else self._small
        self._lock = threading.Lock()  # guards the next two
        self._started: set[_Worker] = set()
        self._closed = False

    def fit(self, encoded: Sequence[bytes], out: np.ndarray, max_pixels: int = MAX_PIXELS, fit: Fit = DEFAULT_FIT) -> dict[int, str]:
        """What `load_encoded` does: `out`, uint8 (n, H, W, 3), is filled; returns why images could not be decoded, by place."""
        asked = {"work": "fit", "size": out.shape[1:3], "max_pixels": max_pixels, "fit": fit.to_dict(), "decoder": self.decoder}
        refused: dict[int, str] = {}
        costs = [cost(data, out.shape[1], out.shape[2], fit) for data in encoded]
        for place, one in enumerate(costs):
            if why := self._too_much(one, max_pixels):
                refused[place] = why
        if refused:
            encoded = [b"" if place in refused else data for place, data in enumerate(encoded)]
            costs = [one for place, one in enumerate(costs) if place not in refused]
        if not costs:
            out[:] = 0
            return refused
        try:
            errors, pixels = self._ask(asked, encoded, costs)
        except Died as death:
            if len(encoded) == 1:
                out[:] = 0
                return {0: str(death)}
            # Decode one by one to find which of them it was.
            alone = [self.fit([data], out[place : place + 1], max_pixels, fit) for place, data in enumerate(encoded)]
            return {place: error[0] for place, error in enumerate(alone) if error} | refused
        out[:] = pixels
        return errors | refused

    def decode_rgb(self, data: bytes, *, min_height_px: int = 0, min_width_px: int = 0, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """The pixels of `codec.decode_rgb`, bit for bit; raises InputError if that does, or the process dies."""
        one = cost(data, min_height_px, min_width_px)
        if why := self._too_much(one, max_pixels):
            raise InputError(why)
        try:
            errors, pixels = self._ask({"work": "decode", "size": (min_height_px, min_width_px), "max_pixels": max_pixels}, [data], [one])
        except Died as death:
            raise InputError(str(death)) from death
        if errors:
            raise InputError(errors[0])
        return pixels

    def close(self) -> None:
        """End all workers, at once; images that still wait for one get an error."""
        with self._lock:
            self._closed = True
            for worker in self._started:
                worker.kill()  # the thread that talks to it closes the socket
            for lane in (self._small, self._large):
                while lane.idle:
                    lane.idle.pop().stop()

    def _too_much(self, one: Cost, max_pixels: int) -> str:
        """Why an image is refused before it reaches a decoder; "" if it is not."""
        if one.pixels > max_pixels:
            return too_many_pixels(one.height_px, one.width_px, max_pixels)
        if one.num_bytes <= self.memory.one_bytes:
            return ""
        return (
            f"{one.format} of {one.width_px}x{one.height_px} pixels takes up to {one.num_bytes / 1e6:.0f} MB to decode, more than the "
            f"{self.memory.one_bytes / 1e6:.0f} MB that one image may take here: shrink it, or save it as a baseline JPEG"
        )

    def _ask(self, asked: dict[str, Any], encoded: Sequence[bytes], costs: Sequence[Cost]) -> tuple[dict[int, str], np.ndarray]:
        """Have a worker decode images, one after another, while it holds all their bytes. Raises Died."""
        memory = max(one.num_bytes for one in costs) + COPIES * sum(map(len, encoded))
        lane = self._large if any(map(is_large, costs, encoded)) else self._small
        asked |= {"count": len(encoded), "timeout_s": self._timeout_s, "memory": memory}
        with lane.room.take(memory), self._worker(lane) as worker:
            return worker.ask(asked, encoded)

    @contextmanager
    def _worker(self, lane: _Lane) -> "Iterator[_Worker]":
        """A free worker, which ends if anything goes wrong: the next request could not start in the middle of an answer."""
        with lane.places.take():
            with self._lock:
                if self._closed:
                    raise Died(ENDED)
                worker = lane.idle.pop() if lane.idle else _Worker(lane.nice)
                self._started.add(worker)
            is_reusable = False
            try:
                yield worker
                is_reusable = worker.kept_bytes <= KEPT_BYTES
            except FastfashionError as error:
                if self._closed:  # close() ended it while it started
                    raise Died(ENDED) from error
                raise
            finally:
                with self._lock:
                    if is_reusable and not self._closed:
                        lane.idle.append(worker)
                    else:
                        worker.stop()
                        self._started.discard(worker)


def is_large(one: Cost, data: bytes) -> bool:
    return one.pixels > LARGE_PIXELS or len(data) > LARGE_BYTES


class _Worker:
    """A process with a socket of its own."""

    def __init__(self, nice: int) -> None:
        self.kept_bytes = 0  # that decoding left in it
        if os.name != "posix":
            raise ConfigError("images of others are decoded in processes that get a socket from this one, which Windows does not do")
        mine, theirs = socket.socketpair()
        with theirs:
            # With the parent's own search path, so that the worker finds the same `fastfashion`. `-m` would look in other places.
            call = f"from fastfashion.predict.decode_worker import main; main({theirs.fileno()}, {nice})"
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {call}"],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal goes to the parent's group alone
                env=os.environ | ENVIRONMENT,
            )
        self._pipe, self._is_ready = Connection(mine.detach()), False

    def ask(self, asked: dict[str, Any], encoded: Sequence[bytes]) -> tuple[dict[int, str], np.ndarray]:
        """Raises Died."""
        if not self._is_ready:
            self._wait_until_ready()
        try:
            self._pipe.send_bytes(json.dumps(asked).encode())
            for data in encoded:
                self._pipe.send_bytes(data)
            if not self._pipe.poll(asked["timeout_s"] + GRACE_S):
                self.process.kill()
                raise Died(self._too_long(asked))
            answer = json.loads(self._pipe.recv_bytes())
            if "failed" in answer:
                raise Died(answer["failed"])
            self.kept_bytes = answer["kept"]
            pixels = np.empty(answer["shape"], dtype=np.uint8)
            if pixels.size:
                self._pipe.recv_bytes_into(pixels.data.cast("B"))
        except (EOFError, OSError) as error:
            code = self._exit_code()
            if hasattr(signal, "SIGALRM") and code == -signal.SIGALRM:
                raise Died(self._too_long(asked)) from error
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise Died(f"decoding it crashed the decoding process ({how}): save the image again with another program") from error
        return {int(place): text for place, text in answer["errors"].items()}, pixels

    def _wait_until_ready(self) -> None:
        try:
            if self._pipe.poll(START_S) and self._pipe.recv_bytes() == READY:
                self._is_ready = True
                return
        except (EOFError, OSError):
            pass
        raise FastfashionError(f"the process that decodes images does not start (exit code {self._exit_code()}); its own error is above")

    def _exit_code(self) -> int:
        try:
            return self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    @staticmethod
    def _too_long(asked: dict[str, Any]) -> str:
        return f"does not decode within {asked['timeout_s']:.0f} s: shrink the image, or save it again with another program"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        self._pipe.close()
