"""Made by tools/reference.py from fastfashion/api.py and fastfashion/command_options.py."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from fastfashion.api import Audit, Compared, Evaluated, Images, Place, Report, Run, Set, Splits, Verified
from fastfashion.api import loader as loader
from fastfashion.api import open_loader as open_loader
from fastfashion.api import open_packed_set as open_packed_set
from fastfashion.api import open_run as open_run
from fastfashion.audit.preview import PreviewSummary
from fastfashion.errors import FastfashionError as FastfashionError
from fastfashion.export.export import ExportSummary
from fastfashion.pack import PackSummary
from fastfashion.runs.folder import TrainSummary
from fastfashion.sources.download import Downloaded
from fastfashion.sources.synth import SynthSummary

__version__: str

def audit(
    shards: Set | None = ...,
    *,
    where: str | None = ...,
    classes: str | None = ...,
    class_map: str | None = ...,
    min_class_size: int | None = ...,
    run: Run | Sequence[Run] = ...,
    corrections: Place | None = ...,
    quality: bool | None = ...,
    out: Place | None = ...,
    raw: bool = ...,
    workers: int = ...,
) -> Audit:
    """Report what a packed set holds: sizes, bytes, classes, and duplicates, including those that splits leak into tests."""

def compare(
    first: Run,
    second: Run,
) -> Compared:
    """Test whether one run is better than another: McNemar's exact test and intervals of the differences, on rows both were tested on."""

def download(
    which: str,
    out: Place = ...,
    *,
    timeout: float = ...,
) -> Downloaded:
    """Download Fashion Product Images from Kaggle: one zip, checked, which the other commands read as it is."""

def evaluate_run(
    run: Run,
    *,
    shards: Set | None = ...,
    rows: str = ...,
    batch_size: int = ...,
    workers: int = ...,
    device: str | torch.device | None = ...,
) -> Evaluated:
    """Test a run's best weights on the test rows of its split; writes report.json, predictions.parquet and plots/."""

def export(
    run: Run,
    to: str,
    *,
    out: Place | None = ...,
    int8: bool = ...,
    task: str | Sequence[str] = ...,
    shards: Set | None = ...,
) -> ExportSummary:
    """Export a run's best model: ONNX, a timm folder with a model card, or a page for a Hugging Face Space."""

def predict(
    run: Run,
    paths: Images | Iterable[Images],
    *,
    top: int = ...,
    task: str | Sequence[str] = ...,
    batch_size: int = ...,
    workers: int | None = ...,
    device: str | torch.device | None = ...,
) -> Iterator[Report]:
    """Predict what images show: paths, addresses, folders, zips, packed sets; in Python also PIL images, uint8 arrays and encoded bytes."""

def preview(
    shards: Set | None = ...,
    *,
    where: str | None = ...,
    classes: str | None = ...,
    class_map: str | None = ...,
    min_class_size: int | None = ...,
    task: str | Sequence[str] = ...,
    rows: int = ...,
    row: tuple[int, ...] = ...,
    out: Place = ...,
    size: str | None = ...,
    seed: int = ...,
    recipe: str = ...,
    settings: Mapping[str, Any] | None = ...,
    workers: int | None = ...,
) -> PreviewSummary:
    """Draw a sheet of packed images, each beside what the model sees of it in three epochs of augmentation."""

def serve(
    run: Run,
    *,
    shards: Set | None = ...,
    host: str = ...,
    port: int = ...,
    auth: str | None = ...,
    auth_file: Place | None = ...,
    allow_host: str | Sequence[str] = ...,
    max_mb: int = ...,
    max_pixels: int = ...,
    max_files: int = ...,
    max_queue: int = ...,
    workers: int | None = ...,
) -> None:
    """Show a run on a page: answers as bars, where the model looked, the nearest products, batches, test results, an HTTP API."""

def shard(
    source: Place | None = ...,
    out: Place | None = ...,
    *,
    table: str = ...,
    id_column: str = ...,
    label_columns: str | Sequence[str] | None = ...,
    na_values: str | Sequence[str] | None = ...,
    res: int | str | Sequence[int | str] = ...,
    quality: int = ...,
    max_rejected: int = ...,
    max_pixels: int = ...,
    workers: int | None = ...,
    engine: str = ...,
    address: str | None = ...,
) -> PackSummary:
    """Pack images and their table into shards, at one or several resolutions, on disk or object storage."""

def splits(
    shards: Set | None = ...,
    *,
    where: str | None = ...,
    classes: str | None = ...,
    class_map: str | None = ...,
    min_class_size: int | None = ...,
    protocol: str = ...,
    split_file: str | None = ...,
    split_column: str | None = ...,
    split_by: str = ...,
    seed: int = ...,
    fold: int = ...,
    task: str | Sequence[str] = ...,
    out: Place = ...,
    raw: bool = ...,
) -> Splits:
    """Write which rows are in which part of the split that training uses for these tasks."""

def synth(
    out: Place = ...,
    *,
    rows: int = ...,
    size: str = ...,
    seed: int = ...,
    workers: int | None = ...,
    res: str | None = ...,
) -> SynthSummary:
    """Draw a synthetic data set in the layout of the real one."""

def train_run(
    shards: Set | None = ...,
    *,
    task: str | Sequence[str] = ...,
    model: str | None = ...,
    size: str | None = ...,
    pretrained: bool | None = ...,
    weights: str | None = ...,
    recipe: str = ...,
    epochs: int | None = ...,
    batch_size: int | None = ...,
    settings: Mapping[str, Any] | None = ...,
    nproc: int | None = ...,
    runs: Place = ...,
    name: str | None = ...,
    resume: str = ...,
    seed: int | None = ...,
    allow_config_change: str | Sequence[str] = ...,
    split_by: str | None = ...,
    protocol: str | None = ...,
    split_file: str | None = ...,
    split_column: str | None = ...,
    where: str | None = ...,
    classes: str | None = ...,
    class_map: str | None = ...,
    min_class_size: int | None = ...,
    corrections: str | None = ...,
    workers: int | None = ...,
) -> TrainSummary:
    """Train a classifier on a packed set; the same call resumes a run that was interrupted."""

def verify(
    shards: Set | None = ...,
    source: Place | None = ...,
    *,
    repair: bool = ...,
    table: str = ...,
    id_column: str = ...,
    workers: int | None = ...,
) -> Verified:
    """Compare every byte of a packed set with its checksums; with repair, pack damaged shards again."""
