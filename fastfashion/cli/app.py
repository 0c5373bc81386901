"""The command line's root, which the modules beside this one add their commands to."""

from typing import Annotated

import typer

from fastfashion import __version__
from fastfashion.train.__main__ import EXAMPLE, train

app = typer.Typer(
    help="Pack product photographs, train a classifier on them at full speed, and prove how good it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", epilog=EXAMPLE)(train)

IN, OUT, RUN = "In", "Out", "Run"


def _show_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None: ...
