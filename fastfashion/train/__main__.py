"""What torchrun starts, and what `fastfashion train` is: a request to settings, then one worker or the launch of several."""

import json
import os
import shlex
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fastfashion.command_line import Answer, command, is_debug, run_command, say_error
from fastfashion.command_options import TrainRequest
from fastfashion.config import ALL, RunConfig
from fastfashion.errors import FastfashionError, FirstStepError
from fastfashion.extras import lacks
from fastfashion.files import is_address
from fastfashion.words import counted

if TYPE_CHECKING:
    from fastfashion.runs.folder import TrainSummary

EXAMPLE = "fastfashion train shards/small --task subCategory --no-pretrained --nproc 2"


def train(request: TrainRequest) -> Answer | None:
    """Train a classifier on a packed set, on one process or several.

    The same command resumes a run that was interrupted. Settings without an option of their own are set with --set (docs/settings.md).
    """
    from fastfashion.train.launch import must_launch

    launching = must_launch(request.nproc)
    if request.resolved is not None:
        values = json.loads(request.resolved.read_text(encoding="utf-8"))
        config, run, command_line = RunConfig.from_dict(values["config"]), Path(values["run"]), values["command"]
    else:
        config, run = settled(request)
        _check(request, config, run)
        command_line = shlex.join(["fastfashion", "train", *(sys.argv[2:] if sys.argv[1:2] == ["train"] else sys.argv[1:])])
    return _launch(request, config, run, command_line) if launching else work(config, run, command_line)


def settled(request: TrainRequest) -> tuple[RunConfig, Path]:
    """The settings of a run, with nothing left to "auto", and its folder."""
    from fastfashion.model.artifact import weights_description
    from fastfashion.train.job import resolve, run_name

    known = {}
    if request.model is None and request.weights is not None and (description := weights_description(request.weights)) is not None:
        known["model.name"] = description.model  # a run's weights are of its own model
    config = resolve(request.config(known))
    return config, (request.out or request.runs) / (request.name or run_name(config, request.recipe))


def _launch(request: TrainRequest, config: RunConfig, run: Path, command_line: str) -> Answer | None:
    from fastfashion.runs.folder import discard_untrained, missing
    from fastfashion.scratch import scratch
    from fastfashion.train.launch import launch

    made = missing(run)
    with scratch() as folder:
        arguments = [config.data.shards, "--resolved", str(write_resolved(folder, config, run, command_line))]
        status = launch(request.nproc or 1, [*arguments, *(["--json"] if request.as_json else [])], config.train.max_restarts)
    if status:
        discard_untrained(run, made)
        raise typer.Exit(status)
    return None


def write_resolved(folder: Path, config: RunConfig, run: Path, command_line: str) -> Path:
    """A file for `--resolved`: what other processes are to train."""
    file = folder / "run.json"
    file.write_text(json.dumps({"config": config.to_dict(), "run": str(run), "command": command_line}), encoding="utf-8")
    return file


def _check(request: TrainRequest, config: RunConfig, run: Path) -> None:
    """Check the run's folder and print what "all" leaves out, on rank 0 alone, which starts writing while others still read."""
    from fastfashion.dist import env_int
    from fastfashion.runs.folder import check_run_folder
    from fastfashion.shards import open_packed_set

    if env_int("RANK", 0) != 0:
        return
    if request.given()["data.task"] == ALL and (left_out := open_packed_set(request.shards).vocab.left_out((ALL,))):
        print(left_out, file=sys.stderr)
    again = env_int("TORCHELASTIC_RESTART_COUNT", 0) > 0  # a restart by torchrun resumes its own run
    check_run_folder(run, config, resume="auto" if again else request.resume, allowed=request.allow_config_change)


def work(config: RunConfig, run: Path, command_line: str) -> Answer | None:
    """Work as one process of the run. A process that fails ends immediately, even if threads and connections still wait."""
    from fastfashion import dist
    from fastfashion.train.job import train

    world = dist.start(config.train.timeout_s)
    try:
        with dist.lost_peer_explained(world):
            summary = train(config, run, world, command_line, signals=True)
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
    if not world.is_main:
        dist.end_worker(world)
        return None
    interrupted = summary.ended.startswith("SIG") and "TORCHELASTIC_RUN_ID" not in os.environ
    status = 128 + signal.Signals[summary.ended] if interrupted else 0
    return Answer(document=summary, text=summary_text(summary, config), status=status, after=lambda: dist.end_worker(world))


def summary_text(summary: "TrainSummary", config: RunConfig) -> str:
    """How a run ended, its best metric, and where its files are."""
    from fastfashion.runs.files import BEST, CHECKPOINTS, METRICS

    run = Path(summary.run)
    how = {"finished": "finished", "early_stop": f"stopped early: no better epoch in {config.train.early_stop_epochs}"}
    lines = [f"{run}: {how.get(summary.ended, f'interrupted ({summary.ended}); the same command resumes it')}"]
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
    lines += [f"  metrics      {run / METRICS}"]
    if not lacks("tensorboard"):
        lines.append(f"  curves       tensorboard --logdir {run}")
    if summary.best_epoch >= 0:
        shards = f" --shards {config.data.shards}" if is_address(config.data.shards) else ""  # opening a run contacts no address by itself
        lines.append(f"Test it with: fastfashion evaluate {run}{shards}")
    return "\n".join(lines)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command(app, TrainRequest, "train", EXAMPLE)(train)
    run_command(app)
