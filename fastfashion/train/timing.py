"""Where the time of training goes."""

import time

import torch


class Phases:
    """Seconds by phase. On a GPU they are the GPU's own, between marks in its stream: "data" then is how long it stood idle for data.

    A GPU's times are read where the loop waits for it anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._marks: list[tuple[str, torch.cuda.Event]] = []
        self._last = self._now()

    def mark(self, phase: str) -> None:
        """All since the mark before was `phase`."""
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
