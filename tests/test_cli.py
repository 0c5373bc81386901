"""The command line as a user meets it: the whole main job, stable JSON, and errors of one screen that say what to do."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PackedSmall
from serving import make_run
from workers import fastfashion

from fastfashion import dist
from fastfashion.config import DataConfig, ModelConfig, RunConfig
from fastfashion.shards import open_packed_set
from fastfashion.train.data import prepare_data
from fastfashion.train.job import resolve

COMMANDS = (
    "doctor",
    "download",
    "synth",
    "shard",
    "verify",
    "audit",
    "splits",
    "preview",
    "train",
    "evaluate",
    "compare",
    "score",
    "reproduce",
)
COMMANDS += ("predict", "export", "weights", "serve", "bench-loader")


def last_line(done: subprocess.CompletedProcess[str]) -> Any:
    """The document of --json, which is all that is on stdout."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_main_job_from_nothing_to_a_result_far_above_chance(tmp_path: Path) -> None:
    """What `make demo` does, smaller: defaults find the data set and the packed set by themselves."""
    made = last_line(fastfashion("synth", "--rows", "500", "--size", "64x48", "--json", cwd=tmp_path))
    assert made["rows"] == 500 and (tmp_path / "data/synth/styles.csv").is_file()
    packed = last_line(fastfashion("shard", "--res", "32", "--json", cwd=tmp_path))
    assert packed["kept"] + packed["rejected"] == packed["num_rows"] == 500
    assert packed["rejected"] == len(pd.read_csv(tmp_path / packed["out"] / "rejected.csv")) > 0
    options = ["--task", "subCategory", "--model", "resnet18", "--no-pretrained", "--size", "32x32", "--epochs", "10", "--batch-size", "32"]
    trained = last_line(fastfashion("train", *options, "--nproc", "2", "--name", "first", "--json", cwd=tmp_path))
    assert trained["epochs"] == 10
    tested = fastfashion("evaluate", trained["run"], "--json", cwd=tmp_path)
    scores = last_line(tested)["tasks"]["subCategory"]
    assert scores["accuracy"] > scores["chance_accuracy"] + 0.15, tested.stderr
    for said in ("accuracy", "macro F1", "chance", "plots/*.png", "report.json"):
        assert said in tested.stderr
    assert (tmp_path / "runs/first/plots/mistakes_subCategory.png").is_file()
    compared = last_line(fastfashion("compare", trained["run"], trained["run"], "--json", cwd=tmp_path))["tasks"]["subCategory"]
    assert compared["p_value"] == 1 and compared["first"] == compared["second"]
    assert compared["first"] == pytest.approx({key: scores[key] for key in compared["first"]}, abs=1e-12)
    split = last_line(fastfashion("splits", "--task", "season", "--json", cwd=tmp_path))
    listed = pd.read_csv(tmp_path / "splits.csv")
    assert listed["split"].value_counts().to_dict() == {part: values["num_rows"] for part, values in split["parts"].items()}
    # Another set beside it: now it has to be said which one is meant.
    shutil.copytree(tmp_path / packed["out"], tmp_path / "shards/other")
    assert "which packed set?" in refused(tmp_path, "splits")


@pytest.mark.parametrize(
    ("task", "split_by", "protocol"),
    [("season,gender", "", "stratified"), ("all", "subCategory,season", "folds"), ("all", "", "reference")],
)
def test_splits_writes_the_rows_that_training_uses(
    task: str, split_by: str, protocol: str, packed_small: PackedSmall, tmp_path: Path
) -> None:
    options = [str(packed_small.out), "--task", task, "--split-by", split_by, "--protocol", protocol]
    said = last_line(fastfashion("splits", *options, "--fold", "3", "--json", cwd=tmp_path))
    listed = pd.read_csv(tmp_path / "splits.csv", dtype=str)
    assert set(listed) == ({"id", "split", "task"} if "," in split_by else {"id", "split"})
    data = DataConfig(shards=str(packed_small.out), task=task, split_by=split_by, protocol=protocol, fold=3)
    trained = prepare_data(resolve(RunConfig(data=data, model=ModelConfig(pretrained=False))), dist.World(device=torch.device("cpu")))
    ids = open_packed_set(packed_small.out).table["id"]
    by_task = dict(list(listed.groupby("task"))) if "task" in listed else dict.fromkeys(said["tasks"], listed)
    for t, name in enumerate(trained.classes):
        parts = {part: rows["id"].tolist() for part, rows in by_task[name].groupby("split")}
        assert parts["train"] == ids.iloc[trained.spec.plan.rows].tolist()
        validated = np.flatnonzero(trained.val_spec.labels[:, t] >= 0)
        assert set(ids.iloc[validated]) <= set(parts["val"]) and not set(parts["train"]) & set(parts["test"])
        assert {part: values["num_rows"] for part, values in said["tasks"][name].items()} == {p: len(i) for p, i in parts.items()}


def test_preview_takes_several_tasks(packed_small: PackedSmall, tmp_path: Path) -> None:
    for task in ("season,gender", "all"):
        shown = last_line(fastfashion("preview", str(packed_small.out), "--task", task, "--rows", "60", "--json", cwd=tmp_path))
        assert len(shown["rows"]) == 60  # each has a label of one of these


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["splits", "--shards", "SET"], "warning: --shards is an old form, which the next release refuses: use fastfashion splits SET"),
        (["train", "SET", "--max-time", "soon"], "use --set train.max_time=…"),
        (["train", "SET", "--out", "runs", "--model", "none"], "warning: --out is an old form, which the next release refuses: use --runs"),
        (
            ["synth", "--res", "600x800"],
            "error: --res: is now --size, height x width in pixels; images 600 wide and 800 high",
        ),
    ],
)
def test_old_forms_warn_or_name_the_new_one(arguments: list[str], said: str, packed_small: PackedSmall, tmp_path: Path) -> None:
    place = str(packed_small.out)
    done = fastfashion(*(place if part == "SET" else part for part in arguments), cwd=tmp_path)
    assert said.replace("SET", place) in done.stderr
    assert (tmp_path / "splits.csv").is_file() == (arguments[0] == "splits") and not (tmp_path / "data").exists()


def test_help_lists_the_commands_in_the_order_of_the_flow(tmp_path: Path) -> None:
    said = fastfashion("--help", cwd=tmp_path).stdout
    assert re.findall(r"^│ ([a-z][a-z-]+) ", said, flags=re.MULTILINE) == list(COMMANDS)


def test_help_names_every_protocol(tmp_path: Path) -> None:
    said = " ".join(fastfashion("splits", "--help", cwd=tmp_path).stdout.replace("│", " ").split())
    assert "stratified (default), reference, folds, file or column" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_fits_a_screen_and_ends_with_an_example(command: str, tmp_path: Path) -> None:
    done = fastfashion(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.rstrip().splitlines()[-1].startswith(f" Example: fastfashion {command}")
    assert len(done.stdout.splitlines()) <= 50


def test_several_tasks_are_named_with_commas_or_again_and_again(packed_small: PackedSmall, tmp_path: Path) -> None:
    tasks = ("masterCategory", "subCategory", "season")
    run = make_run(tmp_path / "run", packed_small.out, size="32x32", model="test_resnet", tasks=tasks)
    image = next((packed_small.source / "images").iterdir())
    for given, answered in (
        (["season, masterCategory"], ["masterCategory", "season"]),
        (["season", "masterCategory"], ["masterCategory", "season"]),
        (["all"], list(tasks)),
    ):
        options = [option for task in given for option in ("--task", task)]
        last_line(fastfashion("predict", str(run), str(image), *options, "--out", "a.csv", "--json", cwd=tmp_path))
        assert [name for name in pd.read_csv(tmp_path / "a.csv").columns if name in tasks] == answered
    assert "unknown task 'colour'" in refused(tmp_path, "predict", str(run), str(image), "--task", "season,colour")


def refused(cwd: Path, *arguments: str) -> str:
    """The error of a command that a user can fix: exit status 2, one screen, no traceback."""
    done = fastfashion(*arguments, cwd=cwd)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 12
    return done.stderr


def test_without_data_the_packer_says_how_to_get_some(tmp_path: Path) -> None:
    said = refused(tmp_path, "shard", "--res", "224")
    assert "fastfashion download small" in said and "fastfashion synth" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source", "nowhere.zip"], "no such file"),
        (["--source", "empty.zip"], "empty"),
        (["--source", "text.zip"], "not a readable zip"),
        (["--source", "source", "--res", "huge"], "unknown resolution 'huge'"),
        (["--source", "source", "--res", "0"], "unknown resolution '0'"),
        (["--source", "source", "--workers", "-1"], "--workers"),
        (["--source", "source", "--quality", "0"], "--quality"),
        (["--source", "broken", "--max-rejected", "1"], "more than --max-rejected 1"),
    ],
)
def test_a_source_that_cannot_be_packed_leaves_no_packed_set(
    arguments: list[str], said: str, packed_small: PackedSmall, tmp_path: Path
) -> None:
    (tmp_path / "empty.zip").touch()
    (tmp_path / "text.zip").write_text("this is no archive")
    shutil.copytree(packed_small.source, tmp_path / "source")
    shutil.copytree(packed_small.source, tmp_path / "broken")
    for path in sorted((tmp_path / "broken/images").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:200])
    assert said in refused(tmp_path, "shard", *arguments, "--out", "out")
    assert not list(tmp_path.glob("out/*/manifest.json")) and not list(tmp_path.glob("out/catalog.parquet"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["splits", "--task", "colour"], "unknown task 'colour'"),
        (["splits", "--protocol", "random"], "stratified, reference, folds, file or column"),
        (["train", "--task", "colour", "--no-pretrained"], "masterCategory, subCategory"),
        (["train", "--model", "resnet_18", "--no-pretrained"], "did you mean"),
        (["train", "--size", "80by64", "--no-pretrained"], "HxW"),
        (["train", "--set", "optim.rate=1", "--no-pretrained"], "optim.lr"),
        (["train", "--set", "data.resolution=224", "--no-pretrained"], "resolution '224' is not packed, there are 32, full"),
        (["train", "--recipe", "slow", "--no-pretrained"], "fast, finetune, best, reference"),
        (["train", "--weights", "nowhere.pth"], "no such file"),
        (["train", "--size", "32x32"], "--weights FILE"),  # ImageNet weights, without the Hub
        (["train", "--name", "../x", "--no-pretrained"], "expected a name"),
        (["bench-loader", "--rounds", "0"], "rounds"),
    ],
)
def test_a_wrong_option_is_answered_with_what_is_right(arguments: list[str], said: str, packed_small: PackedSmall, tmp_path: Path) -> None:
    assert said in refused(tmp_path, *arguments, str(packed_small.out))
    assert not list(tmp_path.rglob("*.safetensors")) and not (tmp_path / "splits.csv").exists()


def test_a_damaged_packed_set_is_refused_by_every_reader(packed_small: PackedSmall, tmp_path: Path) -> None:
    shutil.copytree(packed_small.out, tmp_path / "set")
    manifest = tmp_path / "set/32/manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 3', '"version": 99'))
    assert "version 99" in refused(tmp_path, "splits", "set")
    shutil.copy(packed_small.out / "32/manifest.json", manifest)
    (tmp_path / "set/32/00000.tar").unlink()
    assert "the shard is missing" in refused(tmp_path, "train", "set", "--size", "32x32", "--no-pretrained")
    assert "no such folder" in refused(tmp_path, "train", "nowhere")
    assert "not a packed set" in refused(tmp_path, "train", str(tmp_path))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    assert "not a run" in refused(tmp_path, "evaluate", "runs/nothing")
    (tmp_path / "other").mkdir()
    assert "other: not a run: config.json is missing" in refused(tmp_path, "compare", "other", "other")
    assert "expected a run that finished an epoch" in refused(tmp_path, "predict", "other", "image.jpg")


def test_debug_shows_the_traceback_and_keeps_the_message(tmp_path: Path) -> None:
    done = fastfashion("evaluate", "runs/nothing", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "error: runs/nothing: not a run" in done.stderr
