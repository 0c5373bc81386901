"""Commands that make data sets and look at them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.cli.app import IN, OUT, RUN, app
from fastfashion.files import location
from fastfashion.options import (
    Corrections,
    Debug,
    IdColumn,
    Json,
    OutFile,
    OutFolder,
    Protocol,
    Raw,
    Shards,
    Size,
    Source,
    Table,
    Task,
    Workers,
    find_shards,
    find_source,
    parse_image_size,
)
from fastfashion.words import counted


@app.command(epilog="Example: fastfashion synth --rows 1200 --res 600x800 --out data/synth")
def synth(
    out: Annotated[Path, OutFolder("Folder to make; must not exist or be empty.", OUT)] = Path("data/synth"),
    rows: Annotated[int, typer.Option(help="Lines of the table.", rich_help_panel=OUT)] = 1200,
    res: Annotated[
        str, typer.Option(help="Size of the images, width x height in pixels, 60x80 to 1800x2400.", rich_help_panel=OUT)
    ] = "600x800",
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", rich_help_panel=OUT)] = 0,
    workers: Annotated[int | None, Workers(RUN, what="Processes; all cores by default.")] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Draw a stand-in data set in the layout of the real one."""
    from fastfashion.bars import tqdm
    from fastfashion.dist import cores_per_process
    from fastfashion.sources.synth import write_synth

    width_px, height_px = parse_image_size(res)
    with tqdm(total=rows, unit="images", disable=None) as bar:
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
        f"{out}: {counted(summary.images, 'image')} of {width_px}x{height_px}, {summary.num_bytes / 1e6:.1f} MB, "
        f"{counted(summary.rows, 'row')}",
        file=sys.stderr,
    )
    if as_json:
        print(json.dumps(asdict(summary) | {"out": str(out)}))


@app.command(epilog="Example: fastfashion shard --res full --res 40 --out shards/small")
def shard(
    source: Annotated[Path | None, Source(IN)] = None,
    table: Annotated[str, Table(IN)] = "",
    id_column: Annotated[str, IdColumn(IN)] = "id",
    label_columns: Annotated[
        str, typer.Option(help="Columns to learn, with commas; those of styles.csv by default.", rich_help_panel=IN)
    ] = "",
    na_values: Annotated[
        str | None, typer.Option(help="Cells without a label, with commas: NA,- (default: docs/tables.md).", rich_help_panel=IN)
    ] = None,
    out: Annotated[Path | None, OutFolder("Folder of the packed set; shards/NAME by default.", OUT)] = None,
    res: Annotated[list[str] | None, typer.Option(help="Shorter side in pixels, or full; repeatable.", rich_help_panel=OUT)] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality of resized images.", rich_help_panel=OUT)] = 90,
    max_rejected: Annotated[int, typer.Option(help="Stop when more rows than this cannot be packed.", rich_help_panel=IN)] = 1000,
    max_pixels: Annotated[int, typer.Option(help="Reject images of more pixels, unread.", rich_help_panel=IN)] = 100_000_000,
    workers: Annotated[int | None, Workers(RUN, what="Processes; all cores by default.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: the same blocks on a Ray cluster.", rich_help_panel=RUN)] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster, such as auto.", rich_help_panel=RUN)] = None,
    only_plan: Annotated[bool, typer.Option("--dry-run", help="Print the plan and an estimate of sizes.", rich_help_panel=RUN)] = False,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Pack images and their table into shards, at one or several resolutions, on disk or object storage.

    Goes on where an interrupted run stopped. What is left out stands in rejected.csv, with the reason.
    """
    from fastfashion.catalog import Columns
    from fastfashion.dist import cores_per_process
    from fastfashion.pack import PackRequest, bar_progress, dry_run, pack
    from fastfashion.pack.engines import own_process
    from fastfashion.pack.text import dry_run_text, summary_text

    found = find_source(source)
    request = PackRequest(
        source=found,
        out=out or Path("shards") / found.stem,
        table=table,
        columns=Columns.parse(id_column, label_columns, na_values),
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
            with own_process(), bar_progress() as progress:
                summary = pack(request, progress)
        except (KeyboardInterrupt, SystemExit):
            print("what is packed stays: the same command resumes from there", file=sys.stderr)
            raise
        print(summary_text(summary), file=sys.stderr)
        result = asdict(summary)
    if as_json:
        print(json.dumps(result | {"out": str(request.out)}))


@app.command(epilog="Example: fastfashion verify shards/small --repair --source data/fashion-product-images-small.zip")
def verify(
    shards: Annotated[Path, typer.Argument(help="Folder of a packed set; s3:// and the like too.", parser=location, metavar="SET")],
    source: Annotated[Path | None, Source(IN)] = None,
    table: Annotated[str, Table(IN)] = "",
    id_column: Annotated[str, IdColumn(IN)] = "id",
    repair: Annotated[bool, typer.Option("--repair", help="Pack damaged shards again from --source.", rich_help_panel=RUN)] = False,
    workers: Annotated[int | None, Workers(RUN, what="Processes of the repair; all cores by default.")] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Compare every byte of a packed set with its checksums; exits with 1 where one differs."""
    from fastfashion.dist import cores_per_process
    from fastfashion.pack.engines import own_process
    from fastfashion.pack.repair import repair as repack
    from fastfashion.pack.text import verify_bar, verify_text

    result = verify_bar(shards)
    repaired: list[str] = []
    if result.damage and repair:
        print(verify_text(shards, result), file=sys.stderr)
        with own_process():
            repaired = repack(shards, find_source(source), result.damage, workers or cores_per_process(1), table, id_column)
        print(f"{shards}: packed again: {', '.join(repaired) or 'nothing'}", file=sys.stderr)
        result = verify_bar(shards)
    print(verify_text(shards, result), file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(result) | {"out": str(shards), "repaired": repaired}))
    if result.damage:
        raise typer.Exit(1)


@app.command(epilog="Example: fastfashion audit shards/small --out audit --run runs/NAME")
def audit(
    shards: Annotated[Path, typer.Argument(help="Folder of a packed set.", parser=location, metavar="SET")],
    run: Annotated[list[Path] | None, typer.Option(help="Judge labels by this run, too; repeatable.", rich_help_panel=IN)] = None,
    corrections: Annotated[Path | None, Corrections(IN)] = None,
    out: Annotated[Path | None, OutFolder("Folder for audit.json and a sheet of the largest duplicate groups.", OUT)] = None,
    raw: Annotated[bool, Raw(OUT)] = False,
    workers: Annotated[int | None, Workers(RUN)] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Report what a packed set holds: sizes, bytes, classes, duplicates, and what each split would leak from training into its test.

    With --run, also which labels are probably wrong: suspects.csv and sheets of images in --out.
    """
    from fastfashion.audit.report import audit as audit_set
    from fastfashion.audit.report import audit_text

    found = None
    if run:  # first: a run of another set is refused before the set is read
        from fastfashion import dist
        from fastfashion.audit.suspects import SuspectsRequest, find_suspects, suspects_text

        where = out or Path("audit")
        request = SuspectsRequest(runs=run, out=where, shards=shards, corrections=corrections, workers=workers or 0, raw=raw)
        found = find_suspects(request, dist.start())
    report = audit_set(shards, out)
    print(audit_text(report))
    if found is not None:
        report["label_errors"] = found
        print("", suspects_text(found), sep="\n")
    if out is not None:
        print(f"{out}: audit.json" + (", duplicates.png" if report["duplicates"]["groups"] else ""), file=sys.stderr)
    if as_json:
        print(json.dumps(report))


@app.command(epilog="Example: fastfashion splits --task season --protocol reference --out splits.csv")
def splits(
    shards: Annotated[Path | None, Shards(IN)] = None,
    task: Annotated[str, Task(IN)] = "subCategory",
    protocol: Annotated[str, Protocol(IN)] = "stratified",
    split_by: Annotated[str, typer.Option(help="Tasks whose own splits to keep, as in training.", rich_help_panel=IN)] = "",
    seed: Annotated[int, typer.Option(help="Of the stratified protocol.", rich_help_panel=IN)] = 0,
    fold: Annotated[int, typer.Option(help="Of the folds protocol: which one is tested, 0 to 4.", rich_help_panel=IN)] = 0,
    out: Annotated[Path, OutFile("CSV to write: id,split, in the split's own order.", OUT)] = Path("splits.csv"),
    raw: Annotated[bool, Raw(OUT)] = False,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Write which row is in which part of a split: the one that training uses for these tasks.

    Several tasks are split as the first one or subCategory is, or as --split-by says; where their test rows then differ, the CSV has a
    line for each row and task.
    """
    from fastfashion.catalog import joint_split
    from fastfashion.catalog.splits import splits_text, write_split
    from fastfashion.config import DataConfig
    from fastfashion.shards import open_packed_set

    packed = open_packed_set(find_shards(shards))
    asked = DataConfig(shards="", task=task).tasks
    tasks = packed.vocab.chosen(asked)
    if left_out := packed.vocab.left_out(asked):
        print(left_out, file=sys.stderr)
    data = DataConfig(shards="", task=",".join(tasks), split_by=split_by, protocol=protocol, split_seed=seed, fold=fold)
    split = joint_split(packed.table, packed.vocab, tasks, data.split_tasks, protocol, data.protocol_seed)
    summary = write_split(out, packed.table, split, raw=raw)
    print(f"{out}: {splits_text(summary)}".replace(": \n", ":\n"), file=sys.stderr)
    if as_json:
        first = summary.get(data.split_tasks[0]) or next(iter(summary.values()))
        print(json.dumps({"out": str(out), "task": data.task, "protocol": protocol, "parts": first, "tasks": summary}))


@app.command(epilog="Example: fastfashion preview shards/small --set augment.erase=0.3 --out preview.png")
def preview(
    shards: Annotated[Path, typer.Argument(help="Folder of a packed set.", parser=location, metavar="SET")],
    task: Annotated[str, Task(IN)] = "subCategory",
    count: Annotated[int, typer.Option("--rows", help="Images to show, drawn from those with a label.", rich_help_panel=IN)] = 32,
    row: Annotated[list[int] | None, typer.Option(help="Show this row of the set instead; repeatable.", rich_help_panel=IN)] = None,
    out: Annotated[Path, OutFile("PNG to write.", OUT)] = Path("preview.png"),
    size: Annotated[str, Size(RUN)] = "auto",
    seed: Annotated[int, typer.Option(help="Of the images and of the augmentation.", rich_help_panel=RUN)] = 0,
    recipe_name: Annotated[str, typer.Option("--recipe", help="fast, best or reference.", rich_help_panel=RUN)] = "fast",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="As in training: augment.mixup=0.2, repeatable.", rich_help_panel=RUN)
    ] = None,
    workers: Annotated[int | None, Workers(RUN)] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Draw a sheet of what the model will see: packed images, and what augmentation makes of them in three epochs."""
    from fastfashion.audit.preview import PreviewRequest
    from fastfashion.audit.preview import preview as draw
    from fastfashion.config import DataConfig, RunConfig, parse_settings
    from fastfashion.dist import cores_per_process

    flags = {"data.task": task} | ({"data.size": size} if size != "auto" else {})
    config = RunConfig(data=DataConfig(shards=str(shards))).with_recipe(recipe_name, flags | parse_settings(settings or []))
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
    print(f"{out}: {counted(len(summary.rows), 'image')}, {summary.width_px}x{summary.height_px} pixels", file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(summary)))
