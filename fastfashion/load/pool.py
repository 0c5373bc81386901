"""Threads that work through a queue of calls, for as long as anybody may need them."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

R = TypeVar("R")
_Task = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Pool:
    """As concurrent.futures' ThreadPoolExecutor, whose threads end before those of the program, and for which an interpreter that exits
    waits. These are daemons: a thread of the program that still trains at exit is served, and a server that does not answer delays no exit.
    """

    def __init__(self, workers: int, name: str) -> None:
        self._workers, self._name = workers, name
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()  # None: end
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._lock = threading.Lock()  # no task is queued after the end

    def submit(self, function: Callable[..., R], *args: Any) -> "Future[R]":
        """Call the function on a thread; raises RuntimeError after `close`."""
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name}: its threads were ended")
            self._queue.put((future, function, args))
            if len(self._threads) < self._workers:
                thread = threading.Thread(target=_work, args=(self._queue,), name=f"{self._name}_{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def close(self) -> None:
        """Cancel what has not started, and wait for the rest."""
        with self._lock:
            self._closed = True
            while (task := _next(self._queue)) is not None:
                task[0].cancel()
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()


def _next(queue: "SimpleQueue[_Task | None]") -> _Task | None:
    try:
        return queue.get_nowait()
    except Empty:
        return None


def _work(queue: "SimpleQueue[_Task | None]") -> None:
    while (task := queue.get()) is not None:
        future, function, args = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)
        del task, future, function, args  # nothing is kept alive while this thread waits
