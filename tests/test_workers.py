"""The warm server of the tests: what it imports is there, and a command that it forks meets signals as one from a shell does."""

import importlib.util
import signal
import time
from pathlib import Path

import pytest
import workers


@pytest.mark.parametrize("name", workers.PRELOADED)
def test_what_is_imported_beforehand_is_there(name: str) -> None:
    assert importlib.util.find_spec(name) is not None  # the server itself passes over what is missing


def wait_a_minute() -> None:
    print("waiting", flush=True)
    time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_a_forked_process(number: signal.Signals, tmp_path: Path) -> None:
    started = workers.Started(wait_a_minute, cwd=tmp_path)
    while started.stdout != "waiting\n":
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(number)
    assert started.wait(20) == (1 if number == signal.SIGINT else -number)  # what no command turns into a status of its own
    assert ("KeyboardInterrupt" in started.stderr) == (number == signal.SIGINT)
