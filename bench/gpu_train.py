"""Training in the GPU check: training fed by each backend against a batch that is on the device already; short real runs."""

import math
import shutil
from contextlib import ExitStack, closing
from functools import partial
from itertools import product, repeat
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fastfashion import dist
from fastfashion.bench import spread
from fastfashion.config import DataConfig, ModelConfig, RunConfig, Size, TrainConfig
from fastfashion.load import Batch, Loader
from fastfashion.model.net import build_classifier
from fastfashion.model.objective import objective
from fastfashion.runs.files import read_metrics
from fastfashion.shards import open_packed_set
from fastfashion.train.job import resolve, train
from fastfashion.train.learner import Learner
from gpu_rates import BACKENDS, REACH_OF, Utilisation, endless, one_round, try_open, wait
from gpu_record import Check, Record
from gpu_sets import TASK, stock_of

TRAIN_BATCH = 256
REACH = 0.97  # of the rate on a random batch
SYNC_STEPS = 20  # train.log_every_steps: how often the loop waits for the GPU to read the loss
RUN_BATCH = 512


def run_config(check: Check, name: str, *, size: str, backend: str, epochs: int, batch_size: int = 32, **more: Any) -> RunConfig:
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


class Stepper:
    """The training step of `fastfashion train`, fast recipe, random first weights."""

    def __init__(self, check: Check, name: str, size: Size) -> None:
        packed = open_packed_set(check.sets / "224")
        config = RunConfig(data=DataConfig(shards=str(packed.path), task=TASK), model=ModelConfig(name=name, pretrained=False))
        torch.manual_seed(0)
        self.device, self.num_classes = check.torch_device, len(packed.vocab.names(TASK))
        self.model = build_classifier(config.model, {TASK: self.num_classes}, size).to(self.device).train()
        self.learner = Learner(config, self.model, dist.World(device=self.device), total_steps=10_000)
        self.step = 0

    def __call__(self, batch: Batch) -> None:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = objective(self.learner.wrapped(batch.images), batch, 1)
        loss.backward()
        self.learner.update(self.step)
        self.step += 1
        if self.step % SYNC_STEPS == 0 and not math.isfinite(float(loss.detach())):
            raise RuntimeError(f"the loss became {float(loss.detach())}: the rate of such steps says nothing")

    def random_batch(self, batch_size: int, size: Size) -> Batch:
        images = torch.randint(0, 256, (batch_size, size.height_px, size.width_px, 3), dtype=torch.uint8, device=self.device)
        labels = torch.randint(0, self.num_classes, (batch_size, 1), device=self.device)
        return Batch(images, labels, torch.arange(batch_size, device=self.device), (batch_size,))


def training(record: Record) -> None:
    """Images a second of training at 224 in bf16, channels last, by model and backend."""
    scale = record.check.scale
    for name in scale.models:
        needs_s = 12 + (len(BACKENDS) + 1) * scale.rounds * 1.7 * scale.seconds
        record.attempt(name, needs_s, partial(_train_rates, record.check, name))


def _train_rates(check: Check, name: str) -> dict[str, Any]:
    """Rounds in turns: the random batch, then each backend; a ratio is of the same round."""
    size, batch_size = Size(check.scale.train_px, check.scale.train_px), min(TRAIN_BATCH, check.scale.most_batch)
    step = Stepper(check, name, size)
    same = step.random_batch(batch_size, size)
    rates: dict[str, list[float]] = {"random batch": []}
    cannot: dict[str, str] = {}
    with ExitStack() as stack:
        loaders: dict[str, Loader] = {}
        for backend in BACKENDS:
            opened = try_open(check, stock_of("224"), backend, size=size, batch_size=batch_size)
            if isinstance(opened, str):
                cannot[backend] = opened
                continue
            loaders[backend], rates[backend] = stack.enter_context(closing(opened)), []
            if backend == "resident":
                for _ in opened.steps(0):  # what every later epoch finds decoded
                    pass
        meters = {each: stack.enter_context(Utilisation(check)) for each in rates}
        for _, each in product(range(check.scale.rounds), list(rates)):
            batches = endless(loaders[each], 1) if each in loaders else repeat(same)
            rates[each].append(one_round(check, batches, step, meters[each]))
        wait(check)
        used = {each: meter.summary() for each, meter in meters.items()}
    rows = []
    for each, by_round in rates.items():
        ratios = [rate / whole for rate, whole in zip(by_round, rates["random batch"], strict=True)]
        reach = None if each == "random batch" else {"of_random_batch": REACH, "on": REACH_OF, "reached": median(ratios) >= REACH}
        row = {"fed_by": each, **spread(by_round, 1, "images_per_s"), "of_random_batch": round(median(ratios), 4)}
        rows.append(row | {"used": used[each], "reach": reach})
    settings = {"size": str(size), "batch_size": batch_size, "precision": "bf16 autocast", "memory_format": "channels_last"}
    short = ", ".join(f"{row['fed_by']} {row['images_per_s']:,.0f}/s ({row['of_random_batch']:.1%})" for row in rows)
    return {"model": name, "in_short": short, **settings, "steps": step.step, "rows": rows, "cannot_run_here": cannot}


def runs(record: Record) -> None:
    """Short real runs on the small set: seconds an epoch, the share of them that waits for data, accuracy on validation."""
    for backend in ("dali", "resident"):
        record.attempt(f"resnet18 from scratch, {backend}", 15, partial(_run, record, backend))


def _run(record: Record, backend: str) -> dict[str, Any]:
    check = record.check
    size = check.scale.run_size
    epochs = max(2, check.scale.epochs // 2)
    config = run_config(check, "small", size=size, backend=backend, epochs=epochs, batch_size=min(RUN_BATCH, check.scale.most_batch))
    run = check.sets / "runs-small" / backend
    shutil.rmtree(run, ignore_errors=True)
    summary = run_training(check, config, run)
    lines = read_metrics(run)
    # Of the epochs after the first, in which caches are filled.
    shares = [(line["time"].get("data_s") or 0) / line["time"]["seconds"] for line in lines if line["kind"] == "step" and line["epoch"] > 0]
    ends = [line for line in lines if line["kind"] == "epoch"]
    seconds: dict[int, float] = {}
    for line in lines:
        if line["kind"] == "step":
            seconds[line["epoch"]] = seconds.get(line["epoch"], 0.0) + line["time"]["seconds"]
    return {
        "backend": backend,
        "train_rows": summary.train_rows,
        "size": size,
        "batch_size": config.train.batch_size,
        "precision": config.train.precision,
        "seconds_an_epoch": [round(each, 3) for each in seconds.values()],
        "data_wait_share": round(float(np.mean(shares)), 4),
        "val_accuracy": [round(line["val"][TASK]["accuracy"], 4) for line in ends],
    }
