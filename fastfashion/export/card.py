"""The README.md of an exported folder: a model card, filled from a run's report and settings by the template card.md.jinja.

The front matter is written as JSON values, which are YAML: no name of a class or a run can break out of it.
"""

import functools
import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fastfashion.export.hub import other_color
from fastfashion.export.subject import Subject

# What a Space's app.py was tested with, if this machine has no other version of it.
NEEDS = {"gradio": "6.0", "onnxruntime": "1.20", "numpy": "1.26", "pillow": "11.0"}
FEW = 10  # test images below which a class's score says little


def onnx_card(subject: Subject, int8: Mapping[str, Any] | None) -> str:
    """How to use model.onnx, and what it is worth; `int8` has what 8 bits cost each task."""
    return _card("onnx", subject, subject.tasks, {"tags": ["onnx", "image-classification", "fastfashion"]}, int8)


def hub_card(subject: Subject, task: str) -> str:
    """The model card of a timm folder."""
    front: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "fastfashion"],
    }
    if scores := _scores(subject).get(task):
        metrics = [
            {"type": "accuracy", "value": scores["accuracy"]},
            {"type": "f1", "name": "macro F1", "value": scores["macro_f1"]},
        ]
        dataset = {"name": _set_name(subject), "type": _set_name(subject), "split": "test"}
        result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}
        front["model-index"] = [{"name": subject.name, "results": [result]}]
    return _card("hub", subject, [task], front)


def space_card(subject: Subject) -> str:
    """The README of a Space, whose front matter says how to run it."""
    front = {
        "title": f"{', '.join(subject.tasks)} of a product photograph"[:80],
        "emoji": "👟",
        "colorFrom": "gray",
        "colorTo": "blue",
        "sdk": "gradio",
        "sdk_version": _installed("gradio") or NEEDS["gradio"],
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",  # the Hub's default is too old for requirements.txt
        "app_file": "app.py",
        "pinned": False,
    }
    return _card("space", subject, subject.tasks, front)


def requirements() -> list[str]:
    """The installed versions, pinned since a Space may be rebuilt at any time; a lower bound for what is not installed."""
    return [f"{name}=={version}" if (version := _installed(name)) else f"{name}>={least}" for name, least in NEEDS.items()]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _card(to: str, subject: Subject, tasks: Sequence[str], front: Mapping[str, Any], int8: Mapping[str, Any] | None = None) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_text,
    )
    environment.filters["json"] = functools.partial(json.dumps, ensure_ascii=False)
    return environment.get_template("card.md.jinja").render(
        {section: getattr(subject.config, section) for section in ("data", "augment", "model", "optim", "train")},
        to=to,
        name=subject.name,
        run=subject.predictor,
        tasks=tasks,
        front=front,
        int8=int8,
        size=subject.predictor.size,
        fit=subject.predictor.fit,
        other_color=other_color(subject),
        scores=_scores(subject),
        split=(subject.report or {}).get("split"),
        set_name=_set_name(subject),
        few_images=FEW,
    )


def _scores(subject: Subject) -> dict[str, Any]:
    """Each task's scores in the report; empty for a run that was not tested."""
    return subject.report["tasks"] if subject.report else {}


def _set_name(subject: Subject) -> str:
    """The name of the packed set, without its folder."""
    return Path(subject.config.data.shards).name or "unknown"


def _text(value: object) -> object:
    """Escape what Markdown would read as markup in a name from the data."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # marked as safe
        return value
    for mark, harmless in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "&#96;"), ("[", "&#91;"), ("*", "&#42;")):
        value = value.replace(mark, harmless)
    return " ".join(value.split())
