"""The twelve cells: which are run, what the table says, and that what is done stays done."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import PackedSmall

from fastfashion.bench.reference import PUBLISHED
from fastfashion.bench.reproduce import ReproduceRequest, ceiling, cells, write_tables
from fastfashion.catalog import Source, Styles, Vocab, split_rows
from fastfashion.errors import ConfigError


def test_there_are_twelve_cells_and_any_of_them_can_be_chosen(tmp_path: Path) -> None:
    sets = {"small": Path("a"), "full": Path("b")}
    assert {(c.task, c.images, c.model) for c in cells(ReproduceRequest(out=tmp_path, sets=sets))} == set(PUBLISHED)
    some = ReproduceRequest(out=tmp_path, sets={"small": Path("a")}, tasks=["season"], models=["resnet18"])
    assert [(c.task, c.images, c.model) for c in cells(some)] == [("season", "small", "resnet18")]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sets": {}}, "--small"),
        ({"tasks": ["gender"]}, "--task gender: expected one of subCategory"),
        ({"models": ["vit"]}, "--model vit"),
        ({"recipe": "slow"}, "unknown recipe"),
        ({"seeds": 0}, "--seeds"),
    ],
)
def test_what_is_no_cell_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        ReproduceRequest(**({"out": tmp_path, "sets": {"small": Path("a")}} | settings))


def summary(seeds: list[float]) -> dict[str, Any]:
    scores = {"seeds": seeds, "interval": [0.9, 0.97]}
    return {"first_weights": "random", "accuracy": scores, "macro_f1": scores}


def test_the_table_has_every_source_and_says_what_was_not_measured(tmp_path: Path) -> None:
    row = {"task": "season", "images": "full", "model": "resnet18", "ceiling": {"accuracy": None, "macro_f1": 0.75}}
    row |= {"published": {"accuracy": 0.8732, "macro_f1": 0.8653}, "notebook": {"accuracy": None, "macro_f1": None}}
    row |= {"reference": summary([0.95, 0.96, 0.94]), "stratified": None}
    write_tables(tmp_path, {"recipe": "fast", "rows": [row]})
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["score"] for line in lines] == ["accuracy", "macro F1"]
    assert lines[0]["reference README"] == "0.8732" and lines[0]["notebook"] == "-"
    assert lines[0]["ours"] == "0.9500 (0.9400–0.9600)" and lines[0]["95 % interval"] == "0.9000–0.9700"
    assert lines[1]["ceiling"] == "0.7500" and lines[1]["leak-free split"] == "not measured"
    assert (tmp_path / "table.md").read_text().count("\n") == 4
    assert (tmp_path / "table.png").stat().st_size > 10_000


def test_a_class_that_only_the_test_part_has_lowers_the_ceiling() -> None:
    """The last row of ImageFolder's order gets a class of its own, which moves no other row; of a size where that row is tested."""

    def lone(num_rows: int) -> tuple[pd.DataFrame, Vocab]:
        names = ["a"] * 20 + ["b"] * (num_rows - 21) + ["c"]
        table = pd.DataFrame({"id": [f"{i:03}" for i in range(num_rows)], "season": names, "recovered": False})
        return table, Vocab.of_table(table, ["season"])

    tested = next(n for n in range(40, 100) if n - 1 in split_rows(*lone(n), "season", "reference").test)
    trained = next(n for n in range(40, 100) if n - 1 in split_rows(*lone(n), "season", "reference").train)
    assert ceiling(*lone(tested), "season") == pytest.approx(2 / 3)
    assert ceiling(*lone(trained), "season") == 1


def test_the_ceiling_of_the_real_split_is_six_sevenths(real_source: Source, real_styles: Styles) -> None:
    """Its only Home picture is in the test part."""
    table = real_styles.table[real_styles.table["id"].isin(real_source.images.keys())].reset_index(drop=True)
    vocab = Vocab.of_table(table)
    assert ceiling(table, vocab, "masterCategory") == pytest.approx(6 / 7)
    assert ceiling(table, vocab, "season") == 1


def test_a_cell_is_trained_and_tested_once(packed_small: PackedSmall, tmp_path: Path) -> None:
    options = ["--small", str(packed_small.out), "--task", "season", "--model", "resnet18", "--protocol", "reference", "--no-pretrained"]
    options += ["--epochs", "1", "--set", "train.batch_size=16", "--set", "data.size=32x32", "--out", "out", "--json"]

    def reproduce(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fastfashion", "reproduce", *options, *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)

    first, second = reproduce(), reproduce()
    assert first.returncode == second.returncode == 0, first.stderr
    results = [json.loads(done.stdout.splitlines()[-1])["rows"] for done in (first, second)]
    assert results[0] == results[1] and "fastfashion train" in first.stderr and "fastfashion train" not in second.stderr
    other = reproduce("--set", "optim.lr=0.1")
    assert other.returncode == 2 and "begun with" in other.stderr
    (run,) = (tmp_path / "out/runs").iterdir()
    report = json.loads((run / "report.json").read_text())
    assert set(report["tasks"]) == {"masterCategory", "subCategory", "articleType", "gender", "baseColour", "season", "usage"}
    assert report["split"]["by"] == ["season"]
    ours = results[0][0]["reference"]
    assert ours["accuracy"]["seeds"] == [report["tasks"]["season"]["accuracy"]]
    low, high = ours["macro_f1"]["interval"]
    assert low <= high and np.isfinite([low, high]).all()
