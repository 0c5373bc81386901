"""What this machine has, and what to do about each gap.

probes (doctor/probe.py), measurements ─► facts ─► judge ─► Finding, Finding, …
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastfashion.dist import cores_per_process
from fastfashion.doctor.judge import Finding, State, judge
from fastfashion.tables import table_text
from fastfashion.words import counted

LOCAL_S, REMOTE_S = 300.0, 60.0  # after which a probe counts as hanging
SAMPLE_BYTES = 64 << 20  # written and read again
SPARE_BYTES = 1 << 30  # with less room than that the disk is left alone
CGROUP, MEMORY = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True)
class Report:
    """`facts` are the values behind the findings, by probe."""

    findings: list[Finding]
    facts: dict[str, Any]

    @property
    def works(self) -> bool:
        """Whether all that was promised can work here, if slower or with a way around."""
        return all(finding.state != State.BROKEN for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        return {"works": self.works, "findings": [asdict(finding) for finding in self.findings], "facts": self.facts}


def examine(folder: Path) -> Report:
    """Examine this machine, the disk that `folder` is on, and what can be reached from here; takes some seconds."""
    remote = [Probe("kaggle"), Probe("hub")]
    facts: dict[str, Any] = {"machine": machine(), "disk": disk(folder), "data": data_here()}
    local = [Probe("gpu", "threads"), Probe("dali")]  # after the disk was measured: importing torch reads a lot
    for probe in local:
        facts |= probe.collect(LOCAL_S)
    for probe in remote:
        facts |= probe.collect(REMOTE_S)
    return Report(findings=judge(facts), facts=facts)


class Probe:
    """Some of the functions of doctor/probe.py, started in one process."""

    def __init__(self, *names: str) -> None:
        self._names = names
        command = [sys.executable, "-m", "fastfashion.doctor.probe", *names]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )

    def collect(self, limit_s: float) -> dict[str, Any]:
        """What each function found, by name; {"error": …} for those that the process died before, or was too slow for."""
        late = False
        try:
            out, said = self._process.communicate(timeout=limit_s)
            why = f"its process ended with status {self._process.returncode}: {' '.join(said.split())[-300:]}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
            why, late = f"no answer within {limit_s:.0f} s", True
        found = {line.pop("name"): line for line in map(json.loads, out.splitlines())}
        return {name: found.get(name, {"error": why, "late": late}) for name in self._names}


def machine() -> dict[str, Any]:
    """Cores and memory that this process may use, which in a container are fewer than the machine has."""
    total, available = _memory()
    limit = _number(CGROUP / "memory.max")
    quota, _, period = _text(CGROUP / "cpu.max").partition(" ")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores_per_process(1),
        "all_cores": os.cpu_count() or 1,
        "core_quota": int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None,
        "memory_bytes": min(total, limit or total),
        "available_bytes": min(available, limit or available),
    }


def _memory() -> tuple[int, int]:
    """Bytes in all, and those that programs can still allocate."""
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in _text(MEMORY).splitlines())}
    if "MemTotal" in kib:
        return kib["MemTotal"] << 10, kib.get("MemAvailable", kib["MemTotal"]) << 10
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0  # not on Windows
    return total, total  # macOS does not say what is available


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def disk(folder: Path) -> dict[str, Any]:
    """Room and speed of a folder's disk, in bytes a second: 64 MiB written to the disk itself and read back from it."""
    found: dict[str, Any] = {"free_bytes": None, "write_bytes_per_s": None, "read_bytes_per_s": None}
    sample, data = folder / f".fastfashion-doctor-{os.getpid()}", os.urandom(SAMPLE_BYTES)
    try:
        found["free_bytes"] = shutil.disk_usage(folder).free
        if found["free_bytes"] <= SPARE_BYTES:
            return found
        started = time.perf_counter()
        with sample.open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
            found["write_bytes_per_s"] = round(SAMPLE_BYTES / (time.perf_counter() - started))
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else memory would be measured
        started = time.perf_counter()
        if sample.read_bytes() != data:
            return found | {"error": f"{folder}: what was read is not what was written"}
        return found | {"read_bytes_per_s": round(SAMPLE_BYTES / (time.perf_counter() - started))}
    except OSError as error:
        return found | {"error": f"{folder}: {error.strerror or error}"}
    finally:
        sample.unlink(missing_ok=True)


def data_here() -> dict[str, Any]:
    """Data sets and packed sets where the commands look for them."""
    home = Path("data")
    sources = sorted([*home.glob("*.zip"), *(table.parent for table in home.glob("*/styles.csv"))])
    packed = sorted({path.parent.parent for path in Path("shards").glob("*/*/manifest.json")})
    return {"sources": [str(path) for path in sources], "packed": [str(path) for path in packed]}


def report_text(report: Report) -> str:
    """A line for each finding, and one below for what to do."""
    rows = []
    for finding in report.findings:
        rows.append([finding.state, finding.name, finding.found])
        if finding.advice:
            rows.append(["", "", f"-> {finding.advice}"])
    counts = Counter(finding.state for finding in report.findings)
    if counts[State.BROKEN]:
        end = f"{counted(counts[State.BROKEN], 'fault')} above must be fixed before everything works here"
    else:
        end = "everything works here" + (f", with {counted(counts[State.GAP], 'gap')}" if counts[State.GAP] else "")
    return "\n".join([table_text(["", "", ""], rows, left=(0, 1, 2)), "", end])
