"""The best/ folder of a run: weights as safetensors and all that a reader needs to use them. Reading it runs no code from it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import InputError
from fastfashion.files import publish_folder, unreadable
from fastfashion.model.net import Classifier, build_classifier
from fastfashion.model.weights import DESCRIPTION, WEIGHTS, read_safetensors

FORMAT_NAME = "fastfashion-model"
FORMAT_VERSION = 2  # with temperatures and flip_average


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What stands beside the weights: backbone, input size (HxW, RGB, 0 to 255), class names by task, mirrored or not."""

    model: str
    size: str
    classes: dict[str, list[str]]
    flip_average: bool
    channels_last: bool = True  # the memory layout in which it was trained; a few models fail in this one


def save_artifact(folder: Path, state: Mapping[str, torch.Tensor], description: ModelDescription) -> None:
    """Write a classifier's state and its description as one folder, replacing an older one; a reader never sees half of it."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    values = asdict(description)
    if description.channels_last:
        del values["channels_last"]  # the rule, which older readers know of no name for
    text = json.dumps({"format": FORMAT_NAME, "version": FORMAT_VERSION} | values, indent=2, ensure_ascii=False)

    def fill(beside: Path) -> None:
        # One entry alone: safetensors 0.8.0 writes several in another order each time, and so other bytes of the same model.
        save_file(tensors, beside / WEIGHTS, metadata={"model": description.model})
        (beside / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    publish_folder(folder, fill)


def load_artifact(folder: Path) -> tuple[Classifier, ModelDescription]:
    """The classifier in evaluation mode, on CPU, and its description; raises InputError where the folder does not hold one."""
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        found = (values.pop("format"), values.pop("version"))
        if found != (FORMAT_NAME, FORMAT_VERSION):
            raise ValueError(f"expected {FORMAT_NAME} version {FORMAT_VERSION}, found {found[0]} version {found[1]}")
        description = ModelDescription(**values)
        tensors = read_safetensors(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no trained model here ({error.filename or error} is missing); train one, or let its training finish an epoch"
        ) from error
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {unreadable(error)}") from error
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
    if not description.channels_last:
        model.lay_out(channels_last=False)
    return model.eval().requires_grad_(False), description


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
