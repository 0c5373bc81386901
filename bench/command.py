"""How a script of this folder reads its options and ends: as the package's commands do."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fastfashion.errors import FastfashionError
from fastfashion.places import check_place
from fastfashion.scratch import signals_raise


def _check_out(path: Path | None) -> Path | None:
    if path is not None:
        check_place(path, "--out", is_folder=False)
    return path


Out = Annotated[
    Path | None,
    typer.Option("--out", help="Write the record, with machine and versions, to this JSON file.", metavar="FILE", callback=_check_out),
]


def run(main: Callable[..., None]) -> None:
    """Run `main` with the options of the command line. An error of the package is one line, with exit status 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        with signals_raise():
            app()
    except FastfashionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def command_line() -> str:
    """The command that was started, for the record, without absolute paths."""
    options = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *options])
