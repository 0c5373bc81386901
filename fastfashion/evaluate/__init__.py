"""Predictions, metrics, reports, comparisons, plots."""

from fastfashion.evaluate.predictions import Predictions, fit_temperatures, predict, score
from fastfashion.evaluate.report import EvaluateRequest, evaluate_run

__all__ = ["EvaluateRequest", "Predictions", "evaluate_run", "fit_temperatures", "predict", "score"]
