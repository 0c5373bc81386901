"""Training that is killed, stopped, cut off, or finds its checkpoints damaged: it ends as if nothing had happened."""

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workers
from conftest import PackedSmall, digests
from safetensors.torch import load_file
from workers import Fault

from fastfashion.config import DataConfig, RunConfig
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.runs.folder import check_run_folder
from fastfashion.train.checkpoint import FORMAT, Checkpoints, Progress, read_checkpoint
from fastfashion.train.job import resolve
from fastfashion.untrusted import described

# A batch norm, dropout and two moments of each gradient: state and random numbers that a checkpoint could forget.
BASE = {
    "model.name": "test_resnet",
    "model.pretrained": False,
    "model.dropout": 0.2,
    "optim.optimizer": "adamw",
    "optim.lr": 1e-3,
    "optim.weight_decay": 0.05,
    "optim.clip_norm": 1.0,
    "data.size": "32x32",
    "data.workers": 1,
    "train.epochs": 12,
    "train.batch_size": 8,
    "train.log_every_steps": 4,
    "train.checkpoint_every_steps": 2,
    "train.deterministic": True,
    "train.precision": "fp32",
    "train.timeout_s": 60,
}


def config_of(packed: PackedSmall, **settings: Any) -> RunConfig:
    start = RunConfig(data=DataConfig(shards=str(packed.out)))
    return resolve(start.with_recipe("fast", BASE | {key.replace("__", "."): value for key, value in settings.items()}))


def lines_of(run: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] in (kinds or ("step", "epoch"))]


def record_of(run: Path) -> list[dict[str, Any]]:
    """Metrics without what a clock says."""
    return [{key: value for key, value in line.items() if key != "time"} for line in lines_of(run)]


def checkpoints_of(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*.json"))


def final_of(run: Path) -> dict[str, bytes]:
    """All tensors of the last checkpoint."""
    tensors = read_checkpoint(checkpoints_of(run)[-1]).tensors
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def assert_same_end(run: Path, whole: Path) -> None:
    assert record_of(run) == record_of(whole)
    assert final_of(run) == final_of(whole)
    assert digests(run / "best") == digests(whole / "best")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert {path.name for path in checkpoints_of(run)} == {path.name for path in checkpoints_of(whole)}
    assert not list(run.rglob("*.partial"))


def status_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def wait_for(done: Callable[[], Any], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happened to."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert workers.run_all(config_of(packed_small).to_dict(), run, 2) == [0, 0]
    return run


def test_a_run_sees_each_row_once_an_epoch(whole: Path, packed_small: PackedSmall) -> None:
    steps = lines_of(whole, "step")
    by_epoch = [sum(line["rows"] for line in steps if line["epoch"] == epoch) for epoch in range(12)]
    hashes = {sum(int(line["rows_hash"], 16) for line in steps if line["epoch"] == epoch) % 2**64 for epoch in range(12)}
    assert len(set(by_epoch)) == 1 and len(hashes) == 1  # the same rows in each epoch
    done = [line["step"] for line in steps]
    assert done == sorted(set(done))


def faults(number: int, run: Path) -> dict[int, Fault]:
    """What ends the n-th start: rank 0 at a change to the disk, in every fourth; either rank at the step after a new checkpoint."""
    if number % 4 == 3:
        return {0: Fault(killed_at_change=random.Random(number).randrange(1, 30))}  # its start, and its first checkpoints
    return {number % 2: Fault(killed_after_one_in=run / "checkpoints", there=frozenset(checkpoints_of(run)))}


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_again_and_again_on_any_rank_it_ends_bit_for_bit_the_same(
    kills: int, whole: Path, packed_small: PackedSmall, tmp_path: Path
) -> None:
    config, run, log = config_of(packed_small).to_dict(), tmp_path / "run", tmp_path / "log.txt"
    for number in range(kills):
        ends = faults(number, run)
        processes = workers.start(config, run, 2, log, ends)
        (victim,) = ends
        processes[victim].join(90)
        assert processes[victim].exitcode == -signal.SIGKILL, log.read_text()
        for process in processes:  # the other one ends by itself, within seconds, once it has met its peer
            process.join(20 if number % 4 < 3 else 0.2)
            assert number % 4 == 3 or not process.is_alive(), f"hangs without its peer\n{log.read_text()}"
            process.kill()  # as a launcher does
            process.join()
    assert workers.run_all(config, run, 2, log) == [0, 0]
    assert_same_end(run, whole)
    starts = lines_of(run, "start")
    assert len({line["step"] for line in starts}) > kills // 2  # it was resumed at many places, in mid-epoch


@pytest.mark.slow
def test_three_ranks_whose_sums_have_an_order_end_bit_for_bit_the_same_too(packed_small: PackedSmall, tmp_path: Path) -> None:
    config = config_of(packed_small, train__epochs=4, train__batch_size=12).to_dict()
    assert workers.run_all(config, tmp_path / "whole", 3) == [0] * 3
    for _ in range(3):
        before = checkpoints_of(tmp_path / "run")[-1:]
        processes = workers.start(config, tmp_path / "run", 3)
        wait_for(lambda: checkpoints_of(tmp_path / "run")[-1:] != before or not processes[0].is_alive())  # noqa: B023
        for process in processes:
            process.kill()
            process.join()
    assert workers.run_all(config, tmp_path / "run", 3) == [0] * 3
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    assert len(lines_of(tmp_path / "run", "start")) > 2


def test_another_number_of_processes_goes_on_with_the_same_rows(whole: Path, packed_small: PackedSmall, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # Without batch norm and dropout, which see each process's own share, only the order of additions differs.
    config = config_of(packed_small, model__name="test_vit", model__dropout=0.0, train__epochs=4).to_dict()
    assert workers.run_all(config, tmp_path / "one", 1) == [0]
    for size in (2, 1, 2):
        before = checkpoints_of(run)[-1:]
        processes = workers.start(config, run, size)
        wait_for(lambda: checkpoints_of(run)[-1:] != before)  # noqa: B023
        for process in processes:
            process.kill()
            process.join()
    assert workers.run_all(config, run, 3) == [0, 0, 0]
    one, changed = lines_of(tmp_path / "one", "step"), lines_of(run, "step")
    for key in ("step", "rows", "rows_hash"):
        assert [line[key] for line in changed] == [line[key] for line in one]
    np.testing.assert_allclose([line["loss"] for line in changed], [line["loss"] for line in one], rtol=1e-3)
    assert len({line["processes"] for line in lines_of(run, "start")}) >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_saves_on_all_at_the_same_step_and_ends_within_seconds(
    number: signal.Signals, whole: Path, packed_small: PackedSmall, tmp_path: Path
) -> None:
    config, run = config_of(packed_small, train__checkpoint_every_steps=0), tmp_path / "run"
    processes = workers.start(config.to_dict(), run, 2, tmp_path / "log.txt")
    wait_for(lambda: checkpoints_of(run))
    time.sleep(0.01)
    os.kill(processes[1].pid, number)
    started = time.monotonic()
    for process in processes:
        process.join(20)
        assert process.exitcode == 0  # asked for, and done: nothing that torchrun should start again
    assert time.monotonic() - started < 10
    status = status_of(run)
    assert (status["state"], status["resumable"], status["reason"]) == ("interrupted", True, number.name)
    saved = read_checkpoint(checkpoints_of(run)[-1]).progress
    assert saved.epoch * 6 + saved.step == status["steps"]
    assert "the same command resumes" in (tmp_path / "log.txt").read_text()
    assert workers.run_all(config.to_dict(), run, 2) == [0, 0]
    assert record_of(run) == record_of(whole) and final_of(run) == final_of(whole)


@pytest.mark.dist
def test_the_launcher_passes_signals_on_and_starts_again_what_dies(packed_small: PackedSmall, whole: Path, tmp_path: Path) -> None:
    settings = [f"--set={key}={value}" for key, value in BASE.items()]
    arguments = [sys.executable, "-m", "fastfashion", "train", str(packed_small.out), *settings, "--no-pretrained"]
    arguments += ["--runs", str(tmp_path), "--name", "run", "--nproc", "2"]
    run = tmp_path / "run"
    first = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: checkpoints_of(run))
    os.kill(status_of(run)["process"], signal.SIGKILL)  # rank 0: all are started again
    wait_for(lambda: len(lines_of(run, "start")) == 2)
    wait_for(lambda: len(lines_of(run, "step")) > 2)
    first.send_signal(signal.SIGTERM)
    _, told = first.communicate(timeout=60)
    assert "restarting all of them" in told
    if first.returncode != 0:  # unless it was through with all
        assert first.returncode == 143, told
        assert status_of(run)["state"] == "interrupted"
    assert workers.run_all(config_of(packed_small).to_dict(), run, 2) == [0, 0]
    assert_same_end(run, whole)


@pytest.mark.dist
def test_torchrun_starts_again_a_worker_that_was_killed(packed_small: PackedSmall, whole: Path, tmp_path: Path) -> None:
    settings = [f"--set={key}={value}" for key, value in BASE.items()]
    arguments = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=2", "--max-restarts=3"]
    arguments += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{workers.free_port()}", "--rdzv-conf=last_call_timeout=1"]
    arguments += ["-m", "fastfashion.train", str(packed_small.out), *settings, "--runs", str(tmp_path), "--name", "run"]
    run = tmp_path / "run"
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: checkpoints_of(run))
    os.kill(status_of(run)["process"], signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert len(lines_of(run, "start")) == 2
    assert_same_end(run, whole)


def test_a_rank_that_raises_ends_all_with_its_traceback_and_rank(packed_small: PackedSmall, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    processes = workers.start(config_of(packed_small).to_dict(), run, 2, log, {1: Fault(raises_at=9)})
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [75, 1], log.read_text()
    told = log.read_text()
    assert re.search(r"Traceback[^§]*RuntimeError: as the test asked for\n *on rank 1 of 2, host ", told)
    assert "another process of this run has ended" in told
    assert status_of(run)["state"] == "failed" and status_of(run)["resumable"]


def test_an_error_that_a_user_can_cure_is_one_line_a_rank(packed_small: PackedSmall, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    config = config_of(packed_small).to_dict()
    config["data"]["shards"] = str(tmp_path / "missing")
    assert workers.run_all(config, tmp_path / "run", 2, log) == [2, 2]
    assert "error on rank 1: " in log.read_text() and "Traceback" not in log.read_text()


def test_a_process_that_hangs_ends_the_others_by_timeout(packed_small: PackedSmall, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log.txt"
    processes = workers.start(config_of(packed_small, train__timeout_s=3).to_dict(), run, 2, log)
    wait_for(lambda: checkpoints_of(run))
    os.kill(processes[1].pid, signal.SIGSTOP)
    processes[0].join(30)
    processes[1].kill()
    assert processes[0].exitcode == 75, log.read_text()
    assert "did not answer in time" in log.read_text() and "train.timeout_s" in log.read_text()


def tiny_checkpoints(folder: Path, told: list[str], keep: int = 2) -> Checkpoints:
    return Checkpoints(folder, keep, told.append, lambda tensors: None)


def save_three(folder: Path) -> list[Path]:
    import torch

    with tiny_checkpoints(folder, [], keep=3) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, Progress(step=step, losses=(0.1, 1 / 3)), {"model/w": torch.full((50,), float(step))})
    return sorted(folder.glob("step-*.safetensors"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("[]"),
        lambda path: path.with_suffix(".json").write_text('{"format": "fastfashion-checkpoint", "version": 1, "progress": {"step": 3}}'),
    ],
    ids=["flipped bit", "cut short", "gone", "half a description", "no description", "wrong description"],
)
def test_of_damaged_checkpoints_the_one_before_is_used(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    files = save_three(tmp_path)
    damage(files[-1])
    told: list[str] = []
    with tiny_checkpoints(tmp_path, told) as checkpoints:
        found = checkpoints.load()
        assert found is not None and found.progress == Progress(step=20, losses=(0.1, 1 / 3))
        assert found.tensors["model/w"].tolist() == [20.0] * 50
    assert len(told) == 1 and "step-000000030" in told[0] and "using the one before" in told[0]
    assert [path.stem for path in sorted(tmp_path.glob("step-*.json"))] == ["step-000000010", "step-000000020"]


def described_parts(text: str) -> list[int]:
    """Where digits, letters and signs of a description are: each of those that say what it is, and some of a long checksum."""
    return [at for at, letter in enumerate(text) if not letter.isspace() and (not text[at - 8 : at + 8].isalnum() or at % 9 == 0)]


def test_no_changed_byte_of_a_description_gives_other_weights_or_another_place(tmp_path: Path) -> None:
    last = save_three(tmp_path)[-1].with_suffix(".json")
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    expected, text = read_checkpoint(last), last.read_text()
    used_before = 0
    for at in described_parts(text):
        for flipped in (1, 2, 16):
            for path, data in whole.items():
                if not path.exists():
                    path.write_bytes(data)
            changed = bytearray(whole[last])
            changed[at] ^= flipped
            last.write_bytes(changed)
            told: list[str] = []
            with tiny_checkpoints(tmp_path, told) as checkpoints:
                found = checkpoints.load()
            assert found is not None
            if found.path == last:
                assert found.progress == expected.progress and not told
            else:
                used_before += 1
                assert found.progress.step == 20 and len(told) == 1 and "using the one before" in told[0]
    assert used_before > 100


def test_a_checkpoint_from_before_descriptions_had_a_checksum_is_used_and_that_is_said(tmp_path: Path) -> None:
    last = save_three(tmp_path)[-1].with_suffix(".json")
    values = json.loads(last.read_text())
    del values["description_sha256"]
    last.write_text(json.dumps(values | {"version": 1}, indent=2))
    told: list[str] = []
    with tiny_checkpoints(tmp_path, told) as checkpoints:
        found = checkpoints.load()
    assert found is not None and found.progress == Progress(step=30, losses=(0.1, 1 / 3))
    assert len(told) == 1 and "of an older version, which has no checksum" in told[0]
    last.write_text(json.dumps(values | {"version": 3}))
    with pytest.raises(TrainingError, match="expected fastfashion-checkpoint version 1 or 2, found 'fastfashion-checkpoint' version 3"):
        read_checkpoint(last)


def test_where_no_checkpoint_is_whole_nothing_is_thrown_away(tmp_path: Path) -> None:
    for path in save_three(tmp_path):
        flip(path)
    with tiny_checkpoints(tmp_path, []) as checkpoints, pytest.raises(TrainingError, match="none of its 3 checkpoints is whole"):
        checkpoints.load()
    assert len(list(tmp_path.glob("step-*.json"))) == 3


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


def test_a_crafted_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Bomb())
    for path in save_three(tmp_path):
        path.write_bytes(bomb)
        known = path.with_suffix(".json")
        values = {"num_bytes": len(bomb), "sha256": hashlib.sha256(bomb).hexdigest(), "progress": {}}
        known.write_text(json.dumps(described(FORMAT, values)))
        with pytest.raises(TrainingError, match=r"not a safetensors file .*run code when they are loaded are refused"):
            read_checkpoint(known)
    assert not (tmp_path / "exploded").exists()


def test_the_last_ones_and_their_best_are_kept(tmp_path: Path) -> None:
    import torch

    with tiny_checkpoints(tmp_path, []) as checkpoints:
        for step, values in [
            (5, {"epoch": 1, "best_epoch": 0}),
            (7, {"epoch": 1, "step": 2, "best_epoch": 0}),
            (10, {"epoch": 2, "best_epoch": 1}),  # the best one
            (15, {"epoch": 3, "best_epoch": 1}),
            (17, {"epoch": 3, "step": 2, "best_epoch": 1}),
            (20, {"epoch": 4, "best_epoch": 1}),
        ]:
            checkpoints.save(step, Progress(**values), {"model/w": torch.zeros(3)})
    assert [path.stem for path in sorted(tmp_path.glob("*.safetensors"))] == ["step-000000010", "step-000000017", "step-000000020"]


def test_what_is_saved_is_what_it_was_when_it_was_saved(tmp_path: Path) -> None:
    import torch

    tensor = torch.arange(3_000_000, dtype=torch.float32).reshape(3, 10, 100_000).permute(1, 2, 0)
    expected = tensor.clone()
    with tiny_checkpoints(tmp_path, []) as checkpoints:
        checkpoints.save(1, Progress(), {"model/w": tensor})
        tensor.zero_()  # training continues while it is written
    assert torch.equal(load_file(tmp_path / "step-000000001.safetensors")["model/w"], expected)


def test_a_full_disk_keeps_the_old_checkpoints_and_says_so(packed_small: PackedSmall, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("no small disk: mounting a tmpfs needs root")
    try:
        run, log = disk / "run", tmp_path / "log.txt"
        config = config_of(packed_small, train__epochs=3).to_dict()
        processes = workers.start(config, run, 1, log)
        wait_for(lambda: checkpoints_of(run))
        os.kill(processes[0].pid, signal.SIGSTOP)  # so that what is free stays so
        with (disk / "ballast").open("wb") as ballast:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            ballast.write(bytes(max(0, free - 100_000)))
        os.kill(processes[0].pid, signal.SIGCONT)
        processes[0].join(60)
        told = log.read_text()
        assert processes[0].exitcode == 2 and re.search(
            r"checkpoint of step \d+ was not saved \(.*: the disk is full: .* are needed, .* are free.*the one of step \d+ stays", told
        )
        assert read_checkpoint(checkpoints_of(run)[-1]).tensors
        (disk / "ballast").unlink()
        assert workers.run_all(config, run, 1, log) == [0]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_one_folder_is_trained_in_by_one(packed_small: PackedSmall, tmp_path: Path) -> None:
    config, run, log = config_of(packed_small, train__epochs=400).to_dict(), tmp_path / "run", tmp_path / "log.txt"
    (first,) = workers.start(config, run)
    wait_for(lambda: checkpoints_of(run))
    assert workers.run_all(config, run, 1, log) == [2]
    assert f"run: another training holds it: process {first.pid} on " in log.read_text()
    first.kill()
    first.join()


def test_resume_and_allowed_changes(whole: Path, packed_small: PackedSmall, tmp_path: Path) -> None:
    same = config_of(packed_small)
    check_run_folder(whole, same, resume="must")
    check_run_folder(tmp_path / "new", same, resume="never")
    with pytest.raises(TrainingError, match="--resume never, but a run is there"):
        check_run_folder(whole, same, resume="never")
    with pytest.raises(TrainingError, match="--resume must, but there is no run"):
        check_run_folder(tmp_path / "new", same, resume="must")
    with pytest.raises(ConfigError, match="auto, never, must"):
        check_run_folder(whole, same, resume="maybe")
    other = config_of(packed_small, optim__lr=0.5, train__epochs=13)
    with pytest.raises(TrainingError, match=r"optim\.lr: 0\.001 there, 0\.5 now; train\.epochs: 12 there, 13 now.*--allow-config-change"):
        check_run_folder(whole, other, allowed=["train.batch_size"][:0])
    with pytest.raises(TrainingError, match=r"settings \(optim\.lr"):
        check_run_folder(whole, other, allowed=["train.epochs"])
    check_run_folder(whole, other, allowed=["train.epochs", "optim.lr"])
    with pytest.raises(ConfigError, match=r"train\.batch_size: a checkpoint does not fit"):
        check_run_folder(whole, other, allowed=["train.batch_size"])
