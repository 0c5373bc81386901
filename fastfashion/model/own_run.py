"""The heads of a run as the first ones of another, for labels whose classes are the same."""

from collections.abc import Mapping, Sequence

import torch

from fastfashion.errors import ConfigError
from fastfashion.model.description import described
from fastfashion.model.net import Classifier
from fastfashion.model.weights import DESCRIPTION, read_safetensors, weights_file


def keep_heads(model: Classifier, classes: Mapping[str, Sequence[str]], given: str) -> str:
    """Give the model the heads of the run that `given` is, of labels with the same classes in any order; says what was done.

    classes: the names of each label's classes, in the model's order. Says nothing where `given` is no run's.
    """
    description = described(given)
    if description is None:
        return ""
    known = description.classes
    tensors = read_safetensors(weights_file(given))
    kept, anew = [], []
    for task, names in classes.items():
        before = known.get(task)
        if before is None or sorted(before) != sorted(names):
            why = "not among its labels" if before is None else f"{len(before)} classes there, {len(names)} here"
            anew.append(f"{task} ({why if before is None or len(before) != len(names) else 'other classes'})")
            continue
        rows = torch.tensor([before.index(name) for name in names])
        head = model.head(task)
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                tensor = tensors.get(f"{model.head_key(task)}.{name}")
                if tensor is None or tensor.shape != parameter.shape:
                    raise ConfigError(f"--weights {given}: it has no head of {len(names)} classes of {task}, as {DESCRIPTION} says")
                parameter.copy_(tensor[rows])
        kept.append(task)
    parts = [f"heads kept: {', '.join(kept)}"] if kept else []
    parts += [f"begun anew: {', '.join(anew)}"] if anew else []
    return f"{given}: {'; '.join(parts)}"
