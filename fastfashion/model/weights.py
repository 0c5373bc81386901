"""Files of weights: tensors and what the file says of itself. Reading one runs no code from it."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastfashion.config import ModelConfig
from fastfashion.errors import ConfigError
from fastfashion.untrusted import file_sha256, open_regular, read_limited

Shapes = dict[str, tuple[tuple[int, ...], bool]]  # by name; and whether it holds floats
WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"  # of our own models, beside the weights
MAX_DESCRIPTION_BYTES = 1 << 26
MOST_COPIES = 8  # of a model in a file: weights, their average, the optimiser's two moments, in double precision
_HUB_CONFIG = "config.json"  # of timm's models on the Hub, beside the weights
_DECLARED = ("model", "architecture", "arch")  # what the name of the model is called in files of ours, of timm's, and of training scripts


def weights_file(given: str) -> Path:
    """The file that --weights means: itself, or that of a run's folder, or of its best/."""
    path = Path(given)
    return next((file for file in (path / WEIGHTS, path / "best" / WEIGHTS) if file.is_file()), path)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file. Raises OSError with the true reason: safetensors 0.8.0 says of a file it may not open that there is none."""
    from safetensors.torch import load_file

    with open_regular(path):
        return load_file(path)


def read_shapes(path: Path) -> Shapes:
    """The shape of each tensor of a .safetensors file, and whether it holds floats: its header alone, whose offsets are checked.

    Raises OSError, InputError for what is no regular file, and SafetensorError for what is no safetensors file.
    """
    from safetensors import safe_open

    with open_regular(path), safe_open(path, framework="pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return {name: (tuple(part.get_shape()), part.get_dtype().startswith(("F", "BF"))) for name, part in parts.items()}


def checksum(path: Path) -> str:
    """SHA-256 of a .safetensors file that is as long as its header says, so that no hole is read. Raises what `read_shapes` raises."""
    read_shapes(path)
    return file_sha256(path)


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    return {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in tensors.items()}


def misfit(found: Shapes, expected: Shapes) -> str:
    """The first way in which tensors are not those of a model; "" where they are."""
    for what, names in (("missing", expected.keys() - found.keys()), ("not part of that model", found.keys() - expected.keys())):
        if names:
            return f"{min(names)} is {what}" + (f", and {len(names) - 1} more" if len(names) > 1 else "")
    for name, (shape, floats) in expected.items():
        if found[name] != (shape, floats):
            kinds = [f"{list(each)} of {'floats' if real else 'integers'}" for each, real in (found[name], (shape, floats))]
            return f"{name} is {kinds[0]}, expected {kinds[1]}"
    return ""


def wrong_numbers(tensors: Mapping[str, torch.Tensor]) -> str:
    """The first tensor that is not of finite numbers that can be computed with, and why; "" where there is none."""
    for name, one in tensors.items():
        try:
            # A sum is finite only where all are, takes a tenth of the time, and may overflow.
            if one.is_floating_point() and not torch.isfinite(one.sum()) and not torch.isfinite(one).all():
                return f"the tensor {name} holds NaN or an infinity"
        except RuntimeError:  # of torch, for numbers of 8 bits, sparse tensors and the like
            return f"the tensor {name} is of a kind that nothing is computed in ({one.dtype}, {one.layout})"
    return ""


def read_pickled(path: Path) -> Any:
    """What is in a .pth or .bin file, read without running code from it. Raises ConfigError for tensors that grow when they are read."""
    with open_regular(path) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
                    raise ConfigError(f"--weights {path}: its tensors are compressed, which torch.save never does; save them again")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def _check_bytes(config: ModelConfig) -> None:
    """Raises ConfigError where a file of first weights is far larger than a checkpoint of the model, optimiser and all, can be."""
    import timm

    path = weights_file(config.weights)
    if not path.is_file() or not timm.is_model(_plain(config.name)):
        return  # which is said elsewhere
    with torch.device("meta"):
        needed = 4 * sum(one.numel() for one in timm.create_model(_plain(config.name)).state_dict().values())
    if path.stat().st_size > MOST_COPIES * needed + (1 << 26):
        raise ConfigError(
            f"--weights {config.weights}: {path.stat().st_size / 1e6:.0f} MB, more than {MOST_COPIES} times the {needed / 1e6:.0f} MB of "
            f"{config.name}; expected weights of that model"
        )


def declared_model(path: Path) -> str:
    """The model that a .safetensors, .pth or .bin file, or a description beside it, says the weights are for; "" where none does."""
    try:
        if path.suffix == ".safetensors":
            return _first_name(_metadata(path)) or _beside(path)
        return _first_name(read_pickled(path)) or _beside(path)
    except Exception:
        return ""  # who reads the tensors says what is wrong with the file


def check_declared(config: ModelConfig) -> None:
    """Raises ConfigError where first weights say that they are another model's, even if all their tensors would fit, or are too many."""
    if config.weights:
        _check_bytes(config)
    declared = declared_model(weights_file(config.weights)) if config.weights else ""
    if declared and _plain(declared) != _plain(config.name):
        raise ConfigError(
            f"--weights {config.weights}: these are weights of {declared}, expected {config.name}; tensors of one may fit the other "
            f"by name and shape and still answer otherwise. Train that model (--model {_plain(declared)}), or give weights of {config.name}"
        )


def ambiguity(config: ModelConfig) -> str:
    """A warning where first weights do not say whose they are, and timm has a model that they fit as well; "" otherwise."""
    import timm

    name = _plain(config.name)
    if not config.weights or declared_model(weights_file(config.weights)):
        return ""
    known = [other for other in timm.list_models() if other != name and _tensors_of(other) == _tensors_of(name)]
    if not known:
        return ""
    return (
        f"--weights {config.weights} does not say which model it is for: it fits {' and '.join(known)} as well as {name}, by name and "
        "shape of every tensor, but the answers differ; make sure that it is the right one"
    )


def _tensors_of(name: str) -> str:
    """Equal of models whose tensors have the same names and shapes; Tensorflow's padding and another GELU make other functions of them."""
    return name.removeprefix("tf_").replace("_quickgelu", "")


def _plain(name: str) -> str:
    """Without the tag of what it was trained on, and without the Hub's address before it."""
    return name.rpartition("/")[2].partition(".")[0]


def _metadata(path: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _beside(path: Path) -> str:
    """What a description in the same folder says; it is one only of a file that has the name it describes."""
    if path.name not in (WEIGHTS, "pytorch_model.bin"):
        return ""
    for name in (DESCRIPTION, _HUB_CONFIG):
        try:
            values = json.loads(read_limited(path.parent / name, MAX_DESCRIPTION_BYTES))
        except (OSError, ValueError, RecursionError):
            continue  # no description: that is allowed
        if found := _first_name(values):
            return found
    return ""


def _first_name(values: Any) -> str:
    if not isinstance(values, Mapping):
        return ""
    return next((value for key in _DECLARED if isinstance(value := values.get(key), str) and value), "")


def own_backbone(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone's tensors among those of a run's model; none where these are weights of a timm model."""
    if not {"mean", "std", "temperatures"} <= weights.keys():
        return {}
    return {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}
