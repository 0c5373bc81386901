"""Ranks and worlds: who am I, how many are we, and the few collectives that the rest of the package needs."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastfashion.errors import TrainingError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class World:
    """One process's place among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: "torch.device"

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def env_int(name: str, default: int) -> int:
    """A whole number that torchrun puts into the environment."""
    return int(os.environ.get(name, default))


def start() -> World:
    """Read torchrun's environment, choose this rank's device and CPU share, and join the process group where there is one.

    nccl on CUDA, gloo on CPU. Each process gets its share of the machine's cores for torch's own threads.
    """
    import torch

    local_rank, local_size = env_int("LOCAL_RANK", 0), env_int("LOCAL_WORLD_SIZE", 1)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    world = World(rank=env_int("RANK", 0), size=env_int("WORLD_SIZE", 1), local_rank=local_rank, local_size=local_size, device=device)
    if cuda:
        torch.cuda.set_device(device)
    torch.set_num_threads(cores_per_process(local_size))
    if world.size > 1:
        torch.distributed.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    return world


def stop() -> None:
    """Leave the process group, where there is one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def lost_peer_explained(world: World) -> Iterator[None]:
    """A connection that breaks because another process has ended becomes a TrainingError that says so."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not re.search(r"onnection (closed|reset|refused)|Broken pipe|NCCL|ncclRemoteError", str(error)):
            raise
        raise TrainingError(f"another process of this run has ended; its own error says why ({str(error).splitlines()[0]})") from error


def end_worker(world: World) -> None:
    """End this process, successfully and at once, where it is one of several; call it when all is written and closed.

    gloo's threads outlive destroy_process_group (torch 2.15). One that asks for Python's lock while the interpreter ends aborts the
    process, and the launcher then takes finished work for failed: "terminate called without an active exception", exit code -6.
    """
    if world.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def cores_per_process(local_size: int) -> int:
    """This process's even share of the cores it may run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_size)


def gather(world: World, value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    if world.size == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(values, value)
    return values


def barrier(world: World) -> None:
    """Wait until every rank is here."""
    gather(world, None)


def broadcast_buffers(world: World, model: "torch.nn.Module") -> None:
    """Give every rank rank 0's buffers: batch norm's statistics drift apart, since each rank sees its own share of a batch."""
    if world.size > 1:
        import torch

        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
