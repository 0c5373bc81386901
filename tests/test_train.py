"""Training as users start it: every form of launch, killed and resumed, one process against two, errors that say what to do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PackedSmall
from workers import fastfashion

from fastfashion import dist
from fastfashion.config import OPTIMIZERS, DataConfig, RunConfig, Size
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.model.net import build_classifier
from fastfashion.runs.folder import check_run_folder
from fastfashion.train.checkpoint import Checkpoints
from fastfashion.train.job import resolve, run_name, train
from fastfashion.train.launch import must_launch
from fastfashion.train.learner import Learner, schedule

# test_vit has no batch norm, so that the world size cannot change what it computes but for rounding.
TINY = ["--model", "test_vit", "--no-pretrained", "--size", "32x32", "--epochs", "2", "--batch-size", "16"]
TINY += ["--set", "train.log_every_steps=1", "--set", "train.precision=fp32"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def command(arguments: list[str], folder: Path, timeout_s: int = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)


def metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def tiny_config(shards: Path, **settings: Any) -> RunConfig:
    start = RunConfig(data=DataConfig(shards=str(shards), size="32x32"))
    fixed = {"model.name": "test_vit", "model.pretrained": False, "train.epochs": 2, "train.batch_size": 16, "train.log_every_steps": 1}
    fixed["train.precision"] = "fp32"
    return resolve(start.with_recipe("fast", fixed | {key.replace("__", "."): value for key, value in settings.items()}))


@pytest.fixture(scope="module")
def shards(packed_small: PackedSmall) -> Path:
    return packed_small.out


@pytest.fixture(scope="module")
def runs(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run, `one`, by one process: what the others are compared with."""
    folder = tmp_path_factory.mktemp("runs")
    done = fastfashion("train", shards, *TINY, "--runs", folder, "--name", "one", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_leaves_all_that_its_readers_need(runs: Path) -> None:
    files = {path.relative_to(runs / "one").as_posix() for path in (runs / "one").rglob("*") if path.is_file()}
    assert {"config.json", "metrics.jsonl", "best/model.safetensors", "best/model.json", "status.json"} <= files
    assert {"trained_on.json", "trained_on.safetensors"} <= files
    assert {name for name in files if name.startswith("checkpoints/")} == {
        f"checkpoints/step-000000006.{e}" for e in ("json", "safetensors")
    }
    assert any(name.startswith("events.out.tfevents") for name in files)
    config = json.loads((runs / "one" / "config.json").read_text())
    assert config["data"]["resolution"] == "32" and config["train"]["precision"] in ("fp32", "bf16")  # nothing is left at "auto"
    assert [line["epoch"] for line in metrics(runs / "one", "epoch")] == [0, 1]
    lines = [line for kind in ("start", "step", "epoch") for line in metrics(runs / "one", kind)]
    assert (
        len({tuple(line) for line in lines}) == len({tuple(line["time"]) for line in lines}) == 1
    )  # readers look at the first lines alone
    (start,) = metrics(runs / "one", "start")
    assert start["command"].startswith("fastfashion train /") and start["command"].endswith("--name one")
    assert start["processes"] == 1 and start["versions"]["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize(
    "form",
    [  # `fastfashion train --nproc` is in the main job of test_cli.py
        pytest.param([sys.executable, "-m", "fastfashion", "train", "--nproc", "2"], id="fastfashion-train", marks=pytest.mark.dist),
        pytest.param([sys.executable, "-m", "fastfashion.train", "--nproc", "2"], id="python-m", marks=pytest.mark.dist),
        pytest.param([*TORCHRUN, "--nproc-per-node", "2", "-m", "fastfashion.train"], id="torchrun-per-node", marks=pytest.mark.dist),
        pytest.param([*TORCHRUN, "-m", "fastfashion.train", "--", "--nproc", "2"], id="torchrun-nested"),
    ],
)
def test_every_form_of_launch_trains_two_processes_to_the_same_losses(form: list[str], runs: Path, shards: Path, tmp_path: Path) -> None:
    done = command([*form, str(shards), *TINY, "--runs", str(tmp_path), "--name", "two", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["epochs"] == 2 and Path(summary["run"]) == tmp_path / "two"
    one, two = ([line["loss"] for line in metrics(run, "step")] for run in (runs / "one", tmp_path / "two"))
    # Two processes add the same numbers in another order; float32 rounding grows over the steps, to 1e-5 here.
    np.testing.assert_allclose(two, one, rtol=1e-3)


def test_the_stock_parser_of_torchrun_refuses_nproc_for_the_known_reason(shards: Path, tmp_path: Path) -> None:
    done = command([*TORCHRUN, "-m", "fastfashion.train", "--nproc", "2", str(shards), *TINY, "--runs", str(tmp_path)], tmp_path)
    fixed = sys.version_info >= (3, 13, 1) or (3, 12, 7) <= sys.version_info < (3, 13)  # gh-58573
    if fixed:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert "ambiguous option: --nproc" in done.stderr


def test_nproc_must_fit_the_world_that_torchrun_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert must_launch(None) is False
    assert must_launch(2) is False
    with pytest.raises(ConfigError, match="already started 2 workers"):
        must_launch(4)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert must_launch(1) is False
    with pytest.raises(ConfigError, match="1 or more"):
        must_launch(0)


def test_other_settings_are_refused_with_the_list_of_them(runs: Path, shards: Path) -> None:
    run = runs / "one"
    check_run_folder(run, tiny_config(shards, data__workers=3))  # harmless
    with pytest.raises(TrainingError, match=r"train\.seed: 0 there, 5 now"):
        check_run_folder(run, tiny_config(shards, train__seed=5))


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(shards: Path, tmp_path: Path) -> None:
    config = tiny_config(shards, optim__lr=1e30, optim__warmup_share=0.0, optim__clip_norm=0.0, train__log_every_steps=20)
    with pytest.raises(TrainingError, match=r"step \d+; rows of that batch: \[\d+, ") as caught:
        train(config, tmp_path / "run", dist.World(device=torch.device("cpu")))
    assert "optim.lr" in str(caught.value)
    assert not (tmp_path / "run" / "best").exists()


def test_what_a_killed_process_had_begun_to_write_is_cleared_away(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    ours, others = run / ".metrics.jsonl.1.partial", run / ".report.json.1.partial"  # the second one may be an evaluation at work
    ours.touch()
    others.touch()
    train(tiny_config(shards, train__epochs=1), run, dist.World(device=torch.device("cpu")))
    assert not ours.exists() and others.exists()


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    rate = schedule(RunConfig(data=DataConfig(shards="x")).replace({"optim.lr": 0.1, "optim.warmup_share": 0.1}).optim, 100)
    assert rate(0) == pytest.approx(0.01) and rate(9) == pytest.approx(0.1) and rate(10) == pytest.approx(0.1)
    assert rate(55) == pytest.approx(0.05)  # half-way down the cosine
    assert 0 <= rate(99) < 1e-4
    assert all(rate(step) > rate(step + 1) for step in range(10, 99))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimiser_goes_on_from_what_was_kept_of_it(optimizer: str, fused: bool) -> None:
    settings = {"model.name": "test_resnet", "model.pretrained": False, "optim.optimizer": optimizer, "optim.fused": fused}
    config = RunConfig(data=DataConfig(shards="x")).replace(settings)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 8, 32, 32, 3), generator=generator, dtype=torch.uint8)

    def learner() -> Learner:
        return Learner(config, build_classifier(config.model, {"a": 3}, Size(32, 32)), dist.World(device=torch.device("cpu")), 6)

    def learn(one: Learner, steps: range) -> dict[str, torch.Tensor]:
        one.model.train()
        for step in steps:
            one.wrapped(images[step])["a"].logsumexp(dim=1).sum().backward()
            one.update(step)
        return {name: tensor.clone() for name, tensor in one.tensors().items()}

    whole, other = learner(), learner()
    other.restore(learn(whole, range(3)))
    expected, found = learn(whole, range(3, 6)), learn(other, range(3, 6))
    assert expected.keys() == found.keys() and any(name.startswith("optimizer/") for name in expected)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@pytest.mark.dist
def test_two_processes_evaluate_every_test_row_once_and_agree_with_one(runs: Path, tmp_path: Path) -> None:
    reports, tables = [], []
    for start in ([sys.executable], [*TORCHRUN, "--nproc-per-node", "2"]):
        done = command([*start, "-m", "fastfashion", "evaluate", str(runs / "one"), "--json"], tmp_path)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout.splitlines()[-1]))
        tables.append(pd.read_parquet(runs / "one" / "predictions.parquet"))
    assert tables[0]["row"].is_unique and len(tables[0]) == reports[0]["tasks"]["subCategory"]["n"]
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-4)
    assert reports[0]["tasks"]["subCategory"]["accuracy"] == reports[1]["tasks"]["subCategory"]["accuracy"]
    assert {"n", "accuracy", "macro_f1", "weighted_f1", "chance_accuracy", "classes"} <= reports[0]["tasks"]["subCategory"].keys()
    right = tables[0]["subCategory_label"] == tables[0]["subCategory_prediction"]
    assert right.mean() == pytest.approx(reports[0]["tasks"]["subCategory"]["accuracy"])
    for name in ("training", "confusion_subCategory", "classes_subCategory"):
        assert (runs / "one" / "plots" / f"{name}.png").stat().st_size > 5_000


@pytest.mark.dist
def test_a_worker_that_fails_ends_all_with_its_own_message(shards: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "fastfashion", "train", str(shards), *TINY, "--runs", str(tmp_path), "--nproc", "2"]
    done = command([*arguments, "--set", "optim.lr=1e30", "--set", "optim.clip_norm=0", "--set", "optim.warmup_share=0"], tmp_path)
    assert done.returncode == 2
    assert "the loss became" in done.stderr and "Traceback" not in done.stderr


def test_epochs_between_two_validations_are_saved_but_never_the_best(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda *values: (saved.append(values[1]), save(*values)))
    config = tiny_config(shards, train__epochs=4, train__validate_every=3, train__select="last")
    summary = train(config, tmp_path / "run", dist.World(device=torch.device("cpu")))
    assert [line["epoch"] for line in metrics(tmp_path / "run", "epoch")] == [2, 3] and summary.best_epoch == 3
    assert saved == [3, 6, 9, 12]


def test_all_stands_for_every_label_and_the_splits_that_are_kept_are_checked(shards: Path) -> None:
    config = tiny_config(shards, data__task="all")
    assert config.data.tasks == ("masterCategory", "subCategory", "articleType", "gender", "baseColour", "season", "usage")
    assert config.data.split_tasks == ("subCategory",)
    assert run_name(config).startswith("all-test_vit")
    with pytest.raises(ConfigError, match="unknown task 'shape'"):
        tiny_config(shards, data__task="all", data__split_by="shape")
    with pytest.raises(ConfigError, match="unknown task 'shape'"):
        tiny_config(shards, optim__task_weights="shape=2")
    with pytest.raises(ConfigError, match="each once"):
        tiny_config(shards, data__task="season,season")


def test_weights_of_labels_that_are_not_trained_fall_away(shards: Path) -> None:
    weights = "subCategory=2.5,season=0.5,usage=2"
    assert tiny_config(shards, data__task="all", optim__task_weights=weights).optim.task_weights == weights
    assert tiny_config(shards, data__task="season,usage", optim__task_weights=weights).optim.task_weights == "season=0.5,usage=2"
    assert tiny_config(shards, data__task="season", optim__task_weights=weights).optim.weights == {}


def test_settings_that_were_removed_are_ignored_at_their_default_and_refused_otherwise(shards: Path) -> None:
    config = tiny_config(shards)
    old = config.to_dict()
    old["train"]["first_size"], old["optim"]["logit_adjust"] = 1.0, 0
    assert RunConfig.from_dict(old) == config
    old["train"]["first_size"] = 0.5
    with pytest.raises(ConfigError, match=r"train\.first_size: expected 1, since this setting was removed, found 0\.5"):
        RunConfig.from_dict(old)
    with pytest.raises(ConfigError, match=r"optim\.logit_adjust: expected 0, since"):
        config.replace({"optim.logit_adjust": "1"})


def test_default_names_of_two_recipes_differ_and_that_of_the_default_is_as_ever(shards: Path) -> None:
    config = resolve(tiny_config(shards, data__task="season"))
    names = [run_name(config, *given) for given in ((), ("fast",), ("best",), ("reference",))]
    assert names[0] == names[1] == f"season-test_vit-scratch-{config.data.size}-stratified-seed0"
    assert len(set(names)) == 3 and "-best-" in names[2]
