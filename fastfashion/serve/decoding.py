"""Decoding in processes that may die: what kills a decoder is one image's error, never the end of who asked.

    bytes ─► a free worker (serve/decode_worker.py) ─► pixels          it dies, or takes too long ─► that image's error, a new worker

Each worker is a Python of its own that decodes one request at a time. It has no signal from the terminal, and ends when the socket to
its parent is closed, so that none is left over however the parent ends.
"""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from fastfashion.errors import FastfashionError, InputError
from fastfashion.image import MAX_PIXELS
from fastfashion.serve.decode_worker import READY

START_S = 120.0  # for a worker to come up, on a machine that is busy
TIMEOUT_S = 60.0  # a request may take; 100 million progressive pixels take some seconds
GRACE_S = 5.0  # after which a worker is killed that the kernel's timer did not end
ENDED = "not decoded: decoding has ended"
SINGLE_THREADED = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Died(Exception):
    """A worker ended while it decoded."""


class Decoders:
    """Up to `workers` processes, each started when it is first needed. Any thread may call its methods, which wait for a free one."""

    def __init__(self, workers: int, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # the last used first; None: not started yet
        for _ in range(workers):
            self._free.put(None)
        self._lock = threading.Lock()  # guards what follows
        self._started: set[_Worker] = set()
        self._closed = False

    def fit(self, encoded: Sequence[bytes], out: np.ndarray, max_pixels: int = MAX_PIXELS) -> dict[int, str]:
        """Fill `out`, uint8 (n, H, W, 3), with whole images; returns why those could not be decoded that are left black, by place."""
        asked = {"work": "fit", "size": out.shape[1:3], "max_pixels": max_pixels}
        try:
            errors, pixels = self._ask(asked, encoded)
        except Died as death:
            if len(encoded) == 1:
                out[:] = 0
                return {0: str(death)}
            # Which one of them it was is found out one by one.
            alone = [self.fit([data], out[place : place + 1], max_pixels) for place, data in enumerate(encoded)]
            return {place: error[0] for place, error in enumerate(alone) if error}
        out[:] = pixels
        return errors

    def decode_rgb(self, data: bytes, *, min_height_px: int = 0, min_width_px: int = 0, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """As `image.decode_rgb`, bit for bit; raises InputError where that does, and where the process dies."""
        try:
            errors, pixels = self._ask({"work": "decode", "size": (min_height_px, min_width_px), "max_pixels": max_pixels}, [data])
        except Died as death:
            raise InputError(str(death)) from death
        if errors:
            raise InputError(errors[0])
        return pixels

    def close(self) -> None:
        """End all workers, at once; who still waits for one gets an error for its image."""
        with self._lock:
            self._closed = True
            started, self._started = self._started, set()
        for worker in started:
            worker.kill()  # whoever is talking to it closes the socket
        idle: list[_Worker | None] = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._free.get_nowait())
        for one in idle:
            if one is not None:
                one.stop()
            self._free.put(None)  # whoever comes later need not wait for ever

    def _ask(self, asked: dict[str, Any], encoded: Sequence[bytes]) -> tuple[dict[int, str], np.ndarray]:
        with self._worker() as worker:
            return worker.ask(asked | {"count": len(encoded), "timeout_s": self._timeout_s}, encoded)

    @contextmanager
    def _worker(self) -> "Iterator[_Worker]":
        """A free one, which is given up where anything goes wrong: another conversation could not begin in the middle of one."""
        worker = self._free.get()
        try:
            with self._lock:
                if self._closed:
                    raise Died(ENDED)
                if worker is None:
                    worker = _Worker()
                    self._started.add(worker)
            yield worker
        except BaseException as error:
            if worker is not None:
                worker.stop()
                with self._lock:
                    self._started.discard(worker)
            worker = None
            if self._closed and isinstance(error, FastfashionError):  # it was ended while it started
                raise Died(ENDED) from error
            raise
        finally:
            self._free.put(worker)


class _Worker:
    """A process with a socket of its own."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            # By the parent's own search path: where `fastfashion` was found here, it is found there. `-m` would look in other places.
            code = f"import sys; sys.path[:] = {sys.path!r}; from fastfashion.serve.decode_worker import main; main({theirs.fileno()})"
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal goes to the parent's group alone
                env=os.environ | SINGLE_THREADED,
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
            pixels = np.empty(answer["shape"], dtype=np.uint8)
            if pixels.size:
                self._pipe.recv_bytes_into(pixels.data.cast("B"))
        except (EOFError, OSError) as error:
            code = self._exit_code()
            if code == -signal.SIGALRM:
                raise Died(self._too_long(asked)) from error
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise Died(f"decoding it ended the process that tried ({how}): save the image anew with another program") from error
        return {int(place): text for place, text in answer["errors"].items()}, pixels

    def _wait_until_ready(self) -> None:
        try:
            if self._pipe.poll(START_S) and self._pipe.recv_bytes() == READY:
                self._is_ready = True
                return
        except (EOFError, OSError):
            pass
        raise FastfashionError(f"the process that decodes images does not start (exit code {self._exit_code()}); what it said is above")

    def _exit_code(self) -> int:
        try:
            return self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    @staticmethod
    def _too_long(asked: dict[str, Any]) -> str:
        return f"does not decode within {asked['timeout_s']:.0f} s, and was given up"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        self._pipe.close()
