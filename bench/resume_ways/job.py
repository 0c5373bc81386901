"""One process of a run that is killed or of the run that resumes it: what it must do, and the log of the samples it got.

Each `with_*.py` of this folder reads its `Job`, makes a loader as the documentation of its library says, and calls `seen` for every batch:

    first run: epochs 0 to e, state saved after step k of epoch e, the rest of e, all of e + 1, SIGKILL in step 3 of e + 2
    second run, a fresh process: state loaded, the rest of e, all of e + 1

What the first run gets after step k is what the second must get.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLED_AT = 3  # step of the epoch e + 2
LAST = 0  # as the step of a way: the last one of the epoch


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to resume, a row of the table.

    batch: samples of all processes together. then: what the second run changes of batch, workers, world and of `options`, which are the
    library's own and explained in its file.
    """

    text: str
    epoch: int = 1
    step: int = 12
    batch: int = 8
    workers: int = 2
    world: int = 1
    rows: int = 200
    options: Mapping[str, Any] = field(default_factory=dict)
    then: Mapping[str, Any] = field(default_factory=dict)
    times: int = 1  # runs, where they differ; the worst is reported
    shuffled: bool = True
    note: str = ""

    @property
    def saved_at(self) -> int:
        """Number, from 1, of the step after which the state is saved."""
        return self.step or -(-self.rows // self.batch)

    def job(self, second: bool) -> dict[str, Any]:
        """What a process of the first or the second run reads."""
        job = {name: getattr(self, name) for name in ("epoch", "batch", "workers", "world", "rows")} | {"step": self.saved_at}
        options = dict(self.options)
        if second:
            job |= {name: value for name, value in self.then.items() if name in job}
            options |= {name: value for name, value in self.then.items() if name not in job}
        return job | {"options": options, "second": second}


@dataclass(kw_only=True)
class Job:
    """What this process must do."""

    folder: Path  # of this way: log and state
    data: Path  # what `prepare` wrote
    second: bool
    epoch: int  # in which the state is saved
    step: int  # after which it is saved, from 1
    rows: int
    batch: int
    workers: int
    world: int
    rank: int
    options: Mapping[str, Any]
    steps: dict[int, int] = field(default_factory=dict)

    @property
    def batch_here(self) -> int:
        """Samples of a batch of this process."""
        return self.batch // self.world

    @property
    def epochs(self) -> range:
        """Of the training loop, which knows from its own checkpoint which epoch was broken."""
        return range(self.epoch, self.epoch + 2) if self.second else range(self.epoch + 3)

    def seen(self, epoch: int, ids: Iterable[int], draws: Iterable[float]) -> bool:
        """Log a batch; True in the step after which the state must be saved."""
        step = self.steps[epoch] = self.steps.get(epoch, 0) + 1
        line = {"rank": self.rank, "epoch": epoch, "step": step, "ids": [int(row) for row in ids], "draws": [float(draw) for draw in draws]}
        run = "second" if self.second else "first"
        with (self.folder / f"{run}-{self.rank}.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if not self.second and epoch == self.epoch + 2 and step == KILLED_AT:
            self._die()
        return not self.second and epoch == self.epoch and step == self.step

    def _die(self) -> None:
        (self.folder / f"reached-{self.rank}").touch()
        end = time.monotonic() + 20
        while len(list(self.folder.glob("reached-*"))) < self.world and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    def save(self, state: Any) -> None:
        """Publish the state of this process."""
        import torch

        torch.save(state, self.folder / f"state-{self.rank}.pt")

    def load(self) -> Any:
        """The state of this process; that of the first where there were fewer."""
        import torch

        own = self.folder / f"state-{self.rank}.pt"
        return torch.load(own if own.is_file() else self.folder / "state-0.pt", weights_only=False)


def draw() -> float:
    """What a random augmentation draws for a sample: a number of torch's generator, as torchvision's transforms do."""
    import torch

    return torch.rand(()).item()


def in_batches(samples: Iterable[Mapping[str, Any]], size: int) -> Iterator[tuple[list[int], list[float]]]:
    """Ids and draws of a plain loop over samples."""
    ids: list[int] = []
    draws: list[float] = []
    for sample in samples:
        ids.append(int(sample["id"]))
        draws.append(float(sample["draw"]))
        if len(ids) == size:
            yield ids, draws
            ids, draws = [], []
    if ids:
        yield ids, draws


def read_job(arguments: Sequence[str]) -> Job:
    """The job of this process: JSON as the only argument, its rank as torchrun gives it."""
    given = json.loads(arguments[0])
    return Job(**given | {"folder": Path(given["folder"]), "data": Path(given["data"]), "rank": int(os.environ["RANK"])})


def main(run: Any, prepare: Any = None) -> None:
    """What `python -m resume_ways.with_NAME` does: `--prepare FOLDER ROWS` writes the samples, JSON runs a job."""
    if sys.argv[1] == "--prepare":
        if prepare is not None:
            prepare(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        run(read_job(sys.argv[1:]))
