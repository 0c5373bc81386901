"""Training processes for tests, started in a fraction of a second: forked from a server that has imported everything already."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["fastfashion.train.job", "fastfashion.train.__main__", "timm", "timm.optim", "timm.utils", "cv2", "workers"]
)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def start(
    config: Mapping[str, Any], run: Path, size: int = 1, log: Path | None = None, raises_at: Mapping[int, int] | None = None
) -> list[Any]:
    """Processes of a world of `size`, each a rank; what they print goes to `log`, if given, which is added to.

    `raises_at`: rank -> the step at which it raises RuntimeError.
    """
    shared, raising = (size, free_port(), log and str(log)), raises_at or {}
    processes = [context.Process(target=_work, args=(config, str(run), rank, *shared, raising.get(rank))) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def run_all(config: Mapping[str, Any], run: Path, size: int = 1, log: Path | None = None, timeout_s: float = 120) -> list[int]:
    """Exit statuses by rank."""
    processes = start(config, run, size, log)
    for process in processes:
        process.join(timeout_s)
    alive = [process.is_alive() for process in processes]
    for process in processes:
        process.kill()
    assert not any(alive), "a process did not end"
    return [process.exitcode for process in processes]


def _work(config: Mapping[str, Any], run: str, rank: int, size: int, port: int, log: str | None, raises_at: int | None) -> None:
    values = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_PORT": port,
        "MASTER_ADDR": "127.0.0.1",
    }
    os.environ.update({name: str(value) for name, value in values.items()})
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
    import typer

    from fastfashion.config import RunConfig
    from fastfashion.options import run_command
    from fastfashion.train.__main__ import _work as work

    if raises_at is not None:
        from fastfashion.train import loop

        seed = loop.seed_step

        def raising(seed_: int, step: int, rank_: int) -> None:
            if step == raises_at:
                raise RuntimeError("as the test asked for")
            seed(seed_, step, rank_)

        loop.seed_step = raising

    def command() -> None:
        work(RunConfig.from_dict(config), Path(run), "test", False)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    sys.argv = ["test"]
    run_command(app)
