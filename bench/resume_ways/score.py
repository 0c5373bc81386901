"""What a way lost, from the logs of its two runs. Pure functions of lists of lines; a line is a batch of a process."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]  # rank, epoch, step, ids, draws


@dataclass(frozen=True)
class Score:
    """lost and doubled: samples of the broken epoch. The second run is compared with what the first got after the state was saved."""

    lost: int
    doubled: int
    same_ids: bool  # every sample of the rest, and each once
    same_order: bool  # in the same order; between numbers of processes: in the same global batches
    same_pixels: bool  # every sample of the rest with the same draws
    next_lost: int
    next_doubled: int
    next_same_order: bool
    next_repeats: bool  # the epoch after has the order of the broken one, and the first run's has another
    epochs_alike: bool  # the first run has the same order in both epochs
    unbroken: int  # different samples that the first run got in the broken epoch
    rest: int  # samples of these after the state was saved
    starts_next: bool  # nothing was left, and the second run started the next epoch at once


def read_log(folder: Path, run: str) -> list[Line]:
    """All lines of a run, by rank and then as written."""
    logs = sorted(folder.glob(f"{run}-*.jsonl"))
    return [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]


def score(first: Sequence[Line], second: Sequence[Line], *, epoch: int, step: int) -> Score:
    """Compare a run whose state was saved after `step` of `epoch` with the run that loaded it.

    Where nothing is left of the epoch, a loader may give an empty iteration or the next epoch at once; both are right.
    """
    broken = [line for line in first if line["epoch"] == epoch]
    before = [line for line in broken if line["step"] <= step]
    rest = [line for line in broken if line["step"] > step]
    resumed = [line for line in second if line["epoch"] == epoch]
    after = [line for line in first if line["epoch"] == epoch + 1]
    starts_next = not rest and bool(resumed) and same_order(after, resumed)
    if starts_next:
        resumed, after_resumed = [], resumed
    else:
        after_resumed = [line for line in second if line["epoch"] == epoch + 1]
    lost, doubled = difference(ids(broken), ids(before) + ids(resumed))
    next_lost, next_doubled = difference(ids(after), ids(after_resumed))
    return Score(
        lost=lost,
        doubled=doubled,
        same_ids=lost == doubled == 0,
        same_order=same_order(rest, resumed),
        same_pixels=draws(rest) == draws(resumed),
        next_lost=next_lost,
        next_doubled=next_doubled,
        next_same_order=same_order(after, after_resumed),
        next_repeats=same_order(broken, after_resumed) and not same_order(broken, after),
        epochs_alike=same_order(broken, after),
        unbroken=len(set(ids(broken))),
        rest=len(ids(rest)),
        starts_next=starts_next,
    )


def ids(lines: Iterable[Line]) -> list[int]:
    return [row for line in lines for row in line["ids"]]


def draws(lines: Iterable[Line]) -> list[tuple[int, float]]:
    return sorted((row, draw) for line in lines for row, draw in zip(line["ids"], line["draws"], strict=True))


def difference(expected: Iterable[int], found: Iterable[int]) -> tuple[int, int]:
    """Samples that are missing altogether, and how often samples are there beyond what was expected."""
    wanted, got = Counter(expected), Counter(found)
    return len(wanted.keys() - got.keys()), (got - wanted).total()


def same_order(one: Sequence[Line], other: Sequence[Line]) -> bool:
    """The same samples in the same order on each rank; where the numbers of ranks differ, the same samples in each global batch."""
    ranks = [{line["rank"] for line in lines} for lines in (one, other)]
    if len(ranks[0]) != len(ranks[1]) and all(ranks):
        return global_batches(one) == global_batches(other)
    return all(
        ids(line for line in one if line["rank"] == rank) == ids(line for line in other if line["rank"] == rank)
        for rank in ranks[0] | ranks[1]
    )


def global_batches(lines: Iterable[Line]) -> list[list[int]]:
    """Ids of all ranks by step, sorted."""
    steps: dict[int, list[int]] = {}
    for line in lines:
        steps.setdefault(line["step"], []).extend(line["ids"])
    return [sorted(steps[step]) for step in sorted(steps)]
