"""What training says while it runs, in lines of at most 100 columns."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from fastfashion.train.checkpoint import Progress

COLUMNS = 100


def epoch_text(progress: Progress, epochs: int, scores: Mapping[str, Mapping[str, float | int]], weights: Mapping[str, float]) -> str:
    """How good an epoch was on validation; `progress` is that of its end. Of several labels the weighted mean first, then each."""
    begin, best = f"epoch {progress.epoch}/{epochs}: accuracy/macro F1 on validation:", " (the best so far)" if progress.has_best else ""
    each = [f"{task} {score['accuracy']:.4f}/{score['macro_f1']:.4f}" for task, score in scores.items()]
    whole = f"{begin} {', '.join(each)}{best}"
    if len(each) == 1:
        return whole
    means = "/".join(f"{weighted_mean(scores, weights, name):.4f}" for name in ("accuracy", "macro_f1"))
    return "\n".join([f"{begin} mean {means}{best}", *wrapped(each, "  ")])


def weighted_mean(scores: Mapping[str, Mapping[str, float | int]], weights: Mapping[str, float], name: str) -> float:
    """Of one metric over labels; a label without a weight counts 1, and all count alike where all weights are 0."""
    shares = {task: weights.get(task, 1.0) for task in scores}
    if not sum(shares.values()):
        shares = dict.fromkeys(scores, 1.0)
    return sum(share * float(scores[task][name]) for task, share in shares.items()) / sum(shares.values())


def wrapped(items: Iterable[str], indent: str) -> list[str]:
    """Items with commas between, in as few lines as fit."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 3 <= COLUMNS:
            lines[-1] += f", {item}"
        else:
            lines = [f"{line}," if line is lines[-1] else line for line in lines] + [f"{indent}{item}"]
    return lines


def resumed_text(run: Path, progress: Progress, num_steps: int, epochs: int) -> str:
    """Where a run is resumed."""
    if progress.epoch >= epochs:
        return f"{run}: all {epochs} epochs are done"
    where = f"in epoch {progress.epoch + 1} of {epochs}"
    if progress.step >= num_steps:
        return f"{run}: resuming with the validation {where}"
    return f"{run}: resuming at step {progress.step + 1} of {num_steps} {where}"
