"""Any timm model: it trains at a size, or says which sizes it takes; what was tried leaves no trace."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PackedSmall
from torch import nn

from fastfashion.config import DataConfig, ModelConfig, RunConfig, Size
from fastfashion.errors import ConfigError
from fastfashion.model.artifact import ModelDescription, load_artifact, save_artifact
from fastfashion.model.first_step import check_first_step
from fastfashion.model.layers import use_fast_convolutions
from fastfashion.model.net import Classifier, build_classifier
from fastfashion.model.sizes import nearest_size
from fastfashion.train.job import resolve

CPU = torch.device("cpu")
WELL_KNOWN = """
resnet18 resnext26ts regnetx_002 efficientnet_b0 efficientnetv2_rw_t tf_efficientnet_lite0 mobilenetv2_050 mobilenetv3_small_050
mobilenetv4_conv_small mobileone_s0 repvgg_a0 convnext_atto convnextv2_atto vit_tiny_patch16_224 deit_tiny_patch16_224
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 maxvit_rmlp_pico_rw_256 coatnet_pico_rw_224 levit_128s mixer_s32_224 resmlp_12_224
poolformer_s12 edgenext_xx_small efficientformer_l1 fastvit_t8 ghostnet_050 hrnet_w18_small inception_v3 densenet121 vgg11 dla46_c dpn48b
lambda_resnet26t lambda_resnet26rpt_256 lambda_resnet50ts halonet26t botnet26t_256 cait_xxs24_224 xcit_nano_12_p16_224 pit_ti_224
twins_svt_small pvt_v2_b0 nest_tiny volo_d1_224 visformer_tiny tinynet_e mnasnet_050 rexnet_100 res2net50_26w_4s skresnet18 tresnet_m
cspresnet50 darknet17 gernet_s nf_regnet_b0 crossvit_9_240 convit_tiny eva02_tiny_patch14_224 hiera_tiny_224 davit_tiny focalnet_tiny_srf
gcvit_xxtiny mvitv2_tiny tiny_vit_5m_224 efficientvit_b0 repghostnet_050 starnet_s1
""".split()  # noqa: SIM905
SIZES = ("80x64", "96x100", "224x224")


def check(model: Classifier, name: str, size: Size, images: int = 2) -> None:
    check_first_step(model, name, size, CPU, torch.float32, images)


def built(name: str, size: Size, classes: Sequence[int] = (3,)) -> Classifier:
    torch.manual_seed(0)
    config = ModelConfig(name=name, pretrained=False)
    return use_fast_convolutions(build_classifier(config, {f"label{n}": num for n, num in enumerate(classes)}, size))


def refused(name: str, size: Size) -> str:
    """What training says of a size; empty if it takes it, and then an answer of the model is finite."""
    try:
        model = built(name, size)
        check(model, name, size)
    except ConfigError as error:
        return str(error)
    with torch.inference_mode():
        logits = model.eval()(torch.zeros(1, size.height_px, size.width_px, 3, dtype=torch.uint8))["label0"]
    assert torch.isfinite(logits).all()
    return ""


def trains_or_says_why(name: str, size: Size) -> None:
    if said := refused(name, size):
        chosen = re.search(r"Near it, it takes (\d+x\d+).*--size \1, or leave it to --size auto", said)
        assert chosen and f"model {name} does not take images of {size} (" in said, said
        assert refused(name, Size.parse(chosen[1])) == "", f"{name}: {chosen[1]} was said to work"


@pytest.mark.parametrize("name", ["resnet18", "nest_tiny"])
def test_two_models_train_at_odd_sizes_or_say_which_they_take(name: str) -> None:
    for size in SIZES[:2]:  # the others in the slow one below, which has them all
        trains_or_says_why(name, Size.parse(size))


@pytest.mark.slow
@pytest.mark.parametrize("name", WELL_KNOWN)
def test_well_known_models_train_at_three_sizes_or_say_which_they_take(name: str) -> None:
    torch.set_num_threads(1)
    for size in SIZES:
        trains_or_says_why(name, Size.parse(size))


def test_sizes_are_near_and_those_that_fit_are_kept() -> None:
    assert str(nearest_size("resnet18", Size(80, 64))) == "80x64"
    assert str(nearest_size("dla46_c", Size(80, 64))) == "96x64"
    assert str(nearest_size("nest_tiny", Size(96, 100))) == "96x96"  # it takes squares alone
    assert str(nearest_size("halonet26t", Size(80, 64))) == "256x256"


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_tried_leaves_no_trace(fails: bool) -> None:
    """Weights, statistics of batch norm, gradients, modes and generators: a run's losses do not depend on it."""
    size = Size(96, 100) if fails else Size(64, 64)
    model = built("dla46_c", size).train()
    model.backbone.eval()
    model.head("label0").weight.grad = torch.ones(3, model.head("label0").in_features)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    expected = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    if fails:
        with pytest.raises(ConfigError):
            check(model, "dla46_c", size)
    else:
        check(model, "dla46_c", size, images=1)
    found = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    assert torch.equal(found[0], expected[0]) and (found[1] == expected[1]).all() and found[2] == expected[2]
    assert any("running_mean" in name for name in before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [module.training for module in model.modules()] == modes
    with_gradient = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert with_gradient == ["heads.label0.weight"] and (model.head("label0").weight.grad == 1).all()


class Viewer(nn.Module):
    """A backbone whose code takes NCHW memory for granted."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        return maps.view(len(images), -1)[:, :4]


def test_channels_last_is_left_where_a_model_fails_in_it() -> None:
    model = Classifier(Viewer(), {"a": 2}, (0.5,) * 3, (0.2,) * 3, ModelConfig())
    model.lay_out(channels_last=True)
    assert next(model.backbone.parameters()).is_contiguous(memory_format=torch.channels_last)
    check(model, "viewer", Size(32, 48))
    assert not model.channels_last and next(model.backbone.parameters()).is_contiguous()
    usual = built("test_resnet", Size(32, 32))
    check(usual, "test_resnet", Size(32, 32))
    assert usual.channels_last


def test_a_kept_model_is_laid_out_as_it_was_trained(tmp_path: Path) -> None:
    model = built("test_resnet", Size(32, 32))
    for channels_last in (True, False):
        described = ModelDescription(
            model="test_resnet", size="32x32", classes={"label0": ["a", "b", "c"]}, flip_average=False, channels_last=channels_last
        )
        save_artifact(tmp_path / "best", model.state_dict(), described)
        loaded, read = load_artifact(tmp_path / "best")
        assert loaded.channels_last is read.channels_last is channels_last


def test_a_batch_of_one_is_refused_only_where_the_model_needs_two() -> None:
    resnet = built("resnet18", Size(32, 32))
    with pytest.raises(ConfigError, match=r"a batch of one image a process: resnet18 normalises .* --batch-size of two or more"):
        check(resnet, "resnet18", Size(32, 32), images=1)
    check(resnet, "resnet18", Size(80, 64), images=1)  # there its last maps have six values each
    check(built("test_vit", Size(32, 32)), "test_vit", Size(32, 32), images=1)


def test_an_automatic_size_is_one_that_the_model_takes(packed_small: PackedSmall) -> None:
    def size(name: str) -> str:
        start = RunConfig(data=DataConfig(shards=str(packed_small.out), resolution="full"))
        return resolve(start.replace({"model.name": name, "model.pretrained": False})).data.size

    assert (size("resnet18"), size("dla46_c"), size("nest_tiny")) == ("80x64", "96x64", "64x64")


@pytest.mark.parametrize("channels", [3, 8])
def test_strided_1x1_convolutions_of_few_channels_are_computed_another_way_with_the_same_result(channels: int) -> None:
    """The way around memory that oneDNN overwrites in their gradient."""
    backbone, plain = nn.Sequential(nn.Conv2d(channels, 8, 1, 2)), nn.Conv2d(channels, 8, 1, 2)
    backbone.num_features = 8  # type: ignore[assignment]
    use_fast_convolutions(Classifier(backbone, {}, (0.5,) * 3, (0.2,) * 3, ModelConfig()))
    conv = backbone[0]
    conv.load_state_dict(plain.state_dict())
    assert type(conv) is not nn.Conv2d
    images = torch.randn(2, channels, 9, 12)  # small enough to be harmless
    torch.testing.assert_close(conv(images), plain(images))
    assert type(built("repvgg_a0", Size(32, 32)).get_submodule("backbone.stem.conv_1x1.conv")) is type(conv)
