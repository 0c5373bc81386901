"""Commands that answer with a trained model: for files, and on a page."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.cli.app import IN, OUT, RUN, app
from fastfashion.options import Debug, Json, Location, OutFile, Raw, Tasks, Workers, parse_tasks
from fastfashion.words import counted

LIMITS = "Limits"


@app.command(epilog="Example: fastfashion predict runs/NAME photos/ more.zip --out answers.csv")
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a run, runs/NAME.")],
    paths: Annotated[list[str], typer.Argument(help="Images, folders, zips, packed sets; - reads paths from stdin.", metavar="PATH")],
    top: Annotated[int, typer.Option(help="Classes a label, the most probable first.", min=1, rich_help_panel=OUT)] = 3,
    task: Annotated[list[str] | None, Tasks("Only these labels", OUT)] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, jsonl or parquet; by --out's name.", rich_help_panel=OUT)] = "auto",
    out: Annotated[Path | None, OutFile("File to write; stdout by default.", OUT)] = None,
    raw: Annotated[bool, Raw(OUT)] = False,
    batch_size: Annotated[int, typer.Option(help="Images a step of the model.", min=1, rich_help_panel=RUN)] = 256,
    workers: Annotated[int | None, Workers(RUN)] = None,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Say what images show, with calibrated probabilities. A file that cannot be read is a line with an error.

    Exits with 1 where not one could be read.
    """
    from fastfashion import dist
    from fastfashion.predict.inputs import find_inputs
    from fastfashion.predict.outputs import choose_format, write_answers
    from fastfashion.predict.predictor import Predictor
    from fastfashion.scratch import signals_raise

    chosen = choose_format(form, out)
    world = dist.start()
    predictor = Predictor(run, world.device, workers=workers or dist.cores_per_process(1), tasks=parse_tasks(task))
    started = time.perf_counter()
    answers = predictor.answer(find_inputs(paths), top=top, batch_size=batch_size)
    with signals_raise():
        counts = write_answers(answers, predictor.classes, chosen, out, raw=raw)
    seconds = time.perf_counter() - started
    read = counts.images - counts.errors
    said = f"{read} of {counted(counts.images, 'image')} answered in {seconds:.1f} s"
    said += f"; {counts.errors} could not be read, each a row with its error" if counts.errors else ""
    print(f"{out}: {said}" if out else said, file=sys.stderr)
    if as_json:
        summary = {"run": str(run), "out": None if out is None else str(out), "format": chosen, "images": read, "errors": counts.errors}
        print(json.dumps(summary | {"seconds": round(seconds, 3), "images_per_s": round(read / max(1e-9, seconds), 1)}))
    if counts.errors and not read:
        raise typer.Exit(1)


@app.command(epilog="Example: fastfashion serve runs/NAME --port 7860")
def serve(
    run: Annotated[Path, typer.Argument(help="Folder of a run, runs/NAME.")],
    shards: Annotated[Path | None, Location("Where the packed set lies now, if it was moved.", IN)] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.", rich_help_panel=RUN)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is any free one.", rich_help_panel=RUN)] = 7860,
    auth: Annotated[
        str | None, typer.Option(help="user:password to ask for. The process list shows it: prefer --auth-file.", rich_help_panel=RUN)
    ] = None,
    auth_file: Annotated[
        Path | None, typer.Option(help="File whose first line is user:password; or set FASTFASHION_AUTH to it.", rich_help_panel=RUN)
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name of a proxy in front, such as shop.example or *.shop.example.", rich_help_panel=RUN)
    ] = None,
    max_mb: Annotated[int, typer.Option(help="Largest image, in MB.", min=1, rich_help_panel=LIMITS)] = 20,
    max_pixels: Annotated[
        int, typer.Option(help="Most pixels of an image; decoding may take 20 bytes for each.", min=1, rich_help_panel=LIMITS)
    ] = 40_000_000,
    max_files: Annotated[int, typer.Option(help="Most images in a batch.", min=1, rich_help_panel=LIMITS)] = 200,
    max_queue: Annotated[
        int, typer.Option(help="Most requests that wait, of large images and of others each.", min=1, rich_help_panel=LIMITS)
    ] = 64,
    workers: Annotated[int | None, Workers(RUN)] = None,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Show a run on a page: answers as bars, where the model looked, the nearest products, batches, test results, an HTTP API.

    Nothing on the page comes from elsewhere. The first start looks at the training set once, for the nearest products.
    """
    from fastfashion.dist import cores_per_process
    from fastfashion.serve.auth import find_auth
    from fastfashion.serve.limits import Limits
    from fastfashion.serve.server import ServeRequest
    from fastfashion.serve.server import serve as run_server

    limits = Limits(image_bytes=max_mb * 1_000_000, image_pixels=max_pixels, batch_files=max_files, queue=max_queue)
    run_server(
        ServeRequest(
            run=run,
            shards=shards,
            host=host,
            port=port,
            auth=find_auth(auth, auth_file, os.environ, lambda text: print(text, file=sys.stderr)),
            allow_host=tuple(allow_host or ()),
            workers=workers or cores_per_process(1),
            limits=limits,
        )
    )
