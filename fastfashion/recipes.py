"""Named recipes: differences from the defaults of config.py, each value with its reason; bench/LOG.md, "Recipes", has the measurements."""

from typing import Any

from fastfashion.errors import ConfigError

# Good accuracy a minute. Batches of 64: twice as many steps as 128 take nearly the same time, and after so few epochs more steps matter
# most. Hardly any crop, since the product fills the image, and rare classes more often. If several labels are learned, most weight is on
# what a product is, and little on baseColour and usage, which weighted alike make up nearly half of the loss; optim.task_weights= weighs
# all alike.
_FAST: dict[str, Any] = {
    "train.epochs": 12,
    "train.batch_size": 64,
    "augment.min_area": 0.97,
    "augment.max_stretch": 1.1,
    "data.oversample": 0.002,
    "optim.task_weights": "subCategory=2.5,articleType=2,masterCategory=2,gender=1.5,baseColour=0.5,usage=0.5",
}

RECIPES: dict[str, dict[str, Any]] = {
    "fast": _FAST,
    # What fast means where first weights are trained ones: half the default rate, and small images enlarged (60x80 to 128 high, 96 wide),
    # since a network that learned from 224x224 sees little in 80x64. Of EfficientNet-Lite0 from ImageNet weights alone, one seed each.
    "finetune": _FAST | {"train.epochs": 8, "optim.lr": 5e-4, "data.min_side_px": 96},
    # Accuracy at any price: twice as long, and with mixup, without which the losses on validation rows ended at 2.84 instead of 2.57.
    # Of four runs with crops of at least 60 or 85 %, with mixup or without (ResNet18, random weights, small images at 160x128) it was
    # ahead in the mean accuracy of subCategory, masterCategory and season, by less than seeds differ, and in the macro F1 of each.
    "best": {
        "train.epochs": 24,
        "train.batch_size": 64,
        "augment.min_area": 0.85,
        "augment.mixup": 0.2,
        "data.oversample": 0.002,
    },
    # The reference project's own: pretrained, squashed 224, no augmentation, Adam 1e-4, batch 16, 10 epochs, last weights.
    "reference": {
        "data.protocol": "reference",
        "data.size": "224x224",
        "model.flip_average": False,
        "augment.min_area": 1.0,
        "augment.max_stretch": 1.0,
        "augment.flip": 0.0,
        "optim.optimizer": "adam",
        "optim.lr": 1e-4,
        "optim.weight_decay": 0.0,
        "optim.schedule": "constant",
        "optim.warmup_share": 0.0,
        "optim.clip_norm": 0.0,
        "optim.ema_decay": 0.0,
        "train.batch_size": 16,
        "train.epochs": 10,
        "train.select": "last",
        "train.precision": "fp32",
    },
}

# What a recipe has besides where first weights are random: a higher rate, warmed up for longer, and a decay that matters in a few
# thousand steps (measured with fast and ResNet18 alone).
FROM_SCRATCH: dict[str, dict[str, Any]] = {
    name: {"optim.lr": 4e-3, "optim.weight_decay": 0.15, "optim.warmup_share": 0.25} for name in ("fast", "best")
}


# What every recipe but the reference has besides with model.freeze: heads alone bear large steps; 30 epochs were no better than 12.
FROZEN: dict[str, Any] = {"optim.lr": 4e-3, "train.batch_size": 256, "train.epochs": 12}


def recipe(name: str) -> dict[str, Any]:
    """The settings of a named recipe; raises ConfigError if there is none."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]
