"""State dicts of other packages under timm's names: torchvision, EfficientNet-PyTorch, Hugging Face transformers.

tensors by name ─► wrappers off ─► a family of names ─► timm's names ─► compared with the model, name by name, shape by shape

A family says which timm models compute the same from the same tensors. Tests compare the outputs of both programs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastfashion.errors import ConfigError
from fastfashion.files import publish, writing_to
from fastfashion.model.families import FAMILIES, Family, Shapes, Tensors

WRAPPERS = ("module.", "_orig_mod.", "backbone.", "encoder.", "model.", "net.", "network.", "trunk.", "visual.", "student.", "teacher.")
MOSTLY = 0.8  # of all names begin with a wrapper's prefix: it is one
_COUNTER = "num_batches_tracked"
_SHOWN = 12  # names in a message


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Tensors under timm's names, and what did not map."""

    model: str
    family: str  # whose names they had
    tensors: Tensors
    unwrapped: Tensors  # as they were, without prefixes of wrappers
    heads: tuple[str, ...]  # names of a classifier, which is left out
    unmapped: Mapping[str, tuple[int, ...]]  # tensors that have no place in the model
    missing: Mapping[str, tuple[int, ...]]  # tensors of the model that get nothing
    misshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # found and expected shape
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None  # of the images that they expect, in 0..1; None: as timm's model does

    @property
    def is_whole(self) -> bool:
        return not (self.unmapped or self.missing or self.misshaped)

    @property
    def text(self) -> str:
        """What did not map, a line each; "" if all did."""
        lines = [f"  not part of {self.model}: {name} {list(shape)}" for name, shape in self.unmapped.items()]
        lines += [f"  {self.model} needs: {name} {list(shape)}" for name, shape in self.missing.items()]
        lines += [f"  {name}: found {list(found)}, expected {list(expected)}" for name, (found, expected) in self.misshaped.items()]
        more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        return "\n".join(lines[:_SHOWN]) + more


def convert(tensors: Mapping[str, torch.Tensor], name: str) -> Converted:
    """The tensors under the names of timm's model `name`, without its classifier.

    Raises ConfigError if they are of a family that computes otherwise than that model, with the model that computes alike.
    """
    model, own_heads = _shapes_of(name)
    found, plain = unwrapped(tensors, model), name.partition(".")[0]
    family = next((each for each in FAMILIES if each.fits(found)), None)
    if family is not None:
        if not re.fullmatch(family.models, plain):
            raise ConfigError(f"weights of {family.name} for {name}: {family.why}; expected a model such as {family.example}")
        found = family.prepare(dict(found), model)
    renamed: Tensors = {}
    heads, unmapped = [], {}
    for old, tensor in found.items():
        new = old if family is None else _renamed(family, old)
        if old.endswith(_COUNTER):
            if new in model:
                renamed[new] = tensor
        elif new in own_heads or (family is not None and re.fullmatch(family.heads, old)):
            heads.append(old)
        elif new in model and new not in renamed:
            renamed[new] = tensor
        else:
            unmapped[old] = tuple(tensor.shape)
    missing = {each: shape for each, shape in model.items() if each not in renamed and not each.endswith(_COUNTER)}
    resized = ("pos_embed",)  # timm makes them fit
    wrong = {
        each: (tuple(tensor.shape), model[each])
        for each, tensor in renamed.items()
        if tuple(tensor.shape) != model[each] and each not in resized and not each.endswith(_COUNTER)
    }
    return Converted(
        model=name,
        family="timm" if family is None else family.name,
        tensors=renamed,
        unwrapped=found,
        heads=tuple(sorted(heads)),
        unmapped=unmapped,
        missing=missing,
        misshaped=wrong,
        mean_std=None if family is None else family.mean_std,
    )


def unwrapped(tensors: Mapping[str, torch.Tensor], model: Shapes) -> Tensors:
    """Without the prefixes that wrappers put before all names, until the names are those of the model or of a family."""
    found = dict(tensors)
    while True:
        if any(family.fits(found) for family in FAMILIES) or sum(name in model for name in found) > len(found) / 2:
            return found
        prefix = next((each for each in WRAPPERS if sum(name.startswith(each) for name in found) >= MOSTLY * len(found)), None)
        if prefix is None:
            return found
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def _shapes_of(name: str) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
    """Names and shapes of a timm model without its classifier, and the names of that."""
    import timm

    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
        bare = timm.create_model(name, num_classes=0).state_dict()
    return {each: tuple(tensor.shape) for each, tensor in bare.items()}, frozenset(whole.keys() - bare.keys())


def _renamed(family: Family, name: str) -> str:
    for pattern, to in family.rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(to)
    return name


def to_timm(tensors: Mapping[str, torch.Tensor], name: str, where: str) -> Converted:
    """As `convert`, for training; `where` names the file. Raises ConfigError with the list of what did not map, if it is not timm's own."""
    try:
        found = convert(tensors, name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not found.is_whole and found.family != "timm":
        raise ConfigError(f"{where}: weights of {found.family} that do not fit {name}:\n{found.text}\nexpected weights of that model")
    return found


def write_converted(found: Converted, out: Path) -> None:
    """Publish a file for `--weights` that names its model, and the mean and std that its images are normalised with, if not timm's own."""
    from safetensors.torch import save_file

    metadata = {"model": found.model}
    if found.mean_std is not None:
        metadata |= {name: ",".join(f"{value:g}" for value in values) for name, values in zip(("mean", "std"), found.mean_std, strict=True)}
    tensors = {name: tensor.contiguous() for name, tensor in found.tensors.items()}
    with writing_to(out):
        publish(out, lambda beside: save_file(tensors, beside, metadata=metadata))


def describe(found: Converted, out: Path | None) -> dict[str, Any]:
    """What was converted, for `--json`."""
    mean, std = found.mean_std or (None, None)
    return {
        "out": None if out is None else str(out),
        "model": found.model,
        "family": found.family,
        "tensors": len(found.tensors),
        "heads": list(found.heads),
        "unmapped": {name: list(shape) for name, shape in found.unmapped.items()},
        "missing": {name: list(shape) for name, shape in found.missing.items()},
        "misshaped": {name: [list(each) for each in shapes] for name, shapes in found.misshaped.items()},
        "mean": mean,
        "std": std,
    }
