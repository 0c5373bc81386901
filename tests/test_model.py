"""The classifier, its loss, first weights, and the folder a model is kept in."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import ConfigError, InputError
from fastfashion.model import ModelDescription, build_classifier, load_artifact, objective, save_artifact

SIZE = Size(32, 32)
CLASSES = {"subCategory": 5, "season": 3}
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))


def scratch(name: str = "resnet18") -> torch.nn.Module:
    torch.manual_seed(0)
    return build_classifier(ModelConfig(name=name, pretrained=False), CLASSES, SIZE).eval()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "test_vit"])
def test_any_backbone_gets_one_head_a_task(name: str) -> None:
    logits = scratch(name)(IMAGES)
    assert {task: tuple(values.shape) for task, values in logits.items()} == {"subCategory": (6, 5), "season": (6, 3)}


def test_pictures_are_normalised_as_timm_does_it() -> None:
    model = scratch()
    data = timm.data.resolve_model_data_config(timm.create_model("resnet18", pretrained=False))
    from torchvision.transforms.v2 import functional as tv

    expected_input = tv.normalize(tv.to_dtype(IMAGES.permute(0, 3, 1, 2), torch.float32, scale=True), list(data["mean"]), list(data["std"]))
    torch.testing.assert_close(model.features(IMAGES), model.backbone(expected_input), rtol=1e-4, atol=1e-5)


def test_the_loss_of_one_process_is_plain_cross_entropy_over_labelled_rows() -> None:
    logits = {"a": torch.randn(6, 5), "b": torch.randn(6, 3)}
    labels = torch.tensor([[0, 2], [4, -1], [1, 0], [-1, -1], [2, 1], [3, -1]])
    expected = functional.cross_entropy(logits["a"][[0, 1, 2, 4, 5]], torch.tensor([0, 4, 1, 2, 3])) + functional.cross_entropy(
        logits["b"][[0, 2, 4]], torch.tensor([2, 0, 1])
    )
    torch.testing.assert_close(objective(logits, labels, (5, 3), world_size=1), expected)


def test_uneven_shares_of_ranks_average_to_the_loss_of_the_whole_batch() -> None:
    logits, labels = torch.randn(7, 5), torch.tensor([[0], [1], [-1], [2], [3], [4], [-1]])
    whole = objective({"a": logits}, labels, (5,), world_size=1)
    shares = [objective({"a": logits[cut]}, labels[cut], (5,), world_size=3) for cut in (slice(0, 2), slice(2, 3), slice(3, 7))]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


def test_a_batch_without_labels_costs_nothing_and_stays_finite() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    loss = objective({"a": logits}, torch.full((2, 1), -1), (0,), world_size=2)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_a_kept_model_answers_the_same(tmp_path: Path) -> None:
    model = scratch()
    classes = {"subCategory": list("abcde"), "season": ["Fall", "Summer", "Été"]}
    description = ModelDescription(model="resnet18", size="32x32", classes=classes)
    for _ in range(2):  # the second replaces the first
        save_artifact(tmp_path / "best", model, description)
    loaded, read = load_artifact(tmp_path / "best")
    assert read == description
    for task, logits in loaded(IMAGES).items():
        torch.testing.assert_close(logits, model(IMAGES)[task], rtol=0, atol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]


def test_weights_of_a_file_replace_the_first_weights_but_not_the_head(tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = timm.create_model("resnet18", pretrained=False)  # with its own head of 1,000 classes
    torch.save(other.state_dict(), tmp_path / "resnet18.pth")
    from safetensors.torch import save_file

    save_file(other.state_dict(), tmp_path / "resnet18.safetensors")
    for name in ("resnet18.pth", "resnet18.safetensors"):
        model = build_classifier(ModelConfig(name="resnet18", weights=str(tmp_path / name)), CLASSES, SIZE)
        for key, value in model.backbone.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[key], rtol=0, atol=0)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def test_weights_that_are_not_this_models_or_not_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("resnet34", pretrained=False).state_dict(), "resnet34.pth")
    Path("garbage.pth").write_bytes(b"not weights")
    Path("bomb.pth").write_bytes(pickle.dumps(Bomb()))
    reasons = {"resnet34": "not part of resnet18", "garbage": "not readable", "bomb": "not readable", "none": "no such file"}
    for name, said in reasons.items():
        with pytest.raises(ConfigError, match=said):
            build_classifier(ModelConfig(name="resnet18", weights=f"{name}.pth"), CLASSES, SIZE)
    assert not Path("exploded").exists()


def test_an_unknown_model_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match="resnet18"):
        build_classifier(ModelConfig(name="resnet_18", pretrained=False), CLASSES, SIZE)


def test_without_the_hub_the_error_names_three_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        build_classifier(ModelConfig(name="resnet18"), CLASSES, SIZE)
    for way in ("HF_ENDPOINT", "--weights", "--no-pretrained"):
        assert way in str(caught.value)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.json"):
        load_artifact(tmp_path)
    save_artifact(tmp_path / "best", scratch(), ModelDescription(model="resnet18", size="32x32", classes={"subCategory": list("abc")}))
    with pytest.raises(InputError, match="does not fit"):
        load_artifact(tmp_path / "best")
