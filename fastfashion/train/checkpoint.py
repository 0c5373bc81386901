"""Checkpoints: all that training needs to resume. They are data, tensors and JSON: loading one never runs code from it.

    save: copy (training waits) ─► writer thread: step-000000120.safetensors ─► step-000000120.json, with its checksum ─► best/, pruning
    load: the newest .json whose .safetensors is whole

A checkpoint exists once its .json does. What a kill leaves behind is removed when the folder is opened.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated

import msgspec
import torch

from fastfashion.errors import FastfashionError, TrainingError
from fastfashion.files import is_unpublished, publish, publish_json, unreadable
from fastfashion.model.weights import read_safetensors
from fastfashion.untrusted import Count, Format, Sha256, described, file_sha256, parse_description, read_limited
from fastfashion.words import why

FORMAT = Format("fastfashion-checkpoint", oldest=1, newest=2, sealed=2)
MAX_DESCRIPTION_BYTES = 1 << 24
Epoch = Annotated[int, msgspec.Meta(ge=-1, le=2**53)]  # -1: none yet


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training is. Epoch and step are the whole state of the data, since the plan of an epoch follows from its number."""

    epoch: Count = 0  # the next step's
    step: Count = 0  # the next step's, within the epoch; the number of steps if only the validation is left
    best_metric: float = -1.0
    best_epoch: Epoch = -1  # the later of equal ones
    better_epoch: Epoch = -1  # the last one that was better than all before it; -1 in older checkpoints
    mean_loss: float = 0.0  # running mean over steps; 0 before the first
    losses: tuple[float, ...] = ()  # of the steps since the last log line
    num_rows: Count = 0  # seen since the last log line, and their hash
    rows_hash: int = 0  # below 2^64

    def __post_init__(self) -> None:
        if not 0 <= self.rows_hash < 2**64:
            raise ValueError(f"rows_hash: expected 0 to 2^64 - 1, found {self.rows_hash}")

    @property
    def has_best(self) -> bool:
        """Whether this is the end of the best epoch so far: the weights then are the best ones."""
        return self.best_epoch >= 0 and (self.epoch, self.step) == (self.best_epoch + 1, 0)


@dataclass(frozen=True, kw_only=True)
class Description:
    """A checkpoint's .json; its own checksum covers that of the tensors, from version 2 on."""

    version: int
    num_bytes: Count
    sha256: Sha256  # of the tensors' file
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was read from one: `tensors` on the CPU, by name."""

    path: Path
    progress: Progress
    tensors: dict[str, torch.Tensor]


class Checkpoints:
    """A run's folder of checkpoints. `export` makes best/ from the tensors of an epoch that is the best so far.

    Keeps the last `keep`, and those that they name as the best. Writes on a thread of its own; a write that fails, such as on a full
    disk, is reported through `say` and leaves the older ones alone.
    """

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None], export: Callable[[Mapping[str, torch.Tensor]], None]) -> None:
        self.folder, self.keep = folder, keep
        self.last_step: int | None = None  # of what is safely on disk
        self.failure: str | None = None  # of the last write
        self._say, self._export = say, export
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._copies: dict[str, torch.Tensor] = {}  # reused by each save

    def save(self, step: int, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy the tensors and write them beside training, after the write before. `step` is counted over all epochs."""
        self.wait()
        copies, arrived = self._copy(tensors)
        self._writing = self._writer.submit(self._write, step, progress, copies, arrived)

    def wait(self) -> None:
        """Wait until all that was saved is on disk, or has failed."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def last(self) -> Path | None:
        """The newest checkpoint on disk."""
        self.wait()
        return max(self._list(), default=None)

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint, None if there are no checkpoints; later ones, which are damaged, are removed with a warning.

        Raises TrainingError if there are checkpoints and none is whole.
        """
        found = self._clear()
        for path in reversed(found):
            for file in (path, path.with_suffix(".safetensors")):
                if file.exists() and not os.access(file, os.R_OK):  # no damage, and so no reason to use the one before
                    raise TrainingError(f"{file}: cannot be read (permission denied)")
            try:
                checkpoint = read_checkpoint(path)
            except TrainingError as error:
                self._say(f"warning: {error}; using the one before")
                continue
            if read_description(path).version < FORMAT.sealed:
                self._say(f"{path}: of an older version, which has no checksum of the description; the next checkpoint has one")
            for later in found[found.index(path) + 1 :]:
                _remove(later)
            self.last_step = int(path.stem.removeprefix("step-"))
            return checkpoint
        if found:
            raise TrainingError(
                f"{self.folder}: none of its {len(found)} checkpoints is whole; remove that folder to train from the start, "
                "or put one back from a copy"
            )
        return None

    def export_best(self, progress: Progress) -> None:
        """Export best/ again from the checkpoint that `progress` names as the best: a kill may have come between the two."""
        for path in reversed(self._list()):
            known = _known(path)
            if known is not None and known.has_best and known.best_epoch == progress.best_epoch:
                try:
                    self._export(read_checkpoint(path).tensors)
                except TrainingError as error:
                    self._say(f"warning: {error}; best/ stays as it is")
                return

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wait()
        self._writer.shutdown()

    def _copy(self, tensors: Mapping[str, torch.Tensor]) -> "tuple[dict[str, torch.Tensor], torch.cuda.Event | None]":
        """Copies on the CPU, and when the GPU has made them."""
        for name, tensor in tensors.items():
            if name not in self._copies:
                # Of the same strides, so that copying is not transposing; pinned, so that the GPU copies while Python continues.
                self._copies[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._copies[name].copy_(tensor, non_blocking=tensor.is_cuda)
        arrived = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            arrived = torch.cuda.Event()
            arrived.record()
        return {name: self._copies[name] for name in tensors}, arrived

    def _write(self, step: int, progress: Progress, copies: Mapping[str, torch.Tensor], arrived: "torch.cuda.Event | None") -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if arrived is not None:
            arrived.synchronize()
        tensors = {name: tensor.contiguous() for name, tensor in copies.items()}
        path = self.folder / f"step-{step:09d}.json"
        data = path.with_suffix(".safetensors")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # its checksum is that of other bytes
            publish(data, lambda beside: save_file(tensors, beside), sum(tensor.nbytes for tensor in tensors.values()))
            values = {"num_bytes": data.stat().st_size, "sha256": file_sha256(data), "progress": asdict(progress)}
            publish_json(path, described(FORMAT, values))
            if progress.has_best:
                self._export(tensors)
            self._prune()
        except (OSError, SafetensorError) as error:
            kept = "none yet" if self.last_step is None else f"the one of step {self.last_step} stays"
            self.failure = f"the checkpoint of step {step} was not saved ({why(error)}); {kept}"
            with suppress(OSError):
                if not path.is_file():
                    data.unlink(missing_ok=True)
            self._say(f"warning: {self.failure}")
            return
        self.last_step, self.failure = step, None

    def _list(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*.json") if re.fullmatch(r"step-\d+", path.stem))

    def _clear(self) -> list[Path]:
        """Remove what a killed writer left; returns the checkpoints, oldest first."""
        for path in [*self.folder.glob(".*"), *self.folder.glob("step-*.safetensors")]:
            if is_unpublished(path.name) or (path.suffix == ".safetensors" and not path.with_suffix(".json").is_file()):
                path.unlink()
        return self._list()

    def _prune(self) -> None:
        found = self._list()
        best = {known.best_epoch for path in found[-self.keep :] if (known := _known(path)) is not None}
        for path in found[: -self.keep]:
            known = _known(path)
            if known is None or not (known.has_best and known.best_epoch in best):
                _remove(path)


def prune_finished(folder: Path, *, keep: bool) -> None:
    """Keep only the last checkpoint of a finished run, with which it can be trained further, or none."""
    found = sorted(folder.glob("step-*.json"))
    for path in found[: -1 if keep else None]:
        _remove(path)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint that a .json describes; raises TrainingError if it is not whole."""
    known, data = read_description(path), path.with_suffix(".safetensors")
    found = data.stat().st_size if data.is_file() else None
    if found != known.num_bytes:
        raise TrainingError(f"{data}: expected {known.num_bytes} bytes, found {'no such file' if found is None else found}")
    try:
        digest = file_sha256(data)
    except OSError as error:
        raise TrainingError(f"{data}: {unreadable(error)}") from error
    if digest != known.sha256:
        raise TrainingError(f"{data}: damaged: expected sha256 {known.sha256[:16]}…, found {digest[:16]}…")
    try:
        return Checkpoint(path=path, progress=known.progress, tensors=read_safetensors(data))
    except Exception as error:
        raise TrainingError(f"{data}: not a safetensors file ({error}); files that run code when they are loaded are refused") from error


def read_description(path: Path) -> Description:
    """What a checkpoint's .json says; raises TrainingError if it cannot be read, or was changed."""
    try:
        data = read_limited(path, MAX_DESCRIPTION_BYTES)
    except (OSError, FastfashionError) as error:
        raise TrainingError(f"{path}: not readable as a checkpoint's description ({why(error)})") from error
    return parse_description(data, FORMAT, Description, str(path), TrainingError, "it cannot be used")


def _known(path: Path) -> Progress | None:
    try:
        return read_description(path).progress
    except TrainingError:
        return None


def _remove(path: Path) -> None:
    path.unlink()  # first: without it there is no checkpoint
    path.with_suffix(".safetensors").unlink(missing_ok=True)
