"""What training says: five lines before it begins, loss and rate from its second step on, an epoch's line, where it resumes."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import workers
from conftest import PackedSmall
from test_faults import config_of, lines_of

from fastfashion import dist
from fastfashion.errors import FirstStepError, LostPeerError, TrainingError
from fastfashion.train.checkpoint import Progress
from fastfashion.train.job import train
from fastfashion.train.losses import loss_limit
from fastfashion.train.record import RunRecorder
from fastfashion.train.text import _labels, epoch_text, resumed_text, weighted_mean
from fastfashion.train.trainer import Trainer, first_step_explained

ALONE = dist.World(device=torch.device("cpu"))
SEVEN = ["masterCategory", "subCategory", "articleType", "gender", "baseColour", "season", "usage"]


def score_of(*values: float) -> dict[str, dict[str, float | int]]:
    return {task: {"accuracy": value, "macro_f1": value / 2} for task, value in zip(SEVEN, values, strict=False)}


def test_the_lines_of_an_epoch_of_seven_labels_fit_a_hundred_columns() -> None:
    end = Progress(epoch=112, best_epoch=111)
    lines = epoch_text(end, 120, score_of(*[0.9876] * 7), {}).split("\n")
    assert lines[0] == "epoch 112/120: accuracy/macro F1 on validation: mean 0.9876/0.4938 (the best so far)"
    assert all(len(line) <= 100 for line in lines) and len(lines) <= 4
    assert re.findall(r"(\w+) 0\.9876/0\.4938", " ".join(lines[1:])) == SEVEN
    alone = epoch_text(replace(end, best_epoch=3), 120, score_of(0.5), {})
    assert alone == "epoch 112/120: accuracy/macro F1 on validation: masterCategory 0.5000/0.2500"


def test_the_mean_over_labels_is_weighted_as_the_loss() -> None:
    scores = score_of(0.8, 0.5)
    assert weighted_mean(scores, {}, "accuracy") == pytest.approx(0.65)
    assert weighted_mean(scores, {"masterCategory": 2.0}, "accuracy") == pytest.approx(0.7)
    assert weighted_mean(scores, {"masterCategory": 0.0}, "accuracy") == pytest.approx(0.5)
    assert weighted_mean(scores, {"masterCategory": 0.0, "subCategory": 0.0}, "macro_f1") == pytest.approx(0.325)


@pytest.mark.parametrize(
    ("values", "weights", "best"),
    [
        ([(0.9, 0.1), (0.6, 0.6), (0.5, 0.5)], {}, 1),  # the first label alone would choose 0
        ([(0.9, 0.1), (0.6, 0.6), (0.5, 0.5)], {"masterCategory": 9.0}, 0),
        ([(0.5, 0.5), (0.6, 0.4), (0.3, 0.3)], {}, 1),  # of equal ones the later
    ],
)
def test_the_best_epoch_is_that_of_the_weighted_mean_of_all_labels(
    values: list[tuple[float, float]], weights: dict[str, float], best: int, packed_small: PackedSmall, tmp_path: Path, monkeypatch: Any
) -> None:
    text = ",".join(f"{task}={weight}" for task, weight in weights.items())
    config = config_of(packed_small, data__task="masterCategory,subCategory", optim__task_weights=text, train__epochs=3)
    scores = iter([score_of(*each) for each in values])
    monkeypatch.setattr(Trainer, "validate", lambda self: next(scores))
    assert train(config, tmp_path / "run", ALONE).best_epoch == best


def test_where_a_run_is_resumed_is_counted_from_one_and_never_past_the_end() -> None:
    run = Path("runs/x")
    assert resumed_text(run, Progress(epoch=0, step=3), 5, 1) == "runs/x: resuming at step 4 of 5 in epoch 1 of 1"
    assert resumed_text(run, Progress(epoch=1, step=0), 5, 2) == "runs/x: resuming at step 1 of 5 in epoch 2 of 2"
    assert resumed_text(run, Progress(epoch=0, step=5), 5, 1) == "runs/x: resuming with the validation in epoch 1 of 1"
    assert "epoch 2 of 1" not in resumed_text(run, Progress(epoch=1), 5, 1)


def test_the_live_line_of_a_finished_run_is_at_its_last_epoch(packed_small: PackedSmall, tmp_path: Path) -> None:
    config = config_of(packed_small, train__epochs=1)
    with RunRecorder(tmp_path, config, epoch=1, step=0, num_steps=5) as recorder:
        assert recorder._bar.desc == "epoch 1/1"


def test_loss_and_rate_are_shown_from_the_second_step_on(packed_small: PackedSmall, tmp_path: Path, monkeypatch: Any) -> None:
    told = []
    monkeypatch.setattr(RunRecorder, "show_live", lambda self, line: told.append(line))
    train(config_of(packed_small, train__epochs=1, train__batch_size=2, train__log_every_steps=12), tmp_path / "run", ALONE)
    steps = [line["step"] for line in told]
    assert steps[:5] == [2, 3, 5, 9, 12]  # ever more seldom
    assert all(line["loss"] > 0 and line["time"]["images_per_s"] > 0 for line in told)
    assert [line["step"] for line in lines_of(tmp_path / "run", "step")] == [step for step in steps if step % 12 == 0 or step == steps[-1]]


def test_training_says_in_five_lines_what_it_is_about_to_do(packed_small: PackedSmall, tmp_path: Path) -> None:
    arguments = ["--size", "32x32", "--epochs", "2", "--batch-size", "900", "--model", "test_vit", "--no-pretrained", "--task", "all"]
    done = workers.fastfashion("train", str(packed_small.out), *arguments, "--runs", "runs", "--name", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("set "))
    said = [line.split(maxsplit=1) for line in lines[first : first + 5]]
    assert [name for name, _ in said] == ["set", "rows", "labels", "model", "run"]
    assert said[0][1] == f"{packed_small.out}: 60 images, resolution 32"
    counts = re.fullmatch(
        r"(\d+) train(?: \(\d+ an epoch: rare classes repeated\))?, (\d+) val, (\d+) test; stratified split by subCategory", said[1][1]
    )
    assert counts and sum(map(int, counts.groups())) == 60
    assert re.fullmatch(r"masterCategory 3, subCategory 4, articleType 5, gender 3, baseColour 3, season 2, usage \d", said[2][1])
    assert re.fullmatch(r"test_vit \(0\.\d M parameters\) from random weights, images 32 high, 32 wide", said[3][1])
    assert re.fullmatch(r"runs/x: (cpu|cuda) \(1 process\), (threads|dali), (fp32|bf16), batch 900, 2 epochs of 1 step", said[4][1])
    assert re.match(r"warning: --batch-size 900 is above the \d+ training rows: each epoch is one step of \d+", lines[first + 5])
    assert all(len(line) <= 100 for line in lines if line.startswith(("rows", "labels", "model", "run ", "epoch", "  ")))
    assert re.search(r"best accuracy 0\.\d{4} \(mean of 7 labels, weighted as the loss\) on validation, after epoch [12]", done.stderr)


def test_seven_labels_of_the_real_set_fit_a_line_and_more_are_counted() -> None:
    real = dict(zip(SEVEN, (7, 45, 142, 5, 46, 4, 8), strict=True))
    assert _labels({"season": 4, "usage": 1}) == "labels season 4 classes, usage 1 class"
    line = _labels(real)
    assert len(line) <= 100 and all(f"{task} {num}" in line for task, num in real.items())
    many = _labels(real | {"colourOfTheSole": 12, "heel": 3})
    assert len(many) <= 100 and many.endswith(" more")


def test_what_breaks_in_the_first_step_is_final_and_later_or_for_a_lost_peer_is_not() -> None:
    def outcome(error: Exception, first: bool) -> Exception:
        with pytest.raises(Exception) as caught, first_step_explained(lambda: first):
            raise error
        return caught.value

    assert isinstance(outcome(AssertionError(), True), FirstStepError)
    assert "--batch-size" in str(outcome(torch.OutOfMemoryError("CUDA out of memory"), True))
    for error, first in ((RuntimeError("x"), False), (LostPeerError("gone"), True), (OSError("disk"), True)):
        assert outcome(error, first) is error


def test_a_first_step_that_fails_ends_the_processes_as_an_error_of_the_user_does(packed_small: PackedSmall, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    processes = workers.start(
        config_of(packed_small).to_dict(), tmp_path / "run", 2, log, {rank: workers.Fault(raises_at=0) for rank in (0, 1)}
    )
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [2, 2]  # what launch.USER_ERROR is: nothing is restarted
    assert "the first step failed (RuntimeError: as the test asked for)" in log.read_text()


@pytest.mark.slow
def test_a_batch_of_one_a_process_and_a_size_that_does_not_fit_end_without_a_restart(packed_small: PackedSmall, tmp_path: Path) -> None:
    usual = [
        "train",
        str(packed_small.out),
        "--no-pretrained",
        "--epochs",
        "1",
        "--nproc",
        "2",
        "--set",
        "train.precision=fp32",
    ]
    one = workers.fastfashion(*usual, "--model", "test_resnet", "--size", "32x32", "--batch-size", "2", cwd=tmp_path)
    assert one.returncode == 2 and "a batch of one image a process" in one.stderr, one.stderr
    size = workers.fastfashion(*usual, "--model", "dla46_c", "--size", "80x64", "--batch-size", "8", cwd=tmp_path)
    assert size.returncode == 2 and "--size 96x64, or leave it to --size auto" in size.stderr, size.stderr
    for done in (one, size):
        assert "restarting" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("loss_spike", "mean", "batch_size", "goes", "stops"),
    [
        (3.0, 1.5, 128, 5.9, 6.1),
        (3.0, 1.5, 1, 13.4, 40.0),  # one image that was answered wrongly with confidence
        (0.0, 1.5, 128, 1e9, math.inf),  # switched off
        (3.0, 0.0, 128, 1e9, math.inf),  # the first step
    ],
)
def test_the_loss_of_few_images_may_jump_by_chance(loss_spike: float, mean: float, batch_size: int, goes: float, stops: float) -> None:
    assert goes <= loss_limit(loss_spike, mean, 2.0, batch_size) <= stops


def test_a_loss_that_jumps_ends_training_with_the_way_out(packed_small: PackedSmall, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("fastfashion.train.losses.loss_limit", lambda *values: 1e-9)
    with pytest.raises(TrainingError, match=r"jumped to .* Last good checkpoint: none yet.* train\.loss_spike=0 switches this check off"):
        train(config_of(packed_small, train__epochs=1), tmp_path / "run", ALONE)
