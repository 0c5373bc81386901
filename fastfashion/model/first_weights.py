"""First weights of a backbone: the Hub's, a file's, a run's, or random ones; what is wrong with them is said before anything is built."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastfashion.config import ModelConfig
from fastfashion.errors import ConfigError, FastfashionError
from fastfashion.files import unreadable
from fastfashion.model.weights import WEIGHTS, read_pickled, read_safetensors, weights_file, wrong_numbers

HUB_TIMEOUT_S = 10


def check_first_weights(config: ModelConfig) -> None:
    """Raises ConfigError, within seconds, where there is no such model or its first weights are not to be had."""
    import timm

    if not timm.is_model(config.name.split(".")[0]):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names them all"
        raise ConfigError(f"unknown model {config.name!r}: timm has none of that name; {hint}")
    if config.weights:
        if Path(config.weights).is_dir() and not weights_file(config.weights).is_file():
            raise ConfigError(
                f"--weights {config.weights}: holds no best/{WEIGHTS}; expected a run that has finished an epoch, its best/, or a file"
            )
        if not weights_file(config.weights).is_file():
            raise ConfigError(
                f"--weights {config.weights}: no such file; expected a .safetensors, .pth or .bin file of the timm model, or a run"
            )
    elif config.pretrained:
        _check_hub(config.name, timm.models.get_pretrained_cfg(config.name))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file, or of a .pth/.bin file read without running any code from it."""
    try:
        if path.suffix == ".safetensors":
            return _checked(read_safetensors(path), path)
        weights = read_pickled(path)
    except OSError as error:
        raise ConfigError(f"--weights {path}: {unreadable(error)}") from error
    except FastfashionError:
        raise
    except Exception as error:
        raise ConfigError(
            f"--weights {path}: not readable as a state dict of tensors ({type(error).__name__}); "
            "files that would have to run code to be loaded are refused"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    return _checked(weights, path)


def _checked(weights: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors among what was read, if there are any and all are finite numbers."""
    tensors = {name: one for name, one in weights.items() if torch.is_tensor(one)} if isinstance(weights, Mapping) else {}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise ConfigError(f"--weights {path}: expected a state dict of tensors by name, found {type(weights).__name__}")
    if wrong := wrong_numbers(tensors):
        raise ConfigError(f"--weights {path}: {wrong}; nothing can be trained from it")
    return tensors


def check_fit(weights: Mapping[str, torch.Tensor], backbone: nn.Module, config: ModelConfig) -> None:
    """timm passes over tensors that the model does not have; more than a head's worth of them means another model's weights."""
    known = backbone.state_dict().keys()
    foreign = [name for name in weights if name not in known]
    if len(foreign) > max(4, 0.05 * len(weights)):
        raise ConfigError(
            f"--weights {config.weights}: {len(foreign)} of its {len(weights)} tensors are not part of {config.name} "
            f"({', '.join(foreign[:3])}, …); expected weights of that model"
        )


def _check_hub(name: str, default: Any) -> None:
    """Fail within seconds where the weights are neither in the local cache nor to be had; timm alone retries for most of a minute."""
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
            "  let this machine reach the Hub once (proxy, HF_ENDPOINT for a mirror, HF_TOKEN), they are cached from then on;\n"
            f"  --weights FILE     {files[0]} of that repository, or a .pth of the timm model, copied from elsewhere;\n"
            "  --no-pretrained    train from random weights."
        ) from error
