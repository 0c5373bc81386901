"""Packing on a Ray cluster. The only module that imports Ray."""

import importlib
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from fastfashion.errors import ConfigError, FastfashionError, PackedSetError
from fastfashion.extras import needs
from fastfashion.pack.block import Block, Job, Tick, pack_block

RETRIES = 3  # of a block whose node or process is lost
CONNECT_S = 5
MODE = "RAY_AUTH_MODE"  # environment variable of Ray 2.52 and later
AHEAD = 2  # blocks for each core in Ray's queue, so that no core waits for this process


class RayEngine:
    """Blocks as Ray tasks of one core each; source and output must be reachable under the same path from every node."""

    def __init__(self, address: str | None) -> None:
        """Join the cluster at `address` ("auto": the one here); None starts Ray here. One that this process has already is left running."""
        with needs("ray", "--engine ray"):
            import ray
        self._ours = not ray.is_initialized()
        if not self._ours:
            return
        try:
            _knock(address)
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False if address is None else None
            )
        except (OSError, ValueError, ray.exceptions.RayError) as error:
            if _wants_token(error):
                given = "this process has none, or a wrong one" if os.environ.get(MODE) == "token" else "this process has none"
                raise ConfigError(
                    f"--address {address}: the Ray cluster refuses: it requires a token, and {given}. Set {MODE}=token, and the cluster's "
                    "token in RAY_AUTH_TOKEN or the path of a file with it in RAY_AUTH_TOKEN_PATH (where neither is set, "
                    "~/.ray/auth_token is read)"
                ) from error
            if isinstance(error, ray.exceptions.RayError):
                raise
            raise ConfigError(f"--address {address}: no Ray cluster answers ({error}); start one with ray start --head") from error

    def run(self, job: Job, blocks: Iterable[Block], tick: Tick) -> Iterator[int]:
        """Raises what a block raised, and PackedSetError if a block is lost more often than Ray retries it."""
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
                    f"{shard}: the block of {block.ids_text} was lost {RETRIES + 1} times ({error}); what is packed so far is kept: "
                    "run the same command again"
                ) from error
            yield block.number

    def close(self) -> None:
        import ray

        if self._ours:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise if nothing listens at host:port, or the cluster there needs another token: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal() or "//" in host:
        return
    with socket.create_connection((host, int(port)), timeout=CONNECT_S):
        pass
    try:
        setup = importlib.import_module("ray._private.authentication.authentication_token_setup")
        client = importlib.import_module("ray._raylet").GcsClient
    except (ImportError, AttributeError):  # a Ray without tokens, or with these elsewhere
        return
    try:
        setup.ensure_token_if_auth_enabled(create_token_if_missing=False)  # the client would end the process if there is none
        client(address=address)
    except Exception as error:  # ray.init reports everything else
        if _wants_token(error):
            raise


def _wants_token(error: BaseException | None) -> bool:
    """Whether a cluster refused because of the token. ray.init has that only in the text of the cause (Ray 2.60)."""
    while error is not None:
        text = str(error)
        if type(error).__name__ == "AuthenticationError" or "InvalidAuthToken" in text or "Unauthenticated" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _pack_block(job: Job, block: Block) -> tuple[int, int, int]:
    """Pack a block on a node; returns its images, encoded bytes and rejected images."""
    if not job.records.is_dir():
        raise PackedSetError(
            f"{job.records}: missing on node {socket.gethostname()}; every node must reach source and output under the same path"
        )
    return pack_block(job, block)
