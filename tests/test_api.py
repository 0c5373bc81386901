"""`import fastfashion as ff`: names that are light to import, typed, and do what the commands do."""

import ast
import importlib
import inspect
import json
import pkgutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PackedSmall
from PIL import Image
from serving import make_run
from test_floors import HEAVY, modules_after

import fastfashion as ff
from fastfashion.errors import ConfigError, InputError, TrainingError

NAMES = {"download", "synth", "shard", "verify", "audit", "splits", "preview", "open_packed_set", "loader", "open_loader", "train_run"}
NAMES |= {"evaluate_run", "compare", "open_run", "predict", "export", "serve"}
TINY = {"model": "test_vit", "pretrained": False, "size": "32x32", "epochs": 1, "batch_size": 16, "settings": {"train.precision": "fp32"}}


def test_there_are_names_with_documentation_and_types() -> None:
    assert set(ff.__all__) == NAMES | {"FastfashionError", "__version__"}
    assert set(dir(ff)) >= NAMES
    for name in NAMES:
        function = getattr(ff, name)
        assert function.__doc__ and "return" in function.__annotations__, name
    stub = Path(ff.__file__).with_name("__init__.pyi")
    body = ast.parse(stub.read_text()).body
    typed = {alias.asname for node in body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname}
    assert typed | {node.name for node in body if isinstance(node, ast.FunctionDef)} == NAMES | {"FastfashionError"}


def test_a_folder_of_the_package_does_not_take_the_name_of_a_function() -> None:
    """Importing fastfashion.predict.inputs would replace ff.predict by the folder."""
    rooms = sorted(NAMES & {module.name for module in pkgutil.iter_modules(ff.__path__)})
    assert rooms == ["audit", "export", "predict", "serve"]
    for room in rooms:
        importlib.import_module(f"fastfashion.{room}")
        assert callable(getattr(ff, room))


def test_importing_is_light_and_an_unknown_name_is_answered_with_the_known_ones() -> None:
    assert modules_after("import fastfashion as ff; ff.shard, ff.predict").isdisjoint(HEAVY)
    with pytest.raises(AttributeError, match="there are FastfashionError, audit, compare"):
        ff.evaluated  # noqa: B018


def test_the_main_job_in_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each result is what the command prints as JSON; everything is found where the commands leave it."""
    monkeypatch.chdir(tmp_path)
    made = ff.synth(rows=150, size="64x48", workers=1)
    assert made.rows == 150 and made.to_dict()["out"] == "data/synth"
    packed = ff.shard(res=32, workers=1)
    assert packed.out == Path("shards/synth") and packed.kept + packed.rejected == 150
    assert len(ff.open_packed_set().table) == packed.kept
    assert ff.verify().damage == () and ff.audit()["images"] == ff.audit().images == packed.kept
    assert ff.splits(task="season").parts.keys() == {"train", "val", "test"} and Path("splits.csv").is_file()
    assert len(ff.preview(packed.out, rows=4, workers=1).rows) == 4
    trained = ff.train_run(task="masterCategory", name="first", **TINY)
    assert trained.run == "runs/first" and trained.epochs == 1
    with pytest.raises(ValueError, match="optim"):
        ff.train_run(task="masterCategory", name="first", **(TINY | {"settings": {"train.precision": "fp32", "optim.lr": 0.5}}))
    report = ff.evaluate_run("runs/first")
    assert report.to_dict() == json.loads(Path("runs/first/report.json").read_text()) | {
        "run": "runs/first",
        "unknown_classes": None,
        "test_reads": 1,
    }
    assert ff.compare(report, trained).tasks["masterCategory"]["p_value"] == 1
    opened = ff.open_run("runs/first")
    assert opened.tasks == ["masterCategory"] and len(opened.split.rows("test")) == report["tasks"]["masterCategory"]["n"]
    images = sorted(Path("data/synth/images").glob("*.jpg"))[:3]
    answers = list(ff.predict("runs/first", [*images, "nowhere.jpg"], top=2, workers=1))
    assert [answer["path"] for answer in answers] == [*map(str, images), "nowhere.jpg"]
    assert all(len(answer["answers"]["masterCategory"]) == 2 for answer in answers[:3]) and "no such file" in answers[3]["error"]
    exported = ff.export(report, "hub")
    assert exported.tasks == ["masterCategory"] and Path(exported.out, "model.safetensors").is_file()


@pytest.mark.dist
def test_several_processes_train_the_same(packed_small: PackedSmall, tmp_path: Path) -> None:
    trained = ff.train_run(packed_small.out, runs=tmp_path, name="two", nproc=2, **TINY)
    assert (trained.run, trained.epochs) == (str(tmp_path / "two"), 1)
    (start, *_) = (json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines())
    assert start["processes"] == 2


def test_what_goes_wrong_in_other_processes_is_raised_here(packed_small: PackedSmall, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"batch_size.*expected 4 or more"):
        ff.train_run(packed_small.out, runs=tmp_path, nproc=2, **(TINY | {"batch_size": 2, "settings": {"augment.mixup": 0.2}}))
    with pytest.raises(ConfigError, match="nproc: expected 1 or more, found 0"):
        ff.train_run(packed_small.out, runs=tmp_path, nproc=0, **TINY)


def test_an_old_form_works_and_warns(packed_small: PackedSmall, tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="out is an old form, which the next release refuses: use runs") as warned:
        trained = ff.train_run(packed_small.out, out=tmp_path, name="old", **TINY)
    assert trained.run == str(tmp_path / "old") and warned[0].filename == __file__
    with pytest.raises(ConfigError, match="size, height x width in pixels; images 600 wide and 800 high are size"):
        ff.synth(tmp_path / "synth", res="600x800")
    with pytest.raises(TypeError, match="colour"):
        ff.synth(tmp_path / "synth", colour="red")


def test_predict_takes_paths_images_arrays_and_bytes_and_yields_as_it_goes(packed_small: PackedSmall, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", packed_small.out)
    path = sorted((packed_small.source / "images").iterdir())[0]
    image = Image.open(path).convert("RGB")
    png = BytesIO()
    image.save(png, "PNG")
    given = [image, np.asarray(image), png.getvalue(), np.zeros((2, 2, 7), np.uint8), torch.zeros(2, 2, 3), b"no image", path]
    *same, wrong, tensor, broken, by_path = ff.predict(run, (each for each in given), workers=1)
    assert [each["path"] for each in (*same, wrong, tensor, broken)] == [f"image {number}" for number in range(6)]
    assert same[0]["answers"] == same[1]["answers"] == same[2]["answers"] is not None
    assert wrong["answers"] is broken["answers"] is None and "uint8 array (H, W)" in wrong["error"]
    assert "uint8 array (H, W)" in tensor["error"]
    assert by_path["path"] == str(path) and by_path["error"] is None
    (alone,) = ff.predict(run, image, workers=1)
    assert alone["answers"] == same[0]["answers"]
    assert inspect.isgenerator(ff.predict(run, [path], workers=1))
    with pytest.raises(ConfigError, match=r"^image 1: expected a path, an address or an opened packed set, found int"):
        list(ff.predict(run, [path, 5], workers=1))


def test_a_loader_gives_what_training_gets(packed_small: PackedSmall) -> None:
    parts = {}
    for part in ("train", "val"):
        loader = ff.loader(packed_small.out, task="subCategory,season", split=part, size="32x24", batch_size=8)
        batches = list(loader.steps(0))
        loader.close()
        assert all(batch.images.shape[1:] == (32, 24, 3) and batch.images.dtype == torch.uint8 for batch in batches)
        parts[part] = np.concatenate([batch.rows[batch.rows >= 0].numpy() for batch in batches])
        assert batches[0].labels.shape[1] == 2
    assert len(np.intersect1d(parts["train"], parts["val"])) == 0
    with pytest.raises(ConfigError, match="train, val, test, all"):
        ff.loader(packed_small.out, split="tests")


def test_errors_are_those_of_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no data set"):
        ff.shard()
    with pytest.raises(ConfigError, match="no packed set"):
        ff.train_run()
    with pytest.raises(InputError, match="not a run"):
        ff.evaluate_run("runs/nothing")
