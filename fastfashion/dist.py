"""Ranks and worlds: this process's rank, the number of processes, and the few collectives that the package needs."""

import contextlib
import gc
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fastfashion.errors import ConfigError, LostPeerError

if TYPE_CHECKING:
    import torch

MEET_S = 300.0  # for all processes of a start to find each other
POLL_S = 0.02


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


def start(timeout_s: float = 600.0) -> World:
    """Read torchrun's environment, choose this rank's device and share of the cores, and join the process group if there is one.

    nccl on CUDA, gloo on CPU; `timeout_s` is how long any rank waits for the others later. Raises LostPeerError if the other ranks do
    not come. For processes of our own: in somebody else's program `here` gives the place and changes nothing.
    """
    import torch

    local_rank, local_size, size = env_int("LOCAL_RANK", 0), env_int("LOCAL_WORLD_SIZE", 1), env_int("WORLD_SIZE", 1)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else _without_cuda(size)
    world = World(rank=env_int("RANK", 0), size=size, local_rank=local_rank, local_size=local_size, device=device)
    if cuda:
        torch.cuda.set_device(device)
    torch.set_num_threads(num_threads(local_size))
    if world.size > 1:
        store, _, _ = next(torch.distributed.rendezvous("env://"))
        torch.distributed.init_process_group(
            "nccl" if cuda else "gloo",
            store=torch.distributed.PrefixStore(_meet(store, world), store),
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout_s),
            device_id=device if cuda else None,
        )
    return world


def here() -> World:
    """This process's place in the group that its program has formed, alone if there is none, on its current device. Changes nothing."""
    import torch

    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    size = torch.distributed.get_world_size() if together else 1
    return World(
        rank=torch.distributed.get_rank() if together else 0,
        size=size,
        local_rank=env_int("LOCAL_RANK", 0),
        local_size=env_int("LOCAL_WORLD_SIZE", 1),
        device=torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else _without_cuda(size),
    )


def _without_cuda(size: int) -> "torch.device":
    """Apple's GPU for one process, which is all that it takes; else the CPU."""
    import torch

    return torch.device("mps" if size == 1 and torch.backends.mps.is_available() else "cpu")


def device_of(device: "str | torch.device") -> "torch.device":
    """A device that was asked for; raises ConfigError if torch knows none of that name, or this machine has none."""
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device: expected cpu, cuda, cuda:N or mps, found {device!r}") from error
    if found.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device: expected cpu, cuda, cuda:N or mps, found {str(found)!r}")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device: 'mps', but this machine has no GPU of Apple's that torch can use; choose another, or leave it out")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= count:
        there = f"{count} of them" if count else "no GPU that torch can use (fastfashion doctor says why)"
        raise ConfigError(f"device: {str(found)!r}, but this machine has {there}; choose another, or leave it out")
    return found


def alone(device: "str | torch.device | None" = None) -> World:
    """This process by itself, whatever its program has formed, on a device that is the current one by default."""
    place = here()
    return replace(place, rank=0, size=1, device=place.device if device is None else device_of(device))


@contextlib.contextmanager
def joined(timeout_s: float) -> Iterator[World]:
    """The group that the program has formed, or else a temporary one that `start` forms; afterwards the state is as before."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        yield here()
        return
    threads, device = torch.get_num_threads(), torch.cuda.current_device() if torch.cuda.is_available() else None
    try:
        yield start(timeout_s)
    finally:
        stop()
        torch.set_num_threads(threads)
        if device is not None:
            torch.cuda.set_device(device)


def _meet(store: "torch.distributed.Store", world: World) -> str:
    """A name for this start of the group, the same on all ranks, that no earlier start has had.

    torchrun's restarts share one store (torch 2.15), which keeps the addresses of dead processes; a count of restarts is not unique: each
    host has its own. So each rank takes a ticket that nobody had before, rank 0 publishes a list of them until each of the others has found
    its own in it, and its own ticket is the name.
    """
    ticket = store.add("fastfashion/tickets", 1)
    store.set(f"fastfashion/ticket/{world.rank}", str(ticket))
    deadline = time.monotonic() + MEET_S
    while time.monotonic() < deadline:
        if world.is_main:
            keys = [f"fastfashion/ticket/{rank}" for rank in range(world.size)]
            if store.check(keys):
                store.set("fastfashion/meeting", json.dumps([int(store.get(key)) for key in keys]))
            name = f"fastfashion/start/{ticket}"
            if store.check([f"{name}/{rank}" for rank in range(1, world.size)]):
                return name
        elif store.check(["fastfashion/meeting"]):
            tickets = json.loads(store.get("fastfashion/meeting"))
            if len(tickets) == world.size and tickets[world.rank] == ticket:
                name = f"fastfashion/start/{tickets[0]}"
                store.set(f"{name}/{world.rank}", "here")
                return name
        time.sleep(POLL_S)
    raise LostPeerError(
        f"waited {MEET_S:.0f} s for all {world.size} processes to start; check what the others print, and whether they can reach this host"
    )


def stop() -> None:
    """Leave the process group, if there is one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def lost_peer_explained(world: World) -> Iterator[None]:
    """Inside this context, an error caused by another process that has ended or does not answer becomes a LostPeerError."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1:
            raise
        if found := re.search(r"[Tt]imed out[^.]*|[Tt]imeout[^.]*", str(error)):
            raise LostPeerError(
                f"another process of this run did not answer in time: its host is unreachable, or it hangs ({found[0].strip()}).  "
                "Raise train.timeout_s to wait longer"
            ) from error
        if found := re.search(r"[Cc]onnection (?:closed|reset|refused)[^\[\n]*|Broken pipe|NCCL[^\n]*|ncclRemoteError", str(error)):
            raise LostPeerError(f"another process of this run has ended; its own error says why ({found[0].strip()})") from error
        raise


def end_worker(world: World, status: int = 0) -> None:
    """End this process immediately, by default successfully, if it is one of several; call it when all is written and closed.

    gloo's threads outlive destroy_process_group (torch 2.15). One that asks for Python's lock while the interpreter ends aborts the
    process, and the launcher then takes finished work for failed: "terminate called without an active exception", exit code -6.
    """
    if world.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        for one in gc.get_objects():
            if type(one) is tempfile.TemporaryDirectory:  # which os._exit leaves; wandb, which timm imports, keeps one until exit
                with contextlib.suppress(OSError):
                    one.cleanup()
        os._exit(status)


def cores_per_process(local_size: int) -> int:
    """This process's even share of the cores it may run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_size)


def num_threads(local_size: int) -> int:
    """Threads for one process's computing: its share of the cores, fewer if $OMP_NUM_THREADS asks for fewer."""
    wished = re.match(r"\s*(\d+)", os.environ.get("OMP_NUM_THREADS", ""))  # it may be a list, one number a level of nesting
    share = cores_per_process(local_size)
    return min(share, max(1, int(wished[1]))) if wished else share


def gather(world: World, value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    if world.size == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(values, value)
    return values


def broadcast_buffers(world: World, model: "torch.nn.Module") -> None:
    """Give every rank rank 0's buffers: batch norm's statistics drift apart, since each rank sees its own share of a batch."""
    if world.size > 1:
        import torch

        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def from_main(world: World, value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if world.size == 1:
        return value
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def tensors_from_main(world: World, tensors: "dict[str, torch.Tensor] | None") -> "dict[str, torch.Tensor]":
    """Rank 0's tensors, by name, on every rank's CPU; the others hand in None."""
    if world.size == 1:
        assert tensors is not None
        return tensors
    import torch

    known = from_main(world, None if tensors is None else {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    found = {}
    for name, (shape, dtype) in known.items():
        tensor = torch.empty(shape, dtype=dtype) if tensors is None else tensors[name]
        moved = tensor.to(world.device)
        torch.distributed.broadcast(moved, src=0)
        found[name] = moved.cpu()
    return found
