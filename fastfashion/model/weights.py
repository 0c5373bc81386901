"""Files of weights, and the first weights of a backbone: the Hub's, a file's, or a run's. Reading a file runs no code from it."""

import difflib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastfashion.config import ModelConfig
from fastfashion.errors import ConfigError, FastfashionError
from fastfashion.files import unreadable
from fastfashion.model.families import FAMILIES
from fastfashion.untrusted import file_sha256, open_regular, read_limited

Shapes = dict[str, tuple[tuple[int, ...], bool]]  # by name: shape, and whether it holds floats
WEIGHTS = "model.safetensors"
BEST = "best"  # the folder of a run that holds its kept model
DESCRIPTION = "model.json"  # of our own models, beside the weights
MAX_DESCRIPTION_BYTES = 1 << 26
HUB_TIMEOUT_S = 10
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]  # of red, green and blue, in 0..1
MOST_COPIES = 8  # of a model in a file: weights, their average, the optimiser's two moments, in double precision
_HUB_CONFIG = "config.json"  # of timm's models on the Hub, beside the weights
_DECLARED = ("model", "architecture", "arch")  # where our files, timm's, and training scripts name the model


def weights_file(given: str) -> Path:
    """The file that --weights means: the file itself, or that of a run's folder, or of its best/."""
    path = Path(given)
    return next((file for file in (path / WEIGHTS, path / BEST / WEIGHTS) if file.is_file()), path)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file. Raises OSError with the true reason: safetensors 0.8.0 calls a file that it may not open missing."""
    from safetensors.torch import load_file

    with open_regular(path):
        return load_file(path)


def read_shapes(path: Path) -> Shapes:
    """A .safetensors file's header, with checked offsets. Raises OSError, SafetensorError, and InputError if it is not a regular file."""
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
    """The first difference between a file's tensors and a model's; "" if there is none."""
    for what, names in (("missing", expected.keys() - found.keys()), ("not part of that model", found.keys() - expected.keys())):
        if names:
            return f"{min(names)} is {what}" + (f", and {len(names) - 1} more" if len(names) > 1 else "")
    for name, (shape, floats) in expected.items():
        if found[name] != (shape, floats):
            kinds = [f"{list(each)} of {'floats' if real else 'integers'}" for each, real in (found[name], (shape, floats))]
            return f"{name} is {kinds[0]}, expected {kinds[1]}"
    return ""


def wrong_numbers(tensors: Mapping[str, torch.Tensor]) -> str:
    """The first tensor that does not hold finite numbers that torch can compute with, and why; "" if there is none."""
    for name, tensor in tensors.items():
        try:
            # A sum is finite only if all are, takes a tenth of the time, and may overflow.
            if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
                return f"the tensor {name} holds NaN or an infinity"
        except RuntimeError:  # torch's, for numbers of 8 bits, sparse tensors and the like
            return f"the tensor {name} is of a kind that cannot be computed with ({tensor.dtype}, {tensor.layout})"
    return ""


def own_backbone(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone's tensors among those of a run's model; none if these are weights of a timm model."""
    if not {"mean", "std", "temperatures"} <= weights.keys():
        return {}
    return {name.removeprefix("backbone."): tensor for name, tensor in weights.items() if name.startswith("backbone.")}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors, .pth or .bin file, all of finite numbers. Raises ConfigError for every other file."""
    try:
        weights = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    except OSError as error:
        raise ConfigError(f"--weights {path}: {unreadable(error)}") from error
    except FastfashionError:
        raise
    except Exception as error:
        raise ConfigError(
            f"--weights {path}: not readable as a state dict of tensors ({type(error).__name__}); "
            "files that run code when they are loaded are refused"
        ) from error
    if path.suffix != ".safetensors":
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(weights, dict) and isinstance(weights.get(key), dict):
                weights = weights[key]
    tensors = {name: value for name, value in weights.items() if torch.is_tensor(value)} if isinstance(weights, Mapping) else {}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise ConfigError(f"--weights {path}: expected a state dict of tensors by name, found {type(weights).__name__}")
    if wrong := wrong_numbers(tensors):
        raise ConfigError(f"--weights {path}: {wrong}; it cannot be used for training")
    return tensors


def _read_pickled(path: Path) -> Any:
    """What is in a .pth or .bin file. Raises ConfigError for compressed tensors, which could grow without limit."""
    with open_regular(path) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ConfigError(f"--weights {path}: its tensors are compressed, which torch.save never does; save them again")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def check_first_weights(config: ModelConfig) -> None:
    """Raises ConfigError, within seconds, if there is no such model, or its first weights are missing or another model's."""
    import timm

    if not timm.is_model(config.name.split(".")[0]):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names them all"
        raise ConfigError(f"unknown model {config.name!r}: timm has no model of that name; {hint}")
    if config.weights and not weights_file(config.weights).is_file():
        wrong = "no such file; expected a .safetensors, .pth or .bin file of the timm model, or a run"
        if Path(config.weights).is_dir():
            wrong = f"holds no best/{WEIGHTS}; expected a run that has finished an epoch, its best/, or a file"
        raise ConfigError(f"--weights {config.weights}: {wrong}")
    if config.pretrained and not config.weights:
        _check_hub(config.name, timm.models.get_pretrained_cfg(config.name))


def _check_hub(name: str, default: Any) -> None:
    """Fail within seconds if the weights are neither cached nor available; timm alone retries for most of a minute."""
    if default is None or not default.has_weights:
        raise ConfigError(f"timm has no pretrained weights for {name}: use --weights FILE or --no-pretrained")
    if not default.hf_hub_id:
        return
    import huggingface_hub
    from huggingface_hub.utils import get_session, hf_raise_for_status

    repository = default.hf_hub_id + name if default.hf_hub_id.endswith("/") else default.hf_hub_id
    files = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str) for file in files):
        return
    try:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        hf_raise_for_status(get_session().head(f"{huggingface_hub.constants.ENDPOINT}/api/models/{repository}", timeout=HUB_TIMEOUT_S))
    except Exception as error:
        raise ConfigError(
            f"cannot fetch the ImageNet weights of {name} from the Hugging Face Hub ({repository}: {type(error).__name__}: {error}).\n"
            "Three ways out:\n"
            "  let this machine reach the Hub once (proxy, HF_ENDPOINT for a mirror, HF_TOKEN): the weights are then cached;\n"
            f"  --weights FILE     {files[0]} of that repository, or a .pth of the timm model, copied from elsewhere;\n"
            "  --no-pretrained    train from random weights."
        ) from error


def check_fit(weights: Mapping[str, torch.Tensor], backbone: nn.Module, config: ModelConfig) -> None:
    """Raises ConfigError for more foreign tensors than a head has: timm silently skips tensors that the model does not have."""
    known = backbone.state_dict().keys()
    foreign = [name for name in weights if name not in known]
    if len(foreign) > max(4, 0.05 * len(weights)):
        raise ConfigError(
            f"--weights {config.weights}: {len(foreign)} of its {len(weights)} tensors are not part of {config.name} "
            f"({', '.join(foreign[:3])}, …); expected weights of that model"
        )


def check_declared(config: ModelConfig) -> None:
    """Raises ConfigError if a file of first weights names another model, even if all tensors would fit, or is far too large."""
    if not config.weights:
        return
    import timm

    path, name = weights_file(config.weights), _plain(config.name)
    if path.is_file() and timm.is_model(name):
        with torch.device("meta"):
            needed = 4 * sum(tensor.numel() for tensor in timm.create_model(name).state_dict().values())
        if path.stat().st_size > MOST_COPIES * needed + (1 << 26):
            raise ConfigError(
                f"--weights {config.weights}: {path.stat().st_size / 1e6:.0f} MB, more than {MOST_COPIES} times the {needed / 1e6:.0f} MB "
                f"of {config.name}; expected weights of that model"
            )
    declared = declared_model(path)
    if declared and _plain(declared) != name:
        raise ConfigError(
            f"--weights {config.weights}: these are weights of {declared}, expected {config.name}; tensors of one may fit the other "
            f"by name and shape and still answer differently. Train it (--model {_plain(declared)}), or give weights of {config.name}"
        )


def declared_mean_std(path: Path) -> MeanStd | None:
    """The mean and std, in 0..1, that a converted file names; None if it names none. Raises ConfigError for something else."""
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
    if "mean" not in said and "std" not in said:
        return None
    try:
        mean, std = (tuple(float(value) for value in said[name].split(",")) for name in ("mean", "std"))
    except (KeyError, ValueError):
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or not all(0 <= value <= 1 for value in mean) or not all(0.001 <= value <= 1 for value in std):
        raise ConfigError(f"--weights {path}: its mean and std are not three numbers in 0..1 each; convert the file again")
    return mean, std


def ambiguity(config: ModelConfig) -> str:
    """A warning if first weights do not name their model, and timm has another one that they fit as well; "" otherwise."""
    import timm

    name = _plain(config.name)
    if not config.weights or declared_model(weights_file(config.weights)):
        return ""
    if any(family.fits(_names(weights_file(config.weights))) for family in FAMILIES):
        return ""  # its names say whose it is
    known = [other for other in timm.list_models() if other != name and _tensors_of(other) == _tensors_of(name)]
    if not known:
        return ""
    return (
        f"--weights {config.weights} does not say which model it is for: it fits {' and '.join(known)} as well as {name}, by name and "
        "shape of every tensor, but the answers differ; make sure that it is the right one"
    )


def _names(path: Path) -> list[str]:
    """The names of a file's tensors; none if it cannot be read: the error is raised when they are."""
    try:
        return list(read_shapes(path)) if path.suffix == ".safetensors" else list(read_weights(path))
    except Exception:
        return []


def _tensors_of(name: str) -> str:
    """The same for models whose tensors have the same names and shapes; Tensorflow's padding and another GELU answer otherwise."""
    return name.removeprefix("tf_").replace("_quickgelu", "")


def _plain(name: str) -> str:
    """Without the tag of the training data, and without the Hub's address before it."""
    return name.rpartition("/")[2].partition(".")[0]


def declared_model(path: Path) -> str:
    """The model that a file of weights, or a description beside it, says the weights are for; "" if neither does."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                return _first_name(file.metadata()) or _beside(path)
        return _first_name(_read_pickled(path)) or _beside(path)
    except Exception:
        return ""  # the error is raised when the tensors are read


def _beside(path: Path) -> str:
    """The model that a description in the same folder names; it describes only a file of the usual name."""
    if path.name not in (WEIGHTS, "pytorch_model.bin"):
        return ""
    for name in (DESCRIPTION, _HUB_CONFIG):
        try:
            values = json.loads(read_limited(path.parent / name, MAX_DESCRIPTION_BYTES))
        except (OSError, ValueError, RecursionError):
            continue  # a description is optional
        if found := _first_name(values):
            return found
    return ""


def _first_name(values: Any) -> str:
    if not isinstance(values, Mapping):
        return ""
    return next((value for key in _DECLARED if isinstance(value := values.get(key), str) and value), "")
