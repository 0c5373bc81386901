"""From settings to a finished run: resolve, build the parts, train, and leave the run's folder behind."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastfashion import dist
from fastfashion.catalog import LABEL_COLUMNS
from fastfashion.config import ALL, DEFAULT_RECIPE, OptimConfig, RunConfig
from fastfashion.csv_files import publish_csv
from fastfashion.disk import room_for
from fastfashion.errors import TrainingError
from fastfashion.evaluate import fit_temperatures, predict, score
from fastfashion.files import clear_unpublished, location, publish_json
from fastfashion.load import Batch, Loader, Skipped, choose_images, open_loader
from fastfashion.model import (
    ModelDescription,
    check_first_weights,
    count_parameters,
    nearest_size,
    objective,
    save_artifact,
)
from fastfashion.model.weights import ambiguity, check_declared
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.runs import read_config
from fastfashion.runs.folder import BEST, CHECKPOINTS, SKIPPED, STATUS, Held, training_in, write_status
from fastfashion.runs.opened import CONFIG, METRICS
from fastfashion.runs.settings import changes
from fastfashion.runs.summary import TrainSummary, finished_summary
from fastfashion.runs.trained_on import write_trained_on
from fastfashion.shards import open_packed_set
from fastfashion.train.build import build_model, first_step_explained
from fastfashion.train.checkpoint import Checkpoints, Progress, prune_finished
from fastfashion.train.control import Control
from fastfashion.train.data import Data, prepare_data
from fastfashion.train.intro import Intro
from fastfashion.train.learner import Learner, best_state, determinism
from fastfashion.train.loop import Training, fit
from fastfashion.train.record import Recorder, RunRecorder, Silent, say
from fastfashion.train.texts import resumed_text
from fastfashion.train.track import check_tracking

PACKAGES = ("fastfashion", "torch", "timm", "nvidia-dali-cuda120", "simplejpeg", "opencv-python-headless", "numpy")


def resolve(config: RunConfig) -> RunConfig:
    """Settle what is "auto", checking that packed set, task and model exist; raises ConfigError or PackedSetError."""
    packed = open_packed_set(location(config.data.shards))
    tasks = packed.vocab.chosen(config.data.tasks)
    data = replace(config.data, task=",".join(tasks))
    for task in data.split_tasks:
        packed.vocab.check(task)
    for task in config.optim.weights.keys() - set(LABEL_COLUMNS):
        packed.vocab.names(task)
    images, size = choose_images(packed, data.resolution, data.size)
    check_tracking(config)
    check_declared(config.model)
    check_first_weights(config.model)  # last: it may have to ask the Hub
    if data.size == "auto":
        size = nearest_size(config.model.name, size)
    precision = config.train.precision
    if precision == "auto":
        # CPUs without the matrix unit compute bfloat16 no faster.
        precision = "bf16" if torch.cuda.is_available() or torch.cpu._is_amx_tile_supported() else "fp32"
    return replace(
        config,
        data=replace(data, resolution=images.name, size=str(size)),
        optim=replace(config.optim, task_weights=_weights_among(tasks, config.optim)),
        train=replace(config.train, precision=precision),
    )


def _weights_among(tasks: Sequence[str], optim: OptimConfig) -> str:
    """The weights of labels that are trained, as text; none where it is one alone. A recipe may name labels that a set does not have."""
    kept = {task: weight for task, weight in optim.weights.items() if task in tasks} if len(tasks) > 1 else {}
    return ",".join(f"{task}={weight:.12g}" for task, weight in kept.items())


def run_name(config: RunConfig, recipe: str = DEFAULT_RECIPE) -> str:
    """A name that tells runs apart by what people vary, the recipe among it; the same settings give the same name on every rank."""
    data, first = config.data, "" if config.model.pretrained or config.model.weights else "-scratch"
    tasks = ALL if set(data.tasks) == set(LABEL_COLUMNS) else "+".join(data.tasks)
    by = f"-by-{'+'.join(data.split_tasks)}" if data.split_by else ""
    fold = f"-fold{data.fold}" if data.protocol == "folds" else ""
    by_recipe = "" if recipe == DEFAULT_RECIPE else f"-{recipe}"
    return f"{tasks}{by}-{config.model.name}{first}{by_recipe}-{data.size}-{data.protocol}{fold}-seed{config.train.seed}"


def train(config: RunConfig, run: Path, world: dist.World, command: str = "", *, signals: bool = False) -> TrainSummary:
    """Train a resolved config into the folder `run`, from its last checkpoint on where there is one.

    `command` is what the user typed; it is recorded beside machine, versions and commit. With `signals`, SIGTERM, SIGUSR1 and Ctrl-C have
    it save and stop. A start that fails before its first step leaves nothing behind.
    Raises TrainingError where the folder is held by another process, the loss gets out of hand, or the last checkpoint cannot be written;
    InputError where the set holds other ids than the run was trained on.
    """
    done = dist.from_main(world, finished_summary(run, config) if world.is_main else None)
    if done is not None:
        data = prepare_data(config, world, run)
        if world.is_main:
            if data.to_keep is not None:
                write_trained_on(run, data.to_keep)
            say(f"{run}: finished; nothing to do")
        return replace(done, train_rows=len(data.spec.plan.rows), val_rows=len(data.val_spec.plan.rows))
    if not world.is_main:
        with ExitStack() as stack:
            return _train(config, run, world, command, stack, signals, None)
    with training_in(run) as held:
        for name in (CONFIG, METRICS, SKIPPED, STATUS):
            clear_unpublished(run / name)
        write_status(run, "running")
        try:
            with room_for(run), ExitStack() as stack:
                summary = _train(config, run, world, command, stack, signals, held)
        except BaseException as error:
            with suppress(OSError):  # the disk may be what failed
                write_status(run, "failed", reason=f"{type(error).__name__}: {error}")
            raise
        if summary.best_epoch >= 0 and not (run / BEST).is_dir():
            raise TrainingError(
                f"{run}: training ended ({summary.ended}), but {BEST}/ is missing, and no checkpoint holds the weights of the best epoch, "
                f"{summary.best_epoch + 1}; put {BEST}/ back from a copy, or train under another --name"
            )
        known: dict[str, Any] = {"reason": summary.ended, "epochs": summary.epochs, "steps": summary.steps}
        if summary.ended not in ("finished", "early_stop"):
            write_status(run, "interrupted", **known)
            return summary
        optimizer = "kept" if config.train.keep_optimizer else "dropped"
        write_status(run, "finished", **known, optimizer=optimizer, summary=summary.to_dict())
        prune_finished(run / CHECKPOINTS, keep=config.train.keep_optimizer)  # only now: a kill in between loses nothing
    return summary


def _train(
    config: RunConfig, run: Path, world: dist.World, command: str, stack: ExitStack, signals: bool, held: Held | None
) -> TrainSummary:
    stack.enter_context(determinism(config.train.deterministic))
    torch.manual_seed(config.train.seed)
    control = Control(world, config.train, signals=signals)  # its clock runs from here on
    data = prepare_data(config, world, run)
    loader, val_loader = (stack.enter_context(closing(open_loader(each))) for each in (data.spec, data.val_spec))
    model, heads = build_model(config, data.classes, data.spec, world)
    num_steps = loader.num_steps
    learner = Learner(config, model, world, config.train.epochs * num_steps)
    description = ModelDescription(
        model=config.model.name,
        size=str(data.spec.size),
        classes={task: list(names) for task, names in data.classes.items()},
        flip_average=config.model.flip_average,
        channels_last=model.channels_last,
    )
    checkpoints = None
    if world.is_main:

        def export(tensors: Mapping[str, torch.Tensor]) -> None:
            save_artifact(run / BEST, best_state(tensors), description)

        checkpoints = stack.enter_context(Checkpoints(run / CHECKPOINTS, config.train.keep_checkpoints, say, export))
    progress = _restore(learner, checkpoints, world)
    if progress.step > num_steps:
        raise TrainingError(f"{run / CHECKPOINTS}: the last checkpoint is of step {progress.step}, but an epoch has {num_steps} steps")
    resumed_at = progress.epoch * num_steps + progress.step
    recorder: Recorder = Silent()
    if world.is_main:
        start = _start_line(run, config, progress, resumed_at, world, command)
        if data.to_keep is not None:
            write_trained_on(run, data.to_keep)
        publish_json(run / CONFIG, config.to_dict())
        recorder = stack.enter_context(RunRecorder(run, config, epoch=progress.epoch, step=progress.step, num_steps=num_steps))
        recorder.write(start)
        _introduce(recorder, run, config, world, data, count_parameters(model))
        if heads and not resumed_at:
            recorder.say(heads)
        if resumed_at:
            recorder.say(resumed_text(run, progress, num_steps, config.train.epochs))
        elif held is not None and held.trained:
            recorder.say(f"{run}: {CHECKPOINTS}/ holds no checkpoint: training starts anew")
        if not resumed_at and (warning := ambiguity(config.model)):
            recorder.say(f"warning: {warning}")

    def save(progress: Progress) -> None:
        if checkpoints is not None:
            started = time.monotonic()
            checkpoints.save(progress.epoch * num_steps + progress.step, progress, learner.tensors())
            control.saved(time.monotonic() - started)

    def validate() -> dict[str, dict[str, float | int]]:
        dist.broadcast_buffers(world, learner.averaged)
        learner.averaged.temperatures.fill_(1)
        predictions = predict(learner.averaged, _interruptible(val_loader, control), world, learner.precision).by(data.numbers)
        learner.averaged.temperatures.copy_(fit_temperatures(predictions))
        scores = score(predictions)
        _tell_skipped(run, world, recorder, loader.skipped | val_loader.skipped)
        return scores

    job = Training(
        world=world,
        config=config.train,
        learner=learner,
        loader=loader,
        loss=lambda logits, batch: objective(logits, batch, world.size, data.loss),
        weights=config.optim.weights,
        guessing=sum(data.loss.weights.get(task, 1.0) * math.log(len(names)) for task, names in data.classes.items()),
        validate=validate,
        rows_of=lambda epoch, step: data.spec.plan.step(epoch, step).rows.tolist(),
        save=save,
        last_good=lambda: "none yet" if checkpoints is None or (last := checkpoints.last()) is None else str(last),
        control=control,
        recorder=recorder,
        began=held.began if held is not None else lambda: None,
        numbers=None if data.numbers is None else torch.from_numpy(data.numbers).to(world.device),
    )
    with first_step_explained(lambda: job.first_step_s is None), dist.lost_peer_explained(world):
        end, ended = fit(job, progress)
    if checkpoints is not None:
        checkpoints.wait()
        if checkpoints.failure is not None:
            raise TrainingError(f"{run}: training ended ({ended}), but {checkpoints.failure}")
    return TrainSummary(
        run=str(run),
        ended=ended,
        epochs=end.epoch,
        steps=end.epoch * num_steps + end.step,
        resumed_at_step=resumed_at,
        best_epoch=end.best_epoch,
        best_metric=end.best_metric,
        num_parameters=count_parameters(model),
        train_rows=len(data.spec.plan.rows),
        val_rows=len(data.val_spec.plan.rows),
    )


def _introduce(recorder: Recorder, run: Path, config: RunConfig, world: dist.World, data: Data, num_parameters: int) -> None:
    intro = Intro(
        run=run,
        config=config,
        world=world,
        spec=data.spec,
        num_val=len(data.val_spec.plan.rows),
        num_test=data.num_test,
        classes={task: len(names) for task, names in data.classes.items()},
        num_parameters=num_parameters,
    )
    recorder.say("\n".join(intro.lines()))
    if warning := intro.warning():
        recorder.say(warning)


def _restore(learner: Learner, checkpoints: Checkpoints | None, world: dist.World) -> Progress:
    """Go on from the last checkpoint that rank 0 finds, on every rank, or start at the beginning."""
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


def _interruptible(loader: Loader, control: Control) -> Iterator[Batch]:
    """Validation ends with Stopped, on all ranks, when training is to end."""
    for batch in loader.steps(0):
        yield batch
        control.check()


def _tell_skipped(run: Path, world: dist.World, recorder: Recorder, skipped: dict[int, Skipped]) -> None:
    """List in the run's folder what any rank has left out so far."""
    by_row = {row: one for part in dist.gather(world, skipped) for row, one in part.items()}
    if by_row and world.is_main:
        lines = [(row, one.where, one.reason) for row, one in sorted(by_row.items())]
        publish_csv(run / SKIPPED, ("row", "where", "reason"), lines)
        recorder.say(f"{len(lines)} images do not decode and were left out: {run / SKIPPED}")


def _start_line(run: Path, config: RunConfig, progress: Progress, step: int, world: dist.World, command: str) -> dict[str, Any]:
    """What a run's metrics say of each time it was started."""
    before = changes(read_config(run), config) if (run / CONFIG).is_file() else {}
    where = {"command": command, "commit": git_commit(), "processes": world.size, "device": world.device.type}
    known = {"machine": machine_info(), "versions": package_versions(PACKAGES)}
    changed = {"changed": {key: list(values) for key, values in before.items()}} if before else {}
    return {"kind": "start", "epoch": progress.epoch, "step": step} | where | changed | known
