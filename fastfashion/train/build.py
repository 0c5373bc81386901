"""The model of a run, as it is before the first step: built, laid out for its device, and tried."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fastfashion.config import RunConfig
from fastfashion.dist import World
from fastfashion.errors import FastfashionError, FirstStepError
from fastfashion.load import LoaderSpec
from fastfashion.model import Classifier, FirstStep, build_classifier, check_first_step, keep_heads, use_fast_convolutions
from fastfashion.model.probe import reason


def build_model(config: RunConfig, classes: dict[str, tuple[str, ...]], spec: LoaderSpec, world: World) -> tuple[Classifier, str]:
    """The classifier on its device, the same on every rank, and which heads it has from another run, in words.

    classes: the names of each task. Raises ConfigError where a step fails.
    """
    model = build_classifier(config.model, {task: len(names) for task, names in classes.items()}, spec.size)
    heads = keep_heads(model, classes, config.model.weights) if config.model.weights else ""
    model = model.to(world.device)
    if world.device.type == "cpu":
        use_fast_convolutions(model)
    synchronised = config.train.sync_bn and world.size > 1
    step = FirstStep(
        model=config.model.name,
        size=spec.size,
        device=world.device,
        precision=torch.bfloat16 if config.train.precision == "bf16" else torch.float32,
        images=spec.images_shape[0] * (world.size if synchronised else 1),
    )
    check_first_step(model, step)
    return model, heads


@contextmanager
def first_step_explained(is_first: Callable[[], bool]) -> Iterator[None]:
    """What breaks in the first step of a start becomes a FirstStepError, after which nothing is restarted."""
    try:
        yield
    except (FastfashionError, OSError):
        raise
    except Exception as error:
        if not is_first():
            raise
        if isinstance(error, torch.OutOfMemoryError):
            raise FirstStepError(
                f"the first step does not fit into the GPU's memory ({reason(error)}); use a smaller --batch-size or --size, or take each "
                "batch in portions with --set train.accumulate=2"
            ) from error
        raise FirstStepError(
            f"the first step failed ({reason(error)}). Started again it would fail in the same way; --debug shows where it failed"
        ) from error
