"""Running blocks side by side: in this process, in worker processes of this machine, or on a Ray cluster.

Every engine yields the numbers of blocks as they are done; their records are on disk. A block that was started and not finished leaves
nothing that a later run could take for a shard.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Protocol

from fastfashion.errors import PackedSetError
from fastfashion.pack.block import Block, Job, Tick, pack_block
from fastfashion.scratch import signals_raise

ATTEMPTS = 2  # of a block whose process dies
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Engine(Protocol):
    def run(self, job: Job, blocks: Iterable[Block], tick: Tick) -> Iterator[int]: ...
    def close(self) -> None: ...


def open_engine(name: str, workers: int, address: str | None) -> Engine:
    """ "local": worker processes, or this process alone if `workers` is 1; "ray": a cluster's, at `address`."""
    if name == "ray":
        from fastfashion.pack.ray import RayEngine

        return RayEngine(address)
    return InProcess() if workers == 1 else Processes(workers)


class InProcess:
    """One block after the other, here."""

    def run(self, job: Job, blocks: Iterable[Block], tick: Tick) -> Iterator[int]:
        for block in blocks:
            pack_block(job, block, tick)
            yield block.number

    def close(self) -> None: ...


class Processes:
    """Worker processes. They start when the engine is opened, so that their imports overlap with planning."""

    def __init__(self, workers: int) -> None:
        self._workers = [_Worker() for _ in range(workers)]

    def run(self, job: Job, blocks: Iterable[Block], tick: Tick) -> Iterator[int]:
        """Raises what a worker raised, and PackedSetError if a block has killed its process for the second time."""
        todo = iter(blocks)
        deaths: dict[int, int] = {}
        for worker in self._workers:
            worker.give(job, next(todo, None))
        while busy := {worker.pipe: worker for worker in self._workers if worker.block is not None}:
            for worker in [busy[pipe] for pipe in wait(list(busy)) if isinstance(pipe, Connection)]:
                block = worker.block
                assert block is not None
                try:
                    answer = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    deaths[block.number] = deaths.get(block.number, 0) + 1
                    self._replace(worker, job, block, deaths[block.number])
                    continue
                if isinstance(answer, Exception):
                    raise answer
                if answer is None:
                    worker.give(job, next(todo, None))
                    yield block.number
                else:
                    tick(*answer)

    def _replace(self, dead: "_Worker", job: Job, block: Block, deaths: int) -> None:
        dead.process.join()
        if deaths >= ATTEMPTS:
            shard = job.folders[job.resolutions[0]] / f"{block.number:05d}.tar"
            raise PackedSetError(
                f"{shard}: the process that packs it died {deaths} times (exit code {dead.process.exitcode}), with the images of "
                f"{block.ids_text}; what is packed so far is kept: run the same command again, with fewer --workers if memory was short"
            )
        dead.pipe.close()
        self._workers[self._workers.index(dead)] = worker = _Worker()
        worker.give(job, block)

    def close(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
            worker.process.join()
            worker.pipe.close()


class _Worker:
    """A process with a pipe of its own. It ends with its parent, however that ends."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe breaks when the process dies
        self.block: Block | None = None

    def give(self, job: Job, block: Block | None) -> None:
        self.block = block
        if block is not None:
            with contextlib.suppress(BrokenPipeError):  # it died while idle: `run` notices the broken pipe when it reads
                self.pipe.send((job, block))


def _serve(pipe: Connection) -> None:
    """Pack what comes through the pipe until it is closed; answers with a tuple a tick, and for each block with None, or its exception."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            job, block = pipe.recv()
            try:
                pack_block(job, block, lambda *sums: pipe.send(sums))
            except Exception as error:
                pipe.send(error)
            else:
                pipe.send(None)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, for processes of our own: asked for again, an image's megabytes cost 8 % of its time in page faults."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # glibc's maximum
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


@contextlib.contextmanager
def own_process() -> Iterator[None]:
    """For commands: keep freed memory, and let SIGTERM end packing as an exception, as Ctrl-C does, so that workers end with it."""
    keep_freed_memory()
    with signals_raise():
        yield
