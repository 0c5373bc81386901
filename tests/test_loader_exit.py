"""A program ends although a loader still works: nothing is waited for, nothing is lost, nothing is printed."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PackedSmall

OPENED = """
import sys
import threading
import fastfashion as ff
loader = ff.loader(sys.argv[1], split="all", batch_size=7, size="32x24", workers=2, backend=sys.argv[2], task=None, cache_dir=sys.argv[3])
"""


def run(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", OPENED + code, *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.fixture
def stuck_server(packed_small: PackedSmall) -> Iterator[str]:
    """Serves the set, but never finishes a shard after the first one."""
    asked, end = [], threading.Event()

    class Visit(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(packed_small.out))

        def do_GET(self) -> None:
            if not self.path.endswith("00000.tar") and self.path.endswith(".tar"):
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                end.wait(120)
            else:
                super().do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Visit)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    end.set()
    server.shutdown()
    server.server_close()
    assert asked


@pytest.mark.parametrize("backend", ["threads", "resident"])
def test_exit_does_not_wait_for_a_server_that_does_not_answer(stuck_server: str, tmp_path: Path, backend: str) -> None:
    result = run("batches = iter(loader)\nnext(batches)\nprint('first')\nimport time\ntime.sleep(0.5)\n", stuck_server, backend, tmp_path)
    assert (result.stdout, result.stderr, result.returncode) == ("first\n", "", 0)


@pytest.mark.parametrize("backend", ["threads", "resident", pytest.param("dali", marks=pytest.mark.slow)])
def test_a_thread_that_trains_on_after_the_main_one_ended_loses_nothing(packed_small: PackedSmall, tmp_path: Path, backend: str) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    code = """
def train():
    threading.main_thread().join()
    for epoch in range(3):
        print(sum((batch.rows >= 0).sum().item() for batch in loader))
threading.Thread(target=train).start()
"""
    result = run(code, packed_small.out, backend, tmp_path)
    assert (result.stdout, result.stderr, result.returncode) == ("60\n" * 3, "", 0)
