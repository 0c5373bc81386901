"""What a run writes while it trains: metrics.jsonl, TensorBoard events, trackers, one live line; and what it measures: time by phase."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from fastfashion.config import RunConfig
from fastfashion.extras import install, lacks
from fastfashion.files import plain, publish
from fastfashion.runs.files import METRICS, metrics_lines
from fastfashion.train.track import Trackers

WIDE = 110  # columns: less than that has no room for a bar
LINE_S = 60.0  # between two lines if there is no terminal
# Every line of metrics.jsonl has all of these, null if there is none: many readers take the columns from the first lines alone.
KEYS = (
    *("kind", "epoch", "step"),
    *("command", "commit", "processes", "device", "changed", "machine", "versions"),  # of a start
    *("loss", "lr", "grad_norm", "rows", "rows_hash"),  # of a step
    *("val", "time"),
)
TIMES = (
    *("seconds", "images_per_s", "first_step_s"),
    *("data_s", "forward_backward_s", "optimizer_s", "logging_s", "checkpoint_s"),
)


def say(text: str) -> None:
    """Print a message, above a progress bar if there is one."""
    from fastfashion.bars import tqdm

    tqdm.write(text, file=sys.stderr)


class Phases:
    """Seconds by phase. On a GPU they are the GPU's own, between marks in its stream: "data" then is how long it waited for data.

    A GPU's times are read where training waits for it anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._marks: list[tuple[str, torch.cuda.Event]] = []
        self._last = self._now()

    def mark(self, phase: str) -> None:
        """The time since the last mark was spent in `phase`."""
        now = self._now()
        if isinstance(now, float):
            assert isinstance(self._last, float)
            self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._last
            self._last = now
        else:
            self._marks.append((phase, now))

    def read(self) -> dict[str, float]:
        """Seconds by phase since the last reading; waits for the GPU."""
        for phase, event in self._marks:
            assert not isinstance(self._last, float)
            event.synchronize()
            self._seconds[phase] = self._seconds.get(phase, 0.0) + self._last.elapsed_time(event) / 1000
            self._last = event
        seconds, self._seconds, self._marks = self._seconds, {}, []
        return seconds

    def _now(self) -> "float | torch.cuda.Event":
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Recorder:
    """Takes lines of metrics: `{"kind": "start" | "step" | "epoch", "epoch", "step", …, "time": {…}}`. This class drops them.

    `step` counts over all epochs. All measured times are under `time`: two runs of the same settings differ in nothing else.
    """

    def write(self, line: dict[str, Any]) -> None:
        """Take a line."""

    def show_live(self, line: dict[str, Any]) -> None:
        """Show loss and rate, without a line."""

    def show_images(self, images: torch.Tensor) -> None:
        """Show the first images, uint8 (n, H, W, 3), as the model sees them."""

    def advance(self) -> None:
        """Count a step."""

    def say(self, text: str) -> None:
        """Print a message, above the live line."""


class RunRecorder(Recorder):
    """Writes into a run from a step of an epoch on, both counted from 0; an epoch has `num_steps`. Later metrics are dropped."""

    def __init__(self, run: Path, config: RunConfig, *, epoch: int, step: int, num_steps: int) -> None:
        from fastfashion.bars import tqdm

        done, self._epochs = epoch * num_steps + step, config.train.epochs
        for note in _drop_later(run, epoch, done):
            self.say(note)
        self._file = (run / METRICS).open("a", encoding="utf-8")
        self._events = _open_events(run, done + 1)
        if self._events is None:
            self.say(f"no curves for TensorBoard, which is not installed: {install('report')}")
        elif not done:
            self._events.add_text("config", f"```json\n{json.dumps(config.to_dict(), indent=2)}\n```")
        self._trackers = Trackers(config, run, self.say)
        total = config.train.epochs * num_steps
        form = "{desc} step {n_fmt}/{total_fmt}"
        self._bar = tqdm(total=total, initial=done, dynamic_ncols=True, disable=None, bar_format=form)
        self._bar.set_description_str(f"epoch {min(epoch + 1, self._epochs)}/{self._epochs}", refresh=False)
        self._total, self._said_at, self._opened_at, self._opened_step = total, -LINE_S, time.monotonic(), done

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(plain(with_all_keys(line))) + "\n")
        self._file.flush()
        if line["kind"] == "start":
            return
        values = {f"{line['kind']}/{name}": value for name, value in _flatten("", line) if name not in ("kind", "epoch", "step")}
        for name, value in values.items() if self._events else ():
            self._events.add_scalar(name, value, line["step"])
        self._trackers.log(values, line["step"])
        if line["kind"] == "step":
            self.show_live(line)

    def show_live(self, line: dict[str, Any]) -> None:
        """The live line; without a terminal a plain one, once a minute. Nothing before the first step, which has no rate."""
        epoch, rate = f"epoch {line['epoch'] + 1}/{self._epochs}", line["time"].get("images_per_s", 0.0)
        if not rate:
            return
        known = f"{rate:,.{1 if rate < 100 else 0}f} images/s, loss {line['loss']:.4f}, lr {line['lr']:.1e}"
        if not self._bar.disable:
            wide = os.get_terminal_size(sys.stderr.fileno()).columns >= WIDE
            where = "{desc} step {n_fmt}/{total_fmt} |{bar:10}| " if wide else "{desc} {n_fmt}/{total_fmt}, "
            self._bar.bar_format = f"{where}{known}, {{remaining}} left"
            self._bar.set_description_str(epoch, refresh=False)
            return
        now = time.monotonic()
        if now - self._said_at >= LINE_S:
            self._said_at = now
            left = (now - self._opened_at) / max(1, line["step"] - self._opened_step) * (self._total - line["step"])
            text = f"{epoch} step {line['step']}/{self._total}, {known}, {self._bar.format_interval(left)} left"
            print(text, file=sys.stderr, flush=True)

    def advance(self) -> None:
        self._bar.update()

    def show_images(self, images: torch.Tensor) -> None:
        if self._events:
            self._events.add_images("batch", images, dataformats="NHWC")

    def say(self, text: str) -> None:
        say(text)

    def __enter__(self) -> "RunRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        self._trackers.close()
        if self._events:
            self._events.close()
        self._file.close()


def _open_events(run: Path, purge_step: int) -> Any:
    """TensorBoard's writer; None if it is not installed."""
    if lacks("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run), purge_step=purge_step)


def with_all_keys(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line with all keys, those of `time` too."""
    times = dict.fromkeys(TIMES) | dict(line.get("time") or {})
    return dict.fromkeys(KEYS) | dict(line) | {"time": times}


def _drop_later(run: Path, epoch: int, done: int) -> list[str]:
    """Leave the lines of what was done before; returns what to say. Raises InputError if one is not a line of metrics."""
    kept, notes = [], list[str]()
    for text, line in metrics_lines(run, notes):
        if {"start": True, "step": line["step"] <= done, "epoch": line["epoch"] < epoch}[line["kind"]]:
            kept.append(text)
    publish(run / METRICS, lambda beside: beside.write_bytes(b"".join(kept)))
    return notes


def _flatten(prefix: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flatten(f"{prefix}/{key}" if prefix else key, inner)]
    return [(prefix, value)] if isinstance(value, int | float) else []
