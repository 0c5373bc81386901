"""What the files that `train` and `evaluate` leave in a run hold: field by field, as untrusted.py checks them."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from fastfashion.untrusted import Count, Sha256

Settings = dict[str, dict[str, str | bool | int | float]]  # config.json, by section; RunConfig knows the names and ranges
Share = Annotated[float, msgspec.Meta(ge=-1e-6, le=1 + 1e-6)]  # means of floats may be a last bit past 1


class PartReport(TypedDict):
    n: Count
    accuracy: Share | None


class ClassReport(TypedDict):
    name: str
    precision: Share
    recall: Share
    f1: Share
    support: Count


class TaskReport(TypedDict):
    n: Count
    accuracy: Share
    macro_f1: Share
    balanced_accuracy: Share
    top3_accuracy: Share
    calibration_error: Share
    chance_accuracy: Share
    intervals: dict[str, tuple[Share, Share]]
    with_duplicate_in_training: PartReport
    without_duplicate_in_training: PartReport
    classes: list[ClassReport]
    test_ids_sha256: NotRequired[Sha256]


class SplitReport(TypedDict):
    protocol: str
    seed: int
    by: list[str]
    num_rows: Count
    train_rows: Count
    train_ids_sha256: NotRequired[Sha256]


class SetReport(TypedDict):
    path: str
    num_rows: Count
    ids_sha256: Sha256


class Report(TypedDict):
    """report.json, as far as anybody reads it."""

    split: SplitReport
    tasks: dict[str, TaskReport]
    set: NotRequired[SetReport]
    skipped: NotRequired[list[dict[str, Any]]]


class MetricsLine(TypedDict):
    """A line of metrics.jsonl, as far as anybody reads it; `step` counts over all epochs."""

    kind: Literal["start", "step", "epoch"]
    epoch: Count
    step: Count
    loss: NotRequired[float | None]
    val: NotRequired[dict[str, dict[str, float | None]] | None]
    time: NotRequired[dict[str, float | None] | None]
