"""When to save or stop: signals, time limits and the interval of checkpoints, agreed on by all processes at the same step."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch

from fastfashion.config import TrainConfig, parse_duration
from fastfashion.dist import World

T = TypeVar("T")
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
MAX_TIME = 1000  # above every signal's number
AGREE_S = 20.0  # torchrun kills 30 s after its SIGTERM
FIRST_SAVE_S = 5.0  # what the first checkpoint may take, before one was measured
TWICE_S = 2.0  # a terminal and torchrun both send Ctrl-C's signal; a second one after that time is a second Ctrl-C


@dataclass(frozen=True)
class Asked:
    """What all processes should do now."""

    stop: str | None  # why: "SIGTERM", "max_time", …
    save: bool


class Stopped(Exception):  # not an error
    """Training must end now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Control:
    """Call `ask` after every step, on every process. While it is open, SIGTERM, SIGUSR1 and Ctrl-C stop training at the end of a step, if
    `signals`: in somebody else's program their handlers are not ours to change.

    With several processes a wish of one becomes known to all a step later: wishes are exchanged while a step is computed, on the
    CPU, so that nobody waits for a GPU.
    """

    def __init__(self, world: World, config: TrainConfig, *, signals: bool = False) -> None:
        self.slowest_step_s, self.slowest_save_s = 0.0, FIRST_SAVE_S
        self._world, self._listens = world, signals
        self._save_every_s = config.checkpoint_every_minutes * 60
        now = time.monotonic()
        self._ends_at, self._saved_at = now + parse_duration(config.max_time), now
        self._stepped_at: float | None = None  # the first step, which may compile, says nothing of the others
        self._signal, self._signalled_at = 0, 0.0
        self._handlers: dict[signal.Signals, Any] = {}
        self._impatient: threading.Timer | None = None
        timeout = timedelta(seconds=config.timeout_s)
        self._group: Any = torch.distributed.new_group(backend="gloo", timeout=timeout) if world.size > 1 else None
        self._exchange: tuple[Any, torch.Tensor] | None = None  # the work, and the wishes that it adds up

    def ask(self) -> Asked:
        """What to do after this step."""
        now = time.monotonic()
        if self._stepped_at is not None:
            self.slowest_step_s = max(self.slowest_step_s, now - self._stepped_at)
        self._stepped_at = now
        # Early enough for the steps until all agree, and for the checkpoint.
        is_late = now + 3 * self.slowest_step_s + 2 * self.slowest_save_s >= self._ends_at
        save_is_due = self._world.is_main and 0 < self._save_every_s <= now - self._saved_at
        stop, save = self._agree(self._signal or (MAX_TIME if is_late else 0), int(save_is_due))
        if save:
            self.saved()
        if stop and self._impatient is not None:
            self._impatient.cancel()
        reason = "max_time" if stop == MAX_TIME else signal.Signals(stop).name if stop else None
        return Asked(reason, bool(save))

    def check(self) -> None:
        """Raises Stopped if training must end."""
        if (reason := self.ask().stop) is not None:
            raise Stopped(reason)

    def interruptible(self, items: Iterator[T]) -> Iterator[T]:
        """The items, with a check after each."""
        for item in items:
            yield item
            self.check()

    def saved(self, seconds: float = 0.0) -> None:
        """Note that a checkpoint was made, and how long it took."""
        self._saved_at = time.monotonic()
        self.slowest_save_s = max(self.slowest_save_s, seconds)

    def _agree(self, stop: int, save: int) -> tuple[int, int]:
        if self._group is None:
            return stop, save
        agreed = (0, 0)
        if self._exchange is not None:
            work, wishes = self._exchange
            work.wait()
            agreed = (int(wishes[0]), int(wishes[1]))
        wishes = torch.tensor([stop, save])
        work = torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._exchange = (work, wishes)
        return agreed

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._signal == signal.SIGINT and now - self._signalled_at > TWICE_S:
            raise KeyboardInterrupt
        if not self._signal:
            self._signal, self._signalled_at = number, now
            if self._world.size > 1:
                self._impatient = threading.Timer(AGREE_S, _give_up, [number])
                self._impatient.daemon = True
                self._impatient.start()

    def __enter__(self) -> "Control":
        if self._listens and threading.current_thread() is threading.main_thread():  # Python hands signals to no other
            self._handlers = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._impatient is not None:
            self._impatient.cancel()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if error is None and self._exchange is not None:
            self._exchange[0].wait()


def _give_up(number: int) -> None:
    """End the process: the others do not answer, and this one may wait for them in a call that no signal ends."""
    print(f"the other processes did not agree to stop within {AGREE_S:.0f} s: ending without a checkpoint", file=sys.stderr, flush=True)
    os._exit(128 + number)
