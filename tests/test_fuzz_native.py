"""`make fuzz`, for a moment: the native code has no report, and one with a bound that is off by one has; through Python, and in C alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL, NATIVE = ROOT / "tools" / "fuzz_native.py", ROOT / "fastfashion" / "images" / "native"
IN_C = ROOT / "tools" / "fuzz_jpeg.py"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the right sources are compiled once."""
    return tmp_path_factory.mktemp("objects")


def fuzz(objects: Path, *options: str, tool: Path = TOOL) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None or not Path(subprocess.check_output([compiler, "-print-file-name=libasan.so"], text=True).strip()).is_file():
        pytest.skip("no gcc with AddressSanitizer")
    command = [sys.executable, str(tool), "--batches", "40", "--objects", str(objects), *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_native_decoder_passes_a_moment_of_fuzzing(objects: Path) -> None:
    done = fuzz(objects)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("640 images in "), done.stdout


def wrong_copy(folder: Path, name: str, right: str, wrong: str) -> Path:
    """The sources with one bound that is off by one."""
    shutil.copytree(NATIVE, folder / "wrong")
    source = folder / "wrong" / name
    text = source.read_text(encoding="utf-8")
    assert right in text
    source.write_text(text.replace(right, wrong), encoding="utf-8")
    return folder / "wrong"


def test_a_bound_that_is_off_by_one_is_reported_with_its_batch(objects: Path, tmp_path: Path) -> None:
    done = fuzz(objects, "--native", str(wrong_copy(tmp_path, "taps.c", "lines = 4 + (size_t)count", "lines = 3 + (size_t)count")))
    assert done.returncode == 1
    assert "heap-buffer-overflow" in done.stderr and "taps.c:" in done.stderr
    assert "repeat with --seed 0 --first " in done.stdout


def test_the_decoder_in_c_alone_passes_a_moment_of_fuzzing(objects: Path) -> None:
    done = fuzz(objects, tool=IN_C)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10240 runs in "), done.stdout


def test_a_bound_of_the_decoder_that_is_off_by_one_is_reported_with_its_batch(objects: Path, tmp_path: Path) -> None:
    rows = "(part->end_row - part->first_row)"
    wrong = wrong_copy(tmp_path, "jpeg.c", f"total += stride * (size_t){rows}", f"total += stride * (size_t)({rows} - 1)")
    done = fuzz(objects, "--native", str(wrong), tool=IN_C)
    assert done.returncode == 1
    assert "heap-buffer-overflow" in done.stderr and "jpeg.c:" in done.stderr
    assert "repeat with --seed 0 --first " in done.stderr
