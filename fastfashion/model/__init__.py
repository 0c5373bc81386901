"""The classifier, its loss, and the folder that it is saved in."""

from fastfashion.model.artifact import ModelDescription, count_parameters, keep_heads, load_artifact, save_artifact, weights_description
from fastfashion.model.first_step import FirstStep, check_first_step
from fastfashion.model.layers import synchronise_batch_norm, use_fast_convolutions
from fastfashion.model.net import Classifier, build_classifier, no_numbers, probabilities
from fastfashion.model.objective import LossSettings, objective
from fastfashion.model.sizes import has_fixed_size, nearest_size
from fastfashion.model.weights import check_first_weights

__all__ = [
    "Classifier",
    "FirstStep",
    "LossSettings",
    "ModelDescription",
    "build_classifier",
    "check_first_step",
    "check_first_weights",
    "count_parameters",
    "has_fixed_size",
    "keep_heads",
    "load_artifact",
    "nearest_size",
    "no_numbers",
    "objective",
    "probabilities",
    "save_artifact",
    "synchronise_batch_norm",
    "use_fast_convolutions",
    "weights_description",
]
