"""Commands and training processes for tests, started in a fraction of a second: forked from a server that has imported all already."""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

context = multiprocessing.get_context("forkserver")
IMPORTED = ["cli", "train.job", "train.__main__", "evaluate.run", "serve.predictor"]
context.set_forkserver_preload([*(f"fastfashion.{name}" for name in IMPORTED), "timm", "timm.optim", "timm.utils", "cv2", "workers"])


def fastfashion(*arguments: str, cwd: Path, timeout_s: int = 300) -> "subprocess.CompletedProcess[str]":
    """`fastfashion ARGUMENTS` as a process of its own in `cwd`, on a terminal 100 characters wide."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = context.Process(target=_command, args=(arguments, str(cwd), str(out), str(err)))
        process.start()
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"fastfashion {' '.join(arguments)}: {timeout_s} s\n{err.read_text(encoding='utf-8')}")
        texts = out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
        return subprocess.CompletedProcess(list(arguments), process.exitcode or 0, *texts)


def _command(arguments: Sequence[str], cwd: str, out: str, err: str) -> None:
    os.chdir(cwd)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
    sys.argv = ["fastfashion", *arguments]
    os.environ["COLUMNS"] = "100"
    from fastfashion.cli import main

    main()


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
        from fastfashion.train import trainer

        seed = trainer.seed_step

        def raising(seed_: int, step: int, rank_: int) -> None:
            if step == raises_at:
                raise RuntimeError("as the test asked for")
            seed(seed_, step, rank_)

        trainer.seed_step = raising

    def command() -> None:
        work(RunConfig.from_dict(config), Path(run), "test", False)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    sys.argv = ["test"]
    run_command(app)
