"""What a run is tested by: corrected labels, duplicates in training, temperatures, first weights; and which labels are tested."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from conftest import make_source
from safetensors.torch import save_file

from fastfashion import dist
from fastfashion.audit.suspects import SUSPECTS, SuspectsRequest, find_suspects
from fastfashion.config import DataConfig, RunConfig
from fastfashion.errors import PackedSetError
from fastfashion.evaluate import EvaluateRequest, evaluate_run
from fastfashion.pack import PackRequest, pack
from fastfashion.recipes import recipe
from fastfashion.runs import open_run
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.train.job import resolve, train

ALONE = dist.World(device=torch.device("cpu"))
TINY = {"model.name": "test_resnet", "model.pretrained": False, "data.size": "32x32", "data.workers": 1, "train.batch_size": 8}
TINY |= {"train.epochs": 2, "train.precision": "fp32", "data.protocol": "reference"}


def trained(shards: Path, run: Path, recipe_name: str = "fast", **settings: Any) -> Path:
    chosen = recipe(recipe_name) | TINY | {key.replace("__", "."): value for key, value in settings.items()}
    train(resolve(RunConfig(data=DataConfig(shards=str(shards))).replace(chosen)), run, ALONE)
    return run


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    """Sixty rows, twenty of which have a twin among the others."""
    home = tmp_path_factory.mktemp("twins")
    source = make_source(home / "source")
    ids = pd.read_csv(source / "styles.csv", usecols=[0], dtype=str, on_bad_lines="skip", index_col=False)["id"].tolist()
    for one, other in zip(ids[10:20], ids[30:40], strict=True):
        shutil.copy(source / f"images/{one}.jpg", source / f"images/{other}.jpg")
    pack(PackRequest(source=source, out=home / "packed", resolutions=("32",), workers=1))
    return open_packed_set(home / "packed")


@dataclass(frozen=True)
class Corrected:
    """A run that trains and is tested with a corrected label of a test row, and its report."""

    run: Path
    identity: str
    label: str
    report: dict[str, Any]


@pytest.fixture(scope="module")
def corrected(packed: PackedSet, tmp_path_factory: pytest.TempPathFactory) -> Corrected:
    home = tmp_path_factory.mktemp("corrected")
    plain = trained(packed.path, home / "plain", data__task="gender,season", train__epochs=1)
    row = int(open_run(plain).split.test["gender"][0])
    identity, before = packed.table["id"].iloc[row], packed.table["gender"].iloc[row]
    label = next(name for name in packed.vocab.names("gender") if name != before)
    (home / "corrections.csv").write_text(f"id,task,label\n{identity},gender,{label}\n")
    run = trained(packed.path, home / "run", data__task="gender,season", data__corrections=str(home / "corrections.csv"))
    return Corrected(run, identity, label, evaluate_run(EvaluateRequest(run=run), ALONE))


def test_corrections_reach_the_labels_that_a_run_is_tested_by_and_the_report_says_so(corrected: Corrected) -> None:
    predictions = pd.read_parquet(corrected.run / "predictions.parquet").set_index("id")
    assert predictions.loc[corrected.identity, "gender_label"] == corrected.label
    file = corrected.run.parent / "corrections.csv"
    assert corrected.report["corrections_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert evaluate_run(EvaluateRequest(run=corrected.run.parent / "plain"), ALONE)["corrections_sha256"] is None


def test_the_report_counts_test_rows_with_a_duplicate_in_training(corrected: Corrected, packed: PackedSet) -> None:
    opened = open_run(corrected.run)
    groups = packed.table["duplicate_group"].tolist()
    trained_groups = {groups[row] for row in opened.split.train}
    predictions = pd.read_parquet(corrected.run / "predictions.parquet")
    for task, values in corrected.report["tasks"].items():
        labelled = predictions[predictions[f"{task}_label"].notna()]
        right = {True: [], False: []}
        for row, label, found in labelled[["row", f"{task}_label", f"{task}_prediction"]].itertuples(index=False):
            right[groups[row] in trained_groups].append(label == found)
        assert right[True] and right[False]
        for has, name in ((True, "with_duplicate_in_training"), (False, "without_duplicate_in_training")):
            assert values[name] == {"n": len(right[has]), "accuracy": pytest.approx(sum(right[has]) / len(right[has]))}


def test_temperatures_are_fitted_in_training_and_kept_with_the_best_weights(corrected: Corrected) -> None:
    opened = open_run(corrected.run)
    found = [values["temperature"] for values in corrected.report["tasks"].values()]
    assert found == opened.model.temperatures.tolist()
    assert all(value > 0 and value != 1 for value in found)


def test_labels_are_judged_by_runs_that_saw_neither_them_nor_their_twins(corrected: Corrected, packed: PackedSet, tmp_path: Path) -> None:
    seen = set(packed.table["duplicate_group"].iloc[open_run(corrected.run).split.train])
    unseen = ~packed.table["duplicate_group"].isin(seen)
    result = find_suspects(SuspectsRequest(runs=[corrected.run], out=tmp_path / "first"), ALONE)
    assert result["unseen"] == unseen.sum() > 0
    suspects = pd.read_csv(tmp_path / "first" / SUSPECTS, dtype={"id": str}, keep_default_na=False)
    assert len(suspects) and set(suspects["id"]) <= set(packed.table["id"][unseen])
    mine = suspects[(suspects["id"] == corrected.identity) & (suspects["task"] == "gender")]
    assert set(mine["label"]) <= {corrected.label}  # the run's own corrections hold
    # More of them come on top: a label that is taken away is no suspect any more.
    identity, task = suspects.iloc[0][["id", "task"]]
    (tmp_path / "more.csv").write_text(f"id,task,label\n{identity},{task},\n")
    find_suspects(SuspectsRequest(runs=[corrected.run], out=tmp_path / "second", corrections=tmp_path / "more.csv"), ALONE)
    fewer = pd.read_csv(tmp_path / "second" / SUSPECTS, dtype={"id": str}, keep_default_na=False)
    assert not len(fewer[(fewer["id"] == identity) & (fewer["task"] == task)])
    mine = fewer[(fewer["id"] == corrected.identity) & (fewer["task"] == "gender")]
    assert set(mine["label"]) <= {corrected.label}


def test_rare_classes_of_a_label_that_is_not_trained_can_be_oversampled(packed: PackedSet, tmp_path: Path) -> None:
    settings = {"data__task": "season", "data__split_by": "gender", "data__oversample": 0.9, "train__epochs": 1}
    steps = []
    for name, more in (("plain", {"data__oversample": 0.0}), ("more", {})):
        run = trained(packed.path, tmp_path / name, **settings | more)
        steps.append(json.loads((run / "status.json").read_text())["steps"])
    assert steps[1] > steps[0]


def test_the_reference_recipe_starts_from_weights_on_disk_and_the_report_says_which(packed: PackedSet, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    settings = {"model__weights": str(weights), "model__pretrained": True, "train__epochs": 1, "data__task": "gender"}
    run = trained(packed.path, tmp_path / "run", "reference", **settings)
    report = evaluate_run(EvaluateRequest(run=run), ALONE)
    assert report["first_weights"] == str(weights)
    assert not open_run(run).model.flip_average


def test_a_set_that_was_moved_is_named_with_the_cure(packed: PackedSet, tmp_path: Path) -> None:
    here = shutil.copytree(packed.path, tmp_path / "here")
    run = trained(here, tmp_path / "run", data__task="gender", train__epochs=1)
    here.rename(tmp_path / "there")
    with pytest.raises(PackedSetError, match="say where with --shards"):
        evaluate_run(EvaluateRequest(run=run), ALONE)
    assert evaluate_run(EvaluateRequest(run=run, shards=tmp_path / "there"), ALONE)["run"] == "run"
