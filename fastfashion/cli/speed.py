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
    """Compare the loaders with each other, with ImageFolder and a DataLoader, and with decoding alone."""
    from fastfashion.bench import BenchRequest, bench, table_text, write_record
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
    )
    with signals_raise():
        result = bench(request)
    write_record(out, result)
    print(table_text(result))
    if as_json:
        print(json.dumps(result))
