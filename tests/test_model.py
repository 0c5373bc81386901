"""The classifier, its loss, first weights, and the folder a model is kept in."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

from fastfashion.config import AugmentConfig, ModelConfig, Size
from fastfashion.errors import ConfigError, InputError
from fastfashion.load import Batch, Plan
from fastfashion.load.plan import Step
from fastfashion.model.artifact import ModelDescription, load_artifact, save_artifact
from fastfashion.model.layers import use_fast_convolutions
from fastfashion.model.net import Classifier, build_classifier
from fastfashion.model.objective import LossSettings, objective

SIZE = Size(32, 32)
CLASSES = {"subCategory": 5, "season": 3}
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))


def scratch(name: str = "resnet18", flip_average: bool = True) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ModelConfig(name=name, pretrained=False, flip_average=flip_average), CLASSES, SIZE).eval()


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "test_vit"])
def test_any_backbone_gets_one_head_a_task(name: str) -> None:
    logits = scratch(name)(IMAGES)
    assert {task: tuple(values.shape) for task, values in logits.items()} == {"subCategory": (6, 5), "season": (6, 3)}


def test_a_task_may_be_called_like_something_of_torchs_modules() -> None:
    model = build_classifier(ModelConfig(name="test_vit", pretrained=False), {"type": 2, "training": 3, "colour": 4}, SIZE)
    assert {task: values.shape[1] for task, values in model(IMAGES).items()} == {"type": 2, "training": 3, "colour": 4}
    assert {"heads.type_.weight", "heads.colour.weight"} <= set(model.state_dict())  # as in runs that are there


def test_images_are_normalised_as_timm_does_it() -> None:
    model = scratch()
    data = timm.data.resolve_model_data_config(timm.create_model("resnet18", pretrained=False))
    from torchvision.transforms.v2 import functional as tv

    expected_input = tv.normalize(tv.to_dtype(IMAGES.permute(0, 3, 1, 2), torch.float32, scale=True), list(data["mean"]), list(data["std"]))
    torch.testing.assert_close(model.features(IMAGES), model.backbone(expected_input), rtol=1e-4, atol=1e-5)


def test_a_image_and_its_mirror_image_get_the_same_answer_which_is_the_mean_of_both() -> None:
    model, alone = scratch(), scratch(flip_average=False)
    answers, mirrored = model(IMAGES), model(IMAGES.flip(2))
    for task, logits in answers.items():
        torch.testing.assert_close(logits, mirrored[task])
        torch.testing.assert_close(logits, (alone(IMAGES)[task] + alone(IMAGES.flip(2))[task]) / 2, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(alone(IMAGES)[task], alone(IMAGES.flip(2))[task], atol=1e-4)


def test_temperatures_divide_the_answers_and_leave_training_alone() -> None:
    model = scratch()
    before = model(IMAGES)
    model.temperatures.copy_(torch.tensor([2.0, 0.5]))
    after = model(IMAGES)
    torch.testing.assert_close(after["subCategory"] * 2, before["subCategory"])
    torch.testing.assert_close(after["season"] / 2, before["season"])
    training = model.train()(IMAGES)
    model.temperatures.fill_(1)
    torch.testing.assert_close(model(IMAGES)["season"], training["season"])


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_fast_convolutions_learn_what_the_plain_ones_do(name: str) -> None:
    """Answers and gradients of every kind of convolution in the model are as near to float32's as the plain one's are in bfloat16."""
    plain, fast = scratch(name).train(), use_fast_convolutions(scratch(name).train())
    assert list(fast.state_dict()) == list(plain.state_dict())
    kinds = {repr(module): key for key, module in plain.named_modules() if isinstance(module, torch.nn.Conv2d)}
    kinds |= {f"{kind} changed": key for kind, key in kinds.items() if type(fast.get_submodule(key)) is not torch.nn.Conv2d}
    assert len([kind for kind in kinds if kind.endswith("changed")]) >= 3

    def learn(module: torch.nn.Module, images: torch.Tensor, weights: torch.Tensor, bf16: bool) -> list[torch.Tensor]:
        module.zero_grad()
        given = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            answer = module(given)
        assert answer.dtype == (torch.bfloat16 if bf16 else torch.float32)
        (answer.float() * weights[: answer.shape[1], : answer.shape[2], : answer.shape[3]]).sum().backward()
        return [answer.detach().float(), given.grad, *(parameter.grad for parameter in module.parameters())]  # type: ignore[list-item]

    for key in kinds.values():
        module, other = plain.get_submodule(key), fast.get_submodule(key)
        images, weights = torch.randn(3, int(module.in_channels), 5, 4), torch.randn(int(module.out_channels), 5, 4)  # type: ignore[arg-type]
        exact = learn(module, images, weights, bf16=False)
        for found in zip(exact, learn(module, images, weights, bf16=True), learn(other, images, weights, bf16=True), strict=True):
            errors = [float((each - found[0]).norm() / found[0].norm()) for each in found[1:]]
            assert errors[1] <= 1.5 * errors[0] + 1e-3, (key, errors)
        for found, expected in zip(learn(other, images, weights, bf16=False), exact, strict=True):  # without it they are the same sums
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def batch_of(labels_BT: torch.Tensor, num_labelled: tuple[int, ...], partners: list[int] | None = None, shares: Any = None) -> Batch:
    """A batch as the loss sees it: without images."""
    mixing = (None, None) if partners is None else (torch.tensor(partners), torch.tensor(shares))
    return Batch(torch.empty(0), labels_BT, torch.arange(len(labels_BT)), num_labelled, *mixing)


def test_the_loss_of_one_process_is_plain_cross_entropy_over_labelled_rows() -> None:
    logits = {"a": torch.randn(6, 5), "b": torch.randn(6, 3)}
    labels = torch.tensor([[0, 2], [4, -1], [1, 0], [-1, -1], [2, 1], [3, -1]])
    expected = functional.cross_entropy(logits["a"][[0, 1, 2, 4, 5]], torch.tensor([0, 4, 1, 2, 3])) + functional.cross_entropy(
        logits["b"][[0, 2, 4]], torch.tensor([2, 0, 1])
    )
    torch.testing.assert_close(objective(logits, batch_of(labels, (5, 3)), world_size=1), expected)


def test_tasks_have_weights() -> None:
    logits = {"a": torch.randn(3, 2), "b": torch.randn(3, 2)}
    batch = batch_of(torch.tensor([[0, 1], [1, 1], [0, 0]]), (3, 3))
    losses = {task: functional.cross_entropy(values, batch.labels[:, t]) for t, (task, values) in enumerate(logits.items())}
    weighted = objective(logits, batch, 1, LossSettings(weights={"b": 0.25}))
    torch.testing.assert_close(weighted, losses["a"] + 0.25 * losses["b"])


def test_uneven_shares_of_ranks_average_to_the_loss_of_the_whole_batch() -> None:
    logits, labels = torch.randn(7, 5), torch.tensor([[0], [1], [-1], [2], [3], [4], [-1]])
    whole = objective({"a": logits}, batch_of(labels, (5,)), world_size=1)
    cuts = (slice(0, 2), slice(2, 3), slice(3, 7))
    shares = [objective({"a": logits[cut]}, batch_of(labels[cut], (5,)), world_size=3) for cut in cuts]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


def test_a_batch_without_labels_costs_nothing_and_stays_finite() -> None:
    for mixing in ((), ([1, 0], [0.3, 0.3])):
        logits = torch.randn(2, 5, requires_grad=True)
        loss = objective({"a": logits}, batch_of(torch.full((2, 1), -1), (0,), *mixing), world_size=2)
        loss.backward()
        assert loss.item() == 0
        assert (logits.grad == 0).all()


# Three pairs, an image that stands alone, and padding. Task a: pair 0 has both labels, pair 1 one, pair 2 none; task b other ones.
MIXED_LABELS = torch.tensor([[0, 2], [4, -1], [1, 0], [-1, 1], [-1, -1], [-1, 2], [3, -1], [-1, -1]])
MIXED_COUNTS = (4, 4)  # labels of each task
PARTNERS, SHARES = [1, 0, 3, 2, 5, 4, 6, 7], [0.75, 0.75, 0.2, 0.2, 0.5, 0.5, 1.0, 1.0]
MIXED_LOGITS = {task: torch.randn(8, num, generator=torch.Generator().manual_seed(num)) for task, num in (("a", 5), ("b", 3))}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_images_is_cross_entropy_against_soft_labels(smoothing: float) -> None:
    expected = 0.0
    for t, (logits_BC, num) in enumerate(zip(MIXED_LOGITS.values(), MIXED_COUNTS, strict=True)):
        classes = logits_BC.shape[1]
        target_BC, weight_of_labels = np.zeros((8, classes)), 0.0
        for i, (partner, share) in enumerate(zip(PARTNERS, SHARES, strict=True)):
            for row, weight in ((i, share), (partner, 1 - share)):
                if MIXED_LABELS[row, t] >= 0:
                    target_BC[i, MIXED_LABELS[row, t]] += weight * (1 - smoothing)
                    target_BC[i] += weight * smoothing / classes
                    weight_of_labels += weight
        assert weight_of_labels == pytest.approx(num)  # so that it is a mean: its weights sum to what it divides by
        expected += functional.cross_entropy(logits_BC.double(), torch.from_numpy(target_BC), reduction="sum").item() / num
    loss = objective(MIXED_LOGITS, batch_of(MIXED_LABELS, MIXED_COUNTS, PARTNERS, SHARES), 1, LossSettings(label_smoothing=smoothing))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_images_that_keep_all_of_themselves_cost_what_they_cost_without_mixing() -> None:
    alone = batch_of(MIXED_LABELS, MIXED_COUNTS, PARTNERS, [1.0] * 8)
    torch.testing.assert_close(objective(MIXED_LOGITS, alone, 1), objective(MIXED_LOGITS, batch_of(MIXED_LABELS, MIXED_COUNTS), 1))


def test_ranks_that_share_mixed_pairs_average_to_the_gradient_of_the_whole_batch() -> None:
    def gradient(cut: slice, world_size: int) -> torch.Tensor:
        logits = {task: values.clone().requires_grad_() for task, values in MIXED_LOGITS.items()}
        partners = [partner - cut.start for partner in PARTNERS[cut]]
        batch = batch_of(MIXED_LABELS[cut], MIXED_COUNTS, partners, SHARES[cut])
        objective({task: values[cut] for task, values in logits.items()}, batch, world_size).backward()
        return torch.cat([values.grad.flatten() for values in logits.values()])

    ranks = [gradient(cut, 3) for cut in (slice(0, 4), slice(4, 6), slice(6, 8))]
    torch.testing.assert_close(torch.stack(ranks).mean(dim=0), gradient(slice(0, 8), 1))


def test_the_loss_of_mixed_steps_of_a_plan_is_the_same_on_any_number_of_ranks() -> None:
    sides = np.full(29, 80)
    plan = Plan(rows=np.arange(29), heights_px=sides, widths_px=sides, batch_size=15, augment=AugmentConfig(mixup=0.5, cutmix=1.0))
    labels = torch.from_numpy(np.random.default_rng(0).integers(-1, 5, (29, 1)))
    logits = torch.randn(29, 5, generator=torch.Generator().manual_seed(0))
    for step in plan.steps(0):

        def loss(rank: int, world_size: int, step: Step = step) -> torch.Tensor:
            part = step.part(rank, world_size, plan.num_slots(world_size))
            assert part.partners is not None and part.shares is not None
            own = torch.where(torch.from_numpy(part.rows[:, None] >= 0), labels[part.fetch], -1)
            count = int((labels[step.rows] >= 0).sum())
            batch = batch_of(own, (count,), part.partners.tolist(), part.shares.tolist())
            return objective({"a": logits[part.fetch]}, batch, world_size)

        for world_size in range(2, 9):
            torch.testing.assert_close(torch.stack([loss(rank, world_size) for rank in range(world_size)]).mean(), loss(0, 1))


def test_a_kept_model_answers_the_same(tmp_path: Path) -> None:
    model = scratch()
    model.temperatures.copy_(torch.tensor([0.5, 3.0]))
    classes = {"subCategory": list("abcde"), "season": ["Fall", "Summer", "Été"]}
    description = ModelDescription(model="resnet18", size="32x32", classes=classes, flip_average=True)
    for _ in range(2):  # the second replaces the first
        save_artifact(tmp_path / "best", model.state_dict(), description)
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
    description = ModelDescription(model="resnet18", size="32x32", classes={"subCategory": list("abc")}, flip_average=False)
    save_artifact(tmp_path / "best", scratch().state_dict(), description)
    with pytest.raises(InputError, match="does not fit"):
        load_artifact(tmp_path / "best")
