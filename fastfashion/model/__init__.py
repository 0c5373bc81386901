"""Floor 4: the classifier, its loss, and the folder it is kept in."""

from fastfashion.model.artifact import ModelDescription, count_parameters, load_artifact, save_artifact
from fastfashion.model.net import Classifier, build_classifier, check_first_weights
from fastfashion.model.objective import objective
from fastfashion.model.sync_bn import synchronise_batch_norm

__all__ = [
    "Classifier",
    "ModelDescription",
    "build_classifier",
    "check_first_weights",
    "count_parameters",
    "load_artifact",
    "objective",
    "save_artifact",
    "synchronise_batch_norm",
]
