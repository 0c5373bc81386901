"""The command line: typer wiring, nothing else."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fastfashion import __version__
from fastfashion.files import location
from fastfashion.options import (
    Corrections,
    Debug,
    Json,
    Location,
    Protocol,
    Shards,
    Size,
    Source,
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

IN, OUT, RUN = "In", "Out", "Run"


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
    source: Annotated[Path | None, Source(IN)] = None,
    out: Annotated[Path | None, Location("Folder of the packed set; shards/NAME by default.", OUT)] = None,
    res: Annotated[list[str] | None, typer.Option(help="Shorter side in pixels, or full; again and again.", rich_help_panel=OUT)] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality of resized pictures.", rich_help_panel=OUT)] = 90,
    max_rejected: Annotated[int, typer.Option(help="Stop when more rows than this cannot be packed.", rich_help_panel=IN)] = 1000,
    max_pixels: Annotated[int, typer.Option(help="Reject pictures of more pixels, unread.", rich_help_panel=IN)] = 100_000_000,
    workers: Annotated[int | None, Workers(RUN, what="Processes; all cores by default.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the same blocks on a Ray cluster.", rich_help_panel=RUN)] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster, such as auto.", rich_help_panel=RUN)] = None,
    only_plan: Annotated[bool, typer.Option("--dry-run", help="Print the plan and an estimate of sizes.", rich_help_panel=RUN)] = False,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Pack pictures and their table into shards, at one or several resolutions, on disk or object storage.

    Goes on where an interrupted run stopped. What is left out stands in rejected.csv, with the reason.

    Example: fastfashion shard --source fashion-product-images-small.zip --res full --res 40 --out shards/small
    """
    from fastfashion.dist import cores_per_process
    from fastfashion.pack import PackRequest, bar_progress, dry_run, pack
    from fastfashion.pack.text import dry_run_text, summary_text

    found = find_source(source)
    request = PackRequest(
        source=found,
        out=out or Path("shards") / found.stem,
        resolutions=tuple(dict.fromkeys(res or ["224"])),
        workers=workers or cores_per_process(1),
        engine=engine,
        address=address,
        max_rejected=max_rejected,
        max_pixels=max_pixels,
        quality=quality,
    )
    if only_plan:
        plan = dry_run(request)
        print(dry_run_text(plan), file=sys.stderr)
        result: dict[str, object] = asdict(plan)
    else:
        try:
            with bar_progress() as progress:
                summary = pack(request, progress)
        except (KeyboardInterrupt, SystemExit):
            print("what is packed stays: the same command goes on from there", file=sys.stderr)
            raise
        print(summary_text(summary), file=sys.stderr)
        result = asdict(summary)
    if as_json:
        print(json.dumps(result | {"out": str(request.out)}))


@app.command()
def verify(
    shards: Annotated[Path, typer.Argument(help="Folder of a packed set; s3:// and the like too.", parser=location, metavar="SET")],
    repair: Annotated[bool, typer.Option("--repair", help="Pack damaged shards again from --source.")] = False,
    source: Annotated[Path | None, Source()] = None,
    workers: Annotated[int | None, Workers(what="Processes of the repair; all cores by default.")] = None,
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Compare every byte of a packed set with its checksums; exits with 1 where one differs.

    Example: fastfashion verify shards/small --repair --source fashion-product-images-small.zip
    """
    from fastfashion.dist import cores_per_process
    from fastfashion.pack.repair import repair as repack
    from fastfashion.pack.text import verify_bar, verify_text

    result = verify_bar(shards)
    repaired: list[str] = []
    if result.damage and repair:
        print(verify_text(shards, result), file=sys.stderr)
        repaired = repack(shards, find_source(source), result.damage, workers or cores_per_process(1))
        print(f"{shards}: packed again: {', '.join(repaired) or 'nothing'}", file=sys.stderr)
        result = verify_bar(shards)
    print(verify_text(shards, result), file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(result) | {"out": str(shards), "repaired": repaired}))
    if result.damage:
        raise typer.Exit(1)


@app.command()
def audit(
    shards: Annotated[Path, typer.Argument(help="Folder of a packed set.", parser=location, metavar="SET")],
    out: Annotated[Path | None, typer.Option(help="Folder for audit.json and a picture of the largest duplicate groups.")] = None,
    run: Annotated[list[Path] | None, typer.Option(help="Judge labels by this run, too; again and again.")] = None,
    corrections: Annotated[Path | None, Corrections()] = None,
    workers: Annotated[int | None, Workers()] = None,
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Report what a packed set holds: sizes, bytes, classes, duplicates, and what each split would leak from training into its test.

    With --run, also which labels are probably wrong: suspects.csv and sheets of pictures in --out.

    Example: fastfashion audit shards/small --out audit --run runs/NAME
    """
    from fastfashion.pack.audit import audit as audit_set
    from fastfashion.pack.audit import audit_text

    report = audit_set(shards, out)
    print(audit_text(report))
    if run:
        from fastfashion import dist
        from fastfashion.evaluate.suspects import SuspectsRequest, find_suspects, suspects_text

        where = out or Path("audit")
        request = SuspectsRequest(runs=run, out=where, shards=shards, corrections=corrections, workers=workers or 0)
        report["label_errors"] = find_suspects(request, dist.start())
        print("", suspects_text(report["label_errors"]), sep="\n")
    if out is not None:
        print(f"{out}: audit.json" + (", duplicates.png" if report["duplicates"]["groups"] else ""), file=sys.stderr)
    if as_json:
        print(json.dumps(report))


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
    shards: Annotated[Path | None, Location("Where the packed set lies now, if it was moved.")] = None,
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
        with dist.lost_peer_explained(world):
            report = evaluate_run(EvaluateRequest(run=run, shards=shards, batch_size=batch_size, workers=workers or 0), world)
    finally:
        dist.stop()
    if world.is_main:
        print(report_text(run, report))
        if as_json:
            print(json.dumps(report))
    dist.end_worker(world)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of an evaluated run.", metavar="RUN_A")],
    second: Annotated[Path, typer.Argument(help="Another, tested on the same rows.", metavar="RUN_B")],
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Say whether one run is better than another: McNemar's exact test, and intervals of the differences.

    Example: fastfashion compare runs/FIRST runs/SECOND
    """
    from fastfashion.evaluate.compare import compare as compare_runs
    from fastfashion.evaluate.compare import compare_text

    result = compare_runs(first, second)
    print(compare_text(result))
    if as_json:
        print(json.dumps(result))


@app.command()
def preview(
    shards: Annotated[Path, typer.Argument(help="Folder of a packed set.", parser=location, metavar="SET")],
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("preview.png"),
    task: Annotated[str, Task()] = "subCategory",
    size: Annotated[str, Size()] = "auto",
    count: Annotated[int, typer.Option("--rows", help="Pictures to show, drawn from those with a label.")] = 32,
    row: Annotated[list[int] | None, typer.Option(help="Show this row of the set instead; again and again.")] = None,
    seed: Annotated[int, typer.Option(help="Of the pictures and of the augmentation.")] = 0,
    recipe_name: Annotated[str, typer.Option("--recipe", help="fast or reference.")] = "fast",
    settings: Annotated[list[str] | None, typer.Option("--set", help="As in training: augment.mixup=0.2, again and again.")] = None,
    workers: Annotated[int | None, Workers()] = None,
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Draw a sheet of what the model will see: packed pictures, and what augmentation makes of them in three epochs.

    Example: fastfashion preview shards/small --set augment.erase=0.3 --set augment.cutmix=1 --out preview.png
    """
    from fastfashion.config import DataConfig, RunConfig, parse_settings, recipe
    from fastfashion.dist import cores_per_process
    from fastfashion.load.preview import PreviewRequest
    from fastfashion.load.preview import preview as draw

    flags = {"data.task": task} | ({"data.size": size} if size != "auto" else {})
    config = RunConfig(data=DataConfig(shards=str(shards))).replace(recipe(recipe_name) | flags | parse_settings(settings or []))
    request = PreviewRequest(
        shards=shards,
        out=out,
        augment=config.augment,
        task=config.data.task,
        resolution=config.data.resolution,
        size=config.data.size,
        workers=workers or cores_per_process(1),
        count=count,
        rows=row or None,
        seed=seed,
    )
    summary = draw(request)
    print(f"{out}: {len(summary.rows)} pictures, {summary.width_px}x{summary.height_px} pixels", file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(summary)))


@app.command()
def reproduce(
    small: Annotated[Path | None, typer.Option(help="Packed set of the small pictures; runs their cells.", rich_help_panel=IN)] = None,
    full: Annotated[Path | None, typer.Option(help="Packed set of the full pictures; runs their cells.", rich_help_panel=IN)] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task's cells; again and again.", rich_help_panel=IN)] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model's cells; again and again.", rich_help_panel=IN)] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="Only on this split; both by default.", rich_help_panel=IN)] = None,
    recipe_name: Annotated[str, typer.Option("--recipe", help="fast, best or reference.", rich_help_panel=RUN)] = "fast",
    all_heads: Annotated[bool, typer.Option(help="Every model learns all labels.", rich_help_panel=RUN)] = True,
    seeds: Annotated[int, typer.Option(help="Runs a cell.", rich_help_panel=RUN)] = 1,
    pretrained: Annotated[bool, typer.Option(help="Start from ImageNet weights.", rich_help_panel=RUN)] = True,
    epochs: Annotated[int | None, typer.Option(help="Those of the recipe by default.", rich_help_panel=RUN)] = None,
    nproc: Annotated[int | None, typer.Option(help="Processes on this machine, one a GPU.", rich_help_panel=RUN)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="As in training.", rich_help_panel=RUN)] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs and tables.", rich_help_panel=OUT)] = Path("runs/reproduce"),
    as_json: Annotated[bool, Json()] = False,
    debug: Annotated[bool, Debug()] = False,
) -> None:
    """Train and test the reference project's twelve cells, or some, beside its published results: one table, one picture.

    What is done stays done: the same command goes on.

    Example: fastfashion reproduce --small shards/small --model resnet18 --no-pretrained
    """
    from fastfashion.bench.reference import MODELS, TASKS
    from fastfashion.bench.reproduce import PROTOCOLS, ReproduceRequest
    from fastfashion.bench.reproduce import reproduce as run_cells
    from fastfashion.config import ALL

    options = [] if pretrained else ["--no-pretrained"]
    options += [text for name, value in (("--epochs", epochs), ("--nproc", nproc)) if value for text in (name, str(value))]
    options += [text for setting in settings or [] for text in ("--set", setting)]
    request = ReproduceRequest(
        out=out,
        sets={name: path for name, path in (("small", small), ("full", full)) if path is not None},
        tasks=task or TASKS,
        models=model or MODELS,
        protocols=protocol or PROTOCOLS,
        recipe=recipe_name,
        heads=ALL if all_heads and recipe_name != "reference" else "",
        seeds=seeds,
        train_options=options,
    )
    result = run_cells(request)
    print((out / "table.md").read_text(encoding="utf-8"), end="")
    print(f"{out}: table.md, table.csv, table.json, table.png", file=sys.stderr)
    if as_json:
        print(json.dumps(result))


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


def main() -> None:
    run_command(app)
