"""The best/ folder of a run: weights as safetensors and all that a reader needs to use them. Reading it runs no code from it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import FastfashionError, InputError
from fastfashion.files import publish_folder, publish_json, unreadable
from fastfashion.model.description import FORMAT, WAY_OUT, ModelDescription, read_description
from fastfashion.model.net import Classifier, build_classifier
from fastfashion.model.weights import DESCRIPTION, WEIGHTS, misfit, read_safetensors, read_shapes, shapes_of, wrong_numbers
from fastfashion.untrusted import described, file_sha256


def save_artifact(folder: Path, state: Mapping[str, torch.Tensor], description: ModelDescription) -> None:
    """Write a classifier's state and its description as one folder, replacing an older one; a reader never sees half of it."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def fill(beside: Path) -> None:
        # One entry alone: safetensors 0.8.0 writes several in another order each time, and so other bytes of the same model.
        save_file(tensors, beside / WEIGHTS, metadata={"model": description.model})
        publish_json(beside / DESCRIPTION, described(FORMAT, asdict(description) | {"sha256": file_sha256(beside / WEIGHTS)}))

    publish_folder(folder, fill)


def load_artifact(folder: Path) -> tuple[Classifier, ModelDescription]:
    """The classifier in evaluation mode, on CPU, and its description.

    Raises InputError where the folder does not hold one, or one that is damaged: nothing is built before the weights are known to fit.
    """
    path = folder / WEIGHTS
    try:
        description = read_description(folder)
        with torch.device("meta"):
            expected = shapes_of(_build(description).state_dict())
        if wrong := misfit(read_shapes(path), expected):
            raise InputError(f"{path}: does not fit {description.model} and the classes in {DESCRIPTION}: {wrong}; {WAY_OUT}")
        tensors = read_safetensors(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no trained model here ({error.filename or error} is missing); expected a run that finished an epoch"
        ) from error
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {unreadable(error)}") from error
    except FastfashionError:
        raise
    except Exception as error:
        raise InputError(f"{folder}: not a readable model: {error}; {WAY_OUT}") from error
    if wrong := wrong_numbers(tensors):
        raise InputError(f"{path}: {wrong}, so the model has no answers; {WAY_OUT}")
    for name in ("temperatures", "std"):
        if not (tensors[name] > 0).all():
            raise InputError(f"{path}: the tensor {name} holds a number that is not above 0, so the model has no answers; {WAY_OUT}")
    model = _build(description)
    model.load_state_dict(tensors)
    if not description.channels_last:
        model.lay_out(channels_last=False)
    return model.eval().requires_grad_(False), description


def _build(description: ModelDescription) -> Classifier:
    config = ModelConfig(name=description.model, pretrained=False, flip_average=description.flip_average)
    return build_classifier(config, {task: len(names) for task, names in description.classes.items()}, Size.parse(description.size))


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
