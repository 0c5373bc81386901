"""The model, built and tried, with all that changes while it learns: optimiser, learning rate, moving average."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastfashion.config import OptimConfig, RunConfig
from fastfashion.dist import World
from fastfashion.errors import ConfigError
from fastfashion.load import LoaderSpec
from fastfashion.model.artifact import keep_heads
from fastfashion.model.first_step import check_first_step
from fastfashion.model.layers import synchronise_batch_norm, use_fast_convolutions
from fastfashion.model.net import Classifier, build_classifier

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def build_model(config: RunConfig, classes: dict[str, tuple[str, ...]], spec: LoaderSpec, world: World) -> tuple[Classifier, str]:
    """The classifier on its device, the same on every rank, and a sentence on the heads that it has from another run.

    classes: the names of each task. Raises ConfigError if a step of training fails with it.
    """
    model = build_classifier(config.model, {task: len(names) for task, names in classes.items()}, spec.size)
    heads = keep_heads(model, classes, config.model.weights) if config.model.weights else ""
    model = model.to(world.device)
    if world.device.type == "cpu":
        use_fast_convolutions(model)
    synchronised = config.train.sync_bn and world.size > 1
    precision = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    images = spec.images_shape[0] * (world.size if synchronised else 1)
    check_first_step(model, config.model.name, spec.size, world.device, precision, images)
    model.backbone.requires_grad_(not config.model.freeze)
    return model, heads


class Learner:
    """Trains `model`, in place. Raises ConfigError if a setting needs a GPU and there is none."""

    def __init__(self, config: RunConfig, model: Classifier, world: World, total_steps: int) -> None:
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        train, optim = config.train, config.optim
        if train.cuda_graphs and world.device.type != "cuda":
            raise ConfigError("train.cuda_graphs: needs an NVIDIA GPU, and there is none here; train.compile works without")
        if train.sync_bn and world.size > 1:
            model = synchronise_batch_norm(model, world.device)
        self.model = model
        self.learning_rate = schedule(optim, total_steps)
        self.precision = torch.bfloat16 if train.precision == "bf16" else torch.float32
        self.clip_norm = optim.clip_norm or math.inf
        groups = parameter_groups(model, optim.weight_decay, 1.0 if config.model.freeze else config.model.layer_decay)
        self.optimizer = create_optimizer_v2(groups, opt=optim.optimizer, lr=optim.lr, weight_decay=optim.weight_decay, fused=optim.fused)
        self._fused, self._device = optim.fused, world.device
        self._ema = ModelEmaV3(model, decay=optim.ema_decay, use_warmup=True) if optim.ema_decay else None
        module: nn.Module = model
        if train.compile or train.cuda_graphs:
            module = torch.compile(model, mode="reduce-overhead" if train.cuda_graphs else "default")  # type: ignore[assignment]
        if world.size > 1:
            # Unless it looks for unused parameters DDP sorts its buckets again after the first step of each start: then three or more
            # ranks of a resumed run would add the same gradients in another order.
            module = DistributedDataParallel(
                module,
                device_ids=[world.device] if world.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                find_unused_parameters=train.deterministic and world.size > 2,
            )
        self.wrapped = module

    @property
    def averaged(self) -> Classifier:
        """What is validated and kept: the moving average if there is one, else the model."""
        return self._ema.module if self._ema is not None else self.model

    def alone(self) -> "contextlib.AbstractContextManager[None]":
        """Within it backward passes add up the gradients of this process alone, without a reduction over ranks."""
        return self.wrapped.no_sync() if isinstance(self.wrapped, DistributedDataParallel) else contextlib.nullcontext()

    def update(self, step: int) -> torch.Tensor:
        """Change the weights by their gradients and take them into the average; returns the gradient's norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step) * group.get("lr_scale", 1.0)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._ema is not None:
            self._ema.update(self.model, step=step)
        return norm

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a checkpoint holds, by name, on its device, without a copy: the next step changes it."""
        found = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self._ema is not None:
            found |= {f"average/{name}": tensor for name, tensor in self._ema.module.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            found |= {f"optimizer/{name}/{key}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from what `tensors` returned, on any device."""
        self.model.load_state_dict(below("model/", tensors))
        if self._ema is not None:
            self._ema.module.load_state_dict(below("average/", tensors))
        for name, parameter in self.model.named_parameters():
            for key, value in below(f"optimizer/{name}/", tensors).items():
                self.optimizer.state[parameter][key] = self._placed(key, value, parameter)

    def _placed(self, key: str, value: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        """On the device and in the memory order of the optimiser: fused kernels assume both."""
        if key == "step":
            return value.to(self._device if self._fused else "cpu")
        return torch.empty_like(parameter).copy_(value)


def parameter_groups(model: Classifier, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """The parameters that learn, for an optimiser: biases and norms without decay, and layers with an `lr_scale` each.

    A layer's scale is layer_decay ** (layers between it and the heads), theirs is 1 (Bao et al. 2022, BEiT; the layers are timm's). Raises
    ConfigError if timm does not know the layers of the backbone.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    if layer_decay == 1:
        return param_groups_weight_decay(model, weight_decay)
    listed: Any = getattr(model.backbone, "no_weight_decay", set)  # such as position embeddings
    below = param_groups_layer_decay(model.backbone, weight_decay, no_weight_decay_list=set(listed()), layer_decay=layer_decay)
    if len({group["lr_scale"] for group in below}) == 1:
        raise ConfigError(f"model.layer_decay={layer_decay:g}: timm does not know the layers of this model; use 1, or another model")
    return below + [group | {"lr_scale": 1.0} for group in param_groups_weight_decay(model.heads, weight_decay)]


def best_state(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that best/ keeps, from a checkpoint's tensors."""
    return below("average/", tensors) or below("model/", tensors)


def below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def schedule(config: OptimConfig, total_steps: int) -> Callable[[int], float]:
    """Learning rate of a step: linear warm-up from 0, then half a cosine down to 0 (Loshchilov & Hutter 2017), or constant."""
    warmup = math.ceil(config.warmup_share * total_steps)

    def rate(step: int) -> float:
        if step < warmup:
            return config.lr * (step + 1) / warmup
        if config.schedule == "constant":
            return config.lr
        return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    return rate


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's own random numbers (dropout, drop path) for this step, so that no generator's state must be saved."""
    torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)


@contextlib.contextmanager
def determinism(on: bool) -> Iterator[None]:
    """If `on`, torch computes the same bits each time within it, or raises RuntimeError; if not, cuDNN may choose the fastest kernels."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    set_here = on and CUBLAS not in os.environ
    if set_here:
        os.environ[CUBLAS] = ":4096:8"  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.benchmark = not on
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        if set_here:
            os.environ.pop(CUBLAS, None)
