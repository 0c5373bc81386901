"""What torchrun starts, and what `fastfashion train` is: options to settings, then one worker or the launch of several."""

import json
import os
import shlex
import signal
import socket
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastfashion.config import ALL, DataConfig, RunConfig, parse_settings
from fastfashion.errors import ConfigError, FastfashionError, FirstStepError
from fastfashion.files import is_address, location
from fastfashion.options import (
    Corrections,
    Debug,
    Json,
    OutFolder,
    Protocol,
    Shards,
    Size,
    Task,
    Workers,
    find_shards,
    is_debug,
    run_command,
    say_error,
)
from fastfashion.words import counted

if TYPE_CHECKING:
    from fastfashion.runs.folder import TrainSummary

EXAMPLE = "Example: fastfashion train --shards shards/small --task subCategory --no-pretrained --nproc 2"
DATA, MODEL, RUN = "What to learn from", "What to learn", "How to run"


def train(
    shards: Annotated[Path | None, Shards(DATA)] = None,
    task: Annotated[str, Task(DATA)] = "subCategory",
    split_by: Annotated[str | None, typer.Option(help="Tasks whose own splits to keep.", rich_help_panel=DATA)] = None,
    protocol: Annotated[str | None, Protocol(DATA)] = None,
    corrections: Annotated[Path | None, Corrections(DATA)] = None,
    size: Annotated[str | None, Size(DATA)] = None,
    model: Annotated[str | None, typer.Option(help="Any timm model; resnet18 by default.", rich_help_panel=MODEL)] = None,
    pretrained: Annotated[bool, typer.Option(help="Start from ImageNet weights.", rich_help_panel=MODEL)] = True,
    weights: Annotated[Path | None, typer.Option(help="Start from this file, or run, instead.", rich_help_panel=MODEL)] = None,
    recipe_name: Annotated[str, typer.Option("--recipe", help="fast, best or reference.", rich_help_panel=MODEL)] = "fast",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.", rich_help_panel=MODEL)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global: over all processes.", rich_help_panel=MODEL)] = None,
    seed: Annotated[int | None, typer.Option(help="Of first weights, order and augmentation.", rich_help_panel=MODEL)] = None,
    sync_bn: Annotated[bool | None, typer.Option("--sync-bn", help="Batch norm over all processes.", rich_help_panel=MODEL)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: section.key=value.", rich_help_panel=MODEL)
    ] = None,
    nproc: Annotated[int | None, typer.Option(help="Processes on this machine, one a GPU.", rich_help_panel=RUN)] = None,
    workers: Annotated[int | None, Workers(RUN)] = None,
    on_bad: Annotated[str | None, typer.Option(help="Images that do not decode: stop or skip.", rich_help_panel=RUN)] = None,
    out: Annotated[Path, OutFolder("Folder of all runs.", RUN)] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Of the run; made from the settings by default.", rich_help_panel=RUN)] = None,
    resume: Annotated[str, typer.Option(help="auto, never or must go on with a run.", rich_help_panel=RUN)] = "auto",
    allow_config_change: Annotated[
        list[str] | None, typer.Option(help="Go on though it differs: section.key.", rich_help_panel=RUN)
    ] = None,
    keep_optimizer: Annotated[
        str | None, typer.Option(help="yes, or no: a finished run cannot be lengthened.", rich_help_panel=RUN)
    ] = None,
    max_time: Annotated[str | None, typer.Option(help="Save and stop in time: 45m, 1h30m.", rich_help_panel=RUN)] = None,
    resolved: Annotated[str | None, typer.Option(hidden=True)] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Train a classifier on a packed set, on one process or several.

    The same command goes on with a run that was interrupted.
    """
    if resolved is not None:  # a worker that `launch` started
        values = json.loads(resolved)
        _work(RunConfig.from_dict(values["config"]), Path(values["run"]), values["command"], as_json)
        return
    if name is not None and (not name or name != Path(name).name):
        raise ConfigError(f"--name {name}: expected a name, not a path; the folder of all runs is --out")
    flags = {
        "data.task": task,
        "data.split_by": split_by,
        "data.corrections": str(corrections) if corrections else None,
        "data.protocol": protocol,
        "data.size": size,
        "data.workers": workers,
        "data.on_bad": on_bad,
        "train.max_time": max_time,
        "train.keep_optimizer": keep_optimizer,
        "train.sync_bn": sync_bn,
        "model.name": model,
        "model.pretrained": pretrained,
        "model.weights": str(weights) if weights else None,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.seed": seed,
    }
    if model is None and weights is not None:
        from fastfashion.model import weights_description

        known = weights_description(str(weights))  # a run's weights are for its own model
        flags["model.name"] = None if known is None else known.model
    given = {key: value for key, value in flags.items() if value is not None}
    config = RunConfig(data=DataConfig(shards=str(find_shards(shards)))).with_recipe(recipe_name, given | parse_settings(settings or []))
    from fastfashion.runs.folder import discard_untrained, missing
    from fastfashion.train.job import resolve, run_name
    from fastfashion.train.launch import launch, must_launch

    launching = must_launch(nproc)
    _say_left_out(config)
    config = resolve(config)
    run = out / (name or run_name(config, recipe_name))
    _check_run(run, config, resume, allow_config_change or [])
    command = shlex.join(["fastfashion", "train", *(sys.argv[2:] if sys.argv[1:2] == ["train"] else sys.argv[1:])])
    if not launching:
        _work(config, run, command, as_json)
        return
    values = json.dumps({"config": config.to_dict(), "run": str(run), "command": command})
    made = missing(run)
    status = launch(nproc or 1, ["--resolved", values, *(["--json"] if as_json else [])], config.train.max_restarts)
    if status:
        discard_untrained(run, made)
        raise typer.Exit(status)


def _say_left_out(config: RunConfig) -> None:
    """On rank 0 alone: columns without a label that "all" does not train."""
    from fastfashion.dist import env_int
    from fastfashion.shards import open_packed_set

    if config.data.task == ALL and env_int("RANK", 0) == 0:
        left_out = open_packed_set(location(config.data.shards)).vocab.left_out(config.data.tasks)
        if left_out:
            print(left_out, file=sys.stderr)


def _check_run(run: Path, config: RunConfig, resume: str, allowed: list[str]) -> None:
    """On rank 0 alone, since it starts writing while others still look; a restart by torchrun goes on with its own run."""
    from fastfashion.dist import env_int
    from fastfashion.runs.folder import check_run_folder

    if env_int("RANK", 0) == 0:
        again = env_int("TORCHELASTIC_RESTART_COUNT", 0) > 0
        check_run_folder(run, config, resume="auto" if again else resume, allowed=allowed)


def _work(config: RunConfig, run: Path, command: str, as_json: bool) -> None:
    """Be one worker, of however many. One that fails ends at once, whatever its threads and connections still wait for."""
    from fastfashion import dist
    from fastfashion.train.job import train

    world = dist.start(config.train.timeout_s)
    try:
        with dist.lost_peer_explained(world):
            summary = train(config, run, world, command, signals=True)
        dist.stop()
    except Exception as error:
        if world.size == 1:
            raise
        if not isinstance(error, FastfashionError) or isinstance(error, FirstStepError) or is_debug():
            error.add_note(f"on rank {world.rank} of {world.size}, host {socket.gethostname()}, process {os.getpid()}")
            traceback.print_exc()
        say_error(f"{type(error).__name__}: {error}" if not isinstance(error, FastfashionError) else str(error))
        dist.end_worker(world, getattr(error, "EXIT_STATUS", 2 if isinstance(error, FastfashionError) else 1))
        raise
    if world.is_main:
        print(summary_text(summary, config), file=sys.stderr)
        if as_json:
            print(json.dumps(asdict(summary)))
    dist.end_worker(world)
    if summary.ended.startswith("SIG") and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise typer.Exit(128 + signal.Signals[summary.ended])


def summary_text(summary: "TrainSummary", config: RunConfig) -> str:
    """How a run ended, its best metric, and where its files are."""
    from fastfashion.runs.files import BEST, CHECKPOINTS, METRICS

    run = Path(summary.run)
    how = {"finished": "finished", "early_stop": f"stopped early: no better epoch in {config.train.early_stop_epochs}"}
    lines = [f"{run}: {how.get(summary.ended, f'interrupted ({summary.ended}); the same command goes on')}"]
    lines[0] += f", {summary.epochs} of {counted(config.train.epochs, 'epoch')}, {counted(summary.steps, 'step')}"
    if summary.best_epoch >= 0:
        of = f" (mean of {len(config.data.tasks)} labels, weighted as the loss)" if len(config.data.tasks) > 1 else ""
        if config.train.select != "last":
            lines.append(f"best {config.train.select} {summary.best_metric:.4f}{of} on validation, after epoch {summary.best_epoch + 1}")
        else:
            lines.append(f"the last weights are kept, of epoch {summary.best_epoch + 1}")
        lines.append(f"  weights      {run / BEST}")
    if (run / CHECKPOINTS).is_dir():
        lines.append(f"  checkpoints  {run / CHECKPOINTS}")
    lines += [f"  metrics      {run / METRICS}", f"  curves       tensorboard --logdir {run}"]
    if summary.best_epoch >= 0:
        shards = f" --shards {config.data.shards}" if is_address(config.data.shards) else ""  # opening a run contacts no address by itself
        lines.append(f"Test it with: fastfashion evaluate {run}{shards}")
    return "\n".join(lines)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=EXAMPLE)(train)
    run_command(app)
