"""A run as folders that timm and the Hugging Face Hub understand: one a head, since a timm model has one.

The head's weights are divided by the task's temperature, so that the softmax of what timm computes is the run's calibrated probability.
timm knows no averaging over the mirror image; the card says how to do it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastfashion.errors import ConfigError
from fastfashion.export.subject import Subject
from fastfashion.load.fit import CROP, PAD, SQUASH
from fastfashion.model.sizes import has_fixed_size

CROP_MODES = {SQUASH: "squash", CROP: "center", PAD: "border"}  # as timm calls them


def write_hub(subject: Subject, task: str, folder: Path) -> None:
    """Write one head's folder. Raises ConfigError if timm's head of the backbone is not linear, or takes other features."""
    import timm

    run = subject.predictor
    name, classes, size = run.description.model, run.classes[task], run.size
    settings: dict[str, Any] = {}
    if has_fixed_size(name):
        settings["img_size"] = (size.height_px, size.width_px)
    model: Any = timm.create_model(name, pretrained=False, num_classes=len(classes), **settings).eval()
    layer, head = model.get_classifier(), run.model.head(task)
    if not isinstance(layer, nn.Linear) or not isinstance(head, nn.Linear) or layer.weight.shape != head.weight.shape:
        raise ConfigError(f"{name}: timm's own head is {type(layer).__name__}, not a linear layer like the run's: use --to onnx")
    names = {id(layer.weight): "weight", id(layer.bias): "bias"}
    own = {key for key, value in model.named_parameters() if id(value) in names}
    missing, unexpected = model.load_state_dict(run.model.backbone.state_dict(), strict=False)
    if set(missing) != own or unexpected:
        raise ConfigError(
            f"{name}: timm builds another model with a head than without ({sorted({*missing, *unexpected} - own)[:3]}): use --to onnx"
        )
    with torch.no_grad():
        temperature = run.model.temperatures[run.model.tasks.index(task)]
        layer.weight.copy_(head.weight / temperature)
        layer.bias.copy_(head.bias / temperature)
    # What timm says of the backbone's published weights is not true of a run that did not start from them.
    unknown = {} if subject.config.model.pretrained else dict.fromkeys(("license", "origin_url", "paper_ids"), "")
    timm.models.save_for_hf(
        model,
        str(folder),
        model_config={"label_names": classes, "pretrained_cfg": {"tag": subject.name} | unknown},
        safe_serialization=True,
        data_config={
            "input_size": (3, size.height_px, size.width_px),
            "mean": tuple((run.model.mean.flatten() / 255).tolist()),
            "std": tuple((run.model.std.flatten() / 255).tolist()),
            "interpolation": "bilinear",  # Pillow's, which is what the loaders do
            "crop_pct": run.fit.crop_pct,
            "crop_mode": CROP_MODES[run.fit.mode],
        },
    )


def other_color(subject: Subject) -> bool:
    """Whether timm's transform pads with another colour than the run: it takes the mean of the model's normalisation."""
    fit, mean = subject.predictor.fit, subject.predictor.model.mean
    return fit.mode == PAD and tuple(mean.flatten().round().int().tolist()) != fit.pad_color


class HubModel:
    """An exported folder as timm loads it, with the averaging that its card describes."""

    def __init__(self, folder: Path, flip_average: bool) -> None:
        import timm

        self._model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self._flip_average = flip_average
        data = timm.data.resolve_model_data_config(self._model)
        self._mean, self._std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, 3) to float32 (B, C)."""
        images_BCHW = (torch.tensor(images).permute(0, 3, 1, 2) / 255 - self._mean) / self._std
        with torch.inference_mode():
            logits_BC = self._model(images_BCHW)
            if self._flip_average:
                logits_BC = (logits_BC + self._model(images_BCHW.flip(3))) / 2
            return logits_BC.softmax(dim=1).numpy()
