"""Weights of other packages: under timm's names the model computes what theirs computes, and what does not map is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification
from workers import fastfashion

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.model.convert import convert
from fastfashion.model.net import build_classifier
from fastfashion.model.weights import ambiguity

Answer = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def filled(model: nn.Module) -> nn.Module:
    """With statistics of batch norm, and layer scales, that are not those of the start: a swapped pair shows."""
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand(buffer.shape, generator=drawn) + 0.5)
        for name, parameter in model.named_parameters():
            if parameter.dim() <= 1 or "layer_scale" in name:
                parameter.copy_(torch.rand(parameter.shape, generator=drawn) * 0.5 + 0.1)
    return model.eval()


def resnet(name: str) -> nn.Module:
    model = getattr(torchvision.models, name)()
    return filled(model)


def hugging_resnet(kind: str) -> nn.Module:
    known = {"basic": ([2, 2, 2, 2], [64, 128, 256, 512]), "bottleneck": ([3, 4, 6, 3], [256, 512, 1024, 2048])}
    depths, sizes = known[kind]
    return filled(ResNetForImageClassification(ResNetConfig(depths=depths, hidden_sizes=sizes, layer_type=kind, embedding_size=64)))


def hugging_vit() -> nn.Module:
    return filled(ViTForImageClassification(ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)))


def of_torchvision_vit(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    model.heads = nn.Identity()  # type: ignore[assignment]
    return model(images)


def without_head(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return nn.Sequential(*list(model.children())[:-1])(images).flatten(1)


CASES: dict[str, tuple[str, Callable[[], nn.Module], int, Answer]] = {
    "torchvision resnet18": (
        "resnet18",
        lambda: resnet("resnet18"),
        64,
        lambda m, x: nn.Sequential(*list(m.children())[:-1])(x).flatten(1),
    ),
    "torchvision efficientnet_b0": (
        "efficientnet_b0",
        lambda: filled(torchvision.models.efficientnet_b0()),
        96,
        lambda m, x: m.avgpool(m.features(x)).flatten(1),  # type: ignore[operator, union-attr]
    ),
    "torchvision convnext_tiny": (
        "convnext_tiny",
        lambda: filled(torchvision.models.convnext_tiny()),
        64,
        lambda m, x: m.classifier[1](m.classifier[0](m.avgpool(m.features(x)))),  # type: ignore[operator, union-attr, index]
    ),
    "EfficientNet-PyTorch b0": (
        "tf_efficientnet_b0",
        lambda: filled(EfficientNet.from_name("efficientnet-b0")),
        224,  # it pads for the size that it was made for
        lambda m, x: m.extract_features(x).mean((2, 3)),  # type: ignore[operator, union-attr]
    ),
    "transformers ResNet, basic": ("resnet18", lambda: hugging_resnet("basic"), 64, lambda m, x: m.resnet(x).pooler_output.flatten(1)),  # type: ignore[operator, union-attr]
    "transformers ResNet, bottleneck": (
        "resnet50",
        lambda: hugging_resnet("bottleneck"),
        64,
        lambda m, x: m.resnet(x).pooler_output.flatten(1),  # type: ignore[operator, union-attr]
    ),
    "transformers ViT": ("vit_tiny_patch16_224", hugging_vit, 224, lambda m, x: m.vit(x).last_hidden_state[:, 0]),  # type: ignore[operator, union-attr]
}


@pytest.mark.parametrize("case", CASES)
def test_the_model_computes_what_the_other_package_computes(case: str) -> None:
    name, make, side, answer = CASES[case]
    theirs = make()
    found = convert(theirs.state_dict(), name)
    assert found.is_whole, found.text
    ours = timm.create_model(name, num_classes=0).eval()
    assert not ours.load_state_dict(found.tensors, strict=False).unexpected_keys
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = answer(theirs, images), ours(images)
    # transformers' ViT has an epsilon of 1e-12 in its norms, timm's 1e-6.
    assert torch.allclose(got, expected, rtol=1e-3, atol=2e-3 if "ViT" in case else 1e-4 * float(expected.abs().max()))
    assert expected.std() > 0.01


@pytest.mark.slow
def test_torchvisions_vit_computes_the_same_and_brings_its_own_normalisation() -> None:
    theirs = filled(torchvision.models.vit_b_32())
    found = convert(theirs.state_dict(), "vit_base_patch32_224")
    assert found.is_whole and found.mean_std == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ours = timm.create_model("vit_base_patch32_224", num_classes=0).eval()
    ours.load_state_dict(found.tensors)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(ours(images), of_torchvision_vit(theirs, images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.backbone.", "encoder."])
def test_prefixes_of_wrappers_come_off_and_other_tensors_beside_them_are_named(prefix: str) -> None:
    theirs = torchvision.models.resnet18().state_dict()
    wrapped = {f"{prefix}{name}": tensor for name, tensor in theirs.items() if not name.startswith("fc.")}
    found = convert(wrapped, "resnet18")
    assert found.is_whole and len(found.tensors) == 120
    beside = convert(wrapped | {"projector.weight": torch.zeros(3, 4)}, "resnet18")
    assert beside.unmapped == {"projector.weight": (3, 4)} and "not part of resnet18: projector.weight [3, 4]" in beside.text


@pytest.mark.parametrize(
    ("make", "name", "example"),
    [
        (lambda: EfficientNet.from_name("efficientnet-b0"), "efficientnet_b0", "tf_efficientnet_b0"),
        (torchvision.models.efficientnet_b0, "tf_efficientnet_b0", "efficientnet_b0"),
        (torchvision.models.efficientnet_b5, "efficientnet_b5", "efficientnet_b0"),
        (lambda: hugging_resnet("basic"), "resnet18d", "resnet18"),
    ],
)
def test_a_model_that_computes_otherwise_is_refused_with_one_that_does_not(make: Callable[[], nn.Module], name: str, example: str) -> None:
    with torch.device("meta") if "b5" in name else torch.device("cpu"):
        tensors = make().state_dict()
    with pytest.raises(ConfigError, match=rf"^weights of .* for {name}: .*; expected a model such as {example}$"):
        convert(tensors, name)


def test_every_tensor_that_does_not_map_is_named_with_its_shapes() -> None:
    tensors = dict(torchvision.models.efficientnet_b0().state_dict())
    tensors.pop("features.3.0.block.1.0.weight")
    tensors["features.0.0.weight"] = torch.zeros(32, 1, 3, 3)
    tensors["features.9.0.other"] = torch.zeros(2)
    found = convert(tensors, "efficientnet_b0")
    assert list(found.missing) == ["blocks.2.0.conv_dw.weight"] and list(found.unmapped) == ["features.9.0.other"]
    assert found.misshaped == {"conv_stem.weight": ((32, 1, 3, 3), (32, 3, 3, 3))}
    assert "efficientnet_b0 needs: blocks.2.0.conv_dw.weight [144, 1, 5, 5]" in found.text
    assert "conv_stem.weight: found [32, 1, 3, 3], expected [32, 3, 3, 3]" in found.text


def test_training_converts_by_itself_and_refuses_with_the_list(tmp_path: Path) -> None:
    theirs = filled(torchvision.models.efficientnet_b0())
    whole, torn = tmp_path / "whole.pth", tmp_path / "torn.pth"
    torch.save({"epoch": 3, "model_state_dict": theirs.state_dict()}, whole)
    torch.save({name: tensor for name, tensor in theirs.state_dict().items() if "features.4" not in name}, torn)
    built = build_classifier(ModelConfig(name="efficientnet_b0", weights=str(whole)), {"a": 3}, Size(64, 64))
    assert torch.equal(built.state_dict()["backbone.conv_stem.weight"], theirs.state_dict()["features.0.0.weight"])
    with pytest.raises(
        ConfigError, match=r"(?s)weights of torchvision's EfficientNet that do not fit .*needs: blocks\.3\.0\.conv_pw\.weight"
    ):
        build_classifier(ModelConfig(name="efficientnet_b0", weights=str(torn)), {"a": 3}, Size(64, 64))
    lukemelas = tmp_path / "b0.pth"
    torch.save(EfficientNet.from_name("efficientnet-b0").state_dict(), lukemelas)
    assert ambiguity(ModelConfig(name="tf_efficientnet_b0", weights=str(lukemelas))) == "", "its names say whose it is"
    with pytest.raises(ConfigError, match=r"b0\.pth: weights of EfficientNet-PyTorch for efficientnet_b0: these were trained"):
        build_classifier(ModelConfig(name="efficientnet_b0", weights=str(lukemelas)), {"a": 3}, Size(64, 64))


def test_a_converted_file_names_its_model_and_its_normalisation_counts(tmp_path: Path) -> None:
    tensors = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    file = tmp_path / "vit.safetensors"
    save_file(tensors, file, metadata={"model": "vit_tiny_patch16_224", "mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"})
    built = build_classifier(ModelConfig(name="vit_tiny_patch16_224", weights=str(file)), {"a": 3}, Size(224, 224))
    assert built.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    save_file(tensors, file, metadata={"model": "vit_tiny_patch16_224", "mean": "0.485", "std": "nan,1,1"})
    with pytest.raises(ConfigError, match="its mean and std are not three numbers in 0"):
        build_classifier(ModelConfig(name="vit_tiny_patch16_224", weights=str(file)), {"a": 3}, Size(224, 224))


def test_the_command_writes_what_training_takes_and_nothing_if_a_tensor_is_left(tmp_path: Path) -> None:
    theirs = hugging_resnet("basic").state_dict()
    (tmp_path / "hub").mkdir()
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, tmp_path / "hub/model.safetensors", metadata={"format": "pt"})
    (tmp_path / "hub/config.json").write_text(json.dumps({"architectures": ["ResNetForImageClassification"]}))
    done = fastfashion("weights", "hub", "--model", "resnet18", "--out", "resnet18.safetensors", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (
        said["family"] == "transformers' ResNet"
        and said["tensors"] == 120
        and said["heads"] == ["classifier.1.bias", "classifier.1.weight"]
    )
    written = load_file(tmp_path / "resnet18.safetensors")
    assert torch.equal(written["conv1.weight"], theirs["resnet.embedder.embedder.convolution.weight"])
    with safe_open(tmp_path / "resnet18.safetensors", framework="pt") as file:
        assert file.metadata() == {"model": "resnet18"}
    build_classifier(ModelConfig(name="resnet18", weights=str(tmp_path / "resnet18.safetensors")), {"a": 3}, Size(32, 32))
    refused = fastfashion("weights", "hub", "--model", "resnet34", "--out", "resnet34.safetensors", "--json", cwd=tmp_path)
    assert refused.returncode == 1 and not (tmp_path / "resnet34.safetensors").exists()
    said = json.loads(refused.stdout)
    assert said["out"] is None and "layer1.2.conv1.weight" in said["missing"] and not said["unmapped"]
    for arguments, reason in (
        (("nowhere.pth", "--model", "resnet18"), "no such file"),
        (("hub", "--model", "resnet181"), "unknown model 'resnet181'"),
        (("hub/config.json", "--model", "resnet18"), "not readable as a state dict"),
    ):
        wrong = fastfashion("weights", *arguments, cwd=tmp_path)
        assert wrong.returncode == 2 and reason in wrong.stderr, wrong.stderr


REAL = Path(__file__).parents[2] / "shared/data/weights/tf_efficientnet_lite0.safetensors"


def test_the_real_weights_are_whole() -> None:
    if not REAL.is_file():
        pytest.skip("no weights in ../shared/data, which is not part of the project")
    assert convert(load_file(REAL), "tf_efficientnet_lite0").is_whole
