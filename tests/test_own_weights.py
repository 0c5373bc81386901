"""A run that begins with the weights of another run: the backbone, and heads of the same classes."""

from pathlib import Path

import pytest
import torch
import workers
from conftest import PackedSmall
from safetensors.torch import load_file, save_file

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.model.artifact import ModelDescription, keep_heads, save_artifact
from fastfashion.model.net import Classifier, build_classifier

CLASSES = {"subCategory": ["Shoes", "Topwear", "Watches"], "season": ["Fall", "Summer"], "usage": ["Casual", "Sports"]}
SIZE = Size(32, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves of its model; with a mean of its own, as another set of published weights has."""
    torch.manual_seed(3)
    model = build_classifier(ModelConfig(name="test_vit", pretrained=False), {task: len(names) for task, names in CLASSES.items()}, SIZE)
    model.mean.fill_(100)
    folder = tmp_path_factory.mktemp("runs") / "before"
    description = ModelDescription(model="test_vit", size="32x32", classes=CLASSES, flip_average=True)
    save_artifact(folder / "best", model.state_dict(), description)
    return folder


def build(weights: Path, classes: dict[str, list[str]], size: Size = SIZE) -> tuple[Classifier, str]:
    config = ModelConfig(name="test_vit", weights=str(weights))
    torch.manual_seed(9)
    model = build_classifier(config, {task: len(names) for task, names in classes.items()}, size)
    return model, keep_heads(model, classes, str(weights))


@pytest.mark.parametrize("place", ["", "best", "best/model.safetensors"])
def test_a_runs_folder_its_best_and_its_file_are_the_same_first_weights(run: Path, place: str) -> None:
    model, said = build(run / place, CLASSES)
    expected = load_file(run / "best/model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert said == f"{run / place}: heads kept: subCategory, season, usage"


def test_heads_of_the_same_classes_are_kept_in_any_order_and_others_are_new(run: Path) -> None:
    now = {
        "season": ["Summer", "Fall"],
        "subCategory": [*CLASSES["subCategory"], "Wallets"],
        "usage": ["Casual", "Formal"],
        "gender": ["Men"],
    }
    model, said = build(run, now)
    before = load_file(run / "best/model.safetensors")
    assert torch.equal(model.head("season").weight, before["heads.season.weight"].flip(0))
    assert torch.equal(model.head("season").bias, before["heads.season.bias"].flip(0))
    assert not torch.equal(model.head("usage").weight, before["heads.usage.weight"])
    assert said == (
        f"{run}: heads kept: season; new heads: subCategory (3 classes there, 4 here), usage (other classes), gender (not among its labels)"
    )


def test_a_backbone_of_one_size_is_made_to_fit_another(run: Path) -> None:
    model, _ = build(run, CLASSES, Size(48, 32))
    assert torch.equal(model.head("season").weight, load_file(run / "best/model.safetensors")["heads.season.weight"])
    assert model(torch.zeros(2, 48, 32, 3, dtype=torch.uint8))["season"].shape == (2, 2)


def test_a_file_without_its_description_gives_the_backbone_alone(run: Path, tmp_path: Path) -> None:
    tensors = load_file(run / "best/model.safetensors")
    save_file(tensors, tmp_path / "copied.safetensors")
    model, said = build(tmp_path / "copied.safetensors", CLASSES)
    assert said == "" and torch.equal(model.mean, tensors["mean"])
    assert all(torch.equal(tensor, tensors[f"backbone.{name}"]) for name, tensor in model.backbone.state_dict().items())


def test_a_run_of_another_model_or_without_a_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="these are weights of test_vit, expected test_resnet"):
        build_classifier(ModelConfig(name="test_resnet", weights=str(run)), {"a": 2}, SIZE)
    with pytest.raises(ConfigError, match=r"holds no best/model\.safetensors; expected a run that has finished an epoch"):
        build_classifier(ModelConfig(name="test_vit", weights=str(tmp_path)), {"a": 2}, SIZE)


def test_the_command_takes_a_run_for_first_weights_and_its_model_with_them(packed_small: PackedSmall, tmp_path: Path) -> None:
    usual = ["train", str(packed_small.out), "--size", "32x32", "--epochs", "1", "--batch-size", "16", "--runs", "runs"]
    first = workers.fastfashion(*usual, "--model", "test_vit", "--no-pretrained", "--task", "season", "--name", "a", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = workers.fastfashion(*usual, "--weights", "runs/a", "--task", "season,usage", "--name", "b", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "runs/a: heads kept: season; new heads: usage (not among its labels)" in second.stderr
    assert '"model": "test_vit"' in (tmp_path / "runs/b/best/model.json").read_text()
