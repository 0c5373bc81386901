"""tools/gpu_check.sh on the CPU, with a few dozen images: the same code that a machine with a GPU runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import gpu
import gpu_rates
from fastfashion.errors import ConfigError
from gpu_record import TINY, Check, Record

SCRIPT = Path(__file__).parents[1] / "tools/gpu_check.sh"
STAGES = ["sets", "rates", "sweep", "training", "runs"]
PATIENCE_S = 2000  # half a minute does, but nobody else may need the cores meanwhile; what is tested is not the time
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DALI and CUDA are for Linux")


def run_script(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_S,
        env=os.environ | {"PYTHON": sys.executable} | environment,
    )


@dataclass(frozen=True)
class Whole:
    """What a run of the whole script said and left."""

    done: "subprocess.CompletedProcess[str]"
    out: Path
    records: dict[str, dict[str, Any]]  # by stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    home = tmp_path_factory.mktemp("gpu-check")
    (home / "tmp").mkdir()
    done = run_script(str(home / "out"), "--seconds", str(PATIENCE_S), "--device", "cpu", "--tiny", TMPDIR=str(home / "tmp"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((home / "out").iterdir())]
    return Whole(done, home / "out", {record["stage"]: record for record in records})


@LINUX
@pytest.mark.slow
def test_every_stage_is_recorded_whole_and_nothing_else_is_left(whole: Whole) -> None:
    assert whole.done.returncode == 0, whole.done.stdout[-3000:] + whole.done.stderr[-3000:]
    assert sorted(whole.records) == sorted(STAGES)
    for stage, record in whole.records.items():
        assert (record["state"], record["skipped"], record["failed"]) == ("complete", [], []), stage
        assert record["measured"] and record["device"] == "cpu"
        assert record["command"] == f"tools/gpu_check.sh OUT --seconds {PATIENCE_S} --device cpu --tiny"
        assert record["versions"]["torch"] and {"driver", "gpu", "cuda", "cores"} <= set(record["machine"])
        assert "commit" in record and record["about"]
    assert all(re.fullmatch(r"gpu-[a-z]+-cpu-\d+-cores\.json", path.name) for path in whole.out.iterdir())
    left = [path.name for path in (whole.out.parent / "tmp").iterdir() if path.name.startswith("fastfashion")]
    assert left == []
    text = "".join(path.read_text(encoding="utf-8") for path in whole.out.iterdir())
    for place in (str(whole.out.parent), str(SCRIPT.parents[1]), sys.prefix, str(Path.home()) + "/"):
        assert place not in text
    assert "nothing failed" in whole.done.stdout


@LINUX
@pytest.mark.slow
def test_rates_have_rounds_and_what_is_to_be_reached_stands_beside_them(whole: Whole) -> None:
    rows = {row["name"]: row for row in whole.records["rates"]["measured"]}
    assert set(rows) == {f"{name}, {backend}" for name in ("small", "224", "photos") for backend in ("dali", "threads", "resident")}
    for row in rows.values():
        assert len(row["by_round"]) == 3
        assert 0 < min(row["by_round"]) == row["low"] <= row["images_per_s"] == median(row["by_round"]) <= row["high"]
        assert row["used"]["gpu_percent"] is None and "no GPU" in row["used"]["why"]
    targets = {name: row["reach"]["images_per_s"] for name, row in rows.items() if row["reach"]}
    jpeg = {f"{name}, {backend}": rate for name, rate in (("224", 20_000), ("photos", 1_200)) for backend in ("dali", "threads")}
    assert targets == {**jpeg, "small, resident": 200_000}


@LINUX
@pytest.mark.slow
def test_the_sweep_names_the_best_of_its_cells(whole: Whole) -> None:
    record = whole.records["sweep"]
    assert set(record["best"]) == {"224", "photos"}
    for name, best in record["best"].items():
        cells = [(row["hw_decoder_load"], row["threads"]) for row in record["measured"] if row["set"] == name and "threads" in row]
        assert (best["hw_decoder_load"], best["threads"]) in cells
        (final,) = [row["finalists"] for row in record["measured"] if row["set"] == name and "finalists" in row]
        assert best["images_per_s"] == max(row["images_per_s"] for row in final)
        assert any(row["hw_decoder_load"] is None for row in final)  # the default takes part


@LINUX
@pytest.mark.slow
def test_training_is_measured_against_a_batch_that_is_there(whole: Whole) -> None:
    (row,) = whole.records["training"]["measured"]
    by_feeder = {each["fed_by"]: each for each in row["rows"]}
    assert list(by_feeder) == ["random batch", "dali", "threads", "resident"]
    ceiling = by_feeder["random batch"]["by_round"]
    for name, each in by_feeder.items():
        rounding = 0.01 + 0.1 / min(ceiling)  # of rates to a tenth, which is much of a slow machine's
        low, high = min(each["by_round"]) / max(ceiling), max(each["by_round"]) / min(ceiling)
        assert low - rounding <= each["of_random_batch"] <= high + rounding
        assert name != "random batch" or each["of_random_batch"] == 1
        assert each["reach"] is None if name == "random batch" else each["reach"]["of_random_batch"] == 0.97
    for run in whole.records["runs"]["measured"]:
        assert len(run["seconds_an_epoch"]) == len(run["val_accuracy"]) == 2
        assert 0 <= run["data_wait_share"] <= 1 and all(0 <= value <= 1 for value in run["val_accuracy"])
    assert [run["backend"] for run in whole.records["runs"]["measured"]] == ["dali", "resident"]


def test_without_cuda_it_says_so_and_begins_nothing(tmp_path: Path) -> None:
    done = run_script(str(tmp_path / "out"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr and "--device cpu --tiny" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_without_dali_or_python_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia/__init__.py").touch()  # a package of that name without DALI in it
    done = run_script(str(tmp_path / "out"), "--device", "cpu", "--tiny", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "DALI cannot be imported" in done.stderr and "--without-dali" in done.stderr
    done = run_script(str(tmp_path / "out"), PYTHON=str(tmp_path / "python"))
    assert done.returncode == 2 and "make install" in done.stderr
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main([str(tmp_path), "--only", "sets,speed"])
    assert ended.value.code == 2 and "there are sets, rates" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert gpu.main([str(tmp_path / "file"), "--device", "cpu"]) == 2
    assert "expected a folder" in capsys.readouterr().err


def test_a_stage_that_does_not_fit_any_more_is_recorded_as_skipped(tmp_path: Path) -> None:
    assert gpu.main([str(tmp_path), "--device", "cpu", "--tiny", "--only", "runs", "--seconds", "6"]) == 0
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["measured"] == record["failed"] == []
    (skipped,) = record["skipped"]
    assert re.search(r"needs 20 s at least, \d s are left", skipped["why"])


def test_without_nvml_the_gpu_is_watched_through_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\n[ "$2" = GPU-0815 ] || exit 9\nwhile :; do echo 64; sleep 0.02; done\n')  # as it prints with -lms
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu_rates, "_uuid", lambda: "GPU-0815")
    cuda = replace(make_record(tmp_path, "rates", 0).check, device="cuda")
    with gpu_rates.Utilisation(cuda) as used:
        time.sleep(0.1)  # not while a round runs: does not count
        assert used.summary()["gpu_percent"] is None
        with used.counting():
            end = time.monotonic() + 20
            while used.summary()["gpu_percent"] is None and time.monotonic() < end:
                time.sleep(0.01)
    assert used.summary()["gpu_percent"] == 64 and used.summary()["by"] == "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with gpu_rates.Utilisation(cuda) as used, used.counting():
        time.sleep(0.1)
    assert used.summary()["gpu_percent"] is None and "pynvml" in used.summary()["why"] and "nvidia-smi" in used.summary()["why"]


def make_record(folder: Path, stage: str, seconds: float) -> Record:
    home = {"out": folder, "sets": folder / "sets", "real_zip": None}
    check = Check(**home, device="cpu", scale=TINY, threads=1, with_dali=True, command="tools/gpu_check.sh OUT")
    return Record(path=folder / f"{stage}.json", check=check, stage=stage, ends_at=time.monotonic() + seconds)


def read(record: Record) -> dict[str, Any]:
    return json.loads(record.path.read_text(encoding="utf-8"))


def test_what_has_no_time_or_fails_is_in_the_record_and_the_rest_goes_on(tmp_path: Path) -> None:
    record = make_record(tmp_path, "rates", 30)
    record.begin("about")

    def fail(error: Exception) -> dict[str, Any]:
        raise error

    assert record.attempt("long", 60, lambda: {"rate": 1}) is None
    assert record.attempt("broken", 1, lambda: fail(ValueError(f"{tmp_path}/sets/224 is gone"))) is None
    assert record.attempt("elsewhere", 1, lambda: fail(ConfigError("no such backend"))) is None
    assert record.attempt("short", 1, lambda: {"rate": 2}) is not None
    found = read(record)
    assert [row["name"] for row in found["skipped"]] == ["long", "elsewhere"]
    assert re.fullmatch(r"needs about 60 s, (29|30) s are left for this stage", found["skipped"][0]["why"])
    assert found["failed"] == [{"name": "broken", "why": "ValueError: SETS/224 is gone"}]
    assert [(row["name"], row["rate"]) for row in found["measured"]] == [("short", 2)]


def hang(record: Record) -> None:
    record.attempt("first", 0, lambda: {"rate": 1})
    sleeper = subprocess.Popen(["sleep", "1000"])
    record.attempt("second", 0, lambda: {"pid": sleeper.pid})
    record.attempt("third", 0, lambda: {"never": sleeper.wait()})


def crash(record: Record) -> None:
    record.attempt("first", 0, lambda: {"rate": 1})
    record.attempt("second", 0, lambda: {"never": os.kill(os.getpid(), signal.SIGKILL)})


@LINUX
@pytest.mark.parametrize(("stage", "at", "why"), [(hang, "third", "time limit reached"), (crash, "second", "status -9")])
def test_a_stage_that_hangs_or_crashes_keeps_what_it_measured_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any, at: str, why: str
) -> None:
    monkeypatch.setattr(gpu_rates, "for_this_test", stage, raising=False)
    monkeypatch.setitem(gpu.STAGES, "stage", ("gpu_rates", "for_this_test", 1, 1, "about"))
    monkeypatch.setattr(gpu, "GRACE_S", 0.5)
    record = make_record(tmp_path, "stage", 1.5)
    gpu._run_stage(get_context("fork"), record)  # a fork sees the stage of this test
    found = read(record)
    assert found["measured"][0]["rate"] == 1 and found["state"] != "complete"
    (failed,) = found["failed"]
    assert failed["name"] == f"measuring {at}" and why in failed["why"]
    for row in found["measured"]:
        if "pid" in row:
            state = Path(f"/proc/{row['pid']}/stat")
            assert not state.exists() or state.read_text().split()[2] == "Z"  # the process that adopts orphans may not have waited yet
