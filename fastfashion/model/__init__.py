"""The classifier, its loss, and the folder it is kept in."""

from fastfashion.model.artifact import count_parameters, load_artifact, save_artifact
from fastfashion.model.cpu_conv import use_fast_convolutions
from fastfashion.model.description import ModelDescription, described
from fastfashion.model.first_weights import check_first_weights
from fastfashion.model.net import Classifier, build_classifier, no_numbers, probabilities
from fastfashion.model.objective import LossSettings, objective
from fastfashion.model.own_run import keep_heads
from fastfashion.model.probe import FirstStep, check_first_step
from fastfashion.model.sizes import has_fixed_size, nearest_size
from fastfashion.model.sync_bn import synchronise_batch_norm

__all__ = [
    "Classifier",
    "FirstStep",
    "LossSettings",
    "ModelDescription",
    "build_classifier",
    "check_first_step",
    "check_first_weights",
    "count_parameters",
    "described",
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
]
