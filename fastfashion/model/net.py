"""The classifier: normalisation, a timm backbone, one linear head a task."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fastfashion.config import ModelConfig, Size
from fastfashion.errors import ConfigError, InputError
from fastfashion.model.convert import to_timm
from fastfashion.model.sizes import create_backbone, explain, takes
from fastfashion.model.weights import (
    MeanStd,
    check_declared,
    check_first_weights,
    check_fit,
    declared_mean_std,
    own_backbone,
    read_weights,
    weights_file,
)

_TAKEN = frozenset(dir(nn.ModuleDict()))


class Classifier(nn.Module):
    """uint8 images (B, H, W, 3) to logits {task: (B, C)}; the mean and std of the backbone's training are part of it.

    Instead of images it takes features, float (B, F), which only pass through the heads.
    In evaluation, logits are the mean over an image and its mirror image if `flip_average` is set, divided by the task's temperature
    (Guo et al. 2017), which is 1 until it is fitted.
    """

    mean: torch.Tensor
    std: torch.Tensor
    temperatures: torch.Tensor

    def __init__(
        self, backbone: nn.Module, classes: Mapping[str, int], mean: tuple[float, ...], std: tuple[float, ...], config: ModelConfig
    ) -> None:
        super().__init__()
        # Buffers, so that checkpoints are complete; in units of grey levels, 0 to 255.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)
        self.backbone = backbone
        self.register_buffer("temperatures", torch.ones(len(classes)))
        self.channels_last = True
        self.dropout = nn.Dropout(config.dropout)
        self.flip_average = config.flip_average
        self.num_features = int(getattr(backbone, "head_hidden_size", 0) or backbone.num_features)  # type: ignore[arg-type]
        self.tasks = tuple(classes)
        self.heads = nn.ModuleDict({_key(task): nn.Linear(self.num_features, num) for task, num in classes.items()})

    def lay_out(self, *, channels_last: bool) -> None:
        """Store weights, and compute, in channels-last memory or as NCHW; a few models fail in the former."""
        self.channels_last = channels_last
        kept = torch.channels_last if channels_last else torch.contiguous_format
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=kept)

    def head(self, task: str) -> nn.Linear:
        return self.heads[_key(task)]  # type: ignore[return-value]

    @staticmethod
    def head_key(task: str) -> str:
        """The name of a head among the weights, without the final .weight or .bias."""
        return f"heads.{_key(task)}"

    def features(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        """Pooled features (B, F); features are returned as they are. A permuted NHWC tensor is channels-last already."""
        if images_BHWC.dim() == 2:
            return images_BHWC
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).to(self.mean.dtype)
        if not self.channels_last:
            images_BCHW = images_BCHW.contiguous()
        return self.backbone((images_BCHW - self.mean) / self.std)

    def forward(self, images_BHWC: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.training:
            features_BF = self.dropout(self.features(images_BHWC))
            return {task: self.head(task)(features_BF) for task in self.tasks}
        # Heads are linear: the mean of the features gives the mean of the logits.
        features_BF = self.embedding(images_BHWC)
        return {task: self.head(task)(features_BF) / self.temperatures[t] for t, task in enumerate(self.tasks)}

    def embedding(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        """Pooled features (B, F), averaged with those of the mirror image if `flip_average` is set."""
        features_BF = self.features(images_BHWC)
        if not self.flip_average or images_BHWC.dim() == 2:
            return features_BF
        return (features_BF + self.features(images_BHWC.flip(2))) / 2


def probabilities(logits: Mapping[str, torch.Tensor], tasks: Iterable[str], who: str) -> dict[str, torch.Tensor]:
    """The softmax of each task's logits, float32 (B, C). Raises InputError, which names `who` and the task, for NaN."""
    found = {task: logits[task].float().softmax(dim=1) for task in tasks}
    for task, values in found.items():
        if not torch.isfinite(values).all():
            raise InputError(no_numbers(who, task))
    return found


def no_numbers(who: str, task: str) -> str:
    return f"{who}: the model outputs NaN for {task}, so its weights cannot be used; put best/ back from a copy, or train again"


def _key(task: str) -> str:
    """A head's name in its ModuleDict: the task's own, unless that has an attribute of the name, such as `type` or `training`."""
    return f"{task}_" if task in _TAKEN else task


def build_classifier(config: ModelConfig, classes: Mapping[str, int], size: Size) -> Classifier:
    """A classifier with first weights from the Hub, a file, or at random, in channels-last memory.

    Raises ConfigError for an unknown model, a size that it cannot be built for, weights that do not fit, and a Hub that does not answer.
    """
    from timm.data import resolve_model_data_config

    check_first_weights(config)
    check_declared(config)
    weights = read_weights(weights_file(config.weights)) if config.weights else {}
    own = own_backbone(weights)
    first, mean_std = (own, None) if own or not weights else _under_timms_names(config, weights)
    backbone = _build_backbone(config, size, first)
    check_fit(first, backbone, config)
    data = resolve_model_data_config(backbone)
    mean, std = mean_std or (data["mean"], data["std"])
    classifier = Classifier(backbone, classes, mean, std, config)
    if own:  # a run's weights expect images that are normalised as in that run
        classifier.mean.copy_(weights["mean"])
        classifier.std.copy_(weights["std"])
    classifier.lay_out(channels_last=True)
    return classifier


def _under_timms_names(config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> tuple[Mapping[str, torch.Tensor], MeanStd | None]:
    """Weights of any package under timm's names, and the mean and std of their images if these are not those of timm's model."""
    found = to_timm(weights, config.name, f"--weights {config.weights}")
    if found.family != "timm":
        return found.tensors, found.mean_std
    # timm itself makes weights fit that it wrote in earlier versions, or for another size.
    return found.unwrapped, declared_mean_std(weights_file(config.weights))


def _build_backbone(config: ModelConfig, size: Size, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """A backbone with the weights, if any, or those of the Hub; timm makes them fit another size."""
    settings: dict[str, Any] = {"pretrained_cfg_overlay": {"state_dict": dict(weights)}} if weights else {}
    try:
        return create_backbone(config.name, size, pretrained=config.pretrained or bool(config.weights), **settings)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if takes(config.name, size):
            source = config.weights or ("the Hub" if config.pretrained else "nothing")
            raise ConfigError(f"model {config.name} at {size} with weights from {source} cannot be built: {reason}") from error
        raise ConfigError(explain(config.name, size, reason)) from error
