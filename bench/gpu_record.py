"""What a stage of the GPU check is asked for, and its record: published again after every measurement, so that a kill loses one at most."""

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastfashion.errors import ConfigError
from fastfashion.files import publish_json
from fastfashion.load.crops import is_native
from fastfashion.provenance import git_commit, machine_info, package_versions

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "fastfashion",
    "torch",
    "timm",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "simplejpeg",
    "opencv-python-headless",
    "Pillow",
    "numpy",
)
COMPLETE = "complete"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is done."""

    draw_s: float  # time for drawing and packing each stand-in set
    drawn_px: tuple[int, int]  # width and height of the images that are shrunk to 224
    photo_px: tuple[int, int]
    photos_a_core: int  # different ones
    most_rows: int  # of a stand-in set
    epoch_rows: int  # of a timed plan, at least: the end of an epoch empties the queues
    num_compared: int  # images, for each comparison
    epochs: int
    start_s: float  # until a run has its first checkpoint, at most
    seconds: float  # a round
    sweep_seconds: float
    rounds: int
    most_batch: int
    hw_loads: tuple[float | None, ...]
    sweep_threads: tuple[int, ...]
    models: tuple[str, ...]
    train_px: int
    run_size: str


FULL = Scale(
    draw_s=20,
    drawn_px=(600, 800),
    photo_px=(1800, 2400),
    photos_a_core=4,
    most_rows=44_000,
    epoch_rows=32_768,
    num_compared=128,
    epochs=6,
    start_s=60,
    seconds=1.5,
    sweep_seconds=0.6,
    rounds=3,
    most_batch=1024,
    hw_loads=(None, 0.0, 0.5, 0.8, 0.9, 1.0),
    sweep_threads=(1, 4, 8, 16),
    models=("resnet18", "efficientnet_b0"),
    train_px=224,
    run_size="80x64",
)
TINY = Scale(
    draw_s=0,
    drawn_px=(150, 200),
    photo_px=(300, 400),
    photos_a_core=1,
    most_rows=120,
    epoch_rows=0,
    num_compared=16,
    epochs=3,
    start_s=600,
    seconds=0.05,
    sweep_seconds=0.05,
    rounds=3,
    most_batch=16,
    hw_loads=(None, 0.9),
    sweep_threads=(1, 2),
    models=("resnet18",),
    train_px=32,
    run_size="32x32",
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One run of the GPU check; paths are absolute."""

    out: Path  # of the records
    sets: Path  # of the packed sets
    device: str  # "cuda" or "cpu"
    scale: Scale
    threads: int  # of a loader, and processes while the sets are made
    real_zip: Path | None
    with_dali: bool
    command: str

    @property
    def torch_device(self) -> "torch.device":
        import torch

        return torch.device(self.device, 0) if self.device == "cuda" else torch.device(self.device)


@dataclass(kw_only=True)
class Record:
    """What one stage has measured, and what it has left out or failed at, and why.

    `ends_at` is of time.monotonic(), the same for all processes of a machine: nothing starts that would end later.
    """

    path: Path
    check: Check
    stage: str
    ends_at: float
    started: float = field(default_factory=time.monotonic)
    values: dict[str, Any] = field(default_factory=dict)

    def begin(self, about: str) -> None:
        self.values = {
            "stage": self.stage,
            "about": about,
            "state": "started",
            "command": self.check.command,
            "commit": git_commit(),
            "device": self.check.device,
            "threads": self.check.threads,
            "native_crops": is_native(),  # without, threads and resident decode and resize more slowly
            "machine": machine_info() | driver_info(),
            "versions": package_versions(PACKAGES),
            "measured": [],
            "skipped": [],
            "failed": [],
        }
        self.publish()

    def attempt(self, name: str, needs_s: float, measure: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Measure, if about `needs_s` are left, and publish; None if that was skipped or failed, which the record then says.

        A ConfigError means that something cannot run here, and counts as skipped.
        """
        left_s = self.ends_at - time.monotonic()
        if needs_s > left_s:
            self.skip(name, f"needs about {needs_s:.0f} s, {max(0.0, left_s):.0f} s are left for this stage")
            return None
        self.values["state"] = f"measuring {name}"
        self.publish()
        started = time.monotonic()
        try:
            row = {"name": name, **measure()}
        except ConfigError as error:
            self.skip(name, f"cannot run here: {self._tell(error)}")
            return None
        except Exception as error:
            traceback.print_exc()
            self._note("failed", name, f"{type(error).__name__}: {self._tell(error)}")
            return None
        row["took_s"] = round(time.monotonic() - started, 2)
        self.values["measured"].append(row)
        self.publish()
        shown = ", ".join(f"{key} {value}" for key, value in row.items() if isinstance(value, str | int | float) and key != "name")
        print(f"{self.stage}: {name}: {shown}", flush=True)
        return row

    def skip(self, name: str, why: str) -> None:
        self._note("skipped", name, why)

    def _note(self, kind: str, name: str, why: str) -> None:
        self.values[kind].append({"name": name, "why": why})
        self.publish()
        print(f"{self.stage}: {name}: {kind}: {why}", flush=True)

    def _tell(self, error: Exception) -> str:
        """The error without places on this machine's disk."""
        text = str(error).replace(str(self.check.sets), "SETS").replace(str(self.check.out), "OUT").replace(sys.prefix, "")
        return text.replace(str(Path.home()) + "/", "~/")

    def publish(self) -> None:
        self.values["seconds"] = round(time.monotonic() - self.started, 1)
        publish_json(self.path, self.values)

    def end(self) -> None:
        self.values["state"] = COMPLETE
        self.publish()

    def cut_short(self, why: str) -> None:
        """What the parent adds when the stage's process has not ended by itself, or not well."""
        if self.path.is_file():
            self.values = json.loads(self.path.read_text(encoding="utf-8"))
        else:
            self.begin("ended before its first measurement")
        self._note("failed", self.values["state"], why)


def driver_info() -> dict[str, Any]:
    """Driver and memory of the GPU, and the CUDA that torch was built for; None if there is none."""
    import torch

    fields = "driver_version,memory.total"
    said = None
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, check=False)
        said = done.stdout.splitlines()[0].split(", ") if done.returncode == 0 and done.stdout else None
    except OSError:
        pass
    return {"driver": said[0] if said else None, "gpu_memory": said[1] if said else None, "cuda": torch.version.cuda}
