"""Floor 8, the command line: typer wiring, nothing else. Commands are in the order of the flow."""

from fastfashion.cli import before, data, export, results, serve, speed
from fastfashion.cli.app import app
from fastfashion.options import run_command

__all__ = ["app", "before", "data", "export", "main", "results", "serve", "speed"]


def main() -> None:
    run_command(app)
