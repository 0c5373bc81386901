"""Commands that test runs and set them beside others."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.cli.app import IN, OUT, RUN, app
from fastfashion.options import (
    Debug,
    Json,
    Location,
    OutFolder,
    Tasks,
    Workers,
    parse_tasks,
)


@app.command(epilog="Example: fastfashion evaluate runs/NAME")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run, runs/NAME.")],
    shards: Annotated[Path | None, Location("Where the packed set is now; another one with --rows unseen.", IN)] = None,
    rows: Annotated[str, typer.Option(help="test, or unseen: ids of --shards that the run never saw.", rich_help_panel=IN)] = "test",
    batch_size: Annotated[int, typer.Option(help="Global: over all processes.", rich_help_panel=RUN)] = 256,
    workers: Annotated[int | None, Workers(RUN)] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Test a run's best weights on the test rows of its split; writes report, predictions and plots.

    A set that has grown holds rows that the run trained on: --rows unseen tests only what it never saw, into RUN/unseen.
    """
    from fastfashion import dist
    from fastfashion.evaluate import EvaluateRequest, evaluate_run
    from fastfashion.evaluate.text import report_text

    world = dist.start()
    try:
        with dist.lost_peer_explained(world):
            request = EvaluateRequest(run=run, shards=shards, rows=rows, batch_size=batch_size, workers=workers or 0)
            report = evaluate_run(request, world)
    finally:
        dist.stop()
    if world.is_main:
        print(report_text(run, report))
        if as_json:
            print(json.dumps(report))
    dist.end_worker(world)


@app.command(epilog="Example: fastfashion compare runs/FIRST runs/SECOND")
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluated run.", metavar="RUN_A")],
    second: Annotated[Path, typer.Argument(help="Another, tested on the same rows.", metavar="RUN_B")],
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Say whether one run is better than another: McNemar's exact test, and intervals of the differences."""
    from fastfashion.evaluate.compare import compare as compare_runs
    from fastfashion.evaluate.compare import compare_text

    result = compare_runs(first, second)
    print(compare_text(result))
    if as_json:
        print(json.dumps(result))


@app.command(epilog="Example: fastfashion reproduce --small shards/small --model resnet18 --no-pretrained")
def reproduce(
    small: Annotated[Path | None, typer.Option(help="Packed set of the small images; runs their cells.", rich_help_panel=IN)] = None,
    full: Annotated[Path | None, typer.Option(help="Packed set of the full images; runs their cells.", rich_help_panel=IN)] = None,
    any_set: Annotated[
        bool, typer.Option("--any-set", help="Run other data than the published values are of.", rich_help_panel=IN)
    ] = False,
    task: Annotated[list[str] | None, Tasks("Only the cells of these", IN)] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model's cells; again and again.", rich_help_panel=IN)] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="Only on this split; both by default.", rich_help_panel=IN)] = None,
    recipe_name: Annotated[str, typer.Option("--recipe", help="fast, best or reference.", rich_help_panel=RUN)] = "fast",
    all_heads: Annotated[bool, typer.Option(help="Every model learns all labels.", rich_help_panel=RUN)] = True,
    seeds: Annotated[int, typer.Option(help="Runs a cell.", rich_help_panel=RUN)] = 1,
    pretrained: Annotated[bool, typer.Option(help="Start from ImageNet weights.", rich_help_panel=RUN)] = True,
    epochs: Annotated[int | None, typer.Option(help="Those of the recipe by default.", rich_help_panel=RUN)] = None,
    nproc: Annotated[int | None, typer.Option(help="Processes on this machine, one a GPU.", rich_help_panel=RUN)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="As in training.", rich_help_panel=RUN)] = None,
    out: Annotated[Path, OutFolder("Folder for runs and tables.", OUT)] = Path("runs/reproduce"),
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Train and test the reference project's twelve cells, or some, beside its published results: one table, one image.

    What is done stays done: the same command goes on.
    """
    from fastfashion.config import ALL, parse_settings
    from fastfashion.evaluate.reproduce import ReproduceRequest
    from fastfashion.evaluate.reproduce import reproduce as run_cells

    flags = {"model.pretrained": None if pretrained else False, "train.epochs": epochs}
    request = ReproduceRequest(
        name="fashion-product-images",
        shards=[path for path in (small, full) if path is not None],
        out=out,
        tasks=parse_tasks(task),
        models=model or (),
        protocols=protocol or (),
        recipe=recipe_name,
        heads=ALL if all_heads and recipe_name != "reference" else "",
        seeds=seeds,
        settings={key: value for key, value in flags.items() if value is not None} | parse_settings(settings or []),
        nproc=nproc,
        any_set=any_set,
    )
    result = run_cells(request)
    print((out / "table.md").read_text(encoding="utf-8"), end="")
    print(f"{out}: table.md, table.csv, table.json, table.png", file=sys.stderr)
    if as_json:
        print(json.dumps(result))
