"""The first stage of the GPU check: every backend makes the same images, training learns, and a killed run goes on exactly.

plan ─► threads on the CPU: the reference
   └──► DALI on the CPU, on the GPU; resident on the GPU ─► difference in grey levels, by image ─► against a tolerance
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastfashion import dist
from fastfashion.bench.gpu_record import Check, Record
from fastfashion.bench.gpu_sets import KINDS, OF_KINDS, SMALL_40, STOCKS, TASK, Stock, make_spec, rows_of_kind
from fastfashion.config import AugmentConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from fastfashion.errors import ConfigError
from fastfashion.load import LoaderSpec, open_loader
from fastfashion.runs.opened import read_metrics
from fastfashion.shards import open_packed_set
from fastfashion.train.checkpoint import read_checkpoint
from fastfashion.train.job import resolve, train
from fastfashion.train.learner import below

# Mean difference, grey levels of 0..255, that no image may exceed. The CPU's backends stay below 0.45 (1800x2400, where threads decode
# at a smaller scale), most below 0.05; a crop box that is off by one pixel comes to 2 and more, which is in each row as `one_pixel_off`.
TOLERANCE = 1.0
CROPS = "crops and flips"
WORK = {
    "whole images": None,
    CROPS: AugmentConfig(),
    "crops, flips, colour, erasing": AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, grayscale=0.2, erase=0.3),
    "crops, flips, mixing": AugmentConfig(mixup=0.4, cutmix=1.0),
}
DALI_CPU = "dali on cpu"
EPOCH = 1
RUN_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Images:
    """An epoch as a backend made it: rows int64 (n,), labels int64 (n, T), images uint8 (n, H, W, 3)."""

    rows: np.ndarray
    labels: np.ndarray
    images: np.ndarray


def correct(record: Record) -> None:
    check = record.check
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS, when it starts, asks for in order to repeat exactly
    for stock, (what, augment) in [*product(STOCKS, WORK.items()), (SMALL_40, (CROPS, WORK[CROPS]))]:
        name = f"{stock.name} at {stock.resolution}, {what}"
        record.attempt(name, 6, partial(_compare_stock, check, stock, augment))
    record.attempt("training learns, and goes on exactly after a kill", 30, partial(_learn_and_resume, check))
    for kind in KINDS:  # last: a decoder that crashes at one takes only these with it
        record.attempt(f"kind of file: {kind}", 4, partial(_compare_kind, check, kind))


def _compare_stock(check: Check, stock: Stock, augment: AugmentConfig | None) -> dict[str, Any]:
    rows = np.arange(min(check.scale.num_compared, len(open_packed_set(check.sets / stock.name))))
    by_engine = stock in STOCKS and augment == AugmentConfig()
    return _compare(check, stock, augment, rows, hw_loads=(None, 0.0, 1.0) if by_engine else (None,))


def _compare_kind(check: Check, kind: str) -> dict[str, Any]:
    return _compare(check, OF_KINDS, AugmentConfig(), rows_of_kind(open_packed_set(check.sets / OF_KINDS.name), kind))


def _compare(
    check: Check, stock: Stock, augment: AugmentConfig | None, rows: np.ndarray, hw_loads: Sequence[float | None] = (None,)
) -> dict[str, Any]:
    """Every variant against the reference, and the GPU's DALI against the CPU's; differences in grey levels."""
    made: dict[str, Images] = {}
    cannot: dict[str, str] = {}
    for name, (backend, device, load) in _variants(check, hw_loads).items():
        spec = make_spec(check, stock, device=device, augment=augment, rows=rows, backend=backend, hw_decoder_load=load, batch_size=32)
        try:
            made[name] = epoch_of(spec)
        except ConfigError as error:
            cannot[name] = str(error)
    pairs = [(name, "threads") for name in made if name != "threads"]
    pairs += [(name, DALI_CPU) for name in made if DALI_CPU in made and name.startswith("dali on cuda")]
    compared = [compare(made, *pair) for pair in pairs]
    images = made["threads"].images.astype(np.int16)
    shifted = np.abs(images[:, :, 1:] - images[:, :, :-1]).mean(axis=(1, 2, 3))
    return {
        "passed": bool(compared) and all(row["passed"] for row in compared),
        "images": len(images),
        "mean_level": round(float(images.mean()), 2),  # another for each work, and far from black
        "worst_mean": max((row["worst_mean"] for row in compared), default=None),
        "one_pixel_off": round(float(np.median(shifted)), 2),  # what a crop box that is wrong by one pixel would come to
        "compared": compared,
        "cannot_run_here": cannot,
    }


def _variants(check: Check, hw_loads: Sequence[float | None]) -> dict[str, tuple[str, torch.device, float | None]]:
    """Backend, device and hw_decoder_load by name, the reference first."""
    cpu = torch.device("cpu")
    variants: dict[str, tuple[str, torch.device, float | None]] = {"threads": ("threads", cpu, None), DALI_CPU: ("dali", cpu, None)}
    for load in hw_loads if check.device == "cuda" else ():
        variants["dali on cuda" + (f", hw_decoder_load {load:.0f}" if load is not None else "")] = ("dali", check.torch_device, load)
    variants[f"resident on {check.device}"] = ("resident", check.torch_device, None)
    return variants


def epoch_of(spec: LoaderSpec) -> Images:
    """Looked at when the last batch is made: a buffer that is used again too early shows."""
    with closing(open_loader(spec)) as loader:
        parts = [(batch.rows, batch.labels, batch.images) for batch in loader.steps(EPOCH)]
        rows, labels, images = (torch.cat([part[i] for part in parts]).cpu().numpy() for i in range(3))
    return Images(rows=rows, labels=labels, images=images)


def compare(made: dict[str, Images], name: str, other: str) -> dict[str, Any]:
    a, b = made[name], made[other]
    same_rows = bool(np.array_equal(a.rows, b.rows) and np.array_equal(a.labels, b.labels))
    difference = np.abs(a.images.astype(np.int16) - b.images.astype(np.int16))
    by_image = difference.mean(axis=(1, 2, 3))
    return {
        "backend": name,
        "against": other,
        "same_rows_and_labels": same_rows,
        "mean": round(float(difference.mean()), 4),
        "worst_mean": round(float(by_image.max()), 4),
        "worst_row": int(a.rows[by_image.argmax()]),
        "max": int(difference.max()),
        "tolerance_of_worst_mean": TOLERANCE,
        "passed": same_rows and bool(by_image.max() <= TOLERANCE),
    }


def _learn_and_resume(check: Check) -> dict[str, Any]:
    """Three runs of the same settings: whole, whole once more, and killed after a checkpoint and gone on with.

    `resumed_differs` and `repeated_differs` are the largest differences of a final weight to the first run. All train with
    train.deterministic, so both are to be 0: otherwise cuDNN picks other kernels in each process.
    """
    backend = "auto" if check.with_dali else "threads"
    config = run_config(check, "drawn", size="32x32", backend=backend, epochs=check.scale.epochs, log_every_steps=4, deterministic=True)
    runs = check.sets / "runs-resume"
    shutil.rmtree(runs, ignore_errors=True)
    _train_and_kill(check, config, runs / "killed")
    for name in ("whole", "repeated"):
        run_training(check, config, runs / name)
    summary = run_training(check, config, runs / "killed")
    whole, repeated, resumed = (_final_weights(runs / name) for name in ("whole", "repeated", "killed"))
    losses = [line["loss"] for line in read_metrics(runs / "whole") if line["kind"] == "step"]
    quarter = max(1, len(losses) // 4)
    first, last = float(np.mean(losses[:quarter])), float(np.mean(losses[-quarter:]))
    again, after = _largest_difference(whole, repeated), _largest_difference(whole, resumed)
    return {
        "passed": last < first and again == after == 0 and 0 < summary.resumed_at_step < summary.steps,
        "loss_of_first_quarter": round(first, 4),
        "loss_of_last_quarter": round(last, 4),
        "resumed_at_step": summary.resumed_at_step,
        "steps": summary.steps,
        "resumed_differs": after,
        "repeated_differs": again,
        "precision": config.train.precision,
    }


def run_config(check: Check, name: str, *, size: str, backend: str, epochs: int, batch_size: int = RUN_BATCH, **more: Any) -> RunConfig:
    """A run of resnet18 from random weights on one of the sets, resolved."""
    data = DataConfig(shards=str(check.sets / name), resolution="full", size=size, task=TASK, backend=backend, workers=check.threads)
    return resolve(
        RunConfig(
            data=data,
            model=ModelConfig(name="resnet18", pretrained=False),
            train=TrainConfig(epochs=epochs, batch_size=batch_size, precision="bf16" if check.device == "cuda" else "fp32", **more),
        )
    )


def run_training(check: Check, config: RunConfig, run: Path) -> Any:
    """Train in this process, on the check's device; returns the summary."""
    return train(config, run, dist.World(device=check.torch_device), check.command)


def _train_and_kill(check: Check, config: RunConfig, run: Path) -> None:
    """Kill a run as soon as its first checkpoint is there. Raises RuntimeError where it ended by itself, or never got there."""
    settings = [f"--set={section}.{key}={value}" for section, values in config.to_dict().items() for key, value in values.items()]
    command = [sys.executable, "-m", "fastfashion.train", *settings, "--shards", config.data.shards]
    command += ["--out", str(run.parent), "--name", run.name]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if check.device == "cpu" else {}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | hidden)
    try:
        end = time.monotonic() + check.scale.start_s
        while not checkpoints_of(run) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
    finally:
        process.kill()
        status = process.wait()
    if status != -signal.SIGKILL or not checkpoints_of(run):
        raise RuntimeError(f"the run to be killed had no checkpoint after {check.scale.start_s:.0f} s, or ended by itself, with {status}")


def checkpoints_of(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*.json"))


def _final_weights(run: Path) -> dict[str, torch.Tensor]:
    return below("model/", read_checkpoint(checkpoints_of(run)[-1]).tensors)


def _largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
