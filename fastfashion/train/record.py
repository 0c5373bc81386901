"""What a run writes while it trains: metrics.jsonl, TensorBoard events, a progress bar. On rank 0 alone."""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from fastfashion.evaluate.run import METRICS
from fastfashion.files import publish


class Recorder(Protocol):
    """Takes lines of metrics; `{"kind": "start" | "step" | "epoch", "epoch", "step", …}` with `step` counted over all epochs."""

    def write(self, line: dict[str, Any]) -> None: ...

    def advance(self, loss: float | None = None) -> None: ...

    def say(self, text: str) -> None: ...


class Silent:
    """The recorder of every other rank."""

    def write(self, line: dict[str, Any]) -> None: ...

    def advance(self, loss: float | None = None) -> None: ...

    def say(self, text: str) -> None: ...


class RunRecorder:
    """Appends to a run's metrics.jsonl and TensorBoard events; lines past the checkpoint that is gone on from are dropped."""

    def __init__(self, run: Path, done_steps: int, total_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        path = run / METRICS
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        # A run that was killed while it wrote leaves half a line, without an end.
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= done_steps]
        publish(path, lambda beside: beside.write_text("".join(kept), encoding="utf-8"))
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(run), purge_step=done_steps + 1)
        self._bar = tqdm(total=total_steps, initial=done_steps, unit="step", dynamic_ncols=True, disable=None)

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in _flatten("", line) if line["kind"] != "start" else []:
            if name not in ("kind", "step"):
                self._events.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def advance(self, loss: float | None = None) -> None:
        self._bar.update()
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}")

    def say(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> "RunRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        self._events.close()
        self._file.close()


def _flatten(prefix: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flatten(f"{prefix}/{key}" if prefix else key, inner)]
    return [(prefix, value)] if isinstance(value, int | float) else []
