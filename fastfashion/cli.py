"""The command line: typer wiring, nothing else."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fastfashion import __version__
from fastfashion.options import (
    Debug,
    Json,
    Protocol,
    Shards,
    Size,
    Task,
    Workers,
    find_shards,
    find_source,
    parse_picture_size,
    run_command,
)
from fastfashion.train.__main__ import train

app = typer.Typer(
    help="Pack product photographs, train a classifier on them at full speed, and prove how good it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)

IN, OUT = "In", "Out"


def _show_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None: ...


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder to make; must not exist or be empty.")] = Path("data/synth"),
    rows: Annotated[int, typer.Option(help="Lines of the table.")] = 1200,
    res: Annotated[str, typer.Option(help="Size of the pictures, width x height in pixels, 60x80 to 1800x2400.")] = "600x800",
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    workers: Annotated[int | None, Workers(what="Processes; all cores by default.")] = None,
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Draw a stand-in data set in the layout of the real one.

    Example: fastfashion synth --rows 1200 --res 600x800 --out data/synth
    """
    from tqdm import tqdm

    from fastfashion.catalog.synth import write_synth
    from fastfashion.dist import cores_per_process

    width_px, height_px = parse_picture_size(res)
    with tqdm(total=rows, unit="pictures", disable=None) as bar:
        summary = write_synth(
            out,
            rows=rows,
            width_px=width_px,
            height_px=height_px,
            seed=seed,
            workers=workers or cores_per_process(1),
            on_progress=bar.update,
        )
    print(
        f"{out}: {summary.images} pictures of {width_px}x{height_px}, {summary.num_bytes / 1e6:.1f} MB, {summary.rows} rows",
        file=sys.stderr,
    )
    if as_json:
        print(json.dumps(asdict(summary) | {"out": str(out)}))


@app.command()
def shard(
    source: Annotated[Path | None, typer.Option(help="Kaggle zip or folder; the one under data/ by default.", rich_help_panel=IN)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the packed set; shards/NAME by default.", rich_help_panel=OUT)] = None,
    res: Annotated[list[str] | None, typer.Option(help="Shorter side in pixels, or full; again and again.", rich_help_panel=OUT)] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality of resized pictures.", rich_help_panel=OUT)] = 90,
    max_rejected: Annotated[int, typer.Option(help="Stop when more rows than this cannot be packed.", rich_help_panel=IN)] = 1000,
    workers: Annotated[int | None, Workers(OUT, what="Processes; all cores by default.")] = None,
    as_json: Annotated[bool, Json(OUT)] = False,
    debug: Annotated[bool, Debug(OUT)] = False,
) -> None:
    """Pack pictures and their table into shards, at one or several resolutions.

    Goes on where an interrupted run stopped. What is left out stands in rejected.csv, with the reason.

    Example: fastfashion shard --source fashion-product-images-small.zip --res full --res 40 --out shards/small
    """
    from fastfashion.dist import cores_per_process
    from fastfashion.pack import PackRequest, bar_progress, pack

    found = find_source(source)
    request = PackRequest(
        source=found,
        out=out or Path("shards") / found.stem,
        resolutions=tuple(dict.fromkeys(res or ["224"])),
        workers=workers or cores_per_process(1),
        max_rejected=max_rejected,
        quality=quality,
    )
    with bar_progress() as progress:
        summary = pack(request, progress)
    rate = f", {summary.packed_now / summary.seconds:.0f} pictures/s" if summary.packed_now else ""
    print(
        f"{summary.out}: {summary.kept} of {summary.num_rows} rows packed ({summary.packed_now} now, {summary.resumed} before{rate}), "
        f"{summary.rejected} rejected, see {summary.out / 'rejected.csv'}",
        file=sys.stderr,
    )
    for name, sizes in summary.resolutions.items():
        print(
            f"  {name}: {sizes['num_shards']} shards, {sizes['tar_bytes'] / 1e6:.1f} MB ({sizes['num_bytes'] / 1e6:.1f} MB of pictures)",
            file=sys.stderr,
        )
    if as_json:
        print(json.dumps(asdict(summary) | {"out": str(summary.out)}))


@app.command()
def splits(
    shards: Annotated[Path | None, Shards()] = None,
    task: Annotated[str, Task()] = "subCategory",
    protocol: Annotated[str, Protocol()] = "stratified",
    seed: Annotated[int, typer.Option(help="Of the stratified protocol.")] = 0,
    out: Annotated[Path, typer.Option(help="CSV to write: id,split, in the split's own order.")] = Path("splits.csv"),
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Write which row stands in which part of a split.

    Example: fastfashion splits --shards shards/small --task subCategory --protocol reference --out splits.csv
    """
    from fastfashion.catalog import split_rows
    from fastfashion.catalog.splits import write_split
    from fastfashion.shards import open_packed_set

    packed = open_packed_set(find_shards(shards))
    split = split_rows(packed.table, packed.vocab, task, protocol, seed)
    summary = write_split(out, packed.table, split)
    print(f"{out}: " + ", ".join(f"{part} {values['num_rows']}" for part, values in summary.items()), file=sys.stderr)
    if as_json:
        print(json.dumps({"out": str(out), "task": task, "protocol": protocol, "parts": summary}))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run, runs/NAME.")],
    shards: Annotated[Path | None, typer.Option(help="Where the packed set lies now, if it was moved.")] = None,
    batch_size: Annotated[int, typer.Option(help="Global: over all processes.")] = 256,
    workers: Annotated[int | None, Workers()] = None,
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Test a run's best weights on the test rows of its split; writes report, predictions and plots.

    Example: fastfashion evaluate runs/NAME
    """
    from fastfashion import dist
    from fastfashion.evaluate import EvaluateRequest, evaluate_run
    from fastfashion.evaluate.run import report_text

    world = dist.start()
    try:
        report = evaluate_run(EvaluateRequest(run=run, shards=shards, batch_size=batch_size, workers=workers or 0), world)
    finally:
        dist.stop()
    if world.is_main:
        print(report_text(run, report))
        if as_json:
            print(json.dumps(report))


@app.command("bench-loader")
def bench_loader(
    shards: Annotated[Path | None, Shards()] = None,
    size: Annotated[str, Size()] = "auto",
    workers: Annotated[int | None, Workers()] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures a batch.")] = 64,
    images: Annotated[int, typer.Option(help="Pictures a measurement, the same for every backend.")] = 4096,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each backend.")] = 5,
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
        shards=find_shards(shards), size=size, threads=threads, batch_size=batch_size, num_images=images, rounds=rounds, out=out
    )
    result = bench(request)
    print(table_text(result))
    if as_json:
        print(json.dumps(result))


def main() -> None:
    run_command(app)
