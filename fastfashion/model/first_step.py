"""One training step of two images before training starts: what would fail in the first step fails here, with an explanation."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from fastfashion.config import Size
from fastfashion.errors import ConfigError
from fastfashion.model.net import Classifier
from fastfashion.model.sizes import explain

PROBED = 2  # images: batch norm over one value a channel fails, whatever the model is


def check_first_step(model: Classifier, name: str, size: Size, device: torch.device, precision: torch.dtype, images: int) -> None:
    """Raises ConfigError if a step of training fails, with what to choose instead.

    name: timm's; images: in a batch of one process. If channels-last fails and NCHW does not, the model changes to NCHW. Nothing else of
    it changes, and random generators do not.
    """
    fails = partial(_error, model, size, device, precision)
    error = fails(PROBED)
    if error is not None and model.channels_last and not _is_memory(error):
        model.lay_out(channels_last=False)
        error = fails(PROBED)
    if error is None:
        if images == 1 and (error := fails(1)) is not None:
            raise ConfigError(
                f"a batch of one image a process: {name} normalises over its batch and fails on one image of {size} "
                f"({reason(error)}); choose a --batch-size of two or more images for each process and micro-batch (train.accumulate), "
                "or a larger --size"
            ) from error
        return
    if _is_memory(error):
        raise ConfigError(f"model {name}: two images of {size} do not fit into the memory of {device}; choose another") from error
    raise ConfigError(explain(name, size, reason(error))) from error


def reason(error: BaseException) -> str:
    """The first line of an error with its type; an assertion's may be empty."""
    return f"{type(error).__name__}: {lines[0]}" if (lines := str(error).strip().splitlines()) else type(error).__name__


def _is_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)


def _error(model: Classifier, size: Size, device: torch.device, precision: torch.dtype, images: int) -> Exception | None:
    """The error of a forward and a backward pass, if any."""
    drawn = torch.Generator().manual_seed(0)
    shape = (images, size.height_px, size.width_px, 3)
    pixels = torch.randint(0, 256, shape, generator=drawn, dtype=torch.uint8).to(device)
    with _untouched(model, device):
        model.train()
        try:
            with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                loss = torch.stack([logits_BC.float().logsumexp(dim=1).sum() for logits_BC in model(pixels).values()]).sum()
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        except Exception as error:
            return error.with_traceback(None)
    return None


@contextmanager
def _untouched(model: Classifier, device: torch.device) -> Iterator[None]:
    """Restore buffers, gradients, modes and random generators afterwards."""
    buffers = [(module, name, buffer, buffer.clone()) for module in model.modules() for name, buffer in module.named_buffers(recurse=False)]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    tuned, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False  # tuning for these two images takes seconds
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 - a model's own code may use it
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.backends.cudnn.benchmark = tuned
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002
        with torch.no_grad():
            for module, name, buffer, values in buffers:
                buffer.copy_(values)
                module._buffers[name] = buffer
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
