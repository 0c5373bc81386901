"""What stands in the README.md of an exported folder: a model card, filled from a run's report and settings.

The front matter is written as JSON values, which are YAML: no name of a class or a run can break out of it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastfashion.export.space import gradio_version
from fastfashion.export.subject import Subject
from fastfashion.words import counted

FEW = 10  # test images below which a class's score says little
SCORES = (("accuracy", "accuracy"), ("macro_f1", "macro F1"))


def onnx_card(subject: Subject, int8: Mapping[str, Any] | None) -> str:
    """How to use model.onnx, and what it is worth."""
    height, width = subject.size.height_px, subject.size.width_px
    parts = [_front({"tags": ["onnx", "image-classification", "fastfashion"]}), _heading(subject, list(subject.classes)), ""]
    parts += [
        "## Use",
        "",
        "```python",
        "import json",
        "import numpy as np, onnxruntime",
        "from PIL import Image",
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["fastfashion"])["classes"]',
        'image = Image.open("image.jpg").convert("RGB")',
        f"pixels = np.asarray(image.resize(({width}, {height}), Image.Resampling.BILINEAR))[None]  # uint8 (batch, {height}, {width}, 3)",
        'for task, answer in zip(classes, session.run(list(classes), {"images": pixels})):',
        "    print(task, classes[task][answer[0].argmax()], answer[0].max())",
        "```",
        "",
        "One output a task: calibrated probabilities, float32. Normalisation"
        + (", the average with the mirror image" if subject.flip_average else "")
        + " and softmax are in the file; the resize is not, because runtimes do not agree on it: use Pillow's, as above.",
        "",
    ]
    if int8:
        parts += ["`model_int8.onnx` takes and gives the same, from 8-bit weights. What that costs, on the same test images:", ""]
        rows = [
            [
                task,
                str(loss["n"]),
                f"{loss['accuracy']:.4f}",
                f"{loss['int8_accuracy']:.4f}",
                f"{loss['difference']:+.4f}",
                f"{loss['same_answer']:.4f}",
            ]
            for task, loss in int8.items()
        ]
        parts += [*_table(["task", "images", "accuracy", "int8", "difference", "same answer"], rows), ""]
    return "\n".join(parts + _facts(subject, list(subject.classes)))


def hub_card(subject: Subject, task: str) -> str:
    """The model card of a timm folder."""
    front: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "fastfashion"],
    }
    scores = (subject.report or {"tasks": {}})["tasks"].get(task)
    if scores:
        front["model-index"] = [
            {
                "name": subject.name,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": _set_name(subject), "type": _set_name(subject), "split": "test"},
                        "metrics": [
                            {"type": "accuracy", "value": scores["accuracy"]},
                            {"type": "f1", "name": "macro F1", "value": scores["macro_f1"]},
                        ],
                    }
                ],
            }
        ]
    answer = "model(x)"
    if subject.flip_average:
        answer = "(model(x) + model(x.flip(3))) / 2  # the image and its mirror image, as the run answers"
    parts = [_front(front), _heading(subject, [task]), "", "## Use", "", "```python"]
    parts += [
        "import timm, torch",
        "from PIL import Image",
        "",
        'model = timm.create_model("local-dir:.", pretrained=True).eval()  # or "hf-hub:NAME/OF-THIS-REPOSITORY"',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        'x = transform(Image.open("image.jpg").convert("RGB"))[None]',
        "with torch.inference_mode():",
        f"    logits = {answer}",
        'print(model.pretrained_cfg["label_names"][logits.argmax()], logits.softmax(1).max())',
        "```",
        "",
        "The weights are safetensors. The softmax of the logits is a calibrated probability: the temperature is part of the head.",
        "",
    ]
    return "\n".join(parts + _facts(subject, [task]))


def space_card(subject: Subject) -> str:
    """The README of a Space, whose front matter says how to run it."""
    front = {
        "title": f"{', '.join(subject.classes)} of a product photograph"[:80],
        "emoji": "👟",
        "colorFrom": "gray",
        "colorTo": "blue",
        "sdk": "gradio",
        "sdk_version": gradio_version(),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",  # the Hub's default is too old for requirements.txt
        "app_file": "app.py",
        "pinned": False,
    }
    parts = [
        _front(front),
        _heading(subject, list(subject.classes)),
        "",
        "## Use",
        "",
        "    pip install -r requirements.txt",
        "    python app.py",
        "",
    ]
    parts += ["From a program, through the page's HTTP API:", "", "```python", "from gradio_client import Client, handle_file", ""]
    parts += ['print(Client("http://127.0.0.1:7860").predict(handle_file("image.jpg"), api_name="/answer"))', "```", ""]
    parts += ["Images that stand in a folder `examples/` beside app.py (*.jpg) are offered on the page.", ""]
    return "\n".join(parts + _facts(subject, list(subject.classes)))


def _front(values: Mapping[str, Any]) -> str:
    return "\n".join(["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), "---", ""])


def _heading(subject: Subject, tasks: Sequence[str]) -> str:
    model, size = subject.backbone, subject.size
    return "\n".join(
        [
            f"# {_text(subject.name)}",
            "",
            f"What a product photograph shows ({', '.join(_text(task) for task in tasks)}), answered by a {_text(model)} "
            f"at {size.height_px}x{size.width_px} pixels (height x width). Trained with fastfashion.",
        ]
    )


def _facts(subject: Subject, tasks: Sequence[str]) -> list[str]:
    return [*_results(subject, tasks), *_training(subject), *_limits(subject, tasks), *_classes(subject, tasks)]


def _results(subject: Subject, tasks: Sequence[str]) -> list[str]:
    if subject.report is None:
        return ["## Results", "", "Not tested. `fastfashion evaluate` tests the run; export it again after that.", ""]
    scores, split = subject.report["tasks"], subject.report["split"]
    rows = []
    for task in (task for task in tasks if task in scores):
        values = scores[task]
        cells = []
        for key, _ in SCORES:
            low, high = values["intervals"][key]
            cells.append(f"{values[key]:.4f} ({low:.4f}–{high:.4f})")
        cells += [f"{values[key]:.4f}" for key in ("top3_accuracy", "calibration_error", "chance_accuracy")]
        rows.append([_text(task), str(values["n"]), *cells])
    header = ["task", "test images", *(name for _, name in SCORES), "top 3", "calibration error", "always the largest class"]
    by = ", ".join(map(_text, split["by"]))
    where = f"Test part of the {split['protocol']} split by {by}, seed {split['seed']}, of {_text(_set_name(subject))}"
    return ["## Results", "", f"{where}. In brackets: 95 % intervals of the choice of test images.", "", *_table(header, rows), ""]


def _training(subject: Subject) -> list[str]:
    config = subject.config
    first = "a file of weights" if config.model.weights else "ImageNet" if config.model.pretrained else "random"
    optim = config.optim
    rows = [
        ["first weights", first],
        ["epochs, batch size", f"{config.train.epochs}, {config.train.batch_size}"],
        [
            "optimiser",
            f"{optim.optimizer}, learning rate {optim.lr:g}, weight decay {optim.weight_decay:g}, {optim.schedule}",
        ],
        ["label smoothing, weight average", f"{optim.label_smoothing:g}, {optim.ema_decay:g}"],
        ["smallest crop, flips", f"{config.augment.min_area:g}, {config.augment.flip:g}"],
        ["mixup, cutmix", f"{config.augment.mixup:g}, {config.augment.cutmix:g}"],
        ["classes oversampled below a share of", f"{config.data.oversample:g}"],
        ["weights of the labels", _text(optim.task_weights) or "1 each"],
        ["seed", str(config.train.seed)],
    ]
    if subject.report is not None:
        rows.insert(0, ["training images", str(subject.report["split"]["train_rows"])])
    return ["## Training", "", *_table(["", ""], rows), ""]


def _limits(subject: Subject, tasks: Sequence[str]) -> list[str]:
    lines = ["## Limits", "", "It knows images like those it was trained on, and has no answer for “none of these”."]
    for task in tasks:
        values = (subject.report or {"tasks": {}})["tasks"].get(task)
        if values is None:
            continue
        few = [_text(each["name"]) for each in values["classes"] if 0 < each["support"] < FEW]
        untested = [_text(each["name"]) for each in values["classes"] if each["support"] == 0]
        if few:
            lines.append(f"- {_text(task)}: tested on fewer than {FEW} images, so hardly known: {', '.join(few)}.")
        if untested:
            lines.append(f"- {_text(task)}: not tested at all: {', '.join(untested)}.")
        twins = values["with_duplicate_in_training"]
        if twins["n"]:
            alone = values["without_duplicate_in_training"]["accuracy"]
            without = "" if alone is None else f" Without them the accuracy is {alone:.4f}."
            lines.append(f"- {_text(task)}: {counted(twins['n'], 'test image')} with a near-duplicate in training.{without}")
    return [*lines, ""]


def _classes(subject: Subject, tasks: Sequence[str]) -> list[str]:
    lines = ["## Classes", ""]
    for task in tasks:
        lines += [f"{_text(task)} ({len(subject.classes[task])}): {', '.join(map(_text, subject.classes[task]))}", ""]
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows)]


def _set_name(subject: Subject) -> str:
    """Of the packed set, without where it lies."""
    return Path(subject.config.data.shards).name or "unknown"


def _text(value: str) -> str:
    """A name from the data, as text and nothing else."""
    for mark, harmless in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "&#96;"), ("[", "&#91;"), ("*", "&#42;")):
        value = value.replace(mark, harmless)
    return " ".join(value.split())
