"""A shop's own images and table, with other names than Kaggle's, from packing to an exported model."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import smooth_image
from PIL import Image
from test_cli import last_line
from workers import fastfashion

import fastfashion as ff
from fastfashion.errors import ConfigError, InputError

COLOURS = {"red": (200, 30, 30), "light blue": (90, 140, 220), "green": (20, 160, 60)}
TYPES = ("mug", "bowl")
COLUMNS = ["--table", "shop.csv", "--id-column", "file", "--label-columns", "type,fine colour"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety images in two folders, none called images; a second table beside theirs, and a column that no one asks for."""
    folder = tmp_path_factory.mktemp("own") / "shop"
    lines = []
    for number in range(90):
        colour, kind = list(COLOURS)[number % 3], TYPES[number // 3 % 2]
        noise = np.asarray(smooth_image(number, 40, 40), dtype=np.float32)
        shade = np.asarray(COLOURS[colour], dtype=np.float32)
        shade = shade if kind == "mug" else 255 - shade
        path = folder / kind / f"item-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((0.7 * shade + 0.3 * noise).astype(np.uint8)).save(path)
        lines.append([path.name, f"{number}.99", kind, colour if number % 10 else ""])
    for name in ("shop.csv", "old.csv"):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([["file", "price", "type", "fine colour"], *lines])
    return folder


def test_own_images_and_labels_from_packing_to_a_shipped_model(shop: Path, tmp_path: Path) -> None:
    """`type` is the name of a method of every torch module, and "fine colour" holds a space: both are labels like any other."""
    packed = last_line(fastfashion("shard", "--source", str(shop), *COLUMNS, "--res", "32", "--out", "packed", "--json", cwd=tmp_path))
    assert packed["kept"] == 90
    options = ["packed", "--task", "all", "--model", "test_resnet", "--no-pretrained", "--epochs", "8", "--batch-size", "16"]
    fastfashion("train", *options, "--set", "optim.optimizer=adamw", "--set", "optim.lr=3e-3", "--name", "own", cwd=tmp_path)
    report = last_line(fastfashion("evaluate", "runs/own", "--json", cwd=tmp_path))
    assert set(report["tasks"]) == {"type", "fine colour"}
    assert report["tasks"]["fine colour"]["n"] < report["tasks"]["type"]["n"]
    for scores in report["tasks"].values():
        assert scores["accuracy"] > scores["chance_accuracy"] + 0.2
    answers = fastfashion("predict", "runs/own", str(shop / "mug"), "--format", "jsonl", cwd=tmp_path)
    assert set(json.loads(answers.stdout.splitlines()[0])["answers"]) == {"type", "fine colour"}
    exported = last_line(fastfashion("export", "runs/own", "--to", "onnx", "--json", cwd=tmp_path))
    assert exported["tasks"] == ["type", "fine colour"]


def test_damage_is_repaired_from_the_same_columns(shop: Path, tmp_path: Path) -> None:
    done = ff.shard(shop, tmp_path / "packed", res=32, table="shop.csv", id_column="file", label_columns=["type", "fine colour"], workers=1)
    assert done.kept == 90
    tar = tmp_path / "packed/32/00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:5000] + b"x" + whole[5001:])
    repaired = fastfashion(
        "verify", str(tmp_path / "packed"), "--repair", "--source", str(shop), *COLUMNS[:4], "--json", "--workers", "1", cwd=tmp_path
    )
    assert last_line(repaired)["repaired"] == ["32/00000.tar"] and tar.read_bytes() == whole


def test_a_set_without_the_usual_label_says_which_ones_it_has(shop: Path, tmp_path: Path) -> None:
    ff.shard(shop, tmp_path / "packed", res=32, table="shop.csv", id_column="file", label_columns=["type"], workers=1)
    with pytest.raises(ConfigError, match="unknown task 'subCategory': this packed set has type; choose among them"):
        ff.train_run(tmp_path / "packed", pretrained=False)


def test_a_table_of_paths_is_packed_and_one_that_names_no_image_is_told_what_images_are_called(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "photos").mkdir(parents=True)
    for number, suffix in enumerate(("bmp", "tif")):
        smooth_image(number, 40, 50).save(shop / "photos" / f"a{number}.{suffix}")
    (shop / "shop.csv").write_text("file,price,type\nphotos/a0.bmp,7,mug\nphotos/a1.tif,8,bowl\n")
    assert ff.shard(shop, tmp_path / "packed", res=32, id_column="file", label_columns=["type"], workers=1).kept == 2
    with pytest.raises(InputError, match=r"none of the 2 rows .*\(line 2, id '7': no image\); .* such as 'photos/a0.bmp'; id_column"):
        ff.shard(shop, tmp_path / "other", res=32, id_column="price", label_columns=["type"], workers=1)
