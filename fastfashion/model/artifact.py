"""The best/ folder of a run: weights as safetensors and all that a reader needs to use them. Reading it runs no code from it."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import InputError
from fastfashion.model.net import Classifier, build_classifier

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
FORMAT_NAME = "fastfashion-model"
FORMAT_VERSION = 2  # with temperatures and flip_average


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What stands beside the weights: backbone, input size (HxW, RGB, 0 to 255), class names by task, mirrored or not."""

    model: str
    size: str
    classes: dict[str, list[str]]
    flip_average: bool


def save_artifact(folder: Path, state: Mapping[str, torch.Tensor], description: ModelDescription) -> None:
    """Write a classifier's state and its description as one folder, replacing an older one; a reader never sees half of it."""
    from safetensors.torch import save_file

    beside, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, beside / WEIGHTS)
    text = json.dumps({"format": FORMAT_NAME, "version": FORMAT_VERSION} | asdict(description), indent=2, ensure_ascii=False)
    (beside / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    for path in beside.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_artifact(folder: Path) -> tuple[Classifier, ModelDescription]:
    """The classifier in evaluation mode, on CPU, and its description; raises InputError where the folder does not hold one."""
    from safetensors.torch import load_file

    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        found = (values.pop("format"), values.pop("version"))
        if found != (FORMAT_NAME, FORMAT_VERSION):
            raise ValueError(f"expected {FORMAT_NAME} version {FORMAT_VERSION}, found {found[0]} version {found[1]}")
        description = ModelDescription(**values)
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no trained model here ({error.filename or error} is missing); train one, or let its training finish an epoch"
        ) from error
    except Exception as error:
        raise InputError(f"{folder}: not a readable model: {error}") from error
    classes = {task: len(names) for task, names in description.classes.items()}
    model = build_classifier(
        ModelConfig(name=description.model, pretrained=False, flip_average=description.flip_average), classes, Size.parse(description.size)
    )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS}: does not fit {description.model}: {error}") from error
    return model.eval().requires_grad_(False), description


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
