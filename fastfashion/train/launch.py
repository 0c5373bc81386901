"""`--nproc N`: start N workers on this machine through torch's elastic launch, from any way of starting.

fastfashion train --nproc 4        ─┐
python -m fastfashion.train …       ├─► one process ─► launch ─► 4 × python -m fastfashion.train
torchrun -m fastfashion.train … ────┘  (its world has size 1)
"""

import os
import signal
import sys
import uuid
from collections.abc import Sequence

from fastfashion.dist import cores_per_process, env_int
from fastfashion.errors import ConfigError, LostPeerError
from fastfashion.scratch import scratch
from fastfashion.words import counted

USER_ERROR = 2  # exit status of errors that the user must correct: a restart would fail in the same way
GUARD = "FASTFASHION_WORKER"  # set in the environment of launched workers, so that they do not launch again
_INHERITED = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE")


def must_launch(nproc: int | None) -> bool:
    """Whether this process must start the workers, rather than being one.

    Raises ConfigError if `nproc` contradicts the world that torchrun has already made, or the GPUs of this machine.
    """
    world_size, local_size = env_int("WORLD_SIZE", 1), env_int("LOCAL_WORLD_SIZE", 1)
    if nproc is None or GUARD in os.environ:
        return False
    if nproc < 1:
        raise ConfigError(f"--nproc: expected 1 or more, found {nproc}")
    if world_size > 1:
        if nproc != local_size:
            raise ConfigError(
                f"--nproc {nproc}: torchrun has already started {local_size} workers here, in a world of {world_size}; "
                f"leave --nproc out, or start with torchrun --nproc-per-node {nproc}"
            )
        return False
    import torch

    if torch.cuda.is_available() and nproc > torch.cuda.device_count():
        raise ConfigError(f"--nproc {nproc}: this machine has {torch.cuda.device_count()} GPUs; expected at most one process each")
    return nproc > 1


def launch(nproc: int, arguments: Sequence[str], max_restarts: int) -> int:
    """Run `python -m fastfashion.train ARGUMENTS` in a world of `nproc` processes and wait; returns the exit status.

    If a process dies, all are restarted, up to `max_restarts` times, and resume from the last checkpoint; but not after an error
    that the user must correct.
    """
    # The variables of an outer torchrun must not reach the inner one.
    for name in list(os.environ):
        if name in _INHERITED or name.startswith(("TORCHELASTIC_", "MASTER_", "ROLE_NAME")):
            del os.environ[name]
    os.environ[GUARD] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(cores_per_process(nproc)))
    for restarts_left in range(max_restarts, -1, -1):
        status, stopped = _launch_once(nproc, arguments)
        if status in (0, USER_ERROR) or stopped or not restarts_left:
            return status
        more = f"{counted(restarts_left - 1, 'further restart')} left" if restarts_left > 1 else "for the last time"
        print(f"a process ended with status {status}: restarting all of them, {more}", file=sys.stderr)
    raise AssertionError("the last try returns")


def _launch_once(nproc: int, arguments: Sequence[str]) -> tuple[int, bool]:
    """Exit status, and whether a signal to this process ended the workers."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with scratch() as logs:  # for workers' errors; a folder that torch makes would stay
        config = LaunchConfig(
            *(1, 1, nproc),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
        )
        if hasattr(config, "signals_to_handle"):  # passed to the workers, which save and end
            known = [name for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1") if hasattr(signal, name)]
            config.signals_to_handle = ",".join(known)
        try:
            elastic_launch(config, sys.executable)("-m", "fastfashion.train", *arguments)
        except ChildFailedError as error:
            # The workers have printed their own errors; that the others lost a peer is not the cause.
            codes = [failure.exitcode for failure in error.failures.values()]
            code = min(codes, key=lambda code: (code == LostPeerError.EXIT_STATUS, code != USER_ERROR))
            return (code if code > 0 else 128 - code), False
        except SignalException as error:
            return 128 + int(error.sigval), True
    return 0, False
