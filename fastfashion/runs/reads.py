"""How often a run's test rows were read: each time that somebody looks, what is found by looking is worth less.

RUN/test_reads.jsonl   a line each time, from `evaluate`, `compare` and `score --against`; never rewritten
"""

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from fastfashion.runs.files import TEST_READS
from fastfashion.untrusted import read_limited

MAX_BYTES = 1 << 24


def count_read(run: Path, command: str) -> int:
    """Note that a command reads a run's test rows, and return how often that was done, this time included; 0 if nothing can be written.

    One write of a line at the end of the file, so that commands beside each other lose none.
    """
    line = json.dumps({"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", "command": command}) + "\n"
    with suppress(OSError):  # a run of another user, or on a read-only disk
        descriptor = os.open(run / TEST_READS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
        return read_limited(run / TEST_READS, MAX_BYTES).count(b"\n")
    return 0
