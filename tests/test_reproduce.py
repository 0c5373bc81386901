"""The twelve cells: which are run, what the table says, and that what is done stays done."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import PackedSmall, make_source
from workers import fastfashion

from fastfashion.catalog import Styles, Vocab, split_rows
from fastfashion.errors import ConfigError
from fastfashion.evaluate.published import published_names, read_published
from fastfashion.evaluate.reproduce import ReproduceRequest, ceiling, check_folder, write_tables
from fastfashion.evaluate.reproduce import reproduce as run_cells
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import PackedSet
from fastfashion.sources import Source

NAME = "fashion-product-images"
PUBLISHED = read_published(NAME)
CELLS = [cell.name for cell in PUBLISHED.cells]


def asked(out: Path, **more: Any) -> ReproduceRequest:
    return ReproduceRequest(**({"name": NAME, "shards": [Path("a")], "out": out} | more))


def test_there_are_twelve_cells_and_any_of_them_can_be_chosen(tmp_path: Path) -> None:
    assert len(set(CELLS)) == 12
    assert [cell.name for cell in asked(tmp_path).cells({"small", "full"})] == CELLS
    some = asked(tmp_path, tasks=["season"], models=["resnet18"])
    assert [cell.name for cell in some.cells({"small"})] == [("season", "small", "resnet18")]


def test_the_file_has_what_the_reference_project_publishes() -> None:
    scores = {cell.name: cell.scores for cell in PUBLISHED.cells}
    readme, notebook = (scores["masterCategory", "small", "efficientnet_b0"][source] for source in ("published", "notebook"))
    assert (readme.accuracy, readme.macro_f1, notebook.accuracy, notebook.macro_f1) == (0.9712, 0.8264, 0.9902, 0.6889)
    assert [name for name in CELLS if "notebook" not in scores[name]] == [("season", "full", each) for each in PUBLISHED.values("model")]
    assert PUBLISHED.splits.keys() == set(PUBLISHED.values("task")) and PUBLISHED.images.keys() == set(PUBLISHED.values("images"))


def test_every_file_of_published_results_can_be_read_and_another_name_is_refused() -> None:
    assert NAME in published_names() and all(read_published(name).cells for name in published_names())
    with pytest.raises(ConfigError, match=f"nothing: no published results of that name; expected one of .*{NAME}"):
        read_published("nothing")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shards": []}, "no packed set given: name one of Fashion Product Images"),
        ({"name": "nothing"}, "no published results"),
        ({"tasks": ["gender"]}, "--task gender: expected one of subCategory"),
        ({"models": ["vit"]}, "--model vit"),
        ({"recipe": "slow"}, "unknown recipe"),
        ({"seeds": 0}, "--seeds"),
    ],
)
def test_what_is_no_cell_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        asked(tmp_path, **settings)


def test_the_reference_recipe_trains_as_long_as_the_reference_project_did() -> None:
    assert {cell.name: cell.epochs for cell in PUBLISHED.cells if cell.epochs != 10} == {
        ("season", "full", "resnet18"): 5,
        ("season", "full", "efficientnet_b0"): 5,
    }


def summary(seeds: list[float]) -> dict[str, Any]:
    scores = {"seeds": seeds, "interval": [0.9, 0.97]}
    known = {"first_weights": "random", "model": "resnet18", "without_twins": {"n": 10, "seeds": seeds}}
    return known | {"accuracy": scores, "macro_f1": scores}


def test_the_table_has_every_source_and_says_what_was_not_measured(tmp_path: Path) -> None:
    row = {"task": "season", "images": "full", "model": "resnet18", "ceiling": {"accuracy": None, "macro_f1": 0.75}}
    row |= {"published": {"accuracy": 0.8732, "macro_f1": 0.8653}, "notebook": {"accuracy": None, "macro_f1": None}}
    row |= {"reference": summary([0.95, 0.96, 0.94]), "stratified": None, "data": "other"}
    write_tables(tmp_path, PUBLISHED, {"recipe": "fast", "rows": [row]})
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["score"] for line in lines] == ["accuracy", "macro F1"]
    assert lines[0]["reference README"] == "0.8732" and lines[0]["notebook"] == "none"
    assert lines[0]["ours"] == "0.9500 (0.9400–0.9600)" and lines[0]["95 % interval"] == "0.9000–0.9700"
    assert lines[1]["ceiling"] == "0.7500" and lines[1]["leak-free split"] == "not measured"
    assert {line["data"] for line in lines} == {"OTHER DATA"}
    text = (tmp_path / "table.md").read_text()
    assert text.count("OTHER DATA") == 2 and "The full images are not those that the published values are of" in text
    assert (tmp_path / "table.png").stat().st_size > 10_000


def test_a_class_that_only_the_test_part_has_lowers_the_ceiling() -> None:
    """The last row of ImageFolder's order gets a class of its own, which moves no other row; of a size where that row is tested."""

    def lone(num_rows: int) -> tuple[pd.DataFrame, Vocab]:
        names = ["a"] * 20 + ["b"] * (num_rows - 21) + ["c"]
        table = pd.DataFrame({"id": [f"{i:03}" for i in range(num_rows)], "season": names, "recovered": False})
        return table, Vocab.of_table(table, ["season"])

    tested = next(n for n in range(40, 100) if n - 1 in split_rows(*lone(n), "season", "reference").test)
    trained = next(n for n in range(40, 100) if n - 1 in split_rows(*lone(n), "season", "reference").train)
    assert ceiling(*lone(tested), "season", "reference") == pytest.approx(2 / 3)
    assert ceiling(*lone(trained), "season", "reference") == 1


def test_the_ceiling_of_the_real_split_is_six_sevenths(real_source: Source, real_styles: Styles) -> None:
    """Its only Home image is in the test part."""
    table = real_styles.table[real_styles.table["id"].isin(real_source.images.keys())].reset_index(drop=True)
    vocab = Vocab.of_table(table)
    assert ceiling(table, vocab, "masterCategory", "reference") == pytest.approx(6 / 7)
    assert ceiling(table, vocab, "season", "reference") == 1


def test_the_published_splits_are_those_of_the_real_table(real_source: Source, real_styles: Styles, tmp_path: Path) -> None:
    """The hashes were made by the reference project's own code; one row fewer is other data."""
    table = real_styles.table[real_styles.table["id"].isin(real_source.images.keys())].reset_index(drop=True)
    columns = pa.Table.from_pandas(table)
    packed = PackedSet(path=tmp_path, columns=columns, vocab=Vocab.of_table(table), resolutions=())
    assert PUBLISHED.difference(packed, PUBLISHED.values("task")) == ""
    less = PackedSet(path=tmp_path, columns=columns.slice(1), vocab=packed.vocab, resolutions=())
    assert "the train part of its subCategory split has 31092 rows" in PUBLISHED.difference(less, PUBLISHED.values("task"))


CONDITION = read_published("condition-cnn")
REAL_SPLIT = Path(__file__).parents[2] / "shared/data/published-splits/condition-cnn-2021.csv"


def test_condition_cnns_split_is_that_of_its_authors(real_source: Source, real_styles: Styles, tmp_path: Path) -> None:
    """305 of its test rows have a near-duplicate in training, by the packed set; the rows alone are checked here."""
    if not REAL_SPLIT.is_file():
        pytest.skip("no published split in ../shared/data, which is not part of the project")
    table = real_styles.table[real_styles.table["id"].isin(real_source.images.keys())].reset_index(drop=True)
    table = table.assign(duplicate_group=range(len(table)))
    packed = PackedSet(path=tmp_path, columns=pa.Table.from_pandas(table), vocab=Vocab.of_table(table), resolutions=())
    assert CONDITION.difference(packed, CONDITION.values("task"), str(REAL_SPLIT)) == ""
    less = tmp_path / "less.csv"
    less.write_text("".join(REAL_SPLIT.read_text().splitlines(keepends=True)[:-1]))
    assert "expected" in CONDITION.difference(packed, CONDITION.values("task"), str(less))


def test_condition_cnn_has_three_labels_of_one_model() -> None:
    assert CONDITION.joint and {cell.model for cell in CONDITION.cells} == {"vgg16"}
    paper = {cell.task: cell.scores["paper"].accuracy for cell in CONDITION.cells}
    assert paper == {"masterCategory": 0.998, "subCategory": 0.981, "articleType": 0.91} and len(CONDITION.cells) == 6


def test_a_split_that_is_a_file_must_be_named_and_no_other(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^--split-file: expected the published split: fashion_product_train\.csv,.* its authors publish"
    ):
        asked(tmp_path, name="condition-cnn")
    with pytest.raises(ConfigError, match=r"^--split-file a\.csv: the split of fashion-product-images is no file; leave it out"):
        asked(tmp_path, split_file="a.csv")
    assert asked(tmp_path, name="condition-cnn", protocols=["stratified"]).all_protocols == ("file", "stratified")


@pytest.mark.slow
def test_one_model_is_trained_for_all_labels_of_a_joint_result(packed_small: PackedSmall, tmp_path: Path) -> None:
    ids = pd.read_parquet(packed_small.out / "catalog.parquet")["id"]
    lines = [f"{each},{('train', 'train', 'val', 'test')[row % 4]}\n" for row, each in enumerate(ids)]
    (tmp_path / "split.csv").write_text("id,split\n" + "".join(lines))
    options = ["condition-cnn", str(packed_small.out), "--split-file", "split.csv", "--any-set", "--no-pretrained", "--no-all-heads"]
    options += ["--epochs", "1", "--set", "model.name=test_resnet", "--set", "data.size=32x32", "--set", "train.batch_size=16"]
    done = fastfashion("reproduce", *options, "--protocol", "file", "--out", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "out/runs").iterdir()
    assert run.name == "joint-small-test_resnet-fast-file-seed0"
    report = json.loads((run / "report.json").read_text())
    rows = [row for row in json.loads(done.stdout.splitlines()[-1])["rows"] if row["file"]]
    assert [row["task"] for row in rows] == list(report["tasks"]) == ["masterCategory", "subCategory", "articleType"]
    for row in rows:
        own = report["tasks"][row["task"]]
        assert row["file"]["accuracy"]["seeds"] == [own["accuracy"]] and row["paper"]["accuracy"] > 0.9
        assert row["file"]["without_twins"] == {
            "n": own["without_duplicate_in_training"]["n"],
            "seeds": row["file"]["without_twins"]["seeds"],
        }
    assert "test_resnet, random" in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(("height_px", "images"), [(80, "small"), (60, "small"), (2400, "full"), (1000, "full")])
def test_the_size_of_a_sets_images_is_the_nearest_published_one(height_px: int, images: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["1", "2", "3"], "height": [height_px, height_px, 5], "season": "Summer", "recovered": False})
    columns = pa.Table.from_pandas(table)
    assert PUBLISHED.images_of(PackedSet(path=tmp_path, columns=columns, vocab=Vocab.of_table(table, ["season"]), resolutions=())) == images


def test_a_folder_keeps_the_settings_it_was_started_with(tmp_path: Path) -> None:
    started = {"data.size": "64", "train.epochs": "3", "model.pretrained": False}
    for heads, settings, refused in (
        ("all", started, ""),
        ("all", {"model.pretrained": False, "train.epochs": 3, "data.size": "64x64"}, ""),
        ("", started, "labels of a model: all there, its own now"),
        ("all", started | {"train.epochs": 4}, "train.epochs: 3 there, 4 now"),
    ):
        config = asked(tmp_path, settings=settings).config()
        if refused:
            with pytest.raises(ConfigError, match=f"started with other settings .*{refused}"):
                check_folder(tmp_path / "fast.json", heads, config, {})
        else:
            check_folder(tmp_path / "fast.json", heads, config, {})


@pytest.mark.slow
def test_a_cell_is_trained_and_tested_once_and_is_one_of_the_twelve(packed_small: PackedSmall, tmp_path: Path) -> None:
    options = [
        "fashion-product-images",
        str(packed_small.out),
        "--task",
        "season",
        "--model",
        "resnet18",
        "--protocol",
        "reference",
        "--no-pretrained",
    ]
    options += ["--epochs", "1", "--out", "out", "--json", "--set"]
    refused = fastfashion("reproduce", *options, "data.size=32x32", cwd=tmp_path)
    assert refused.returncode == 2 and "not the data behind the published values" in refused.stderr and "--any-set" in refused.stderr
    assert not (tmp_path / "out").exists()
    options = ["--any-set", *options]

    orders = [["train.batch_size=16", "data.size=32x32"], ["data.size=32", "train.batch_size=16"]]
    first, second = (fastfashion("reproduce", *options, one, "--set", other, cwd=tmp_path) for one, other in orders)
    options += ["train.batch_size=16", "--set", "data.size=32x32"]
    assert first.returncode == second.returncode == 0, first.stderr
    results = [json.loads(done.stdout.splitlines()[-1])["rows"] for done in (first, second)]
    assert "OTHER DATA" in first.stderr
    assert {row["data"] for row in results[0]} == {"other", None}
    assert results[0] == results[1] and "fastfashion train" in first.stderr and "fastfashion train" not in second.stderr
    other = fastfashion("reproduce", *options, "--set", "optim.lr=0.1", cwd=tmp_path)
    assert other.returncode == 2 and "started with" in other.stderr
    moved = pack(PackRequest(source=make_source(tmp_path / "source", 30), out=tmp_path / "other", resolutions=("32",), workers=1))
    assert moved.kept
    with pytest.raises(ConfigError, match="started with other small images"):
        settings = {"model.pretrained": False, "train.epochs": 1, "train.batch_size": 16, "data.size": "32x32"}
        rest: dict[str, Any] = {"heads": "all", "settings": settings, "any_set": True}
        run_cells(asked(tmp_path / "out", shards=[tmp_path / "other"], **rest))
    (run,) = (tmp_path / "out/runs").iterdir()
    report = json.loads((run / "report.json").read_text())
    assert set(report["tasks"]) == {"masterCategory", "subCategory", "articleType", "gender", "baseColour", "season", "usage"}
    assert report["split"]["by"] == ["season"]
    assert [(row["task"], row["images"], row["model"]) for row in results[0]] == CELLS
    done = {number: row for number, row in enumerate(results[0]) if row["reference"] or row["stratified"]}
    ((number, row),) = done.items()
    assert CELLS[number] == ("season", "small", "resnet18") and row["stratified"] is None
    ours = row["reference"]
    assert ours["starts"][0]["command"].startswith("fastfashion train")
    assert ours["accuracy"]["seeds"] == [report["tasks"]["season"]["accuracy"]]
    low, high = ours["macro_f1"]["interval"]
    assert low <= high and np.isfinite([low, high]).all()
