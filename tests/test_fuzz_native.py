"""`make fuzz`, for a moment: the native decoder has no report, and one with a bound that is off by one has."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL, NATIVE = ROOT / "tools" / "fuzz_native.py", ROOT / "fastfashion" / "images" / "native"


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None or not Path(subprocess.check_output([compiler, "-print-file-name=libasan.so"], text=True).strip()).is_file():
        pytest.skip("no gcc with AddressSanitizer")
    return subprocess.run([sys.executable, str(TOOL), "--batches", "40", *options], capture_output=True, text=True)


def test_the_native_decoder_passes_a_moment_of_fuzzing() -> None:
    done = fuzz()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("640 images in "), done.stdout


def test_a_bound_that_is_off_by_one_is_reported_with_its_batch(tmp_path: Path) -> None:
    right = "size * (bound + 2)"
    shutil.copytree(NATIVE, tmp_path / "wrong")
    source = tmp_path / "wrong" / "taps.c"
    text = source.read_text(encoding="utf-8")
    assert right in text
    source.write_text(text.replace(right, right.replace("2", "1")), encoding="utf-8")
    done = fuzz("--native", str(tmp_path / "wrong"))
    assert done.returncode == 1
    assert "heap-buffer-overflow" in done.stderr and "taps.c:" in done.stderr
    assert "repeat with --seed 0 --first " in done.stdout
