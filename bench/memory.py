"""Peak memory of packing: of the parent and of its largest worker, with some rows and with many more."""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastfashion.errors import ConfigError
from photos import PhotoSpec, make_photos, repeat_photos

POLL_S = 0.02
TIMES = 8
SMALL = PhotoSpec(count=64, width_px=60, height_px=80)
SMALL_ROWS = 12_500
PROC = Path("/proc")


def check_memory_can_be_measured() -> None:
    """Raises ConfigError if processes do not show their peak memory."""
    if not (PROC / "self/status").is_file():
        raise ConfigError("--memory: reads /proc, which this system does not have; leave it out")


def measure_memory(photos: Sequence[Path], rows: int, workers: int, folder: Path) -> list[dict[str, Any]]:
    """Pack the stand-ins, and 60x80 images, each once more with TIMES as many rows; peak resident memory in MB."""
    small = make_photos(folder / "small", SMALL, workers)
    kinds = {"stand-in": (photos, max(1, rows // TIMES)), f"{SMALL.width_px}x{SMALL.height_px}": (small, SMALL_ROWS)}
    found = []
    for kind, (images, few) in kinds.items():
        for number in (few, few * TIMES):
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                source, out = Path(fresh) / "source", Path(fresh) / "packed"
                repeat_photos(images, source, number)
                parent_mb, worker_mb = peak_mb(
                    [sys.executable, "-m", "fastfashion", "shard", "--source", str(source), "--out", str(out), "--workers", str(workers)]
                )
            found.append({"images": kind, "rows": number, "parent_mb": parent_mb, "worker_mb": worker_mb})
    return found


def peak_mb(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; peak resident memory of its process and of its largest child, in MB (10^6 bytes). 0 if it has no child.

    Children are sampled every POLL_S; the peak itself is the kernel's (VmHWM). Raises RuntimeError if the command fails.
    """
    peaks: dict[int, int] = {}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        try:
            while process.poll() is None:
                for pid in (process.pid, *_children(process.pid)):
                    peaks[pid] = _peak_kib(pid) or peaks.get(pid, 0)  # the latest: until it execs, a child shows its parent's memory
                time.sleep(POLL_S)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.read().decode(errors='replace')[-2000:]}")
    parent = peaks.pop(process.pid, 0)
    return round(parent * 1024 / 1e6, 1), round(max(peaks.values(), default=0) * 1024 / 1e6, 1)


def _children(pid: int) -> list[int]:
    """Processes started by any thread of a process."""
    children: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for task in (PROC / str(pid) / "task").iterdir():
            children += map(int, (task / "children").read_text().split())
    return children


def _peak_kib(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return int(value.split()[0])
    return 0
