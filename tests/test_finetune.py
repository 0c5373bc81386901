"""Starts from trained weights: layers that learn at rates of their own, and a frozen backbone whose heads learn from features."""

from pathlib import Path

import numpy as np
import pytest
import torch
import workers
from conftest import PackedSmall
from test_faults import assert_same_end, config_of, lines_of

from fastfashion import dist
from fastfashion.config import ModelConfig, Size
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.evaluate import predict
from fastfashion.load import Batch, Loader, Skipped
from fastfashion.model.artifact import load_artifact
from fastfashion.model.net import Classifier, build_classifier
from fastfashion.train import frozen
from fastfashion.train.data import prepare_data
from fastfashion.train.frozen import FeatureLoader, Features, compute_features
from fastfashion.train.job import train
from fastfashion.train.learner import Learner, build_model, parameter_groups

ALONE = dist.World(device=torch.device("cpu"))
CLASSES = {"color": 3, "type": 5}


def built(name: str, size: str = "32x32") -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ModelConfig(name=name, pretrained=False), CLASSES, Size.parse(size))


def rates(model: Classifier, layer_decay: float) -> dict[str, tuple[float, float]]:
    """Scale of the rate, and weight decay, of each parameter that learns."""
    groups = parameter_groups(model, 0.05, layer_decay)
    found = {id(one): (group.get("lr_scale", 1.0), group["weight_decay"]) for group in groups for one in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups), "a parameter is in two groups"
    return {name: found[id(one)] for name, one in model.named_parameters() if id(one) in found}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"])
def test_rates_fall_from_the_heads_to_the_stem_by_layer(name: str) -> None:
    size = "224x224" if name.startswith("vit") else "32x32"
    model = built(name, size)
    found = rates(model, 0.5)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert {scale for each, (scale, _) in found.items() if each.startswith("heads.")} == {1.0}
    scales = sorted({scale for scale, _ in found.values()})
    np.testing.assert_array_equal(np.log2(scales), np.arange(-len(scales) + 1, 1))  # one half a layer, none left out
    first = next(each for each in found if each.startswith("backbone.") and each.endswith("weight"))
    assert found[first][0] == scales[0] and len(scales) >= 6
    flat = [each for each, one in model.named_parameters() if one.dim() <= 1]
    assert {found[each][1] for each in flat} == {0.0}
    if name.startswith("vit"):  # timm's own list: these have two dimensions and more
        assert found["backbone.pos_embed"][1] == found["backbone.cls_token"][1] == 0.0
    if name == "tf_efficientnet_lite0":  # 16 blocks, the last convolution with the last of them, and the stem below
        assert found["backbone.conv_head.weight"][0] == found["backbone.blocks.6.0.conv_pw.weight"][0] == 1.0
        assert found["backbone.blocks.5.3.conv_pw.weight"][0] == 0.5 and found["backbone.conv_stem.weight"][0] == 0.5**16


def test_without_a_layer_decay_the_groups_are_those_that_timm_makes() -> None:
    from timm.optim import create_optimizer_v2

    model = built("resnet18")
    theirs = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05).param_groups
    ours = parameter_groups(model, 0.05, 1.0)
    assert [[id(one) for one in group["params"]] for group in ours] == [[id(one) for one in group["params"]] for group in theirs]
    assert [group["weight_decay"] for group in ours] == [group["weight_decay"] for group in theirs]


def test_a_step_moves_each_layer_by_its_share_of_the_rate(packed_small: PackedSmall) -> None:
    moved = {}
    for decay in (1.0, 0.5):
        config = config_of(packed_small, model__layer_decay=decay, model__name="resnet18", optim__optimizer="sgd", optim__weight_decay=0.0)
        torch.manual_seed(0)
        model, _ = build_model(config, {"subCategory": ("a", "b", "c")}, prepare_data(config, ALONE).spec, ALONE)
        learner = Learner(config, model, ALONE, total_steps=10)
        before = {name: one.detach().clone() for name, one in model.named_parameters()}
        for one in model.parameters():
            one.grad = torch.full_like(one, 0.5)
        learner.update(0)
        moved[decay] = {name: float((one.detach() - before[name]).abs().double().mean()) for name, one in model.named_parameters()}
    shares = {name: moved[0.5][name] / moved[1.0][name] for name in moved[1.0]}
    assert shares["heads.subCategory.weight"] == pytest.approx(1, rel=1e-4)
    assert shares["backbone.conv1.weight"] < 0.02 and shares["backbone.layer1.0.conv1.weight"] < shares["backbone.layer4.1.conv2.weight"]
    assert all(share <= 1.001 for share in shares.values())


def test_a_model_whose_layers_are_unknown_refuses_a_layer_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("test_resnet")
    monkeypatch.setattr(type(model.backbone), "group_matcher", lambda self, coarse=False: {"all": ".*"})
    with pytest.raises(ConfigError, match=r"model\.layer_decay=0\.7: timm does not know the layers of this model; use 1"):
        parameter_groups(model, 0.05, 0.7)


PROBE = {"model__freeze": True, "train__epochs": 6, "optim__lr": 0.5, "model__dropout": 0.0}


def test_a_frozen_backbone_stays_and_its_heads_learn_what_the_whole_model_answers(packed_small: PackedSmall, tmp_path: Path) -> None:
    config = config_of(packed_small, **PROBE)
    summary = train(config, tmp_path / "run", ALONE)
    assert summary.ended == "finished"
    torch.manual_seed(config.train.seed)
    first = build_model(config, {"subCategory": ("a",)}, prepare_data(config, ALONE).spec, ALONE)[0].state_dict()
    model, _ = load_artifact(tmp_path / "run/best")
    now = model.state_dict()
    backbone = [name for name in first if name.startswith("backbone.")]
    assert backbone and all(torch.equal(first[name], now[name]) for name in backbone), "batch norm's averages stay, too"
    losses = [line["loss"] for line in lines_of(tmp_path / "run", "step")]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])  # random features say little
    # What the heads answer for features is what the model answers for images.
    data = prepare_data(config, ALONE, tmp_path / "run")
    features = compute_features(model, data.spec, data.val_spec, ALONE, torch.float32)
    from_features = predict(model, FeatureLoader(data.val_spec, features).steps(0), ALONE)
    with Loader(data.val_spec) as loader:
        from_images = predict(model, loader.steps(0), ALONE)
    np.testing.assert_array_equal(from_features.rows, from_images.rows)
    np.testing.assert_array_equal(from_features.labels, from_images.labels)
    np.testing.assert_allclose(from_features.probabilities["subCategory"], from_images.probabilities["subCategory"], atol=1e-5)


def test_a_probe_has_the_batches_of_the_loader_in_its_order(packed_small: PackedSmall) -> None:
    config = config_of(packed_small, **PROBE, data__oversample=0.2)
    data = prepare_data(config, ALONE)
    model, _ = build_model(config, data.classes, data.spec, ALONE)
    features = compute_features(model, data.spec, data.val_spec, ALONE, torch.float32)
    known = FeatureLoader(data.spec, features)

    def described(batches: list[Batch]) -> list[tuple[list[int], list[list[int]], tuple[int, ...]]]:
        return [(batch.rows.tolist(), batch.labels.tolist(), batch.num_labelled) for batch in batches]

    with Loader(data.spec) as loader:
        for epoch, start in ((0, 0), (3, 2)):
            assert described(list(known.steps(epoch, start))) == described(list(loader.steps(epoch, start)))
    batch = next(known.steps(0))
    assert batch.images.shape == (len(batch.rows), model.num_features) and batch.images.dtype == torch.float32 and batch.shares is None


def test_a_probe_that_is_stopped_ends_with_the_same_bits_and_two_processes_learn_alike(packed_small: PackedSmall, tmp_path: Path) -> None:
    config = config_of(packed_small, **PROBE)
    train(config, tmp_path / "whole", ALONE)
    (process,) = workers.start(config.to_dict(), tmp_path / "killed", faults={0: workers.Fault(raises_at=11)})
    process.join(120)
    assert process.exitcode and not lines_of(tmp_path / "killed", "epoch")[2:]
    train(config, tmp_path / "killed", ALONE)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
    assert workers.run_all(config.to_dict(), tmp_path / "two", 2) == [0, 0]
    one, two = lines_of(tmp_path / "whole", "step"), lines_of(tmp_path / "two", "step")
    assert [line["rows_hash"] for line in one] == [line["rows_hash"] for line in two]
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], rtol=1e-3)


def test_rows_without_features_are_masked_and_listed(packed_small: PackedSmall) -> None:
    config = config_of(packed_small, **PROBE, data__on_bad="skip")
    data = prepare_data(config, ALONE)
    row = int(data.spec.plan.rows[0])
    places = np.arange(len(data.spec.labels))
    places[row] = -1
    broken = {row: Skipped(row=row, where="x.tar", reason="cut off")}
    loader = FeatureLoader(data.spec, Features(values=torch.ones(len(places), 4), places=places, skipped=broken))
    rows = torch.cat([batch.rows for batch in loader.steps(0)]).tolist()
    assert row not in rows and set(data.spec.plan.rows) - {row} == set(rows) - {-1}
    assert list(loader.skipped) == [row] and loader.skipped[row].reason == "cut off"


def test_features_that_do_not_fit_are_refused_with_their_size(packed_small: PackedSmall, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(packed_small, **PROBE)
    data = prepare_data(config, ALONE)
    model, _ = build_model(config, data.classes, data.spec, ALONE)
    monkeypatch.setattr(frozen, "free_bytes", lambda device: 1000)
    with pytest.raises(TrainingError, match=r"^model\.freeze: \d+ features of \d+ images take .* GB, of which at most 8e-07 GB are free"):
        compute_features(model, data.spec, data.val_spec, ALONE, torch.float32)
