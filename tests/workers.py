"""Commands and training processes for tests, started in a fraction of a second: forked from a server that has imported all already."""

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

context = multiprocessing.get_context("forkserver")
IMPORTED = ["cli", "train.job", "train.__main__", "evaluate.report", "predict.predictor", "serve.server", "serve.page"]
PRELOADED = [*(f"fastfashion.{name}" for name in IMPORTED), "timm", "timm.optim", "timm.utils", "cv2", "uvicorn", "workers"]
context.set_forkserver_preload(PRELOADED)


class Started:
    """A process that was forked from the warm server, with the methods of subprocess.Popen; what it prints is in two files."""

    def __init__(self, work: Callable[[], Any], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ff-test-")
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        environment = dict(os.environ if env is None else env)
        self.process = context.Process(target=_run, args=(work, str(cwd or Path.cwd()), environment, str(self._out), str(self._err)))
        self._out.touch()
        self._err.touch()
        self.process.start()
        self.pid = int(self.process.pid or 0)

    @property
    def stdout(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8")

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0, self.stdout, self.stderr)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.stdout, self.stderr

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(work: Callable[[], Any], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
    warnings.filterwarnings("error", category=DeprecationWarning, module="fastfashion")
    try:
        work()
    finally:
        atexit._run_exitfuncs()


WRITES = os.O_WRONLY | os.O_RDWR
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}  # as Python's audit events call them


def die_at_change(number: int, only: frozenset[str] = frozenset()) -> None:
    """End this process by SIGKILL at its n-th change to the disk: a file opened for writing, made, renamed, removed; or of `only` these."""
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        changes = event in only if only else event in CHANGES or (event == "open" and bool(arguments[2] & WRITES))
        left -= changes
        if changes and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class Command:
    """`fastfashion ARGUMENTS`, as the console script runs it."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments

    def __call__(self) -> None:
        sys.argv = ["fastfashion", *self.arguments]
        from fastfashion.cli import main

        main()


def begin(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Started:
    """`fastfashion ARGUMENTS` as a process of its own that has just started, on a terminal 100 characters wide."""
    return Started(Command(*map(str, arguments)), cwd=cwd, env={**(os.environ if env is None else env), "COLUMNS": "100"})


def fastfashion(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: int = 300
) -> "subprocess.CompletedProcess[str]":
    """`fastfashion ARGUMENTS` as a process of its own in `cwd`, to its end."""
    started = begin(*arguments, cwd=cwd, env=env)
    try:
        status = started.wait(timeout_s)
    finally:
        started.kill()
    return subprocess.CompletedProcess(list(map(str, arguments)), status, started.stdout, started.stderr)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@dataclass(frozen=True)
class Fault:
    """What befalls a rank: RuntimeError at a step of the run, SIGKILL once a new file is in a folder, or at its n-th change to the disk."""

    raises_at: int | None = None
    killed_after_one_in: Path | None = None
    killed_at_change: int | None = None
    there: frozenset[Path] = frozenset()  # the files of that folder that are not new

    def at_step(self, step: int) -> None:
        if self.killed_after_one_in and set(self.killed_after_one_in.glob("*.json")) - self.there:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.raises_at:
            raise RuntimeError("as the test asked for")


def start(
    config: Mapping[str, Any], run: Path, size: int = 1, log: Path | None = None, faults: Mapping[int, Fault] | None = None
) -> list[Any]:
    """Processes of a world of `size`, each a rank, some with a fault; what they print goes to `log`, if given, which is added to."""
    shared, of_rank = (size, free_port(), log and str(log)), faults or {}
    processes = [context.Process(target=_work, args=(config, str(run), rank, *shared, of_rank.get(rank))) for rank in range(size)]
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


def _work(config: Mapping[str, Any], run: str, rank: int, size: int, port: int, log: str | None, fault: Fault | None) -> None:
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

    from fastfashion.command_line import run_command, show
    from fastfashion.config import RunConfig
    from fastfashion.train.__main__ import work

    if fault is not None:
        from fastfashion.train import trainer

        seed = trainer.seed_step

        def failing(number: int, step: int, rank_: int) -> None:
            fault.at_step(step)
            seed(number, step, rank_)

        trainer.seed_step = failing
        if fault.killed_at_change is not None:
            die_at_change(fault.killed_at_change)

    def command() -> None:
        answer = work(RunConfig.from_dict(config), Path(run), "test")
        if answer is not None:
            show(answer, as_json=False)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    sys.argv = ["test"]
    run_command(app)
