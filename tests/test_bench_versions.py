"""bench/versions.py: the interval, and the whole table on tiny sets, with this version beside itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PackedSmall

from fastfashion.pack import PackRequest, pack
from versions import TABLE, interval

HOME = Path(__file__).parents[1]


@pytest.mark.parametrize(("n", "rank"), [(5, 1), (6, 1), (9, 2), (15, 4), (21, 6), (25, 8)])
def test_the_interval_of_a_median_is_that_of_the_tables(n: int, rank: int) -> None:
    """The largest rank below which a binomial of n and 1/2 falls with at most 2.5 %; five values have none, and give their range."""
    assert interval([float(value) for value in range(n, 0, -1)]) == (rank, n + 1 - rank)


def versions(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, HOME / "bench/versions.py", *options], capture_output=True, text=True, check=False, timeout=500)


@pytest.mark.slow
def test_one_command_measures_the_whole_table_and_another_prints_it(packed_small: PackedSmall, tmp_path: Path) -> None:
    pack(PackRequest(source=packed_small.source, out=tmp_path / "small", resolutions=("full", "224"), workers=1))
    for name in ("photos", "synth-224"):
        (tmp_path / name).symlink_to("small")
    out = tmp_path / "versions.json"
    done = versions("--table", tmp_path, "--other", sys.executable, "--other-commit", "abc1234", "--rounds", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text(encoding="utf-8"))
    assert [row["name"] for row in record["rows"]] == [row["name"] for row in TABLE]
    for row in record["rows"]:
        assert row["this"]["images_per_s"] > 0 and len(row["of_other"]["by_round"]) == 2
        assert row["of_other"]["interval"][0] <= row["of_other"]["median"] <= row["of_other"]["interval"][1]
        assert ("of_decode_only" in row) == (row["backend"] == "threads") and ("of_without_seek" in row) == (row["min_area"] < 0.5)
    printed = versions("--table-of", out).stdout.splitlines()
    assert len(printed) == 2 + len(TABLE) and "of commit abc1234" in printed[0]
    assert all('(../bench/results/versions.json "rows[name=' in line for line in printed[2:])
