"""Packing on a Ray cluster. The only module that imports Ray."""

import logging
import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from fastfashion.errors import ConfigError, FastfashionError, PackedSetError
from fastfashion.pack.block import Block, Job, Tick, pack_block

RETRIES = 3  # of a block whose node or process is lost, before the run stops
CONNECT_S = 5
AHEAD = 2  # blocks a core that wait in Ray's queue, so that no core waits for this process


class RayEngine:
    """Blocks as Ray tasks of one core each; source and output must be reachable under the same path from every node."""

    def __init__(self, address: str | None) -> None:
        """Join the cluster at `address` ("auto": the one that runs here); None starts Ray on this machine alone.

        In a process that Ray runs in already, that one is used, and left running.
        """
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--engine ray: Ray is not installed; pip install 'fastfashion[ray]'") from error
        self._ours = not ray.is_initialized()
        if not self._ours:
            return
        try:
            _knock(address)
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False if address is None else None
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"--address {address}: no Ray cluster answers ({error}); start one with ray start --head") from error

    def run(self, job: Job, blocks: Iterable[Block], tick: Tick) -> Iterator[int]:
        """Raises what a block raised, and PackedSetError where a block is lost again and again."""
        import ray

        shared = ray.put(job)
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_pack_block)
        todo = iter(blocks)
        running: dict[Any, Block] = {}
        while True:
            limit = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            for block in islice(todo, max(0, limit - len(running))):
                running[task.remote(shared, block)] = block
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            block = running.pop(done[0])
            try:
                tick(*ray.get(done[0]))
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, FastfashionError | OSError) else error from error
            except ray.exceptions.RayError as error:
                shard = job.folders[job.resolutions[0]] / f"{block.number:05d}.tar"
                raise PackedSetError(
                    f"{shard}: the block of ids {block.samples[0][0]} to {block.samples[-1][0]} was lost {RETRIES + 1} times ({error}); "
                    "what is packed so far stays: run the same command again"
                ) from error
            yield block.number

    def close(self) -> None:
        import ray

        if self._ours:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError where nothing listens at host:port: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "//" not in host:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S):
            pass


def _pack_block(job: Job, block: Block) -> tuple[int, int, int]:
    """Pictures, encoded bytes and rejected pictures of the block."""
    if not job.records.is_dir():
        raise PackedSetError(
            f"{job.records}: not there on node {socket.gethostname()}; source and output must lie where every node reaches them"
        )
    sums = (0, 0, 0)

    def add(images: int, num_bytes: int, rejected: int) -> None:
        nonlocal sums
        sums = (sums[0] + images, sums[1] + num_bytes, sums[2] + rejected)

    pack_block(job, block, add)
    return sums
