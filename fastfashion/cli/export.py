"""The command that hands a run on in the formats of others."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.cli.app import IN, OUT, RUN, app
from fastfashion.options import Debug, Json, Location, OutFolder, Tasks, parse_tasks
from fastfashion.scratch import nearest, scratch, signals_raise, temporary_files_in


@app.command(epilog="Example: fastfashion export runs/NAME --to onnx --int8")
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run, runs/NAME.")],
    to: Annotated[str, typer.Option(help="onnx: one file. hub: for timm and the Hub. space: a page to put online.", rich_help_panel=OUT)],
    out: Annotated[Path | None, OutFolder("Folder to write; RUN/export/FORMAT by default.", OUT)] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="With 8-bit weights too, and what they cost; only onnx.", rich_help_panel=OUT)
    ] = False,
    task: Annotated[list[str] | None, Tasks("Only these heads", IN)] = None,
    shards: Annotated[Path | None, Location("Where the packed set lies now, if it was moved.", IN)] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Write a run's best model for others: ONNX, a timm folder with a model card, or a page for a Hugging Face Space.

    It is compared with the run on test images, and published only where it answers the same. A timm model has one head: a run
    with several becomes a folder a head.
    """
    out = out or run / "export" / to
    with signals_raise(), scratch(nearest(out)) as work, temporary_files_in(work):  # before timm is imported, which leaves folders there
        from fastfashion.export.export import ExportRequest, export_text
        from fastfashion.export.export import export as export_run

        summary = export_run(ExportRequest(run=run, to=to, out=out, tasks=parse_tasks(task), int8=int8, shards=shards))
    print(export_text(summary))
    if as_json:
        print(json.dumps(asdict(summary)))
