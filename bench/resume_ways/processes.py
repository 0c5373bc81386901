"""The two runs of a way: the processes of the first are killed, fresh ones resume."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastfashion
from resume_ways.job import Way

OURS = "with_fastfashion"
ENDS_WITHIN_S = 10.0  # other processes of a run, after one has failed


@dataclass(frozen=True)
class Ended:
    """How the processes of a run ended."""

    killed: bool  # by themselves, as planned
    hung: bool
    error: str  # the first words of what was raised, if anything was
    said: str  # stderr of all

    @property
    def failed(self) -> str:
        return "no end within the time" if self.hung else self.error


def run_processes(python: Path, module: str, way: Way, folder: Path, data: Path, *, second: bool, limit_s: float) -> Ended:
    """Run all processes of the first or the second run, each with a log of its own."""
    job = way.job(second) | {"folder": str(folder), "data": str(data)}
    world, name = int(job["world"]), "second" if second else "first"
    port = _free_port()
    processes = []
    for rank in range(world):
        with (folder / f"{name}-{rank}.err").open("wb") as said:
            command = [str(python), "-m", f"resume_ways.{module}", json.dumps(job)]
            environment = _environment(rank, world, port, _folders(module))
            processes.append(subprocess.Popen(command, stdout=said, stderr=said, env=environment, start_new_session=True))
    try:
        hung = _wait(processes, limit_s)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # workers of a killed process, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said_by = [(folder / f"{name}-{rank}.err").read_text(encoding="utf-8", errors="replace") for rank in range(world)]
    reached = len(list(folder.glob("reached-*"))) == world
    broken = [text for process, text in zip(processes, said_by, strict=True) if process.returncode not in (0, -signal.SIGKILL)]
    killed = not second and reached
    error = "" if killed or not broken else error_words(broken[0])
    return Ended(killed, hung and not killed, error, "\n".join(said_by))


def error_words(text: str) -> str:
    """The exception that a traceback ends with, in one line of some 100 characters."""
    plain = [re.sub(r"^\[rank\d+\]: ", "", line) for line in text.strip().splitlines()]
    raised = [line for line in plain if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Stop\w*)\b", line)]
    words = raised[-1].split(". ")[0] if raised else (plain or ["no message"])[-1]
    return words if len(words) <= 100 else words[:100].rsplit(" ", 1)[0] + " …"


def _wait(processes: list[subprocess.Popen[bytes]], limit_s: float) -> bool:
    """Wait until all have ended, or one has failed and the others had time to follow; True if the time was up."""
    end = time.monotonic() + limit_s
    shortened = False
    while any(process.poll() is None for process in processes):
        if time.monotonic() > end:
            return not shortened
        if not shortened and any(process.poll() not in (None, 0) for process in processes):
            end, shortened = min(end, time.monotonic() + ENDS_WITHIN_S), True
        time.sleep(0.02)
    return False


def _folders(module: str) -> str:
    """What a process may import beside its environment: the ways, and for ours the package that runs here."""
    bench = Path(__file__).parents[1]
    return os.pathsep.join([str(bench), *([str(Path(fastfashion.__file__).parents[1])] if module == OURS else [])])


def _environment(rank: int, world: int, port: int, folders: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "HF_"))}
    path = {"PYTHONPATH": folders}
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    ranks: dict[str, Any] = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return kept | path | quiet | {name: str(value) for name, value in (ranks | meeting).items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare(python: Path, module: str, data: Path, rows: int) -> None:
    """Write the samples in the form that the library reads, in its environment."""
    if not data.exists():
        command = [str(python), "-m", f"resume_ways.{module}", "--prepare", str(data), str(rows)]
        subprocess.run(command, env=_environment(0, 1, _free_port(), _folders(module)), check=True, capture_output=True)
