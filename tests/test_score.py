"""Scores of anybody's predictions: those of `evaluate` where the answers are a run's own, and nothing in a file is guessed."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PackedSmall
from sklearn.metrics import accuracy_score, f1_score
from test_faults import config_of
from workers import fastfashion

import fastfashion as ff
from fastfashion import dist
from fastfashion.catalog import split_rows
from fastfashion.config import DataConfig
from fastfashion.errors import InputError
from fastfashion.evaluate.score import score_file, score_text
from fastfashion.runs.reads import count_read
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.train.job import train

ALONE = dist.World(device=torch.device("cpu"))
SAME = ("n", "accuracy", "macro_f1", "macro_f1_present", "weighted_f1", "balanced_accuracy", "num_classes_present")


@pytest.fixture(scope="module")
def packed(packed_small: PackedSmall) -> PackedSet:
    return open_packed_set(packed_small.out)


@pytest.fixture(scope="module")
def run(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("score") / "run"
    train(config_of(packed_small, data__task="subCategory,season", train__epochs=2), path, ALONE)
    ff.evaluate_run(path)
    return path


def asked(packed: PackedSet, task: str = "all", **more: Any) -> DataConfig:
    return DataConfig(shards=str(packed.path), task=task, **more)


def test_a_runs_own_predictions_score_as_its_report_says(run: Path, packed: PackedSet) -> None:
    report = ff.evaluate_run(run).to_dict()
    result = score_file(run / "predictions.parquet", asked(packed), against=run)
    assert list(result["tasks"]) == ["subCategory", "season"] and not any(result["missing"].values()) and result["unknown"] == 0
    for task, values in result["tasks"].items():
        own = report["tasks"][task]
        assert {name: values[name] for name in SAME} == {name: own[name] for name in SAME}
        for name in ("accuracy", "macro_f1"):
            assert values["intervals"][name] == list(own["intervals"][name])
        assert values["classes"] == own["classes"] and values["loss"] is None
        assert values["test_ids_sha256"] == own["test_ids_sha256"]
        compared = result["against"]["tasks"][task]
        assert compared["difference"]["accuracy"] == 0 and compared["p_value"] == 1 and compared["n"] == own["n"]
    assert "this file minus" in score_text(result)


def rows_of_test(packed: PackedSet) -> np.ndarray:
    return np.sort(split_rows(packed.columns, packed.vocab, "subCategory", "stratified").test)


def test_probabilities_give_the_scores_of_scikit_learn(packed: PackedSet, tmp_path: Path) -> None:
    names = packed.vocab.names("subCategory")
    shares = np.random.default_rng(0).dirichlet(np.ones(len(names)), len(packed)).round(4)
    table = pd.DataFrame(shares, columns=list(names)).assign(file=[f"images/{each}.jpg" for each in packed.ids])
    table.sample(frac=1, random_state=1).to_csv(tmp_path / "a.csv", sep=";", index=False)
    result = score_file(tmp_path / "a.csv", asked(packed, "subCategory"))["tasks"]["subCategory"]
    rows = rows_of_test(packed)
    labels, guessed = packed.table["subCategory"].to_numpy()[rows], np.array(names, dtype=object)[shares[rows].argmax(axis=1)]
    assert result["accuracy"] == accuracy_score(labels, guessed)
    assert result["macro_f1"] == pytest.approx(f1_score(labels, guessed, average="macro", zero_division=0))
    own = (shares / shares.sum(axis=1, keepdims=True))[rows, [names.index(label) for label in labels]]
    assert result["loss"] == pytest.approx(float(-np.log(own).mean())) and 0 < result["top3_accuracy"] <= 1
    named = table.rename(columns={name: f"subCategory:{name}" for name in names})
    named.to_parquet(tmp_path / "b.parquet")
    assert score_file(tmp_path / "b.parquet", asked(packed))["tasks"]["subCategory"] == result


def test_rows_without_an_answer_and_ids_that_are_unknown_are_counted(packed: PackedSet, tmp_path: Path) -> None:
    rows = rows_of_test(packed)
    kept, lost = rows[:-2], rows[-2:]
    lines = [f"{packed.ids[row]},{packed.table['subCategory'].iloc[row]}" for row in kept]
    lines += [f"{packed.ids[lost[0]]},", "no-1,Shoes", "no-2,"]
    (tmp_path / "a.csv").write_text("\n".join(["image_id,prediction", *lines]))
    result = score_file(tmp_path / "a.csv", asked(packed, "subCategory"))
    assert result["missing"] == {"subCategory": 2} and result["unknown"] == 2
    assert result["tasks"]["subCategory"]["n"] == len(kept) and result["tasks"]["subCategory"]["accuracy"] == 1
    assert "2 rows without an answer, not scored" in score_text(result) and "2 ids that the set does not have" in score_text(result)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,prediction\n10000,Shoos\n", r"a\.csv, line 2: subCategory has no class 'Shoos'; did you mean Shoes\?"),
        ("id,prediction\n10000,Shoes\n10000.jpg,Shoes\n", r"a\.csv, line 3: 10000\.jpg was answered in line 2; keep one answer"),
        ("id,prediction\nx,Shoes\n", r"none of its 1 ids is in .*; expected ids such as 10000, 996"),
        ("id,colour\n10000,Shoes\n", r"no column of subCategory: expected subCategory or subCategory_prediction, prediction or label"),
        ("name of it,prediction\n10000,Shoes\n", "id"),
        ("id,Shoes,Topwear\n10000,0.5,0.2\n", r"line 2: probabilities of subCategory sum to 0\.7; expected 1"),
        ("id,Shoes,Topwear\n10000,2.5,-1.5\n", r"line 2: probabilities of subCategory sum to 1; expected 1, of numbers from 0 to 1"),
        ("id,Shoes,Topwear\n10000,nan,1\n", r"line 2: probabilities of subCategory sum to nan"),
        ("id,prediction\n10000,a,b\n", r"a\.csv, line 2: expected 2 fields"),
        ("id,prediction\n", "no line under the header"),
    ],
)
def test_a_file_that_is_not_clear_is_refused_with_its_line(text: str, reason: str, packed: PackedSet, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=reason):
        score_file(tmp_path / "a.csv", asked(packed, "subCategory"))


def test_against_a_run_only_rows_of_both_count_and_other_labels_are_refused(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    lines = [f"{identity},{name}" for identity, name in zip(packed.ids, packed.table["season"], strict=True) if name]
    (tmp_path / "a.csv").write_text("\n".join(["id,season", *lines]))
    # A seed of which some of the rows tested are the run's.
    own = set(np.flatnonzero(np.isin(packed.ids, pd.read_parquet(run / "predictions.parquet")["id"])))
    splits = {seed: set(split_rows(packed.columns, packed.vocab, "season", "stratified", seed).test) for seed in range(1, 20)}
    seed = next(seed for seed, rows in splits.items() if rows & own)
    result = score_file(tmp_path / "a.csv", asked(packed, "season", split_by="season", split_seed=seed), against=run)
    assert 0 < result["against"]["tasks"]["season"]["n"] < result["tasks"]["season"]["n"]
    (tmp_path / "b.csv").write_text("\n".join(["id,gender", *(f"{each},Men" for each in packed.ids)]))
    with pytest.raises(InputError, match="was tested on subCategory, season; expected one of gender"):
        score_file(tmp_path / "b.csv", asked(packed, "gender"), against=run)


def test_each_look_at_the_test_rows_is_counted_and_said(run: Path, packed: PackedSet, tmp_path: Path) -> None:
    """The report itself stays the same to the byte."""
    before, reads = (run / "report.json").read_bytes(), len((run / "test_reads.jsonl").read_text().splitlines())
    ff.compare(run, run)
    score_file(run / "predictions.parquet", asked(packed), against=run)
    done = fastfashion("evaluate", str(run), cwd=tmp_path)
    assert f"the test rows of this run were read {reads + 4} times" in done.stdout, done.stderr
    assert (run / "report.json").read_bytes() == before
    readers = [threading.Thread(target=count_read, args=(run, "evaluate")) for _ in range(20)]
    for each in readers:
        each.start()
    for each in readers:
        each.join()
    lines = (run / "test_reads.jsonl").read_text().splitlines()
    assert len(lines) == reads + 24 and all(json.loads(line)["command"] for line in lines)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/test_reads.jsonl").symlink_to(tmp_path / "other")
    assert count_read(tmp_path / "elsewhere", "evaluate") == 0 and not (tmp_path / "other").exists()
