"""What the settings of training do: golden loss curves, the same result in other ways, and when training stops by itself."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workers
from conftest import PackedSmall
from test_faults import BASE, checkpoints_of, config_of, lines_of, record_of, status_of

from fastfashion import dist
from fastfashion.config import DataConfig, RunConfig, TrainConfig, parse_duration
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.train.checkpoint import read_checkpoint
from fastfashion.train.control import Control, Stopped
from fastfashion.train.job import resolve, train
from fastfashion.train.learner import below
from fastfashion.train.losses import count_rows

GOLDEN = Path(__file__).parent / "golden_losses.json"
ALONE = dist.World(device=torch.device("cpu"))


def losses_of(run: Path) -> list[float]:
    return [line["loss"] for line in lines_of(run, "step")]


def golden_run(packed: PackedSmall, model: str, run: Path) -> list[float]:
    """20 steps on 40 images; a small rate, so that other processors' rounding stays small."""
    settings = {"model.name": model, "model.pretrained": False, "data.size": "32x32", "data.workers": 1}
    settings |= {"train.epochs": 4, "train.batch_size": 8, "train.log_every_steps": 1, "train.deterministic": True}
    settings |= {"optim.lr": 1e-4, "augment.erase": 0.5, "augment.brightness": 0.2, "train.precision": "fp32"}
    config = resolve(RunConfig(data=DataConfig(shards=str(packed.out))).replace(settings))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(config, run, ALONE)
    finally:
        torch.set_num_threads(threads)
    return losses_of(run)[:20]


@pytest.mark.parametrize("model", ["resnet18", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
def test_the_first_twenty_losses_are_those_of_the_golden_curve(model: str, packed_small: PackedSmall, tmp_path: Path) -> None:
    losses = golden_run(packed_small, model, tmp_path / "run")
    expected = json.loads(GOLDEN.read_text())[model]
    assert len(losses) == 20
    # Other processors add in another order. A wrong rate, loss, augmentation or order of rows shows in the first steps.
    np.testing.assert_allclose(losses, expected, rtol=5e-3)


def test_micro_batches_come_to_what_as_many_processes_come_to(packed_small: PackedSmall, tmp_path: Path) -> None:
    # SGD without clipping: a gradient of another scale shows, as it would not with AdamW. Ten images a micro-batch: batch norm over
    # fewer, of channels that hardly vary among them, makes a thousand times as much of what rounding leaves.
    few = {"train__epochs": 2, "model__dropout": 0.0, "train__log_every_steps": 1, "train__batch_size": 20}
    few |= {"optim__optimizer": "sgd", "optim__lr": 0.01, "optim__clip_norm": 0.0}
    assert workers.run_all(config_of(packed_small, **few).to_dict(), tmp_path / "two", 2) == [0, 0]
    assert workers.run_all(config_of(packed_small, train__accumulate=2, **few).to_dict(), tmp_path / "micro_batches") == [0]
    one, two = lines_of(tmp_path / "micro_batches", "step"), lines_of(tmp_path / "two", "step")
    assert [line["rows_hash"] for line in one] == [line["rows_hash"] for line in two]
    # Each micro-batch's batch norm sees what each process's sees, so that only rounding differs.
    np.testing.assert_allclose([line["loss"] for line in one], [line["loss"] for line in two], rtol=1e-3)


def test_without_batch_norm_micro_batches_change_nothing_but_rounding(packed_small: PackedSmall, tmp_path: Path) -> None:
    few = {"train__epochs": 2, "model__dropout": 0.0, "train__log_every_steps": 1, "model__name": "test_vit", "augment__mixup": 0.4}
    for name, micro_batches in (("whole", 1), ("micro_batches", 4)):
        train(config_of(packed_small, train__accumulate=micro_batches, **few), tmp_path / name, ALONE)
    np.testing.assert_allclose(losses_of(tmp_path / "micro_batches"), losses_of(tmp_path / "whole"), rtol=1e-4)


@pytest.mark.parametrize("model", ["resnet18", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
def test_synchronised_batch_norm_makes_two_processes_compute_what_one_does(model: str, packed_small: PackedSmall, tmp_path: Path) -> None:
    few = {"train__epochs": 1, "model__dropout": 0.0, "train__log_every_steps": 1, "model__name": model, "train__batch_size": 20}
    assert workers.run_all(config_of(packed_small, **few).to_dict(), tmp_path / "one") == [0]
    for name, on in (("synced", True), ("apart", False)):
        assert workers.run_all(config_of(packed_small, train__sync_bn=on, **few).to_dict(), tmp_path / name, 2) == [0, 0]
    one, synced, apart = (losses_of(tmp_path / name) for name in ("one", "synced", "apart"))
    assert len(one) > 1
    np.testing.assert_allclose(synced, one, rtol=1e-3)
    assert not np.allclose(apart, one, rtol=1e-3)  # or the test would show nothing
    states = [below("model/", read_checkpoint(checkpoints_of(tmp_path / name)[-1]).tensors) for name in ("one", "synced")]
    for name, value in states[0].items():
        if "running" in name:
            torch.testing.assert_close(states[1][name], value, rtol=2e-2, atol=1e-2)


@pytest.mark.slow
def test_compiled_training_agrees_and_its_first_step_stands_apart(packed_small: PackedSmall, tmp_path: Path) -> None:
    few = {"train__epochs": 2, "model__dropout": 0.0, "model__name": "test_vit", "train__log_every_steps": 3, "train__deterministic": False}
    train(config_of(packed_small, **few), tmp_path / "plain", ALONE)
    train(config_of(packed_small, train__compile=True, **few), tmp_path / "compiled", ALONE)
    np.testing.assert_allclose(losses_of(tmp_path / "compiled"), losses_of(tmp_path / "plain"), rtol=1e-3)
    first, *rest = lines_of(tmp_path / "compiled", "step")
    assert first["time"]["first_step_s"] > 3 * first["time"]["seconds"]
    assert all(line["time"]["seconds"] > 0 for line in rest)
    for line in rest:  # the phases are all of the time
        parts = sum(value for name, value in line["time"].items() if name.endswith("_s") and name not in ("images_per_s", "first_step_s"))
        assert parts == pytest.approx(line["time"]["seconds"], rel=1e-3)


def test_a_fused_optimiser_computes_the_same(packed_small: PackedSmall, tmp_path: Path) -> None:
    for name, fused in (("fused", True), ("plain", False)):
        train(config_of(packed_small, optim__fused=fused, train__epochs=2), tmp_path / name, ALONE)
    np.testing.assert_allclose(losses_of(tmp_path / "fused"), losses_of(tmp_path / "plain"), rtol=1e-4)


def test_cuda_graphs_without_a_gpu_are_refused(packed_small: PackedSmall, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU"):
        train(config_of(packed_small, train__cuda_graphs=True), tmp_path / "run", ALONE)


def test_training_stops_where_no_epoch_is_better(packed_small: PackedSmall, tmp_path: Path) -> None:
    # Such a rate that no weight changes: no epoch is better than the first, and of equal ones the last is kept.
    config = config_of(packed_small, train__early_stop_epochs=2, optim__lr=1e-30, optim__ema_decay=0.0, model__name="test_vit")
    summary = train(config, tmp_path / "run", ALONE)
    assert (summary.ended, summary.epochs, summary.best_epoch) == ("early_stop", 3, 2)
    assert status_of(tmp_path / "run")["state"] == "finished"
    again = train(config, tmp_path / "run", ALONE)
    assert (again.ended, again.steps, again.resumed_at_step) == ("early_stop", summary.steps, summary.steps)


def test_training_ends_in_time_with_a_checkpoint_and_goes_on(packed_small: PackedSmall, tmp_path: Path) -> None:
    few = {"train__epochs": 6, "train__checkpoint_every_steps": 0}
    train(config_of(packed_small, **few), tmp_path / "whole", ALONE)
    run = tmp_path / "run"
    ends = [train(config_of(packed_small, train__max_time="11s", **few | {"train__epochs": 100_000}), run, ALONE)]
    assert ends[0].ended == "max_time" and ends[0].epochs < 100_000
    assert read_checkpoint(checkpoints_of(run)[-1]).progress.epoch == ends[0].epochs
    status = status_of(run)
    assert (status["state"], status["reason"], status["resumable"]) == ("interrupted", "max_time", True)


def test_time_limits_are_read_or_refused() -> None:
    assert [parse_duration(text) for text in ("45s", "90m", "1h30m", "2h", "1h1m1s", "")] == [45, 5400, 5400, 7200, 3661, math.inf]
    for text in ("90", "1d", "m", "1m2h", "-5s"):
        with pytest.raises(ConfigError, match=r"train\.max_time"):
            TrainConfig(max_time=text)


def test_a_jump_of_the_loss_stops_with_step_rows_and_the_last_good_checkpoint(packed_small: PackedSmall, tmp_path: Path) -> None:
    settings = {"optim__lr": 3.0, "optim__clip_norm": 0.0, "optim__warmup_share": 0.9, "train__epochs": 40, "train__loss_spike": 2.0}
    with pytest.raises(
        TrainingError, match=r"the loss (jumped to [\d.e+]+, above 2 times|became nan).*rows of that batch: \[\d+, "
    ) as caught:
        train(config_of(packed_small, **settings), tmp_path / "run", ALONE)
    (last,) = [path for path in checkpoints_of(tmp_path / "run")[-1:]]
    assert f"Last good checkpoint: {last}" in str(caught.value)
    assert all(torch.isfinite(value).all() for value in read_checkpoint(last).tensors.values())
    assert status_of(tmp_path / "run")["state"] == "failed"


def test_the_count_of_rows_shows_what_is_lost_doubled_or_swapped() -> None:
    rows = torch.randperm(5000)

    def hashed(some: torch.Tensor) -> tuple[int, ...]:
        return tuple(count_rows(some).tolist())

    assert hashed(rows) == hashed(rows.sort().values)
    assert hashed(torch.cat([rows, torch.tensor([-1, -1])])) == hashed(rows)
    parts = [count_rows(part) for part in rows.split(700)]
    assert torch.equal(torch.stack(parts).sum(dim=0), count_rows(rows))
    lost, doubled = rows[1:], torch.cat([rows, rows[:1]])
    moved = rows.clone()
    moved[0], moved[1] = rows[0] + 1, rows[1] - 1  # the sum is the same
    assert len({hashed(rows), hashed(lost), hashed(doubled), hashed(moved)}) == 4


def test_a_second_process_is_not_needed_to_agree() -> None:
    control = Control(ALONE, TrainConfig(checkpoint_every_minutes=1e-9, max_time="1s"))
    asked = control.ask()
    assert asked.save and asked.stop == "max_time"  # less time is left than a checkpoint may take
    with pytest.raises(Stopped):
        control.check()


def test_bits_do_not_depend_on_how_often_it_is_saved_or_logged(packed_small: PackedSmall, tmp_path: Path) -> None:
    for name, every in (("often", 1), ("seldom", 0)):
        train(config_of(packed_small, train__epochs=2, train__checkpoint_every_steps=every), tmp_path / name, ALONE)
    assert record_of(tmp_path / "often") == record_of(tmp_path / "seldom")
    assert BASE["train.deterministic"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch's synchronisation debug mode needs one")
def test_the_loop_never_waits_for_the_gpu_outside_log_lines(packed_small: PackedSmall, tmp_path: Path, monkeypatch: Any) -> None:
    from fastfashion.train import trainer
    from fastfashion.train.record import RunRecorder

    def within(holder: Any, name: str, mode: str, after: str) -> None:
        wrapped = getattr(holder, name)

        def call(*arguments: Any, **more: Any) -> Any:
            torch.cuda.set_sync_debug_mode(mode)
            try:
                return wrapped(*arguments, **more)
            finally:
                torch.cuda.set_sync_debug_mode(after)

        monkeypatch.setattr(holder, name, call)

    config = config_of(packed_small, train__epochs=3, train__checkpoint_every_steps=0, train__deterministic=False)
    within(trainer.Trainer, "train_epoch", "error", "default")
    within(trainer.Trainer, "_log", "default", "error")
    within(trainer.Trainer, "_glance", "default", "error")  # the first few steps of a start, until the first log line
    within(RunRecorder, "show_images", "default", "error")  # once, before the first step
    world = dist.World(device=torch.device("cuda", 0))
    assert train(config, tmp_path / "run", world).ended == "finished"
