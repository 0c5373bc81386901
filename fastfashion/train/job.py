"""From settings to a finished run: resolve, build the parts, train, and leave the run's folder behind."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastfashion import dist
from fastfashion.catalog import LABEL_COLUMNS
from fastfashion.config import ALL, DEFAULT_RECIPE, RunConfig
from fastfashion.disk import room_for
from fastfashion.errors import TrainingError
from fastfashion.files import clear_unpublished, publish_json
from fastfashion.load import Loader, choose_images
from fastfashion.load import notes as slow_notes
from fastfashion.load.fit import SQUASH, Fit
from fastfashion.model.artifact import ModelDescription, count_parameters, save_artifact
from fastfashion.model.net import Classifier
from fastfashion.model.sizes import nearest_size
from fastfashion.model.weights import ambiguity, check_declared, check_first_weights
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.runs.files import BEST, CHECKPOINTS, CONFIG, METRICS, SKIPPED, STATUS, State, read_config, write_status
from fastfashion.runs.folder import Held, TrainSummary, changes, finished_summary, training_in
from fastfashion.runs.trained_on import write_trained_on
from fastfashion.runs.views import write_view
from fastfashion.shards import open_viewed
from fastfashion.train.checkpoint import Checkpoints, Progress, prune_finished
from fastfashion.train.control import Control
from fastfashion.train.data import Data, prepare_data
from fastfashion.train.frozen import FeatureLoader, compute_features
from fastfashion.train.learner import Learner, best_state, build_model, determinism
from fastfashion.train.record import Recorder, RunRecorder, say
from fastfashion.train.text import intro_text, resumed_text
from fastfashion.train.track import check_tracking
from fastfashion.train.trainer import Trainer

PACKAGES = ("fastfashion", "torch", "timm", "nvidia-dali-cuda120", "simplejpeg", "opencv-python-headless", "numpy")


def resolve(config: RunConfig) -> RunConfig:
    """Settle what is "auto", checking that packed set, task and model exist; raises ConfigError or PackedSetError."""
    packed = open_viewed(config.data)
    tasks = packed.vocab.chosen(config.data.tasks)
    data = replace(config.data, task=",".join(tasks))
    for task in data.split_tasks:
        packed.vocab.check(task)
    for task in config.optim.weights.keys() - set(LABEL_COLUMNS):
        packed.vocab.names(task)
    images, size = choose_images(packed, data.resolution, data.size, Fit.of(data).crop_pct, data.min_side_px)
    check_tracking(config)
    check_declared(config.model)
    check_first_weights(config.model)  # last: it may have to ask the Hub
    if data.size == "auto":
        size = nearest_size(config.model.name, size)
    # A recipe may name labels that a set does not have; one label alone has no weight.
    weights = {task: weight for task, weight in config.optim.weights.items() if task in tasks} if len(tasks) > 1 else {}
    precision = config.train.precision
    if precision == "auto":
        # CPUs without the matrix unit compute bfloat16 no faster.
        precision = "bf16" if torch.cuda.is_available() or torch.cpu._is_amx_tile_supported() else "fp32"
    return replace(
        config,
        data=replace(data, resolution=images.name, size=str(size)),
        optim=replace(config.optim, task_weights=",".join(f"{task}={weight:.12g}" for task, weight in weights.items())),
        train=replace(config.train, precision=precision),
    )


def run_name(config: RunConfig, recipe: str = DEFAULT_RECIPE) -> str:
    """A name made of what people vary, the recipe included; the same settings give the same name on every rank."""
    data, first = config.data, "" if config.model.pretrained or config.model.weights else "-scratch"
    tasks = ALL if set(data.tasks) == set(LABEL_COLUMNS) else "+".join(data.tasks)
    by = f"-by-{'+'.join(data.split_tasks)}" if data.split_by else ""
    fold = f"-fold{data.fold}" if data.protocol == "folds" else ""
    fit = "" if data.fit == SQUASH else f"-{data.fit}"
    by_recipe = "" if recipe == DEFAULT_RECIPE else f"-{recipe}"
    return f"{tasks}{by}-{config.model.name}{first}{by_recipe}-{data.size}{fit}-{data.protocol}{fold}-seed{config.train.seed}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One start of training."""

    config: RunConfig  # resolved
    run: Path
    world: dist.World
    command: str  # what the user typed
    signals: bool


def train(config: RunConfig, run: Path, world: dist.World, command: str = "", *, signals: bool = False) -> TrainSummary:
    """Train a resolved config into the folder `run`, from its last checkpoint if there is one.

    `command` is what the user typed; it is recorded beside machine, versions and commit. With `signals`, SIGTERM, SIGUSR1 and Ctrl-C have
    it save and stop. A start that fails before its first step leaves nothing behind.
    Raises TrainingError if the folder is held by another process, the loss gets out of hand, or the last checkpoint cannot be written;
    InputError if the set holds other ids than the run was trained on.
    """
    done = dist.from_main(world, finished_summary(run, config) if world.is_main else None)
    if done is not None:
        data = prepare_data(config, world, run)
        if world.is_main:
            if data.to_keep is not None:
                write_trained_on(run, data.to_keep)
            say(f"{run}: finished; nothing to do")
        return replace(done, train_rows=len(data.spec.plan.rows), val_rows=len(data.val_spec.plan.rows))
    job = Job(config=config, run=run, world=world, command=command, signals=signals)
    if not world.is_main:
        return _train(job, Held(run, trained=True))
    with training_in(run) as held:
        with _failure_noted(run), room_for(run):
            summary = _train(job, held)
            if summary.best_epoch >= 0 and not (run / BEST).is_dir():
                raise TrainingError(
                    f"{run}: training ended ({summary.ended}), but {BEST}/ is missing, and no checkpoint holds the weights of the best "
                    f"epoch, {summary.best_epoch + 1}; put {BEST}/ back from a copy, or train under another --name"
                )
        known: dict[str, Any] = {"reason": summary.ended, "epochs": summary.epochs, "steps": summary.steps}
        if summary.ended not in ("finished", "early_stop"):
            write_status(run, State.INTERRUPTED, **known)
            return summary
        optimizer = "kept" if config.train.keep_optimizer else "dropped"
        write_status(run, State.FINISHED, **known, optimizer=optimizer, summary=summary.to_dict())
        prune_finished(run / CHECKPOINTS, keep=config.train.keep_optimizer)  # only now: a kill in between loses nothing
    return summary


@contextmanager
def _failure_noted(run: Path) -> Iterator[None]:
    """While this context is open status.json says "running", after an exception "failed"."""
    for name in (CONFIG, METRICS, SKIPPED, STATUS):
        clear_unpublished(run / name)
    write_status(run, State.RUNNING)
    try:
        yield
    except BaseException as error:
        with suppress(OSError):  # the disk may be what failed
            write_status(run, State.FAILED, reason=f"{type(error).__name__}: {error}")
        raise


def _train(job: Job, held: Held) -> TrainSummary:
    """Build the parts on every rank, and train."""
    config, run, world = job.config, job.run, job.world
    with ExitStack() as stack:
        stack.enter_context(determinism(config.train.deterministic))
        torch.manual_seed(config.train.seed)
        control = Control(world, config.train, signals=job.signals)  # its clock starts here
        data = prepare_data(config, world, run)
        loader, val_loader = (stack.enter_context(closing(Loader(each))) for each in (data.spec, data.val_spec))
        model, heads = build_model(config, data.classes, data.spec, world)
        learner = Learner(config, model, world, config.train.epochs * loader.num_steps)
        checkpoints = stack.enter_context(_checkpoints(job, data, model.channels_last)) if world.is_main else None
        progress = _restore(learner, checkpoints, world)
        if progress.step > loader.num_steps:
            raise TrainingError(
                f"{run / CHECKPOINTS}: the last checkpoint is of step {progress.step}, but an epoch has {loader.num_steps} steps"
            )
        recorder: Recorder = Recorder()
        if world.is_main:
            recorder = _begin_record(job, data, progress, stack)
            recorder.say(intro_text(run, config, world, data, count_parameters(model)))
            for note in [*_notes(job, progress, loader.num_steps, heads, held), *slow_notes(data.spec)]:
                recorder.say(note)
        trainer = Trainer(
            run=run,
            config=config,
            world=world,
            data=data,
            learner=learner,
            loader=loader,
            val_loader=val_loader,
            control=control,
            recorder=recorder,
            checkpoints=checkpoints,
            held=held,
            progress=progress,
        )
        resumed_at = trainer.num_done
        if config.model.freeze:
            trainer.loader, trainer.val_loader = _feature_loaders(trainer, model)
        ended = trainer.fit()
        if checkpoints is not None:
            checkpoints.wait()
            if checkpoints.failure is not None:
                raise TrainingError(f"{run}: training ended ({ended}), but {checkpoints.failure}")
    return TrainSummary(
        run=str(run),
        ended=ended,
        epochs=trainer.progress.epoch,
        steps=trainer.num_done,
        resumed_at_step=resumed_at,
        best_epoch=trainer.progress.best_epoch,
        best_metric=trainer.progress.best_metric,
        num_parameters=count_parameters(model),
        train_rows=len(data.spec.plan.rows),
        val_rows=len(data.val_spec.plan.rows),
    )


def _feature_loaders(trainer: Trainer, model: Classifier) -> tuple[FeatureLoader, FeatureLoader]:
    """Compute the features that a frozen backbone's heads learn from, unless all is done; what was skipped stays listed."""
    data, started = trainer.data, time.monotonic()
    trainer.recorder.say("model.freeze: the backbone stays as it is; its features are computed once, of whole images without augmentation")
    features = compute_features(model, data.spec, data.val_spec, trainer.world, trainer.learner.precision)
    count, size = features.values.shape
    seconds = time.monotonic() - started
    trainer.recorder.say(f"{size} features of {count:,} images in {seconds:.0f} s ({4 * count * size / 1e6:.0f} MB)")
    return FeatureLoader(data.spec, features), FeatureLoader(data.val_spec, features)


def _checkpoints(job: Job, data: Data, channels_last: bool) -> Checkpoints:
    description = ModelDescription(
        model=job.config.model.name,
        size=str(data.spec.size),
        fit=Fit.of(job.config.data),
        classes={task: list(names) for task, names in data.classes.items()},
        flip_average=job.config.model.flip_average,
        channels_last=channels_last,
    )

    def export(tensors: Mapping[str, torch.Tensor]) -> None:
        save_artifact(job.run / BEST, best_state(tensors), description)

    return Checkpoints(job.run / CHECKPOINTS, job.config.train.keep_checkpoints, say, export)


def _begin_record(job: Job, data: Data, progress: Progress, stack: ExitStack) -> Recorder:
    """Write what a run says of itself before its first step."""
    config, run, num_steps = job.config, job.run, data.spec.plan.num_steps
    line = _start_line(job, progress, progress.epoch * num_steps + progress.step)
    if data.to_keep is not None:
        write_trained_on(run, data.to_keep)
    write_view(run, data.view)
    publish_json(run / CONFIG, config.to_dict())
    recorder = stack.enter_context(RunRecorder(run, config, epoch=progress.epoch, step=progress.step, num_steps=num_steps))
    recorder.write(line)
    return recorder


def _notes(job: Job, progress: Progress, num_steps: int, heads: str, held: Held) -> Iterator[str]:
    """Where training is resumed, or what it starts from."""
    if progress.epoch or progress.step:
        yield resumed_text(job.run, progress, num_steps, job.config.train.epochs)
        return
    if heads:
        yield heads
    if held.trained:
        yield f"{job.run}: {CHECKPOINTS}/ holds no checkpoint: training starts from the beginning"
    if warning := ambiguity(job.config.model):
        yield f"warning: {warning}"


def _restore(learner: Learner, checkpoints: Checkpoints | None, world: dist.World) -> Progress:
    """Resume from the last checkpoint that rank 0 finds, on every rank, or start at the beginning."""
    checkpoint = None if checkpoints is None else checkpoints.load()
    progress = dist.from_main(world, None if checkpoint is None else checkpoint.progress)
    if progress is None:
        return Progress()
    try:
        learner.restore(dist.tensors_from_main(world, None if checkpoint is None else checkpoint.tensors))
    except RuntimeError as error:
        where = "the last checkpoint" if checkpoint is None else checkpoint.path
        reason = " ".join(str(error).split())
        raise TrainingError(f"{where}: does not fit the model of these settings and this set's classes: {reason}") from error
    if checkpoints is not None:
        checkpoints.export_best(progress)
    return progress


def _start_line(job: Job, progress: Progress, step: int) -> dict[str, Any]:
    """What a run's metrics say of each time it was started."""
    before = changes(read_config(job.run), job.config) if (job.run / CONFIG).is_file() else {}
    where = {"command": job.command, "commit": git_commit(), "processes": job.world.size, "device": job.world.device.type}
    known = {"machine": machine_info(), "versions": package_versions(PACKAGES)}
    changed = {"changed": {key: list(values) for key, values in before.items()}} if before else {}
    return {"kind": "start", "epoch": progress.epoch, "step": step} | where | changed | known
