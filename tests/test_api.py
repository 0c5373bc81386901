"""`import fastfashion as ff`: ten names, light to import, that do what the commands do."""

import ast
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PackedSmall
from test_floors import HEAVY, modules_after

import fastfashion as ff
from fastfashion.errors import ConfigError, InputError, TrainingError

NAMES = {"synth", "shard", "open_packed_set", "open_loader", "train_run", "evaluate_run", "compare", "open_run", "predict", "export"}
TINY = {"model": "test_vit", "pretrained": False, "size": "32x32", "epochs": 1, "batch_size": 16, "settings": {"train.precision": "fp32"}}


def test_there_are_ten_names_with_documentation_and_types() -> None:
    assert set(ff.__all__) == NAMES | {"__version__"}
    assert set(dir(ff)) >= NAMES
    for name in NAMES:
        function = getattr(ff, name)
        assert function.__doc__ and function.__annotations__["return"], name
    stub = Path(ff.__file__).with_name("__init__.pyi")
    told = {alias.asname for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == NAMES


def test_no_module_of_the_package_takes_one_of_the_names() -> None:
    """Importing fastfashion.compare would replace the function."""
    assert NAMES.isdisjoint(module.name for module in pkgutil.iter_modules(ff.__path__))


def test_importing_is_light_and_an_unknown_name_is_answered_with_the_known_ones() -> None:
    assert modules_after("import fastfashion as ff; ff.shard, ff.predict").isdisjoint(HEAVY)
    with pytest.raises(AttributeError, match="there are compare, evaluate_run"):
        ff.evaluated  # noqa: B018


def test_the_main_job_in_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each result is what the command prints as JSON; everything is found where the commands leave it."""
    monkeypatch.chdir(tmp_path)
    made = ff.synth(rows=150, res="48x64", workers=1)
    assert made["rows"] == 150 and made["out"] == "data/synth"
    packed = ff.shard(res=32, workers=1)
    assert packed["out"] == "shards/synth" and packed["kept"] + packed["rejected"] == 150
    assert len(ff.open_packed_set().table) == packed["kept"]
    trained = ff.train_run(task="masterCategory", name="first", **TINY)
    assert trained["run"] == "runs/first" and trained["epochs"] == 1
    with pytest.raises(ValueError, match="optim"):
        ff.train_run(task="masterCategory", name="first", **(TINY | {"settings": {"train.precision": "fp32", "optim.lr": 0.5}}))
    report = ff.evaluate_run("runs/first")
    assert report == json.loads(Path("runs/first/report.json").read_text())
    assert ff.compare("runs/first", "runs/first")["tasks"]["masterCategory"]["p_value"] == 1
    opened = ff.open_run("runs/first")
    assert opened.tasks == ["masterCategory"] and len(opened.split.rows("test")) == report["tasks"]["masterCategory"]["n"]
    images = sorted(Path("data/synth/images").glob("*.jpg"))[:3]
    answers = ff.predict("runs/first", [*images, "nowhere.jpg"], top=2, workers=1)
    assert [answer["path"] for answer in answers] == [*map(str, images), "nowhere.jpg"]
    assert all(len(answer["answers"]["masterCategory"]) == 2 for answer in answers[:3]) and "no such file" in answers[3]["error"]
    exported = ff.export("runs/first", "hub")
    assert exported["tasks"] == ["masterCategory"] and Path(exported["out"], "model.safetensors").is_file()


@pytest.mark.dist
def test_several_processes_train_the_same(packed_small: PackedSmall, tmp_path: Path) -> None:
    trained = ff.train_run(packed_small.out, out=tmp_path, name="two", nproc=2, **TINY)
    assert trained["run"] == str(tmp_path / "two") and trained["epochs"] == 1
    (start, *_) = (json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines())
    assert start["processes"] == 2


def test_what_goes_wrong_in_other_processes_is_raised_here(packed_small: PackedSmall, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="1 or more, found 0"):
        ff.train_run(packed_small.out, out=tmp_path, nproc=0, **TINY)


def test_a_loader_gives_what_training_gets(packed_small: PackedSmall) -> None:
    parts = {}
    for part in ("train", "val"):
        loader = ff.open_loader(packed_small.out, task="subCategory,season", part=part, size="32x24", batch_size=8)
        batches = list(loader.steps(0))
        loader.close()
        assert all(batch.images.shape[1:] == (32, 24, 3) and batch.images.dtype == torch.uint8 for batch in batches)
        parts[part] = np.concatenate([batch.rows[batch.rows >= 0].numpy() for batch in batches])
        assert batches[0].labels.shape[1] == 2
    assert len(np.intersect1d(parts["train"], parts["val"])) == 0
    with pytest.raises(ConfigError, match="train or val"):
        ff.open_loader(packed_small.out, part="test")  # type: ignore[arg-type]


def test_errors_are_those_of_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no data set"):
        ff.shard()
    with pytest.raises(ConfigError, match="no packed set"):
        ff.train_run()
    with pytest.raises(InputError, match="not a run"):
        ff.evaluate_run("runs/nothing")
