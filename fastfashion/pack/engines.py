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
from typing import Any, Protocol

from fastfashion.errors import PackedSetError
from fastfashion.pack.block import Block, Job, Tick, pack_block
from fastfashion.scratch import signals_raise

ATTEMPTS = 2  # of a block whose process dies: one restart
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Engine(Protocol):
    def run(self, job: Job, blocks: Iterable[Block], tick: Tick) -> Iterator[int]: ...
    def close(self) -> None: ...


def open_engine(name: str, workers: int, address: str | None) -> Engine:
    """ "local": worker processes, or this process alone where `workers` is 1; "ray": a cluster's, at `address`."""
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


class _Worker:
    """A process with a pipe of its own. It ends with its parent, however that ends."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe breaks when the process dies
        self.block: Block | None = None

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


class Processes:
    """Worker processes. They start when the engine is opened, so that their imports overlap with planning."""

    def __init__(self, workers: int) -> None:
        self._workers = [_Worker() for _ in range(workers)]

    def run(self, job: Job, blocks: Iterable[Block], tick: Tick) -> Iterator[int]:
        """Raises what a worker raised, and PackedSetError where a block has killed its process for the second time."""
        todo = iter(blocks)
        deaths: dict[int, int] = {}
        for worker in self._workers:
            self._give(worker, job, next(todo, None))
        while busy := [worker for worker in self._workers if worker.block is not None]:
            ready = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                block = worker.block
                assert block is not None
                try:
                    kind, value = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    deaths[block.number] = deaths.get(block.number, 0) + 1
                    self._replace(worker, job, block, deaths[block.number])
                    continue
                if kind == "tick":
                    tick(*value)
                elif kind == "failed":
                    raise value
                else:
                    self._give(worker, job, next(todo, None))
                    yield block.number

    def _give(self, worker: _Worker, job: Job, block: Block | None) -> None:
        worker.block = block
        if block is not None:
            with contextlib.suppress(BrokenPipeError):  # it died while idle: the broken pipe is noticed where results are read
                worker.pipe.send((job, block))

    def _replace(self, dead: _Worker, job: Job, block: Block, deaths: int) -> None:
        dead.process.join()
        if deaths >= ATTEMPTS:
            shard = job.folders[job.resolutions[0]] / f"{block.number:05d}.tar"
            raise PackedSetError(
                f"{shard}: the process that packs it died {deaths} times (exit code {dead.process.exitcode}), with the images of "
                f"{block.ids_text}; what is packed so far stays: run the same command again, with fewer --workers if memory was short"
            )
        dead.pipe.close()
        fresh = _Worker()
        self._workers[self._workers.index(dead)] = fresh
        self._give(fresh, job, block)

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: an image's megabytes given back and asked for again cost 377 page faults, 8 % of its time at 224.

    Only for processes of our own: it holds for the whole process.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # glibc takes no more
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


@contextlib.contextmanager
def own_process() -> Iterator[None]:
    """For commands: freed memory is kept, and SIGTERM ends packing as an exception, as Ctrl-C does, so that worker processes end with it.

    In somebody else's program neither allocator nor signal handlers are ours to change; there, workers end with their parent.
    """
    keep_freed_memory()
    with signals_raise():
        yield


def _serve(pipe: Connection) -> None:
    """A worker's life: pack the blocks that come through the pipe until it is told to stop, or its parent is gone."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def say(kind: str, value: Any = None) -> None:
        pipe.send((kind, value))

    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            job, block = pipe.recv()
            try:
                pack_block(job, block, lambda *sums: say("tick", sums))
            except Exception as error:
                say("failed", error)
            else:
                say("done")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
