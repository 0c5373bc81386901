"""Whether training waits: the loop of `fastfashion train` fed by its loader against the same loop on one batch in memory.

    round: one batch repeated, then the loader, then one batch with a checkpoint in the middle ─► ratios of the same round ─► median

The loop, the model, the optimiser, the logging are the real ones. The first step of each measurement does not count: it starts the loader.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from command import Out, command_line, run
from fastfashion import dist
from fastfashion.bars import tqdm
from fastfashion.bench import spread, write_record
from fastfashion.config import DataConfig, RunConfig, parse_settings
from fastfashion.errors import ConfigError
from fastfashion.load import Batch, Loader, Skipped
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.runs.folder import Held
from fastfashion.tables import table_text as table
from fastfashion.train.checkpoint import Checkpoints, Progress
from fastfashion.train.control import Control
from fastfashion.train.data import Data, prepare_data
from fastfashion.train.job import PACKAGES, resolve
from fastfashion.train.learner import Learner, build_model
from fastfashion.train.record import Recorder
from fastfashion.train.trainer import Batches, Trainer
from fastfashion.words import counted

MINUTES = 10.0  # between checkpoints, by default


@dataclass(frozen=True, kw_only=True)
class BenchTrainRequest:
    """What to measure; raises ConfigError if that cannot be measured."""

    shards: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 20
    rounds: int = 5
    out: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 4), ("rounds", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name}: expected {least} or more, found {getattr(self, name)}")

    def config(self) -> RunConfig:
        """Training from random weights that logs once a measurement."""
        fixed = {"model.pretrained": False, "train.epochs": 10_000, "train.log_every_steps": self.steps}
        fixed |= {"train.checkpoint_every_minutes": 0, "train.loss_spike": 0}
        return resolve(RunConfig(data=DataConfig(shards=str(self.shards))).replace(dict(self.settings) | fixed))


class Kept(Recorder):
    """Keeps the last line."""

    line: dict[str, Any]

    def write(self, line: dict[str, Any]) -> None:
        self.line = line


class SameBatch:
    """A loader that repeats one batch."""

    def __init__(self, batch: Batch, num_steps: int, micro_batches: int) -> None:
        self.batch, self.num_steps, self.micro_batches = batch, num_steps, micro_batches
        self.skipped: dict[int, Skipped] = {}

    def steps(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from repeat(self.batch, (self.num_steps - start) * self.micro_batches)

    def close(self) -> None: ...


def bench(request: BenchTrainRequest) -> dict[str, Any]:
    """Measure, and write the record to `request.out`.

    Rates are images a second. `of_same_batch`: the loader's rate as a share of that on one batch. `checkpoint_s`: by how much a
    checkpoint lengthens training, its writing beside training included; `checkpoint_share`: of the time, at one every 10 minutes.
    """
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    world, config = dist.World(device=device), request.config()
    if device.type == "cpu":
        torch.set_num_threads(dist.cores_per_process(1))
    data = prepare_data(config, world)
    rows = data.spec.plan.rows
    wanted = request.steps * config.train.batch_size
    if len(rows) < wanted:
        smaller = len(rows) // request.steps
        raise ConfigError(
            f"--steps {request.steps}: needs {wanted} images at {config.train.batch_size} a batch, and the set has {len(rows)} training "
            "rows; choose fewer steps" + (f", or --batch-size {smaller}" if smaller > 1 else "")
        )
    spec = replace(data.spec, plan=replace(data.spec.plan, rows=rows[:wanted]))
    model, _ = build_model(config, data.classes, spec, world)
    learner = Learner(config, model, world, 10_000 * request.steps)
    lines: dict[str, list[dict[str, Any]]] = {"same batch": [], "loader": [], "checkpoint": []}
    with (
        closing(Loader(spec)) as loader,
        tempfile.TemporaryDirectory(prefix="fastfashion-") as folder,
        Checkpoints(Path(folder), 1, print, lambda tensors: None) as checkpoints,
    ):
        same = SameBatch(_copy(next(iter(loader.steps(0)))), request.steps, config.train.accumulate)
        measure = _Measure(config, data, learner, world, checkpoints)
        measure.run(same, 0, request.steps)  # warms up
        for number in tqdm(range(1, request.rounds + 1), "rounds", disable=None, leave=False):
            for name, each in (("same batch", same), ("loader", loader), ("checkpoint", same)):
                every = request.steps // 2 if name == "checkpoint" else 0
                lines[name].append(measure.run(each, number, request.steps, every))
                checkpoints.wait()
    return _result(request, config, device, spec.workers, lines)


def _copy(batch: Batch) -> Batch:
    return replace(batch, images=batch.images.clone(), labels=batch.labels.clone(), rows=batch.rows.clone())


@dataclass(frozen=True)
class _Measure:
    config: RunConfig
    data: Data
    learner: Learner
    world: dist.World
    checkpoints: Checkpoints

    def run(self, loader: Batches, epoch: int, steps: int, checkpoint_every: int = 0) -> dict[str, Any]:
        """The log line of an epoch."""
        recorder = Kept()
        trainer = Trainer(
            run=self.checkpoints.folder,
            config=replace(self.config, train=replace(self.config.train, checkpoint_every_steps=checkpoint_every)),
            world=self.world,
            data=self.data,
            learner=self.learner,
            loader=loader,
            val_loader=loader,
            control=Control(self.world, self.config.train),
            recorder=recorder,
            checkpoints=self.checkpoints,
            held=Held(self.checkpoints.folder, trained=True),
            progress=Progress(epoch=epoch),
        )
        trainer.train_epoch()
        return recorder.line


def _result(
    request: BenchTrainRequest, config: RunConfig, device: torch.device, workers: int, lines: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    rates = {name: [line["time"]["images_per_s"] for line in found] for name, found in lines.items()}
    seconds = {name: [line["time"]["seconds"] for line in found] for name, found in lines.items()}
    ratios = [rate / same for rate, same in zip(rates["loader"], rates["same batch"], strict=True)]
    costs = [with_one - without for with_one, without in zip(seconds["checkpoint"], seconds["same batch"], strict=True)]
    phases = {name: median(line["time"].get(f"{name}_s", 0.0) for line in lines["loader"]) for name in PHASES}
    result = {
        "command": command_line(),
        "commit": git_commit(),
        "set": request.shards.resolve().name,
        "config": config.to_dict(),
        "device": device.type,
        "loader_threads": workers,
        "steps": request.steps,
        "rounds": request.rounds,
        "images_per_s": {name: spread(found, 4) for name, found in rates.items()},
        "of_same_batch": spread(ratios, 4),
        "phases_s": phases,
        "checkpoint_s": spread(costs, 4),
        "checkpoint_stall_s": round(median(line["time"]["checkpoint_s"] for line in lines["checkpoint"]), 4),
        "checkpoint_share": round(max(0.0, median(costs)) / (MINUTES * 60), 6),
        "machine": machine_info(),
        "versions": package_versions(PACKAGES),
    }
    write_record(request.out, result)
    return result


PHASES = ("data", "forward_backward", "optimizer", "logging", "checkpoint")


def table_text(result: Mapping[str, Any]) -> str:
    """The result for people."""
    config, rates, ratio = result["config"], result["images_per_s"], result["of_same_batch"]
    train = config["train"]
    lines = [
        f"{config['model']['name']} at {config['data']['size']}, batches of {train['batch_size']}, {train['precision']}, "
        f"{result['device']}, {counted(result['loader_threads'], 'loader thread')}, {counted(result['rounds'], 'round')} of "
        f"{result['steps']} steps",
        "",
        table(
            ["", ""],
            [
                ["fed by the loader", f"{rates['loader']['median']:,.1f} images/s"],
                ["one batch", f"{rates['same batch']['median']:,.1f} images/s"],
                ["ratio", f"{ratio['median']:.4f} ({min(ratio['by_round']):.4f} to {max(ratio['by_round']):.4f})"],
            ],
            left=(0, 1),
        ),
        "",
        "of a step of the loop: " + ", ".join(f"{name} {share:.2%}" for name, share in shares(result["phases_s"]).items()),
        _checkpoint_text(result),
    ]
    return "\n".join(lines)


def _checkpoint_text(result: Mapping[str, Any]) -> str:
    """What a checkpoint costs. A negative difference of times is none that was measured: rounds differ by more than a checkpoint costs."""
    cost, stall = result["checkpoint_s"], f"the loop waits for {result['checkpoint_stall_s']:.3f} s"
    if cost["median"] > 0:
        share = f"{result['checkpoint_share']:.3%} of the time at one every {MINUTES:.0f} minutes"
        return f"a checkpoint lengthens training by {cost['median']:.3f} s ({stall}): {share}"
    rounds = f"{min(cost['by_round']):+.3f} to {max(cost['by_round']):+.3f} s"
    return f"what a checkpoint costs is less than rounds differ ({rounds}; {stall}): measure more --rounds or --steps"


def shares(phases_s: Mapping[str, float]) -> dict[str, float]:
    total = sum(phases_s.values())
    return {name: seconds / total for name, seconds in phases_s.items()}


def main(
    shards: Annotated[Path, typer.Option(help="Folder of a packed set.")],
    size: Annotated[str, typer.Option(help="Input size of the model, HxW in pixels; default: the images' shape.")] = "auto",
    model: Annotated[str, typer.Option(help="Any timm model, from random weights.")] = "resnet18",
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    steps: Annotated[int, typer.Option(help="Steps per measurement.")] = 20,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements.")] = 5,
    workers: Annotated[int, typer.Option(help="Loader threads; default: as in training.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of training, such as train.compile=true; repeatable.")
    ] = None,
    out: Out = None,
) -> None:
    """Compare training with the same loop on one batch in memory, and measure what a checkpoint costs."""
    chosen = {"model.name": model, "data.size": size, "train.batch_size": batch_size, "data.workers": workers}
    request = BenchTrainRequest(shards=shards, settings=chosen | parse_settings(settings or []), steps=steps, rounds=rounds, out=out)
    print(table_text(bench(request)))


if __name__ == "__main__":
    run(main)
