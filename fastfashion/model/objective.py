"""Masked losses that do not depend on how a global batch is divided among ranks."""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional


def objective(
    logits: Mapping[str, torch.Tensor], labels_BT: torch.Tensor, num_labelled: Sequence[int], world_size: int, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy summed over tasks, each the mean over the labelled rows of the *global* batch (scalar, float32).

    Rows with label -1 do not count. DistributedDataParallel averages gradients over ranks, hence the factor `world_size`: the
    gradient is that of one process with the whole batch.
    """
    total = labels_BT.new_zeros((), dtype=torch.float32)
    for t, logits_BC in enumerate(logits.values()):
        losses = functional.cross_entropy(
            logits_BC.float(), labels_BT[:, t], ignore_index=-1, reduction="sum", label_smoothing=label_smoothing
        )
        total = total + losses * (world_size / max(1, num_labelled[t]))
    return total
