"""A run in formats of other programs.

    run ─► open_subject ─► model.onnx | timm folder a head | Space ─► compared with the run on its test images ─► published

An export that answers differently from the run is not published.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastfashion.bars import tqdm
from fastfashion.command_options import ExportRequest
from fastfashion.disk import room_for
from fastfashion.errors import ConfigError, InputError
from fastfashion.export import card, space_app
from fastfashion.export.hub import HubModel, other_color, write_hub
from fastfashion.export.onnx_model import ExportError, OnnxModel, int8_loss, self_description, write_int8, write_onnx
from fastfashion.export.subject import Subject, open_subject
from fastfashion.fields import Result
from fastfashion.files import publish, publish_json, writing_to
from fastfashion.predict.predictor import drawn
from fastfashion.scratch import PREFIX, nearest, scratch, sweep
from fastfashion.tables import table_text
from fastfashion.words import counted

FORMATS = ("onnx", "hub", "space")
EXPORT = "export.json"  # what was exported, and how it was checked; also what marks a folder as ours to write to again
ONNX, INT8 = "model.onnx", "model_int8.onnx"
OURS = ("out", "without_set", "notes")  # of the summary: paths of this machine, not to be published
TOLERANCE = 1e-4  # largest difference of any probability; measured ones are near 1e-6
CHECKED = 64  # images
CALIBRATION = 512  # training images
MEASURED = 2000  # test images
INT8_COLUMNS = {"n": "", "accuracy": ".4f", "int8_accuracy": ".4f", "difference": "+.4f", "same_answer": ".4f"}  # and how each is shown

Answering = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class ExportSummary(Result):
    """What was exported, and how far it is from the run."""

    run: str
    to: str
    out: str
    tasks: list[str]
    folders: dict[str, str]  # of a hub export: task -> folder below `out`
    files: list[str]  # below `out`
    num_images: int  # that run and export were compared on
    images: str  # "test", or "drawn" if there is no packed set
    without_set: str  # why there is none; "" if there is one
    notes: tuple[str, ...]  # for people
    largest_difference: float  # of any probability
    tolerance: float
    int8: dict[str, dict[str, float]] | None  # task -> n, accuracy, int8_accuracy, difference, same_answer
    num_bytes: dict[str, int]  # of the weights


def export(request: ExportRequest) -> ExportSummary:
    """Export a run. Raises ExportError if the export answers differently, InputError and ConfigError if it cannot be made."""
    out = request.out or request.run / "export" / request.to
    subject = open_subject(request.run, request.tasks, request.shards)
    if request.int8 and subject.opened is None:
        raise ConfigError(f"--int8 needs images of the packed set, which was not found ({subject.without_set}); name it with --shards")
    for place in (out, *out.absolute().parents[:3]):
        sweep(place)  # what exports that were killed left: also before there was an OUT
    _check_out(out)
    images, source = _images(subject)
    folders: dict[str, str] = {}
    int8 = None
    num_bytes = 4 * sum(weight.numel() for weight in subject.predictor.model.parameters())
    with room_for(out, num_bytes), scratch(nearest(out)) as work:
        beside = work / "out"
        beside.mkdir()
        if request.to == "hub":
            folders = {task: "." if len(subject.tasks) == 1 else _folder_name(task) for task in subject.tasks}
            bar = tqdm(folders.items(), "hub", unit=" heads", disable=None, dynamic_ncols=True, leave=False)
            differences = [_write_hub(subject, task, beside / folder, images) for task, folder in bar]
        else:
            write_onnx(subject, beside / ONNX)
            differences = [_check(subject, OnnxModel(beside / ONNX).probabilities, subject.tasks, images)]
            if request.int8:
                int8 = _write_int8(subject, beside, work)
            (beside / "README.md").write_text(card.onnx_card(subject, int8), encoding="utf-8")
            if request.to == "space":
                shutil.copyfile(space_app.__file__, beside / "app.py")
                (beside / "requirements.txt").write_text("".join(f"{line}\n" for line in card.requirements()), encoding="utf-8")
                (beside / "README.md").write_text(card.space_card(subject), encoding="utf-8")
        files = sorted(path.relative_to(beside).as_posix() for path in beside.rglob("*") if path.is_file())
        summary = ExportSummary(
            run=subject.name,
            to=request.to,
            out=str(out),
            tasks=subject.tasks,
            folders=folders,
            files=[*files, EXPORT],
            num_images=len(images),
            images=source,
            without_set=subject.without_set,
            notes=_notes(subject, request.to),
            largest_difference=max(differences),
            tolerance=TOLERANCE,
            int8=int8,
            num_bytes={name: (beside / name).stat().st_size for name in files if name.endswith((".onnx", ".safetensors"))},
        )
        about = {key: value for key, value in asdict(summary).items() if key not in OURS}
        _publish(beside, out, files, about if request.to == "hub" else about | self_description(subject))
    return summary


def _notes(subject: Subject, to: str) -> tuple[str, ...]:
    notes = subject.opened.notes if subject.opened is not None else ()
    if to == "hub" and other_color(subject):
        color = ",".join(map(str, subject.predictor.fit.pad_color))
        notes += (f"timm's transform pads with the mean of the normalisation, the run with {color}: README.md has the lines for it",)
    return notes


def _folder_name(task: str) -> str:
    if task != Path(task).name or task.startswith("."):
        raise ConfigError(f"task {task!r} cannot be the name of a folder: export it alone, with --task")
    return task


def _images(subject: Subject) -> tuple[np.ndarray, str]:
    """Images to compare run and export on, uint8 (n, H, W, 3), and their source: "test" or "drawn"."""
    if subject.opened is None:
        return drawn(subject.predictor.size, CHECKED), "drawn"
    return np.concatenate([images for images, _ in subject.images("test", CHECKED)]), "test"


def _write_hub(subject: Subject, task: str, folder: Path, images: np.ndarray) -> float:
    write_hub(subject, task, folder)
    (folder / "README.md").write_text(card.hub_card(subject, task), encoding="utf-8")
    model = HubModel(folder, subject.predictor.description.flip_average)
    return _check(subject, lambda batch: {task: model.probabilities(batch)}, [task], images)


def _write_int8(subject: Subject, beside: Path, work: Path) -> dict[str, dict[str, float]]:
    assert subject.opened is not None
    full = OnnxModel(beside / ONNX)
    calibration = (images for images, _ in _shown("calibration", subject, "train", CALIBRATION))
    write_int8(beside / ONNX, beside / INT8, calibration, work / "prepared.onnx")
    columns = {task: subject.opened.tasks.index(task) for task in subject.tasks}
    return int8_loss(full, OnnxModel(beside / INT8), _shown("int8, test", subject, "test", MEASURED), columns)


def _shown(what: str, subject: Subject, part: str, most: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """What `subject.images` yields, with a progress bar, opened now: while it calibrates, onnxruntime's stderr goes nowhere."""
    return tqdm(subject.images(part, most), what, unit=" batches", disable=None, dynamic_ncols=True, leave=False)


def _check(subject: Subject, answer: Answering, tasks: list[str], images: np.ndarray) -> float:
    """The largest difference of any probability, over batches of several sizes; raises ExportError above the tolerance."""
    largest = 0.0
    for batch in (images[:1], images[1:4], images[4:]):
        if len(batch) == 0:
            continue
        expected, found = subject.probabilities(batch), answer(batch)
        for task in tasks:
            where = f"{subject.predictor.run}: {task}"
            if found[task].shape != expected[task].shape:
                raise ExportError(f"{where}: the export answers {found[task].shape}, the run {expected[task].shape}")
            difference = float(np.abs(found[task] - expected[task]).max())
            if not difference <= TOLERANCE:
                text = f"a probability of the export differs from the run's by {difference:.2g}, more than {TOLERANCE:g}"
                raise ExportError(f"{where}: {text}; nothing was published")
            largest = max(largest, difference)
    return largest


def _check_out(out: Path) -> None:
    """Raises InputError if the folder holds something other than an export."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file is there; choose another --out")
    if out.is_dir() and not all(path.name.startswith(PREFIX) for path in out.iterdir()) and not (out / EXPORT).is_file():
        raise InputError(f"{out}: not an export ({EXPORT} is missing); choose another --out, or empty it")


def _publish(beside: Path, out: Path, files: list[str], about: dict[str, Any]) -> None:
    """Publish each file whole, their description last. Other files in the folder, such as .git, stay."""
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (EXPORT, INT8):
            (out / name).unlink(missing_ok=True)
        for name in files:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            publish(target, (beside / name).replace)
        publish_json(out / EXPORT, about)


def export_text(summary: ExportSummary) -> str:
    """A summary as text."""
    weights = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in summary.num_bytes.items())
    lines = [f"{summary.out}: {', '.join(summary.tasks)}; {weights}"]
    lines += summary.notes
    if summary.without_set:
        lines.append(f"without the packed set: {summary.without_set}")
    what = counted(summary.num_images, "test image" if summary.images == "test" else "drawn image")
    what += "" if summary.images == "test" else ", since the packed set was not found,"
    lines.append(
        f"compared with the run on {what} no probability differs by more than {summary.largest_difference:.1e} "
        f"(allowed: {summary.tolerance:.0e})"
    )
    if summary.int8:
        rows = [[task, *(f"{loss[name]:{form}}" for name, form in INT8_COLUMNS.items())] for task, loss in summary.int8.items()]
        columns = ["int8, test images", "n", "accuracy", "int8", "difference", "same answer"]
        lines += ["", table_text(columns, rows)]
    for task, folder in summary.folders.items():
        lines.append(f'timm.create_model("local-dir:{Path(summary.out) / folder}", pretrained=True)  # {task}')
    return "\n".join(lines)
