"""bench/startup.py: what it measures, on a small set."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PackedSmall

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.slow
def test_the_record_has_seconds_and_memory_of_each_way(packed_small: PackedSmall, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    command = [sys.executable, "startup.py", "--shards", str(packed_small.out), "--size", "32x32", "--batch-size", "8", "--rounds", "1"]
    done = subprocess.run([*command, "--out", str(out)], cwd=BENCH, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    ours, alone, helped = record["rows"]
    assert 30 < record["images"] < 60 and record["rounds"] == 1 and record["machine"]["cores"] >= 1
    assert all(row["seconds"]["median"] > 0 and row["private_mb"]["median"] > 1 for row in record["rows"])
    assert [row["workers_mb"]["median"] > 1 for row in (ours, alone, helped)] == [False, False, True]
