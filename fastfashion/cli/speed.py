"""Commands that measure speed."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.cli.app import app
from fastfashion.options import (
    Debug,
    Json,
    Shards,
    Size,
    Workers,
    find_shards,
)


@app.command("bench-loader")
def bench_loader(
    shards: Annotated[Path | None, Shards()] = None,
    size: Annotated[str, Size()] = "auto",
    workers: Annotated[int | None, Workers()] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures a batch.")] = 64,
    images: Annotated[int, typer.Option(help="Pictures a measurement, the same for every backend.")] = 4096,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each backend.")] = 5,
    res: Annotated[str, typer.Option(help="Packed resolution; the smallest that is enough by default.")] = "auto",
    backend: Annotated[list[str] | None, typer.Option(help="Measure this one, by the beginning of its name; again and again.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time of a batch goes, too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the record, with machine and versions, to this JSON file.")] = None,
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Compare the loaders with each other, with what people use today, and with decoding alone.

    Example: fastfashion bench-loader --shards shards/small
    """
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
    result = bench(request)
    print(table_text(result))
    if as_json:
        print(json.dumps(result))


@app.command("bench-train")
def bench_train(
    shards: Annotated[Path | None, Shards()] = None,
    model: Annotated[str, typer.Option(help="Any timm model, from random weights.")] = "resnet18",
    size: Annotated[str, Size()] = "auto",
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = 128,
    steps: Annotated[int, typer.Option(help="Steps a measurement.")] = 20,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements.")] = 5,
    workers: Annotated[int | None, Workers()] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="As in training: train.compile=true, again and again.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the record, with machine and versions, to this JSON file.")] = None,
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Compare training with the same loop on one batch that is there already, and measure what a checkpoint costs.

    Example: fastfashion bench-train --shards shards/small --size 80x64
    """
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


@app.command("bench-shard")
def bench_shard(
    images: Annotated[int, typer.Option(help="Pictures a measurement, the same for everybody.")] = 1024,
    workers: Annotated[int | None, Workers(what="Processes; all cores by default.")] = None,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of everybody.")] = 5,
    photos: Annotated[Path | None, typer.Option(help="Folder where the stand-ins are made once and kept.")] = None,
    source: Annotated[Path | None, typer.Option(help="A real zip or folder to pack as well.")] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Measure peak memory too, with few and with 8 times as many rows.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the record, with machine and versions, to this JSON file.")] = None,
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Compare packing with Pillow, with img2dataset's resizer, and with decoding alone, on stand-ins for photographs.

    Example: fastfashion bench-shard --photos data/photos --out bench/results/shard-2-cores.json
    """
    from fastfashion.bench.shard import BenchShardRequest, bench, table_text
    from fastfashion.dist import cores_per_process

    threads = workers or cores_per_process(1)
    request = BenchShardRequest(num_images=images, workers=threads, rounds=rounds, photos=photos, source=source, memory=memory, out=out)
    result = bench(request)
    print(table_text(result))
    if as_json:
        print(json.dumps(result))
