"""A linear probe: the features of all images, computed once by a backbone that stays as it is, and batches of them for the heads.

images, whole ─► backbone ─► features, once ─► FeatureLoader ─► the same trainer, which then trains heads in seconds
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from fastfashion import dist
from fastfashion.bars import tqdm
from fastfashion.errors import InputError, TrainingError
from fastfashion.load import Batch, Loader, LoaderSpec, Skipped, in_order
from fastfashion.load.feed import Feed, Made, finish
from fastfashion.load.resident import SHARE_OF_MEMORY, free_bytes
from fastfashion.model.net import Classifier

BATCH = 256  # images at a time, over all processes: nothing is kept for a backward pass


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a backbone says of some rows of a set."""

    values: torch.Tensor  # float32 (n, F) on the device
    places: np.ndarray  # int64 (N,): the line in `values` of each row of the set; -1: none
    skipped: dict[int, Skipped]  # rows without features, because of decode errors


class FeatureLoader:
    """A rank's batches, as `Loader.steps` gives them, whose `images` are features, float32 (B, F)."""

    def __init__(self, spec: LoaderSpec, features: Features) -> None:
        self._spec = replace(spec, plan=replace(spec.plan, augment=None, shuffle=spec.plan.shuffled))
        self._features = features
        self.skipped: dict[int, Skipped] = {}

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return self._spec.plan.num_steps

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start`, in the order of the plan."""
        known = self._features
        for planned in Feed(self._spec).planned(epoch, self._spec.plan.edge(start)):
            rows = planned.part.fetch
            places = torch.from_numpy(np.maximum(known.places[rows], 0)).to(known.values.device)
            errors = {slot: InputError(known.skipped[int(rows[slot])].reason) for slot in np.flatnonzero(known.places[rows] < 0).tolist()}
            yield finish(self._spec, Made(planned, known.values[places], errors), self.skipped)

    def close(self) -> None:
        """Nothing to end: it has no threads."""


def compute_features(model: Classifier, spec: LoaderSpec, val_spec: LoaderSpec, world: dist.World, precision: torch.dtype) -> Features:
    """The features of all rows of both specs, of whole images, on every rank; each rank computes its share.

    Averaged with those of the mirror images if the model averages its answers. Raises TrainingError if they do not fit into memory.
    """
    rows = np.union1d(spec.plan.rows, val_spec.plan.rows)
    size = model.num_features
    needed, free = 4 * len(rows) * size, free_bytes(world.device)
    if needed > SHARE_OF_MEMORY * free:
        raise TrainingError(
            f"model.freeze: {size} features of {len(rows):,} images take {needed / 1e9:.3g} GB, of which at most "
            f"{SHARE_OF_MEMORY * free / 1e9:.3g} GB are free on {world.device}; train with model.freeze=false, or on fewer rows"
        )
    whole = in_order(spec, rows, np.full((len(spec.labels), 0), -1, dtype=np.int64))
    whole = replace(whole, plan=replace(whole.plan, batch_size=min(len(rows), max(BATCH, world.size))), tasks=(), num_classes=())
    found, values, skipped = _computed(model, whole, world, precision)
    if world.size > 1:
        shares = dist.gather(world, (found, values.cpu().numpy(), skipped))
        found = np.concatenate([rows for rows, _, _ in shares])
        values = torch.from_numpy(np.concatenate([part for _, part, _ in shares])).to(world.device)
        skipped = {row: one for _, _, part in shares for row, one in part.items()}
    places = np.full(len(spec.labels), -1, dtype=np.int64)
    places[found] = np.arange(len(found))
    return Features(values=values, places=places, skipped=skipped)


def _computed(
    model: Classifier, spec: LoaderSpec, world: dist.World, precision: torch.dtype
) -> tuple[np.ndarray, torch.Tensor, dict[int, Skipped]]:
    """This rank's rows, int64 (n,), their features on its device, float32 (n, F), and what was skipped."""
    rows, parts = [], []
    was_training = model.training
    model.eval()
    autocast = torch.autocast(world.device.type, dtype=precision, enabled=precision != torch.float32)
    with Loader(spec) as loader, torch.no_grad(), autocast:
        silent = None if world.is_main else True  # None: unless it is a terminal
        for batch in tqdm(loader.steps(0), "features", total=loader.num_steps, unit="batch", disable=silent, leave=False):
            real = batch.rows >= 0
            rows.append(batch.rows[real].cpu())
            parts.append(model.embedding(batch.images)[real].float())
        skipped = dict(loader.skipped)
    model.train(was_training)
    return torch.cat(rows).numpy(), torch.cat(parts), skipped
