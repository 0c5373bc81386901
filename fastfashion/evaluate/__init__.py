"""Floor 5: predictions, metrics, reports, comparisons, plots."""

from fastfashion.evaluate.opened import OpenRun, open_run, read_config
from fastfashion.evaluate.predictions import Predictions, fit_temperatures, predict, score
from fastfashion.evaluate.run import EvaluateRequest, evaluate_run

__all__ = ["EvaluateRequest", "OpenRun", "Predictions", "evaluate_run", "fit_temperatures", "open_run", "predict", "read_config", "score"]
