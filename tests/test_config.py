"""Settings: what is refused, and that a run's config.json says everything."""

import json

import pytest

from fastfashion.config import DataConfig, RunConfig, Size, parse_settings
from fastfashion.errors import ConfigError
from fastfashion.recipes import FROM_SCRATCH, FROZEN, RECIPES

START = RunConfig(data=DataConfig(shards="shards/x"))


def test_a_config_survives_json_unchanged() -> None:
    config = START.replace({"data.size": "80x64", "optim.lr": "0.0005", "model.pretrained": "false", "train.epochs": 3})
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_text_becomes_the_type_of_the_field() -> None:
    config = START.replace(parse_settings(["optim.lr=0.0005", "model.pretrained=false", "train.epochs=3", "data.size=80x64"]))
    assert (config.optim.lr, config.model.pretrained, config.train.epochs, config.data.size) == (0.0005, False, 3, "80x64")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optim.learning_rate=1", "optim.lr"),  # the message lists what there is
        ("nonsense.lr=1", "data, model, augment, optim, train"),
        ("train.epochs=three", "train.epochs"),
        ("train.epochs=0", "1 or more"),
        ("model.pretrained=maybe", "model.pretrained"),
        ("optim.lr=nan", "optim.lr"),
        ("optim.lr=-1", "optim.lr"),
        ("data.size=80by64", "80x64"),
        ("data.size=8x8", "16 to 4096"),
        ("data.protocol=random", "stratified, reference, folds, file or column"),
        ("augment.min_area=0", "augment.min_area"),
        ("optim.lr", "section.key=value"),
    ],
)
def test_a_setting_out_of_order_is_refused_by_name(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        START.replace(parse_settings([setting]))


def test_sizes_are_height_by_width() -> None:
    assert Size.parse("80x64") == Size(height_px=80, width_px=64)
    assert Size.parse("224") == Size(height_px=224, width_px=224)
    assert str(Size(80, 64)) == "80x64"


def test_every_recipe_builds_and_the_reference_one_is_the_reference_projects() -> None:
    for name in RECIPES:
        START.with_recipe(name, {})
    reference = START.with_recipe("reference", {"model.pretrained": False})
    assert (reference.optim.optimizer, reference.optim.lr, reference.train.batch_size, reference.train.epochs) == ("adam", 1e-4, 16, 10)
    assert (reference.data.size, reference.train.select, reference.augment.flip) == ("224x224", "last", 0.0)
    with pytest.raises(ConfigError, match="fast, finetune, best, reference"):
        START.with_recipe("slow", {})


def test_random_first_weights_have_their_own_rate_and_what_is_given_counts_most() -> None:
    pretrained, default = START.with_recipe("fast", {}), START.optim
    assert START.with_recipe("finetune", {}) == pretrained and pretrained.optim.lr == RECIPES["finetune"]["optim.lr"]
    assert START.with_recipe("fast", {"model.pretrained": "false", "model.weights": "first.pth"}).optim == pretrained.optim
    scratch = START.with_recipe("fast", {"model.pretrained": "false", "optim.weight_decay": "0.3"})
    assert (scratch.optim.lr, scratch.optim.weight_decay) == (FROM_SCRATCH["fast"]["optim.lr"], 0.3)
    assert scratch.optim.lr not in (default.lr, pretrained.optim.lr) and scratch.data.min_side_px == 0
    with pytest.raises(ConfigError, match="recipe finetune: expected trained first weights, found random ones; use fast"):
        START.with_recipe("finetune", {"model.pretrained": False})
    frozen = START.with_recipe("fast", {"model.freeze": True, "train.epochs": 3})
    assert (frozen.optim.lr, frozen.train.batch_size, frozen.train.epochs) == (FROZEN["optim.lr"], FROZEN["train.batch_size"], 3)
    assert START.with_recipe("reference", {"model.freeze": True}).optim.lr == 1e-4
