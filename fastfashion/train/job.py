"""From settings to a finished run: resolve, build the parts, train, and leave the run's folder behind."""

import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastfashion import dist
from fastfashion.catalog import split_rows
from fastfashion.config import OptimConfig, RunConfig
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.evaluate import predict, read_config, score
from fastfashion.evaluate.run import CONFIG
from fastfashion.files import location, publish_csv, publish_json
from fastfashion.load import LoaderSpec, Plan, Skipped, choose_pictures, open_loader
from fastfashion.model import (
    Classifier,
    ModelDescription,
    build_classifier,
    check_first_weights,
    count_parameters,
    objective,
    save_artifact,
)
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.shards import open_packed_set
from fastfashion.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from fastfashion.train.loop import Training, fit
from fastfashion.train.record import Recorder, RunRecorder, Silent

SKIPPED = "skipped.csv"
PACKAGES = ("fastfashion", "torch", "timm", "nvidia-dali-cuda120", "simplejpeg", "opencv-python-headless", "numpy")
# Settings that may differ when a run is gone on with: they change where and how fast, not what is computed.
HARMLESS = ("data.shards", "data.backend", "data.workers", "data.on_bad", "data.cache_dir", "data.cache_gb", "train.log_every_steps")


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """How a run ended; epochs are counted from 0."""

    run: str
    epochs: int
    resumed_at_epoch: int
    best_epoch: int
    best_metric: float  # that of train.select, on validation
    num_parameters: int
    train_rows: int
    val_rows: int


def resolve(config: RunConfig) -> RunConfig:
    """Settle what is "auto", checking that packed set, task and model exist; raises ConfigError or PackedSetError."""
    packed = open_packed_set(location(config.data.shards))
    packed.vocab.names(config.data.task)
    pictures, size = choose_pictures(packed, config.data.resolution, config.data.size)
    check_first_weights(config.model)  # last: it may have to ask the Hub
    precision = config.train.precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() else "fp32"
    return replace(
        config,
        data=replace(config.data, resolution=pictures.name, size=str(size)),
        train=replace(config.train, precision=precision),
    )


def run_name(config: RunConfig) -> str:
    """A name that tells runs apart by what people vary; the same settings give the same name on every rank."""
    data, first = config.data, "" if config.model.pretrained or config.model.weights else "-scratch"
    return f"{data.task}-{config.model.name}{first}-{data.size}-{data.protocol}-seed{config.train.seed}"


def check_run_folder(run: Path, config: RunConfig) -> None:
    """Raises TrainingError where the folder holds a run of other settings, or something else."""
    if not run.exists() or not any(run.iterdir()):
        return
    if not (run / CONFIG).is_file():
        raise TrainingError(f"{run}: holds files but no {CONFIG}; expected an empty folder or a run, choose another --name")
    before, now = _flat(read_config(run)), _flat(config)
    changed = [f"{key}: {before[key]} there, {now[key]} now" for key in now if before[key] != now[key] and key not in HARMLESS]
    if changed:
        raise TrainingError(f"{run}: holds a run with other settings ({'; '.join(changed)}); choose another --name, or remove it")


def _flat(config: RunConfig) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, entries in config.to_dict().items() for key, value in entries.items()}


def train(config: RunConfig, run: Path, world: dist.World, command: str = "") -> TrainSummary:
    """Train a resolved config into the folder `run`, going on from its last checkpoint where there is one.

    `command` is what the user typed; it is recorded beside machine, versions and commit.
    """
    torch.manual_seed(config.train.seed)
    task, classes, spec, val_spec = _data(config, world)
    if world.is_main:
        run.mkdir(parents=True, exist_ok=True)
        publish_json(run / CONFIG, config.to_dict())
    with ExitStack() as stack:
        loader, val_loader = (stack.enter_context(closing(open_loader(each))) for each in (spec, val_spec))
        model = build_classifier(config.model, {task: len(classes)}, spec.size).to(world.device)
        total_steps = config.train.epochs * loader.num_steps
        learner = Learner(config, model, world, total_steps)
        progress = learner.restore(run)
        recorder: Recorder = Silent()
        if world.is_main:
            recorder = stack.enter_context(RunRecorder(run, progress.epoch * loader.num_steps, total_steps))
            recorder.write(_start_line(progress, loader.num_steps, world, command))
        if progress.epoch:
            recorder.say(f"{run}: going on after epoch {progress.epoch} of {config.train.epochs}")
        description = ModelDescription(model=config.model.name, size=str(spec.size), classes={task: list(classes)})

        def validate() -> dict[str, dict[str, float | int]]:
            dist.broadcast_buffers(world, learner.averaged)
            predictions = predict(learner.averaged, val_loader, world)
            _tell_skipped(run, world, recorder, loader.skipped | val_loader.skipped)
            return score(predictions)

        def save(progress: Progress, best: bool) -> None:
            if world.is_main and best:
                save_artifact(run / "best", learner.averaged, description)
            if world.is_main:
                save_checkpoint(run / "checkpoints", progress, learner.states())

        job = Training(
            world=world,
            config=config.train,
            model=learner.wrapped,
            optimizer=learner.optimizer,
            loader=loader,
            precision=torch.bfloat16 if config.train.precision == "bf16" else torch.float32,
            clip_norm=config.optim.clip_norm,
            learning_rate=learner.learning_rate,
            loss=lambda logits, batch: objective(logits, batch, world.size, config.optim.label_smoothing),
            average=learner.average,
            validate=validate,
            rows_of=lambda epoch, step: spec.plan.step(epoch, step).rows.tolist(),
            save=save,
            recorder=recorder,
        )
        end = fit(job, progress)
    return TrainSummary(
        run=str(run),
        epochs=end.epoch,
        resumed_at_epoch=progress.epoch,
        best_epoch=end.best_epoch,
        best_metric=end.best_metric,
        num_parameters=count_parameters(model),
        train_rows=len(spec.plan.rows),
        val_rows=len(val_spec.plan.rows),
    )


def _tell_skipped(run: Path, world: dist.World, recorder: Recorder, skipped: dict[int, Skipped]) -> None:
    """List in the run's folder what any rank has left out so far."""
    by_row = {row: one for part in dist.gather(world, skipped) for row, one in part.items()}
    if by_row and world.is_main:
        lines = [(row, one.where, one.reason) for row, one in sorted(by_row.items())]
        publish_csv(run / SKIPPED, ("row", "where", "reason"), lines)
        recorder.say(f"{len(lines)} pictures do not decode and were left out: {run / SKIPPED}")


def _start_line(progress: Progress, num_steps: int, world: dist.World, command: str) -> dict[str, Any]:
    """What a run's metrics say of each time it was started."""
    where = {"command": command, "commit": git_commit(), "processes": world.size, "device": world.device.type}
    known = {"machine": machine_info(), "versions": package_versions(PACKAGES)}
    return {"kind": "start", "epoch": progress.epoch, "step": progress.epoch * num_steps} | where | known


def _data(config: RunConfig, world: dist.World) -> tuple[str, tuple[str, ...], LoaderSpec, LoaderSpec]:
    """Task, its classes, and what to load for training and for validation."""
    each = 2 if config.augment.mixup or config.augment.cutmix else 1  # pictures are mixed in pairs, which stay together
    if config.train.batch_size < each * world.size:
        raise ConfigError(
            f"--batch-size {config.train.batch_size}: expected {each * world.size} or more, {each} for each of {world.size} processes"
        )
    task = config.data.task
    packed = open_packed_set(location(config.data.shards))
    split = split_rows(packed.table, packed.vocab, task, config.data.protocol, config.data.split_seed)
    pictures, size = choose_pictures(packed, config.data.resolution, config.data.size)
    plan = Plan(
        rows=split.train,
        heights_px=pictures.height_px,
        widths_px=pictures.width_px,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        augment=config.augment,
        shard_starts=np.flatnonzero(np.diff(pictures.shard, prepend=-1)),
        window_shards=config.data.window_shards if config.data.shuffle == "window" else 0,
    )
    spec = LoaderSpec(
        pictures=pictures,
        plan=plan,
        labels=packed.vocab.codes(packed.table, [task]),
        size=size,
        device=world.device,
        rank=world.rank,
        world_size=world.size,
        backend=config.data.backend,
        workers=config.data.workers or dist.cores_per_process(world.local_size),
        on_bad=config.data.on_bad,
        cache_dir=config.data.cache_dir,
        cache_bytes=int(config.data.cache_gb * 1e9),
    )
    return task, packed.vocab.names(task), spec, replace(spec, plan=replace(plan, rows=split.val, augment=None))


class Learner:
    """The model with what changes while it learns: optimiser, learning rate, moving average."""

    def __init__(self, config: RunConfig, model: Classifier, world: dist.World, total_steps: int) -> None:
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        self._model, self._world = model, world
        self.learning_rate = schedule(config.optim, total_steps)
        # timm leaves biases and norms out of the decay.
        self.optimizer = create_optimizer_v2(model, opt=config.optim.optimizer, lr=config.optim.lr, weight_decay=config.optim.weight_decay)
        self._ema = ModelEmaV3(model, decay=config.optim.ema_decay, use_warmup=True) if config.optim.ema_decay else None
        self.wrapped: torch.nn.Module = model
        if world.size > 1:
            devices = [world.device] if world.device.type == "cuda" else None
            self.wrapped = torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    @property
    def averaged(self) -> Classifier:
        """What is validated and kept: the moving average, or the model itself without one."""
        return self._ema.module if self._ema is not None else self._model

    def average(self, step: int) -> None:
        if self._ema is not None:
            self._ema.update(self._model, step=step)

    def states(self) -> dict[str, Any]:
        average = self._ema.module.state_dict() if self._ema is not None else {}
        return {"model": self._model.state_dict(), "average": average, "optimizer": self.optimizer.state_dict()}

    def restore(self, run: Path) -> Progress:
        """Go on from the run's last checkpoint, on every rank, or start at the beginning."""
        dist.barrier(self._world)
        checkpoint = load_checkpoint(run / "checkpoints")
        if checkpoint is None:
            return Progress()
        progress, states = checkpoint
        self._model.load_state_dict(states["model"])
        if self._ema is not None:
            self._ema.module.load_state_dict(states["average"])
        self.optimizer.load_state_dict(states["optimizer"])
        return progress


def schedule(config: OptimConfig, total_steps: int) -> Callable[[int], float]:
    """Learning rate of a step: linear warm-up from 0, then half a cosine down to 0 (Loshchilov & Hutter 2017), or constant."""
    warmup = math.ceil(config.warmup_share * total_steps)

    def rate(step: int) -> float:
        if step < warmup:
            return config.lr * (step + 1) / warmup
        if config.schedule == "constant":
            return config.lr
        return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    return rate
