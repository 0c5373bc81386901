"""A run as one ONNX file, and as one of 8-bit integers.

    images: uint8 (batch, H, W, 3) ─► normalise ─► backbone, image and mirror image ─► heads / temperature ─► softmax: an output a task

All of the preprocessing is inside but the resize: ONNX runtimes agree neither on how nor on whether to antialias, and an image that is
shrunk without loses accuracy. The resize of training is Pillow's `resize((W, H), BILINEAR)` of the whole image, of a crop, or into a
letterbox; the file records which.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastfashion.disk import disk_full
from fastfashion.errors import ConfigError, FastfashionError, InputError
from fastfashion.export.subject import Subject
from fastfashion.extras import needs
from fastfashion.load.fit import CROP, PAD, SQUASH
from fastfashion.model.net import Classifier

INPUT = "images"
METADATA = "fastfashion"  # key of what the file says of itself: JSON
UPRIGHT = "upright, RGB, transparency over white"
RESIZES = {
    SQUASH: f"whole image, {UPRIGHT}; Pillow resize((width, height), BILINEAR)",
    CROP: f"the largest centred box of the input's shape, sides times crop_pct, {UPRIGHT}; Pillow crop, resize((width, height), BILINEAR)",
    PAD: f"whole image, {UPRIGHT}; Pillow ImageOps.pad(image, (width, height), BILINEAR, pad_color)",
}
OPSET = 18
MOST_BYTES = 2**31  # of a protobuf message


class ExportError(FastfashionError):
    """An exported model does not answer as its run does, and was not published."""


class _Probabilities(nn.Module):
    """What the file computes: uint8 (B, H, W, 3) to a tuple of calibrated probabilities (B, C).

    Image and mirror image go through the backbone as one batch of twice the size: through two copies of it, batch norms are not folded
    into the convolutions.
    """

    def __init__(self, model: Classifier, tasks: Iterable[str]) -> None:
        super().__init__()
        self.model, self.tasks = model, tuple(tasks)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model = self.model
        features_BF = model.features(torch.cat([images, images.flip(2)]) if model.flip_average else images)
        if model.flip_average:
            features_BF = features_BF.unflatten(0, (2, -1)).mean(dim=0)
        return tuple((model.head(task)(features_BF) / model.temperatures[model.tasks.index(task)]).softmax(dim=1) for task in self.tasks)


def self_description(subject: Subject) -> dict[str, Any]:
    """What a reader of the file must know: input, resize, and the class names of each output, in order."""
    size = subject.predictor.size
    return {
        "format": "fastfashion-onnx",
        "version": 1,
        "input": {"name": INPUT, "dtype": "uint8", "shape": ["batch", size.height_px, size.width_px, 3]},
        "fit": subject.predictor.fit.to_dict(),
        "resize": RESIZES[subject.predictor.fit.mode],
        "classes": subject.predictor.classes,
    }


def write_onnx(subject: Subject, path: Path) -> None:
    """Write the ONNX file. Raises ConfigError if torch's exporter is not installed or cannot express the backbone."""
    with needs("export", "export to ONNX"):
        import onnx
        import onnxruntime  # noqa: F401  # checks what is written
        import onnxscript  # noqa: F401
    if INPUT in subject.tasks:
        raise ConfigError(
            f"a task of the name {INPUT!r} cannot be exported to ONNX: the input has that name; leave the task out with --task"
        )
    run = subject.predictor
    example = torch.zeros((2, run.size.height_px, run.size.width_px, 3), dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                _Probabilities(run.model, subject.tasks).eval(),
                (example,),
                input_names=[INPUT],
                output_names=subject.tasks,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
            )
    except Exception as error:  # the exporter's own; of many kinds
        if disk_full(error):
            raise
        raise ConfigError(f"{run.description.model} cannot be exported to ONNX: {str(error).strip().splitlines()[0]}") from error
    assert program is not None
    proto = program.model_proto
    if proto.ByteSize() >= MOST_BYTES:
        raise ConfigError(f"{run.description.model}: {proto.ByteSize()} bytes, more than the {MOST_BYTES} of an ONNX file; use --to hub")
    strip_paths(proto)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(self_description(subject), ensure_ascii=False)
    onnx.save(proto, path)


def strip_paths(proto: Any) -> None:
    """Remove the exporter's notes on each operator's source code, which name folders of this machine."""
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        del graph.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints its progress and warns of its own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class OnnxModel:
    """An exported file, ready to answer on the CPU. Raises InputError if it is none."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.description = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA])
        except Exception as error:
            raise InputError(f"{path}: not a model that fastfashion exported: {error}") from error

    def probabilities(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (B, H, W, 3) to {task: float32 (B, C)}."""
        tasks = list(self.description["classes"])
        return dict(zip(tasks, self._session.run(tasks, {INPUT: images}), strict=True))


def write_int8(full: Path, path: Path, calibration: Iterable[np.ndarray], work: Path) -> None:
    """Quantise convolutions and matrix products: weights a channel at a time, activations by their range over the calibration images.

    Weights keep 7 of the 8 bits, so that sums do not overflow on x86 processors without VNNI; there the result would otherwise be wrong.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = iter(calibration)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    with _quiet():
        quant_pre_process(full, work, skip_symbolic_shape=True)
        quantize_static(
            work,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def int8_loss(
    full: OnnxModel, small: OnnxModel, batches: Iterable[tuple[np.ndarray, np.ndarray]], tasks: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """What 8 bits cost each task: accuracy of both on the same n labelled rows, and how often their answers are the same.

    `batches`: images uint8 (B, H, W, 3) and labels int64 (B, T); `tasks`: task -> its column of labels. 0 if no row has a label.
    """
    answers: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    for images, labels in batches:
        both = full.probabilities(images), small.probabilities(images)
        for task, column in tasks.items():
            answers[task].append(np.stack([labels[:, column], *(one[task].argmax(axis=1) for one in both)]))
    found = {}
    for task, parts in answers.items():
        whole = np.concatenate(parts, axis=1)
        labels, large, little = whole[:, whole[0] >= 0]
        scores = [float(same.mean()) if len(labels) else 0.0 for same in (large == labels, little == labels, large == little)]
        found[task] = {
            "n": len(labels),
            "accuracy": scores[0],
            "int8_accuracy": scores[1],
            "difference": scores[1] - scores[0],
            "same_answer": scores[2],
        }
    return found
