"""Commands that come before all others: what this machine has, and the data set."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.cli.app import OUT, RUN, app
from fastfashion.options import Debug, Json, OutFolder
from fastfashion.words import counted


@app.command(epilog="Example: fastfashion download small")
def download(
    which: Annotated[str, typer.Argument(help="small: images of 60x80; full: the originals, up to 1800x2400.", metavar="small|full")],
    out: Annotated[Path, OutFolder("Folder for the zip.", OUT)] = Path("data"),
    timeout: Annotated[
        float, typer.Option(help="Seconds without a byte after which a connection counts as cut.", rich_help_panel=RUN)
    ] = 60.0,
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Get Fashion Product Images from Kaggle: one zip, checked, which the other commands read as it is.

    Credentials are those of Kaggle's own tool ($KAGGLE_API_TOKEN, ~/.kaggle/access_token, kaggle.json and so on); without any, Kaggle is
    asked all the same. The same command resumes where a cut or Ctrl-C left it.
    """
    from fastfashion.sources.download import bar_progress
    from fastfashion.sources.download import download as fetch

    try:
        with bar_progress() as progress:
            done = fetch(which, out, timeout_s=timeout, progress=progress)
    except KeyboardInterrupt:
        print("what is downloaded is kept: the same command resumes from there", file=sys.stderr)
        raise
    how = "already there" if done.already_there else f"every file in it checked, {done.seconds:.0f} s"
    print(f"{done.out}: {counted(done.images, 'image')}, {done.num_bytes / 1e6:.1f} MB, {how}", file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(done)))


@app.command(epilog="Example: fastfashion doctor")
def doctor(
    disk: Annotated[Path, typer.Option(help="Folder whose disk is measured.", exists=True, file_okay=False, rich_help_panel=RUN)] = Path(),
    as_json: Annotated[bool, Json(RUN)] = False,
    debug: Annotated[bool, Debug(RUN)] = False,
) -> None:
    """Say what this machine has (GPU, driver, CUDA, DALI, cores, memory, disk, loader, Kaggle, Hub), and what to do about each gap.

    Exits with 1 where something that was promised cannot work here, such as a GPU that torch or DALI cannot use. A gap costs speed, or
    leaves another way: that exits with 0.
    """
    from fastfashion.doctor.doctor import examine, report_text

    report = examine(disk)
    print(report_text(report))
    if as_json:
        print(json.dumps(report.as_json()))
    if not report.works:
        raise typer.Exit(1)
