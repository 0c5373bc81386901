"""Samples in the forms of torch.utils.data: an id and the random number that its augmentation draws."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from resume_ways.job import draw


class Samples(Dataset):
    """Map-style."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> tuple[int, float]:
        return row, draw()


class SamplesWithState(Samples):
    """Map-style, with the state of the generator, as torchdata's tutorial shows: "Saving Custom State with Map-Style Datasets"."""

    def state_dict(self) -> dict[str, Any]:
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"])


class Stream(IterableDataset):
    """Iterable, in fixed order, without a length; each worker reads every n-th row."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[tuple[int, float]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for row in range(first, self.rows, step):
            yield row, draw()
