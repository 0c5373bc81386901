"""The best/ folder of a run: weights as safetensors, and model.json, which describes them. Reading it runs no code from it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import torch

from fastfashion.catalog.styles import USABLE_LABEL
from fastfashion.config import ModelConfig, Size
from fastfashion.errors import ConfigError, FastfashionError, InputError
from fastfashion.files import publish_folder, publish_json, unreadable
from fastfashion.load.fit import DEFAULT_FIT, SQUASH, Fit
from fastfashion.model import weights
from fastfashion.model.net import Classifier, build_classifier
from fastfashion.model.weights import DESCRIPTION, WEIGHTS
from fastfashion.untrusted import Format, Sha256, described, file_sha256, parse_description, parse_json, read_limited

# 2: with temperatures and flip_average; 3: with checksums; 4: with a fit other than squash, which older programs would not see.
FORMAT = Format("fastfashion-model", oldest=2, newest=4, sealed=3)
FORMAT_OF_SQUASH = Format("fastfashion-model", oldest=2, newest=3, sealed=3)
WAY_OUT = "put best/ back from a copy, or train again"
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)]


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """The content of model.json: backbone, input size (HxW, RGB, 0 to 255), class names by task, mirror average or not."""

    model: Name
    size: str
    classes: dict[Name, list[str]]
    flip_average: bool
    fit: Fit = DEFAULT_FIT  # of images to that size
    channels_last: bool = True  # the memory layout of training; a few models fail in this one
    sha256: Sha256 | None = field(default=None, compare=False)  # of the file of weights; None in version 2

    def __post_init__(self) -> None:
        Size.parse(self.size)
        if not self.classes:
            raise ValueError("classes: expected a label, found none")
        for task, names in self.classes.items():
            if not USABLE_LABEL.fullmatch(task):  # files are named after it
                raise ValueError(f"classes: no name of a label: {task!r}")
            if not names or len(set(names)) != len(names):
                raise ValueError(f"classes of {task}: expected names, each once")


def save_artifact(folder: Path, state: Mapping[str, torch.Tensor], description: ModelDescription) -> None:
    """Write a classifier's state and its description as one folder, replacing an older one; a reader never sees half of it."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def fill(beside: Path) -> None:
        # Only one entry: safetensors 0.8.0 writes several in a random order, and so other bytes of the same model.
        save_file(tensors, beside / WEIGHTS, metadata={"model": description.model})
        said = asdict(description) | {"sha256": file_sha256(beside / WEIGHTS)}
        squashes = said.pop("fit")["mode"] == SQUASH
        said |= {} if squashes else {"fit": description.fit.to_dict()}
        publish_json(beside / DESCRIPTION, described(FORMAT_OF_SQUASH if squashes else FORMAT, said))

    publish_folder(folder, fill)


def load_artifact(folder: Path) -> tuple[Classifier, ModelDescription]:
    """The classifier in evaluation mode, on CPU, and its description.

    Raises InputError if the folder holds no model or a damaged one; the model is built only after its weights are known to fit.
    """
    path = folder / WEIGHTS
    try:
        description = read_description(folder)
        with torch.device("meta"):
            expected = weights.shapes_of(_build(description).state_dict())
        if wrong := weights.misfit(weights.read_shapes(path), expected):
            raise InputError(f"{path}: does not fit {description.model} and the classes in {DESCRIPTION}: {wrong}; {WAY_OUT}")
        tensors = weights.read_safetensors(path)
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
    if wrong := weights.wrong_numbers(tensors):
        raise InputError(f"{path}: {wrong}, so the model cannot answer; {WAY_OUT}")
    for name in ("temperatures", "std"):
        if not (tensors[name] > 0).all():
            raise InputError(f"{path}: the tensor {name} holds a number that is not above 0, so the model cannot answer; {WAY_OUT}")
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


def read_description(folder: Path) -> ModelDescription:
    """The description in best/. Raises InputError if it, or the weights beside it, have changed since they were written; OSError."""
    data = read_limited(folder / DESCRIPTION, weights.MAX_DESCRIPTION_BYTES)
    description = parse_description(data, FORMAT, ModelDescription, str(folder / DESCRIPTION), InputError, WAY_OUT)
    try:
        found = weights.checksum(folder / WEIGHTS) if description.sha256 else None
    except (FastfashionError, OSError):
        raise
    except Exception as error:  # safetensors has errors of its own
        raise InputError(f"{folder}: not a readable model: {error}; {WAY_OUT}") from error
    if found != description.sha256:
        raise InputError(f"{folder / WEIGHTS}: damaged, or of another model: its checksum is not the one in {DESCRIPTION}; {WAY_OUT}")
    return description


def weights_description(given: str) -> ModelDescription | None:
    """The description of what --weights names; None if it is not a run's. Raises InputError if a run's description is damaged."""
    folder = weights.weights_file(given).parent
    if not (folder / DESCRIPTION).is_file():
        return None
    if folder != Path(given) / weights.BEST:  # a folder of something else may have a file of that name
        try:
            head = parse_json(read_limited(folder / DESCRIPTION, weights.MAX_DESCRIPTION_BYTES), dict[str, object], "", InputError, "")
        except FastfashionError:
            return None
        if head.get("format") != FORMAT.name:
            return None
    return read_description(folder)


def keep_heads(model: Classifier, classes: Mapping[str, Sequence[str]], given: str) -> str:
    """Copy the heads of the run that `given` names to a new model, for labels with the same classes in any order; returns a report.

    classes: the class names of each label, in the model's order. The report is empty if `given` is not a run's.
    """
    description = weights_description(given)
    if description is None:
        return ""
    tensors = weights.read_safetensors(weights.weights_file(given))
    kept, new = [], []
    for task, names in classes.items():
        before = description.classes.get(task)
        if before is None:
            new.append(f"{task} (not among its labels)")
        elif len(before) != len(names):
            new.append(f"{task} ({len(before)} classes there, {len(names)} here)")
        elif sorted(before) != sorted(names):
            new.append(f"{task} (other classes)")
        else:
            order = torch.tensor([before.index(name) for name in names])
            for name, parameter in model.head(task).named_parameters():
                tensor = tensors.get(f"{model.head_key(task)}.{name}")
                if tensor is None or tensor.shape != parameter.shape:
                    raise ConfigError(f"--weights {given}: it has no head of {len(order)} classes of {task}, as {DESCRIPTION} says")
                parameter.data.copy_(tensor[order])
            kept.append(task)
    parts = [f"heads kept: {', '.join(kept)}"] if kept else []
    parts += [f"new heads: {', '.join(new)}"] if new else []
    return f"{given}: {'; '.join(parts)}"
