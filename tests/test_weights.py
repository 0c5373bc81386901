"""Files of first weights that say whose they are."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.model.artifact import ModelDescription, save_artifact
from fastfashion.model.net import build_classifier
from fastfashion.model.weights import ambiguity, declared_model

ASKED, OTHER = "efficientnet_lite0", "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return timm.create_model(OTHER, num_classes=0).state_dict()


def build(path: Path, name: str = ASKED) -> None:
    build_classifier(ModelConfig(name=name, weights=str(path)), {"a": 3}, Size(32, 32))


def test_the_two_models_share_all_names_and_shapes_and_answer_otherwise(tensors: dict[str, torch.Tensor]) -> None:
    """What makes the check necessary: nothing else shows the difference."""
    one, other = (timm.create_model(name, num_classes=0).eval() for name in (ASKED, OTHER))
    one.load_state_dict(tensors)
    other.load_state_dict(tensors)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not torch.allclose(one(image), other(image), atol=1e-3)


def test_weights_that_say_they_are_another_models_are_refused_wherever_they_say_it(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    inside, hub, script = tmp_path / "inside.safetensors", tmp_path / "hub" / "model.safetensors", tmp_path / "script.pth"
    (tmp_path / "hub").mkdir()
    save_file(tensors, inside, metadata={"format": "pt", "model": f"{OTHER}.in1k"})
    save_file(tensors, hub)
    (tmp_path / "hub" / "config.json").write_text(json.dumps({"architecture": OTHER, "num_classes": 0}))
    torch.save({"arch": OTHER, "state_dict": tensors}, script)
    for path in (inside, hub, script):
        with pytest.raises(ConfigError, match=rf"these are weights of {OTHER}.*expected {ASKED}.*--model {OTHER}"):
            build(path)
        build(path, OTHER)
        build(path, f"{OTHER}.in1k")


def test_weights_that_say_nothing_are_taken_with_a_warning_where_they_fit_two_models(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    build(path)
    assert declared_model(path) == ""
    for name, twin in ((ASKED, OTHER), (OTHER, ASKED)):
        assert f"it fits {twin} as well as {name}" in ambiguity(ModelConfig(name=name, weights=str(path)))
    assert ambiguity(ModelConfig(name="resnet18", weights=str(path))) == ""
    assert ambiguity(ModelConfig(name=ASKED)) == ""
    clip = ModelConfig(name="vit_base_patch32_clip_quickgelu_224", weights="file")
    assert "it fits vit_base_patch32_clip_224 as well" in ambiguity(clip)
    (tmp_path / "other.safetensors").write_bytes(path.read_bytes())  # a description is of the file that has the usual name
    (tmp_path / "model.json").write_text(json.dumps({"model": OTHER}))
    assert declared_model(tmp_path / "other.safetensors") == ""
    assert declared_model(path) == OTHER
    assert ambiguity(ModelConfig(name=OTHER, weights=str(path))) == ""


def test_a_kept_model_says_whose_its_weights_are(tmp_path: Path) -> None:
    classifier = build_classifier(ModelConfig(name="test_resnet", pretrained=False), {"a": 2}, Size(32, 32))
    description = ModelDescription(model="test_resnet", size="32x32", classes={"a": ["x", "y"]}, flip_average=False)
    save_artifact(tmp_path / "best", classifier.state_dict(), description)
    (tmp_path / "best" / "model.json").unlink()
    assert declared_model(tmp_path / "best" / "model.safetensors") == "test_resnet"
    assert load_file(tmp_path / "best" / "model.safetensors").keys() == classifier.state_dict().keys()
