"""The command line: wiring, nothing else. `commands` has the commands in the order of the flow."""

from fastfashion.cli.commands import app
from fastfashion.command_line import run_command

__all__ = ["app", "main"]


def main() -> None:
    run_command(app)
