"""What a run writes while it trains, read back; and what it drops when it resumes at an earlier step."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastfashion.config import DataConfig, RunConfig
from fastfashion.errors import ConfigError, InputError
from fastfashion.train.record import RunRecorder
from fastfashion.train.track import check_tracking

STEPS = 5  # an epoch


def config(**train: Any) -> RunConfig:
    return RunConfig(data=DataConfig(shards="x")).replace({"train.epochs": 3} | {f"train.{key}": value for key, value in train.items()})


def step_line(step: int, loss: float = 0.5) -> dict[str, Any]:
    time = {"seconds": 2.0, "images_per_s": 95.31, "data_s": 0.1}
    return {"kind": "step", "epoch": (step - 1) // STEPS, "step": step, "loss": loss, "lr": 1e-3, "grad_norm": 2.0, "rows": 9, "time": time}


def epoch_line(epoch: int) -> dict[str, Any]:
    return {"kind": "epoch", "epoch": epoch, "step": (epoch + 1) * STEPS, "val": {"season": {"accuracy": 0.25}}, "time": {"seconds": 1.0}}


def record(run: Path, lines: list[dict[str, Any]], settings: RunConfig, *, epoch: int = 0, step: int = 0) -> None:
    run.mkdir(exist_ok=True)
    with RunRecorder(run, settings, epoch=epoch, step=step, num_steps=STEPS) as recorder:
        if not epoch and not step:
            recorder.show_images(torch.arange(7 * 4 * 6 * 3, dtype=torch.uint8).reshape(7, 4, 6, 3))
        for line in lines:
            recorder.write(line)
            recorder.advance()


def two_starts(run: Path, **train: Any) -> None:
    """Two epochs and a step; killed, and resumed at the second step of the second epoch."""
    settings = config(**train)
    start = {"kind": "start", "epoch": 0, "step": 0}
    record(run, [start, *map(step_line, range(1, 6)), epoch_line(0), *map(step_line, range(6, 11)), epoch_line(1), step_line(11)], settings)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "epo')
    record(run, [start | {"epoch": 1, "step": 7}, step_line(8, 0.25)], settings, epoch=1, step=2)


def test_going_on_drops_what_came_after_and_half_a_line(tmp_path: Path) -> None:
    two_starts(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    found = [(line["kind"], line["step"]) for line in lines]
    assert found == [
        ("start", 0),
        *[("step", step) for step in range(1, 6)],
        ("epoch", 5),
        ("step", 6),
        ("step", 7),
        ("start", 7),
        ("step", 8),
    ]
    assert lines[-1]["loss"] == 0.25


def test_an_epochs_last_step_is_kept_and_its_validation_done_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run, [*map(step_line, range(1, 6)), epoch_line(0)], config())
    record(run, [], config(), epoch=0, step=STEPS)  # stopped in the middle of validation
    assert [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()] == ["step"] * 5


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run, [step_line(1), step_line(2)], config())
    text = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([text[0][:20], text[1]]) + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl:1: not a line of metrics"):
        record(run, [], config(), step=2)


def test_tensorboard_shows_scalars_images_and_the_config_without_what_was_dropped(tmp_path: Path) -> None:
    two_starts(tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("step/loss")]
    assert losses == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5), (5, 0.5), (6, 0.5), (7, 0.5), (8, 0.25)]
    assert {"step/lr", "step/time/images_per_s", "epoch/val/season/accuracy"} <= set(events.Tags()["scalars"])
    (image,) = events.Images("batch")
    assert (image.width, image.height) == (7 * 6, 4)  # seven images in a line
    (text,) = events.Tensors("config/text_summary")
    assert '"epochs": 3' in text.tensor_proto.string_val[0].decode()


def live(tmp_path: Path, columns: int) -> str:
    """What a terminal of that width shows."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_record import *
run = Path({str(tmp_path)!r}) / "run{columns}"
run.mkdir()
with RunRecorder(run, config(), epoch=0, step=0, num_steps=STEPS) as recorder:
    for step in range(1, 8):
        recorder.write(step_line(step))
        time.sleep(0.12)
        recorder.advance()
    recorder.say("a message")
"""
    main, side = pty.openpty()
    subprocess.run(["stty", "cols", str(columns), "rows", "30"], stdin=side, check=True)
    process = subprocess.Popen([sys.executable, "-c", script], stdin=side, stdout=side, stderr=side, close_fds=True)
    os.close(side)
    shown = b""
    while True:
        try:
            more = os.read(main, 4096)
        except OSError:
            break
        if not more:
            break
        shown += more
    assert process.wait() == 0, shown.decode()
    return shown.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_one_live_line_says_where_training_stands(columns: int, tmp_path: Path) -> None:
    shown = live(tmp_path, columns)
    frames = [frame for frame in re.split(r"[\r\n]+", shown) if "epoch" in frame]
    last = frames[-1].rstrip()
    where = r"epoch 2/3 step 7/15 \|\S+ *\| " if columns > 100 else "epoch 2/3 7/15, "
    assert re.search(where + r"95\.3 images/s, loss 0\.5000, lr 1\.0e-03, 00:0\d left$", last), shown
    assert all(len(frame) <= columns for frame in frames)


def test_without_a_terminal_there_is_a_line_now_and_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "run", [step_line(step) for step in range(1, 8)], config())
    told = capsys.readouterr().err
    assert told.count("images/s") == 1 and "epoch 1/3 step 1/15, 95.3 images/s, loss 0.5000, lr 1.0e-03, " in told


def test_mlflow_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    two_starts(tmp_path / "run", track="mlflow")
    client = mlflow.MlflowClient()
    (experiment,) = [each for each in client.search_experiments() if each.name == "fastfashion"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["train.epochs"] == "3" and run.info.run_name == "run" and run.info.status == "FINISHED"
    points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "step/loss")]
    assert {step for step, _ in points} == set(range(1, 12)) and (8, 0.25) in points


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    two_starts(tmp_path / "run", track="wandb")
    folders = sorted((tmp_path / "run/wandb").glob("offline-run-*"))
    identity = (tmp_path / "run/wandb-run-id").read_text()
    # Two starts within one second get folders that differ in a number at the end.
    assert folders and all(re.fullmatch(rf"offline-run-\d+_\d+-{identity}(-\d+)?", folder.name) for folder in folders)
    files = [folder / f"run-{identity}.wandb" for folder in folders]
    deadline = time.monotonic() + 30
    while not (whole := all(b"step/loss" in file.read_bytes() for file in files)) and time.monotonic() < deadline:
        time.sleep(0.05)  # its own process writes them, some after finish() has returned
    assert whole
    assert "left out" not in capsys.readouterr().err


def test_a_tracker_that_fails_is_told_of_once_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file").as_uri())
    mlflow.set_tracking_uri((tmp_path / "file").as_uri())
    record(tmp_path / "run", [step_line(1), step_line(2)], config(track="mlflow"))
    told = capsys.readouterr().err
    assert told.count("warning: mlflow is switched off for the rest of the run") == 1
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


def test_a_tracker_that_is_not_installed_or_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"train\.track: expected wandb or mlflow, found 'comet'"):
        config(track="comet")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match=r"train\.track=wandb needs wandb, which is not installed: pip install 'fastfashion\[track\]'"):
        check_tracking(config(track="wandb"))
