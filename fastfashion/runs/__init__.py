"""A run's folder: the names of its files, opening it, what it was trained on."""

from fastfashion.runs.files import read_config, read_metrics, read_report
from fastfashion.runs.opened import OpenRun, open_run

__all__ = ["OpenRun", "open_run", "read_config", "read_metrics", "read_report"]
