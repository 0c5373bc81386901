"""Masked losses that do not depend on how a global batch is divided among ranks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn import functional

from fastfashion.load import Batch


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Additions to plain cross-entropy."""

    label_smoothing: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)  # of a task in the sum; 1 for a task without one


PLAIN = LossSettings()


def objective(logits: Mapping[str, torch.Tensor], batch: Batch, world_size: int, settings: LossSettings = PLAIN) -> torch.Tensor:
    """Weighted sum over tasks of cross-entropy, each the mean over the labelled rows of the *global* batch (scalar, float32).

    Rows with label -1 do not count. A mixed image counts its own label with its share and its partner's with the rest (Zhang et al.
    2018): a row's label weighs share + (1 - share) = 1 over the pair, so that the divisor is the number of labelled rows with mixing, too.
    DistributedDataParallel averages gradients over ranks, hence the factor `world_size`; `Step.part` keeps pairs on one rank.
    """
    total = batch.labels.new_zeros((), dtype=torch.float32)
    for t, (task, logits_BC) in enumerate(logits.items()):
        losses = partial(functional.cross_entropy, logits_BC.float(), ignore_index=-1, label_smoothing=settings.label_smoothing)
        if batch.partners is None or batch.shares is None:
            summed = losses(batch.labels[:, t], reduction="sum")
        else:
            own, partners = (losses(labels_B, reduction="none") for labels_B in (batch.labels[:, t], batch.labels[batch.partners, t]))
            summed = (batch.shares * own + (1 - batch.shares) * partners).sum()
        total = total + summed * (settings.weights.get(task, 1.0) * world_size / max(1, batch.num_labelled[t]))
    return total
