"""Floor 5: predictions, metrics, reports, plots."""

from fastfashion.evaluate.run import EvaluateRequest, Predictions, evaluate_run, fit_temperatures, predict, read_config, score

__all__ = ["EvaluateRequest", "Predictions", "evaluate_run", "fit_temperatures", "predict", "read_config", "score"]
