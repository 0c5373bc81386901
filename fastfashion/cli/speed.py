"""Commands that measure speed."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.cli.app import IN, OUT, RUN, app
from fastfashion.options import (
    Debug,
    Json,
    OutFile,
    Shards,
    Size,
    Workers,
    check_place,
    find_shards,
)
from fastfashion.scratch import signals_raise


@app.command("bench-loader", epilog="Example: fastfashion bench-loader --shards shards/small")
def bench_loader(
    shards: Annotated[Path | None, Shards(IN)] = None,
    size: Annotated[str, Size(IN)] = "auto",
    res: Annotated[str, typer.Option(help="Packed resolution; the smallest that is enough by default.", rich_help_panel=IN)] = "auto",
    out: Annotated[Path | None, OutFile("Write the record, with machine and versions, to this JSON file.", OUT)] = None,
    workers: Annotated[int | None, Workers(RUN)] = None,
    batch_size: Annotated[int, typer.Option(help="Images a batch.", rich_help_panel=RUN)] = 64,
    images: Annotated[int, typer.Option(help="Images a measurement, the same for every backend.", rich_help_panel=RUN)] = 4096,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each backend.", rich_help_panel=RUN)] = 5,
    backend: Annotated[
        list[str] | None, typer.Option(help="Measure this one, by the beginning of its name; again and again.", rich_help_panel=RUN)
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time of a batch goes, too.", rich_help_panel=RUN)] = False,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Compare the loaders with each other, with what people use today, and with decoding alone."""
    from fastfashion.bench.loader import BenchRequest, bench, table_text
    from fastfashion.dist import cores_per_process

    threads = workers or cores_per_process(1)
    request = BenchRequest(
        shards=find_shards(shards),
        resolution=res,
        size=size,
        threads=threads,
        batch_size=batch_size,
        num_images=images,
        rounds=rounds,
        backends=tuple(backend or ()),
        profile=profile,
        out=out,
    )
    with signals_raise():
        result = bench(request)
    print(table_text(result))
    if as_json:
        print(json.dumps(result))


@app.command("bench-train", epilog="Example: fastfashion bench-train --shards shards/small --size 80x64")
def bench_train(
    shards: Annotated[Path | None, Shards(IN)] = None,
    size: Annotated[str, Size(IN)] = "auto",
    out: Annotated[Path | None, OutFile("Write the record, with machine and versions, to this JSON file.", OUT)] = None,
    model: Annotated[str, typer.Option(help="Any timm model, from random weights.", rich_help_panel=RUN)] = "resnet18",
    batch_size: Annotated[int, typer.Option(help="Images a step.", rich_help_panel=RUN)] = 128,
    steps: Annotated[int, typer.Option(help="Steps a measurement.", rich_help_panel=RUN)] = 20,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements.", rich_help_panel=RUN)] = 5,
    workers: Annotated[int | None, Workers(RUN)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="As in training: train.compile=true, again and again.", rich_help_panel=RUN)
    ] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Compare training with the same loop on one batch that is there already, and measure what a checkpoint costs."""
    from fastfashion.bench.train import BenchTrainRequest, bench, table_text
    from fastfashion.config import parse_settings

    request = BenchTrainRequest(
        shards=find_shards(shards),
        settings={"model.name": model, "data.size": size, "train.batch_size": batch_size, "data.workers": workers or 0}
        | parse_settings(settings or []),
        steps=steps,
        rounds=rounds,
        out=out,
    )
    result = bench(request)
    print(table_text(result))
    if as_json:
        print(json.dumps(result))


@app.command("bench-shard", epilog="Example: fastfashion bench-shard --photos data/photos --out bench/results/shard-2-cores.json")
def bench_shard(
    photos: Annotated[Path | None, typer.Option(help="Folder where the stand-ins are made once and kept.", rich_help_panel=IN)] = None,
    source: Annotated[Path | None, typer.Option(help="A real zip or folder to pack as well.", rich_help_panel=IN)] = None,
    out: Annotated[Path | None, OutFile("Write the record, with machine and versions, to this JSON file.", OUT)] = None,
    images: Annotated[int, typer.Option(help="Images a measurement, the same for everybody.", rich_help_panel=RUN)] = 1024,
    workers: Annotated[int | None, Workers(RUN, what="Processes; all cores by default.")] = None,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of everybody.", rich_help_panel=RUN)] = 5,
    memory: Annotated[
        bool, typer.Option("--memory", help="Measure peak memory too, with few and with 8 times as many rows.", rich_help_panel=RUN)
    ] = False,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Compare packing with Pillow, with img2dataset's resizer, and with decoding alone, on stand-ins for photographs."""
    from fastfashion.bench.shard import BenchShardRequest, bench, table_text
    from fastfashion.dist import cores_per_process

    if photos is not None:
        check_place(photos, "--photos", is_folder=True)
    threads = workers or cores_per_process(1)
    request = BenchShardRequest(num_images=images, workers=threads, rounds=rounds, photos=photos, source=source, memory=memory, out=out)
    with signals_raise():
        result = bench(request)
    print(table_text(result))
    if as_json:
        print(json.dumps(result))
