"""What the reference project publishes: twelve cells of task, image size and model.

"README" is its README, "notebook" what its own executed notebooks print for the same cell; they disagree in half of the cells, and two
notebooks hold no test result. All of it is from ImageNet weights, at 224x224, on the split that is `reference` here.
"""

from dataclasses import dataclass

TASKS, MODELS, IMAGES = ("subCategory", "masterCategory", "season"), ("resnet18", "efficientnet_b0"), ("small", "full")


@dataclass(frozen=True)
class Published:
    """Accuracy and macro F1 of the README, and of the notebook where it has them."""

    accuracy: float
    macro_f1: float
    notebook_accuracy: float | None
    notebook_macro_f1: float | None


# First 16 hex digits of `ids_hash` of the train, val and test part of each split: made from its table and its code, which give the sizes
# that its notebooks print. Small and full images have the same rows.
SPLIT_HASHES = {
    "subCategory": ("e865a54a662364f4", "343ba5a2a76e8be0", "73a3be9acbf612f4"),
    "masterCategory": ("7d41858d424fce89", "786dc85dc35fffd6", "01c5720447c5d24c"),
    "season": ("5bafd09f9dfe3f79", "906348e39fefba48", "980422c3449b81db"),
}


def reference_epochs(task: str, images: str) -> int:
    """How long the reference project trained a cell."""
    return 5 if (task, images) == ("season", "full") else 10


PUBLISHED = {
    ("subCategory", "small", "resnet18"): Published(0.9649, 0.7766, 0.9649, 0.7766),
    ("subCategory", "small", "efficientnet_b0"): Published(0.9655, 0.7763, 0.9604, 0.7600),
    ("subCategory", "full", "resnet18"): Published(0.9626, 0.7973, 0.9626, 0.7973),
    ("subCategory", "full", "efficientnet_b0"): Published(0.9682, 0.8164, 0.9682, 0.8164),
    ("masterCategory", "small", "resnet18"): Published(0.9701, 0.8245, 0.9938, 0.7419),
    ("masterCategory", "small", "efficientnet_b0"): Published(0.9712, 0.8264, 0.9902, 0.6889),
    ("masterCategory", "full", "resnet18"): Published(0.9735, 0.8517, 0.9935, 0.7285),
    ("masterCategory", "full", "efficientnet_b0"): Published(0.9768, 0.8689, 0.9952, 0.6647),
    ("season", "small", "resnet18"): Published(0.8523, 0.8415, 0.7735, 0.7895),
    ("season", "small", "efficientnet_b0"): Published(0.8547, 0.8432, 0.7766, 0.7737),
    ("season", "full", "resnet18"): Published(0.8732, 0.8653, None, None),
    ("season", "full", "efficientnet_b0"): Published(0.8795, 0.8738, None, None),
}
