"""What torchrun starts, and what `fastfashion train` is: options to settings, then one worker or the launch of several."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.config import DataConfig, RunConfig, parse_settings, recipe
from fastfashion.errors import ConfigError
from fastfashion.options import Debug, Json, Protocol, Shards, Size, Task, Workers, find_shards, run_command

DATA, MODEL, RUN = "What to learn from", "What to learn", "How to run"


def train(
    shards: Annotated[Path | None, Shards(DATA)] = None,
    task: Annotated[str, Task(DATA)] = "subCategory",
    protocol: Annotated[str | None, Protocol(DATA)] = None,
    size: Annotated[str | None, Size(DATA)] = None,
    model: Annotated[str | None, typer.Option(help="Any timm model; resnet18 by default.", rich_help_panel=MODEL)] = None,
    pretrained: Annotated[bool, typer.Option(help="Start from ImageNet weights, fetched from the Hub.", rich_help_panel=MODEL)] = True,
    weights: Annotated[Path | None, typer.Option(help="Start from this weights file instead.", rich_help_panel=MODEL)] = None,
    recipe_name: Annotated[str, typer.Option("--recipe", help="fast or reference.", rich_help_panel=MODEL)] = "fast",
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.", rich_help_panel=MODEL)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Global: over all processes.", rich_help_panel=MODEL)] = None,
    seed: Annotated[int | None, typer.Option(help="Of first weights, order and augmentation.", rich_help_panel=MODEL)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: section.key=value, again and again.", rich_help_panel=MODEL)
    ] = None,
    nproc: Annotated[int | None, typer.Option(help="Processes on this machine, one a GPU.", rich_help_panel=RUN)] = None,
    workers: Annotated[int | None, Workers(RUN)] = None,
    on_bad: Annotated[
        str | None, typer.Option(help="At a picture that does not decode: stop (default), or skip: count and list it.", rich_help_panel=RUN)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.", rich_help_panel=RUN)] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Of this run; made from the settings by default.", rich_help_panel=RUN)] = None,
    resolved: Annotated[str | None, typer.Option(hidden=True)] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Train a classifier on a packed set, on one process or several.

    The same command goes on with a run that was interrupted.

    Example: fastfashion train --shards shards/small --task subCategory --size 80x64 --no-pretrained --nproc 2
    """
    if resolved is not None:  # a worker that `launch` started
        values = json.loads(resolved)
        _work(RunConfig.from_dict(values["config"]), Path(values["run"]), values["command"], as_json)
        return
    if name is not None and (not name or name != Path(name).name):
        raise ConfigError(f"--name {name}: expected a name, not a path; the folder of all runs is --out")
    flags = {
        "data.task": task,
        "data.protocol": protocol,
        "data.size": size,
        "data.workers": workers,
        "data.on_bad": on_bad,
        "model.name": model,
        "model.pretrained": pretrained,
        "model.weights": str(weights) if weights else None,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.seed": seed,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    config = RunConfig(data=DataConfig(shards=str(find_shards(shards)))).replace(
        recipe(recipe_name) | given | parse_settings(settings or [])
    )
    _start(config, out, name, nproc, as_json)


def _start(config: RunConfig, out: Path, name: str | None, nproc: int | None, as_json: bool) -> None:
    """Check all that one process can check, then work, or start the processes that do."""
    from fastfashion.train.job import check_run_folder, resolve, run_name
    from fastfashion.train.launch import launch, must_launch

    launching = must_launch(nproc)
    config = resolve(config)
    run = out / (name or run_name(config))
    check_run_folder(run, config)
    command = shlex.join(["fastfashion", "train", *(sys.argv[2:] if sys.argv[1:2] == ["train"] else sys.argv[1:])])
    if not launching:
        _work(config, run, command, as_json)
        return
    values = json.dumps({"config": config.to_dict(), "run": str(run), "command": command})
    status = launch(nproc or 1, ["--resolved", values, *(["--json"] if as_json else [])])
    if status:
        raise typer.Exit(status)


def _work(config: RunConfig, run: Path, command: str, as_json: bool) -> None:
    """Be one worker, of however many."""
    from fastfashion import dist
    from fastfashion.train.job import train

    world = dist.start()
    try:
        with dist.lost_peer_explained(world):
            summary = train(config, run, world, command)
    finally:
        dist.stop()
    if world.is_main:
        print(
            f"{run}: best {config.train.select} {summary.best_metric:.4f} on validation, after epoch {summary.best_epoch + 1}",
            file=sys.stderr,
        )
        print(f"Test it with: fastfashion evaluate {run}", file=sys.stderr)
        if as_json:
            print(json.dumps(asdict(summary)))
    dist.end_worker(world)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train)
    run_command(app)
