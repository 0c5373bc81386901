"""How the threads backend cuts a batch into tasks, and that the images do not depend on it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PackedSmall

from fastfashion import dist
from fastfashion.config import AugmentConfig, DataConfig
from fastfashion.load import Loader, LoaderSpec, Selection, make_spec, threads
from fastfashion.shards import open_packed_set


def spec_of(packed_small: PackedSmall, batch_size: int = 60, workers: int = 1, **more: Any) -> LoaderSpec:
    packed = open_packed_set(packed_small.out)
    chosen = Selection(rows=np.arange(len(packed)), batch_size=batch_size, augment=AugmentConfig(**more))
    data = DataConfig(resolution="full", size="48x40", backend="threads", workers=workers)
    return make_spec(packed, chosen, data, dist.World(device=torch.device("cpu")))


TASKS = [(2_400, 1, 64), (13_000, 1, 15), (700_000, 1, 4), (2_400, 9, 10), (2_400, 99, 4)]


@pytest.mark.parametrize(("mean_bytes", "workers", "expected"), TASKS)
def test_a_task_has_two_hundred_kilobytes_but_leaves_work_for_every_thread(
    mean_bytes: int, workers: int, expected: int, packed_small: PackedSmall
) -> None:
    spec = spec_of(packed_small, workers=workers)
    spec = replace(spec, images=replace(spec.images, num_bytes=np.full_like(spec.images.num_bytes, mean_bytes)))
    assert threads.chunk_size(spec) == expected


def test_the_images_do_not_depend_on_the_size_of_a_task(packed_small: PackedSmall, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (1, 7, 64):
        monkeypatch.setattr(threads, "chunk_size", lambda spec, size=size: size)
        with Loader(spec_of(packed_small, erase=0.5, brightness=0.3)) as loader:
            found.append(torch.cat([batch.images for batch in loader.steps(1)]))
    assert all(torch.equal(found[0], other) for other in found[1:])
