"""The package imports, and loads, where Python lacks what only Unix has; this is not a test on macOS or Windows."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PackedSmall
from test_floors import FILES

from fastfashion import dist, locks
from fastfashion.errors import ConfigError

HOME = Path(__file__).parents[1]
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "nvidia.dali")
NAMES = {  # that Windows or macOS lack
    "os": (
        *("fork", "forkpty", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "getuid", "geteuid", "getgid", "getpgid"),
        *("setsid", "killpg", "nice", "getloadavg", "sysconf", "statvfs", "pread", "pwrite", "posix_fadvise", "mkfifo", "sync", "uname"),
        *("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_NOFOLLOW", "O_DIRECTORY", "fchmod", "fchown", "sendfile", "copy_file_range"),
    ),
    "signal": (
        *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "SIGQUIT", "SIGCHLD", "SIGPIPE", "SIGSTOP", "SIGCONT"),
        *("alarm", "setitimer", "pthread_sigmask", "sigwait", "ITIMER_REAL", "SIG_BLOCK", "SIG_UNBLOCK"),
    ),
    "socket": ("AF_UNIX", "SO_REUSEPORT"),
}
# What others import of these stays theirs: they have versions for those systems.
WITHOUT = """
import asyncio, concurrent.futures.process, importlib, json, multiprocessing.connection, os, signal, socket, ssl, subprocess, sys, tempfile
import cv2, jinja2, msgspec, numpy, pandas, PIL.Image, pyarrow.parquet, requests, simplejpeg, timm, torch, tqdm, typer
modules, names, ours, shards = json.loads(sys.argv[1])
for name in modules:
    sys.modules[name] = None
for module, missing in names.items():
    for name in missing:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
for name in ours:
    importlib.import_module(name)
import fastfashion as ff
loader = ff.loader(shards, size="32x32", batch_size=16, backend="threads", workers=1, device="cpu")
print(next(iter(loader)).images.shape[1:])
loader.close()
"""


def test_every_module_imports_and_a_loader_loads_without_what_only_unix_has(packed_small: PackedSmall) -> None:
    ours = [".".join(["fastfashion", *Path(path).with_suffix("").parts]).removesuffix(".__init__") for path in FILES]
    asked = json.dumps([MODULES, NAMES, [name for name in ours if not name.endswith("__main__")], str(packed_small.out)])
    done = subprocess.run([sys.executable, "-c", WITHOUT, asked], cwd=HOME, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.Size([32, 32, 3])\n"


def test_those_names_are_here_so_that_the_test_takes_something_away() -> None:
    there = {"os": os, "signal": signal}
    assert all(sum(hasattr(there[module], name) for name in NAMES[module]) > 10 for module in there)


def test_a_lock_is_held_by_one_and_ends_with_its_file(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert locks.lock(first, wait=False) and not locks.lock(second, wait=False)
    locks.unlock(first)
    assert locks.lock(second, wait=True) and not locks.lock(first, wait=False)
    os.close(second)
    assert locks.lock(first, wait=False)
    os.close(first)


HOLDS = """
import os, sys
from fastfashion import locks
locks.lock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), wait=True)
print(1, flush=True)
input()
"""


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path / "lock")], cwd=HOME, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        file = os.open(tmp_path / "lock", os.O_RDWR)
        assert not locks.lock(file, wait=False)
        holder.kill()
    assert locks.lock(file, wait=False)
    os.close(file)


@pytest.mark.parametrize(("size", "device"), [(1, "mps"), (2, "cpu")])
def test_apples_gpu_is_the_default_of_one_process_where_torch_has_it(size: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^device: 'mps', but this machine has no GPU of Apple's"):
        dist.device_of("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert dist.device_of("mps").type == "mps"
    assert dist._without_cuda(size).type == device
    assert dist.here().device.type == "mps"
