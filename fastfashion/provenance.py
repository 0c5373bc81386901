"""What every record of a run or a benchmark holds beside its numbers: machine, versions, commit.

Nothing in it names the host or a place on its disk.
"""

import contextlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastfashion.dist import cores_per_process

_PROCESSORS = Path("/proc/cpuinfo")


def machine_info() -> dict[str, Any]:
    """Processor and GPU names, cores that this process may use, Python version, operating system."""
    import torch

    return {
        "cpu": _cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": cores_per_process(1),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _cpu_name() -> str:
    if _PROCESSORS.is_file():
        for line in _PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if platform.system() == "Darwin":
        return _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()  # ARM Linux lists no model name


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version by distribution name; None if it is not installed."""
    versions: dict[str, str | None] = dict.fromkeys(names)
    for name in versions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def git_commit() -> str | None:
    """Short commit of the checkout that this package runs from, with "-dirty" if tracked files differ; None outside of one."""
    home = str(Path(__file__).parent)
    if _said("git", "-C", home, "ls-files", "--error-unmatch", "provenance.py") is None:  # installed below somebody else's checkout
        return None
    commit = _said("git", "-C", home, "rev-parse", "--short", "HEAD")
    # A measurement must not take the index lock from somebody who is committing.
    changes = _said("git", "-C", home, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return commit if changes == "" else f"{commit}-dirty"


def _said(*command: str) -> str | None:
    """What a command prints; None if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
