"""The names of `import fastfashion as ff`: what the commands do, for notebooks and programs.

Arguments: see command_options.py. Functions return a frozen dataclass with `to_dict()`; its fields are the keys of
docs/json.md. Training and testing are train_run and evaluate_run, because `fastfashion.train` and
`fastfashion.evaluate` are packages. Errors that the caller can fix are `FastfashionError`s, and name arguments. No function changes the
program that calls it (docs/embedding.md).
"""

import inspect
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fastfashion import dist
from fastfashion.calls import call, embedded, in_arguments
from fastfashion.command_options import (
    AuditRequest,
    CompareRequest,
    DownloadRequest,
    EvaluateRequest,
    ExportRequest,
    PredictRequest,
    PreviewRequest,
    ServeRequest,
    ShardRequest,
    SplitsRequest,
    SynthRequest,
    TrainRequest,
    VerifyRequest,
    labels_of,
    settings_of,
    short_forms,
    value_of,
    view_settings,
)
from fastfashion.config import DEFAULT_RECIPE, AugmentConfig, DataConfig, RunConfig
from fastfashion.errors import ConfigError, FastfashionError, InputError, TrainingError
from fastfashion.fields import Result
from fastfashion.places import find_shards, find_source, place_of, run_of
from fastfashion.recipes import recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from fastfashion.audit.preview import PreviewSummary
    from fastfashion.export.export import ExportSummary
    from fastfashion.load import Loader
    from fastfashion.pack import PackSummary
    from fastfashion.pack.request import PackRequest
    from fastfashion.predict.inputs import Input
    from fastfashion.runs import OpenRun
    from fastfashion.runs.folder import TrainSummary
    from fastfashion.shards import PackedSet
    from fastfashion.sources.download import Downloaded
    from fastfashion.sources.synth import SynthSummary

__all__ = ["FastfashionError"]

Place = str | Path  # a path, or an address such as s3://bucket/set
Run: TypeAlias = "Place | OpenRun | TrainSummary"  # a run's folder, or what open_run or train_run returned
Set: TypeAlias = "Place | PackedSet"
Images: TypeAlias = "Set | bytes | Image.Image | np.ndarray"
Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Verified(Result):
    """What verify read, what is damaged, and, with repair, what was damaged before it and which shards it packed again."""

    out: str
    damage: tuple[Any, ...]
    num_files: int
    num_bytes: int
    num_rows: int
    repaired: tuple[str, ...] = ()
    damage_before: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Splits(Result):
    """What splits wrote: rows and classes of each part, for the first task and for every task."""

    out: str
    task: str
    protocol: str
    parts: dict[str, Any]
    tasks: dict[str, Any]
    left_out: str = ""  # columns that "all" leaves out, in words
    named: str = ""  # what the split file or column names, in words


@dataclass(frozen=True, kw_only=True)
class Audit(Result):
    """What audit found in a set; docs/json.md explains the fields."""

    set: str
    images: int
    rejected: Report
    sizes: Report
    resolutions: Report
    labels: Report
    duplicates: Report
    leakage: Report
    quality: Report | None = None  # of the images
    label_errors: Report | None = None  # with a run


@dataclass(frozen=True, kw_only=True)
class Evaluated(Result):
    """How a run did on its test rows, as its report.json says; docs/json.md explains the fields."""

    run: str  # its folder, where the file has the name alone
    model: str
    first_weights: str
    size: str
    split: Report
    tasks: Report
    skipped: Any
    corrections_sha256: str | None
    set: Report
    trained_on: Report
    notes: list[str]
    unknown_classes: Report | None = None  # of rows unseen
    test_reads: int = 0  # how often the test rows were read so far


@dataclass(frozen=True, kw_only=True)
class Compared(Result):
    """Two runs on the rows that both were tested on, second minus first; docs/json.md explains the fields."""

    runs: list[str]
    sets: list[Any]
    tasks: Report


@call(DownloadRequest, computes=False)
def download(request: DownloadRequest) -> "Downloaded":
    """Download Fashion Product Images from Kaggle: one zip, checked, which the other commands read as it is.

    Credentials are those of Kaggle's own tool ($KAGGLE_API_TOKEN, ~/.kaggle/access_token, kaggle.json and so on); without any, the
    request is anonymous. The same command resumes after a broken connection or Ctrl-C.
    """
    from fastfashion.sources.download import bar_progress
    from fastfashion.sources.download import download as fetch

    with bar_progress() as progress:
        return fetch(request.which, request.out, timeout_s=request.timeout, progress=progress)


@call(SynthRequest, computes=False)
def synth(request: SynthRequest) -> "SynthSummary":
    """Draw a synthetic data set in the layout of the real one."""
    from fastfashion.bars import tqdm
    from fastfashion.sources.synth import write_synth

    height_px, width_px = request.height_width_px
    with tqdm(total=request.rows, unit="images", disable=None) as bar:
        done = write_synth(
            request.out,
            rows=request.rows,
            width_px=width_px,
            height_px=height_px,
            seed=request.seed,
            workers=request.workers,
            on_progress=bar.update,
        )
    return replace(done, out=request.out)


def pack_request(request: ShardRequest) -> "PackRequest":
    """The request to pack/ that a `shard` request means."""
    from fastfashion.catalog import Columns
    from fastfashion.pack import PackRequest

    return PackRequest(
        source=request.source,
        out=request.out or Path("shards") / request.source.stem,
        table=request.table,
        columns=Columns.parse(request.id_column, request.label_columns, request.na_values),
        resolutions=request.res,
        workers=request.workers,
        engine=request.engine,
        address=request.address,
        max_rejected=request.max_rejected,
        max_pixels=request.max_pixels,
        quality=request.quality,
    )


@call(ShardRequest, computes=False)
def shard(request: ShardRequest) -> "PackSummary":
    """Pack images and their table into shards, at one or several resolutions, on disk or object storage.

    Resumes an interrupted run. Images that are left out are listed in rejected.csv with the reason.
    """
    from fastfashion.pack import bar_progress, pack

    with bar_progress() as progress:
        return pack(pack_request(request), progress)


@call(VerifyRequest, computes=False)
def verify(request: VerifyRequest) -> Verified:
    """Compare every byte of a packed set with its checksums; with repair, pack damaged shards again."""
    return verified(request, lambda text: None)


def verified(request: VerifyRequest, say: Callable[[str], object]) -> Verified:
    """As verify; `say` gets the damage before it is repaired, which may take long or fail."""
    from fastfashion.pack.repair import repair
    from fastfashion.pack.text import verify_bar, verify_text

    found = verify_bar(request.shards)
    repaired: list[str] = []
    before: tuple[Any, ...] = ()
    if found.damage and request.repair:
        say(verify_text(request.shards, found))
        source, before = find_source(request.source), found.damage
        repaired = repair(request.shards, source, before, request.workers, request.table, request.id_column)
        say(f"{request.shards}: packed again: {', '.join(repaired) or 'nothing'}")
        found = verify_bar(request.shards)
    return Verified(out=str(request.shards), repaired=tuple(repaired), damage_before=before, **vars(found))


@call(AuditRequest)
def audit(request: AuditRequest) -> Audit:
    """Report what a packed set holds: sizes, bytes, classes, and duplicates, including those that splits leak into tests.

    With a run, also which labels are probably wrong: suspects.csv and sheets of images in the folder `out`, audit by default.
    """
    from fastfashion import dist

    return Audit(**audited(request, dist.alone()))


def audited(request: AuditRequest, world: Any) -> Report:
    from fastfashion.audit.report import audit as audit_set
    from fastfashion.catalog.views import View
    from fastfashion.files import is_remote
    from fastfashion.shards import open_packed_set as open_set

    found = None
    if request.runs:  # first: a run of another set is refused before the set is read
        from fastfashion.audit.suspects import SuspectsRequest, find_suspects

        suspects = SuspectsRequest(
            runs=request.runs,
            out=request.out or Path("audit"),
            shards=request.shards,
            corrections=request.corrections,
            workers=request.workers,
            raw=request.raw,
        )
        found = find_suspects(suspects, world)
    report = audit_set(request.shards, request.out, view=View.of(view_settings(short_forms(request))))
    if request.quality if request.quality is not None else not is_remote(request.shards):
        from fastfashion.audit.quality import check_quality

        report["quality"] = check_quality(open_set(request.shards), request.out, request.workers)
    return report if found is None else report | {"label_errors": found}


@call(SplitsRequest, computes=False)
def splits(request: SplitsRequest) -> Splits:
    """Write which rows are in which part of the split that training uses for these tasks.

    Several tasks are split as the first one or subCategory is, or as split_by says; if their test rows then differ, the CSV has a
    line for each row and task.
    """
    from fastfashion.catalog import joint_split
    from fastfashion.catalog.splits import Rule, write_split
    from fastfashion.shards import open_viewed

    data = request.data(request.shards, request.task)
    packed = open_viewed(data)
    asked = data.tasks
    tasks = packed.vocab.chosen(asked)
    data = replace(data, task=",".join(tasks))
    rule = Rule.of(data, lambda: packed.table)
    split = joint_split(packed.columns, packed.vocab, tasks, data.split_tasks, rule)
    summary = write_split(request.out, packed.columns, split, raw=request.raw)
    parts = summary.get(data.split_tasks[0]) or next(iter(summary.values()))
    left_out, named = packed.vocab.left_out(asked) or "", "" if rule.named is None else rule.named.text
    return Splits(out=str(request.out), task=data.task, protocol=data.protocol, parts=parts, tasks=summary, left_out=left_out, named=named)


@call(PreviewRequest, computes=False)
def preview(request: PreviewRequest) -> "PreviewSummary":
    """Draw a sheet of packed images, each beside what the model sees of it in three epochs of augmentation."""
    from fastfashion.audit.preview import PreviewRequest as SheetRequest
    from fastfashion.audit.preview import preview as draw
    from fastfashion.catalog.views import View
    from fastfashion.load.fit import Fit

    config = request.config()
    return draw(
        SheetRequest(
            shards=request.shards,
            out=request.out,
            augment=config.augment,
            task=config.data.task,
            resolution=config.data.resolution,
            size=config.data.size,
            fit=Fit.of(config.data),
            view=View.of(config.data),
            decoder=config.data.decoder,
            workers=request.workers,
            count=request.count,
            rows=request.row or None,
            seed=request.seed,
        )
    )


@embedded
def open_packed_set(shards: "Set | None" = None) -> "PackedSet":
    """A packed set to inspect: its `table` (pandas), `vocab`, and images by `open(resolution)`."""
    from fastfashion.shards import open_packed_set as open_set

    return open_set(value_of(find_shards, shards, "shards"))


@embedded
def loader(
    shards: "Set | None" = None,
    *,
    split: "str | Sequence[int] | Sequence[str] | np.ndarray" = "train",
    task: str | Sequence[str] | None = "subCategory",
    batch_size: int = 128,
    size: str | tuple[int, int] = "auto",
    fit: str = "squash",
    backend: str = "auto",
    workers: int | None = None,
    seed: int = 0,
    augment: "AugmentConfig | Mapping[str, float] | bool | None" = None,
    protocol: str = "stratified",
    split_seed: int = 0,
    fold: int = 0,
    resolution: str = "auto",
    shuffle: bool | str | None = None,
    window: int = 16,
    weights: "Sequence[float] | np.ndarray | None" = None,
    rank: int | None = None,
    world_size: int | None = None,
    drop_last: bool = False,
    on_bad: str = "stop",
    device: "str | torch.device | None" = None,
    cache_dir: "str | Path" = "",
    settings: Mapping[str, Any] | None = None,
) -> "Loader":
    """Batches of a packed set for a training loop of your own: `for batch in loader`, epoch after epoch (docs/loader.md).

    A batch has `images`, uint8 (B, H, W, 3); `labels`, int64 (B, T), -1 if there is none; `rows`, int64 (B,), -1 for padding;
    and `target(task)`, `soft_target(task)`, `normalized(mean, std)`. `state_dict` and `load_state_dict` continue in the middle of an epoch,
    with any batch size, number of processes and backend. Nothing of your program is changed. One iterator at a time.

    Arguments:
        shards: Packed set: its folder, an address, or what `ff.open_packed_set` returned.
        split: train, val, test, all, or a list of rows or ids.
        task: Label, several, or all; None: only images and rows.
        batch_size: Images per step, over all processes.
        size: Input size, HxW or (height, width) in pixels; auto: from the images' shape.
        fit: Fit images to the size: squash (stretch), crop (cut to its shape) or pad (letterbox, in data.pad_color of `settings`).
        backend: auto, dali, threads or resident; auto: dali on a GPU, threads without one.
        workers: Threads of this process; default: its share of the cores.
        seed: Seed of order and augmentation.
        augment: True, False, or settings such as {"mixup": 0.2}; default: those of training for split="train", none otherwise.
        protocol: How to split: stratified, reference, folds, or file and column with data.split_file and data.split_column of `settings`.
        split_seed: Seed of the stratified protocol.
        fold: Part to test with the folds protocol.
        resolution: Packed resolution; auto: the smallest that is large enough.
        shuffle: True, "window" (shards, then rows in a window, for sets larger than memory) or False; default: True for split="train".
        window: Shards in a window.
        weights: A chance for each row of the set, to oversample: an epoch has n * weight / sum of a row, rounded up or down by chance.
        rank: This process's number; default: that of torch.distributed, if it is initialised.
        world_size: Number of processes; default: that of torch.distributed.
        drop_last: Leave out the last samples of an epoch that do not fill a batch.
        on_bad: On a decode error: stop, or skip (mask the image and list it in `loader.skipped`).
        device: Where batches are; default: the current device.
        cache_dir: Folder for shards from object storage, and seek tables; default: a folder in the user's cache.
        settings: Other settings, such as {"data.oversample": 0.002} or {"data.where": "gender == 'Women'"} (docs/settings.md).
    """
    from fastfashion.catalog.views import View
    from fastfashion.load.embed import LoaderRequest, open_request
    from fastfashion.load.loader import notes
    from fastfashion.shards import open_packed_set as open_set

    packed: Any = shards if hasattr(shards, "vocab") else open_set(value_of(find_shards, shards, "shards"))
    more = value_of(settings_of, settings, "--set")
    packed = packed.viewed(View.of(view_settings(more)))
    asked = () if task is None else DataConfig(task=value_of(labels_of, task, "task")).tasks
    data: dict[str, Any] = {
        "fit": fit,
        "resolution": resolution,
        "backend": backend,
        "workers": 0 if workers is None else workers,
        "protocol": protocol,
        "split_seed": split_seed,
        "fold": fold,
        "window_shards": window,
        "on_bad": on_bad,
        "cache_dir": cache_dir,
    }
    request = LoaderRequest(
        split=split,
        tasks=packed.vocab.chosen(asked) if asked else (),
        batch_size=batch_size,
        size=size,
        seed=seed,
        augment=augment,
        shuffle=shuffle,
        weights=weights,
        rank=rank,
        world_size=world_size,
        device=None if device is None else dist.device_of(device),
        drop_last=drop_last,
        data=data,
        settings=more,
    )
    opened = open_request(packed, request, tuple(inspect.signature(loader).parameters))
    for note in notes(opened.spec):
        warnings.warn(in_arguments(note, ("settings",)), RuntimeWarning, stacklevel=4)
    return opened


@embedded
def open_loader(
    shards: "Set | None" = None,
    *,
    task: str | Sequence[str] = "subCategory",
    part: Literal["train", "val"] = "train",
    size: str = "auto",
    batch_size: int = 128,
    settings: Mapping[str, Any] | None = None,
    device: "str | torch.device | None" = None,
) -> "Loader":
    """The old name of `loader`, with the rows of rare classes repeated as training does; it will be gone in the next version."""
    warnings.warn("open_loader is now ff.loader, and its part is split", FutureWarning, stacklevel=3)
    if part not in ("train", "val"):
        raise ConfigError(f"part: expected train or val, found {part!r}")
    repeated = {"data.oversample": recipe(DEFAULT_RECIPE)["data.oversample"]} if part == "train" else {}
    more = {**repeated, **value_of(settings_of, settings, "--set")}
    return loader(shards, task=task, split=part, size=size, batch_size=batch_size, settings=more, device=device)


@call(TrainRequest)
def train_run(request: TrainRequest) -> "TrainSummary":
    """Train a classifier on a packed set; the same call resumes a run that was interrupted.

    With `nproc` above 1 in processes of their own, otherwise here: in the process group of your program, if it has initialised one and
    all its ranks call this. The result is taken in place of a run's folder. Ctrl-C raises KeyboardInterrupt, as everywhere.
    """
    from fastfashion import dist
    from fastfashion.runs.folder import check_run_folder
    from fastfashion.train.__main__ import settled
    from fastfashion.train.job import train as train_here

    config, run = settled(request)
    if (request.nproc or 1) > 1:
        check_run_folder(run, config, resume=request.resume, allowed=request.allow_config_change)
        return _in_processes(config, run, request.nproc or 1)
    with dist.joined(config.train.timeout_s) as world:
        if world.is_main:  # which starts writing while others still look
            check_run_folder(run, config, resume=request.resume, allowed=request.allow_config_change)
        return train_here(config, run, world, f"fastfashion.train_run, {run.name}")


def _in_processes(config: RunConfig, run: Path, nproc: int) -> "TrainSummary":
    """Train with `fastfashion train` in processes of its own; what it says is passed on. Raises TrainingError if it fails."""
    import msgspec

    from fastfashion.runs.folder import TrainSummary
    from fastfashion.scratch import scratch
    from fastfashion.train.__main__ import write_resolved

    last = ""
    with scratch() as folder, tempfile.TemporaryFile("w+", encoding="utf-8") as document:
        file = write_resolved(folder, config, run, f"fastfashion.train_run, {run.name}")
        command = [sys.executable, "-m", "fastfashion", "train", config.data.shards, "--resolved", str(file), "--nproc", str(nproc)]
        with subprocess.Popen([*command, "--json"], stdout=document, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                last = line.strip().removeprefix("error: ") if line.startswith("error: ") or not last else last
                print(line, end="", file=sys.stderr)
        if process.returncode:
            raise TrainingError(f"training ended with status {process.returncode}: {last}")
        document.seek(0)
        return msgspec.json.decode(document.read(), type=TrainSummary)


@call(EvaluateRequest)
def evaluate_run(request: EvaluateRequest) -> Evaluated:
    """Test a run's best weights on the test rows of its split; writes report.json, predictions.parquet and plots/.

    A set that has grown holds rows that the run trained on: with rows unseen, only ids that it never saw are tested, into RUN/unseen. In
    Python, this process does it alone, whatever process group your program has initialised.
    """
    from fastfashion import dist
    from fastfashion.evaluate import evaluate_run as evaluate

    return Evaluated(**(evaluate(request, dist.alone(request.device)) | {"run": str(request.run)}))


@call(CompareRequest, computes=False)
def compare(request: CompareRequest) -> Compared:
    """Test whether one run is better than another: McNemar's exact test and intervals of the differences, on rows both were tested on."""
    from fastfashion.evaluate.compare import compare as compare_runs

    return Compared(**compare_runs(request.first, request.second))


@embedded
def open_run(run: Run, shards: "Set | None" = None) -> "OpenRun":
    """A run to inspect: its `model` (a torch module, uint8 images to logits), `config`, `packed` set, `codes` and `split`."""
    from fastfashion.runs import open_run as open_folder

    known = getattr(run, "packed", None) if shards is None else shards
    return open_folder(value_of(run_of, run, "run"), None if known is None else value_of(place_of, known, "shards"))


@call(PredictRequest)
def predict(request: PredictRequest) -> Iterator[Report]:
    """Predict what images show: paths, addresses, folders, zips, packed sets; in Python also PIL images, uint8 arrays and encoded bytes.

    Yields an answer for each image, `{"path", "answers": {task: [{"label", "probability"}, …]}, "error": None}`, the most probable
    first. If an image cannot be read, `answers` is None and `error` says why; one without a path is "image 0", by its position.
    """
    from fastfashion import dist
    from fastfashion.predict.outputs import records
    from fastfashion.predict.predictor import Predictor

    predictor = Predictor(request.run, dist.alone(request.device).device, workers=request.workers, tasks=request.tasks)

    def answers() -> Iterator[Report]:
        for each in predictor.answer(_inputs(request.paths), top=request.top, batch_size=request.batch_size):
            yield from records(each, predictor.classes)

    return answers()


def _inputs(images: Iterable[Any]) -> "Iterator[Input]":
    from fastfashion.predict.inputs import InputImage, find_inputs

    for number, image in enumerate(images):
        if isinstance(image, bytes | bytearray | memoryview):
            yield InputImage(f"image {number}", lambda image=image: bytes(image))  # type: ignore[misc]
        elif hasattr(image, "getbands") or hasattr(image, "ndim"):
            yield InputImage(f"image {number}", lambda image=image: _as_png(image))  # type: ignore[misc]
        else:
            yield from find_inputs([str(value_of(place_of, image, f"image {number}"))])


def _as_png(image: "Image.Image | np.ndarray") -> bytes:
    """The same pixels, upright, as a file; raises InputError for an array that is not an image."""
    from PIL import Image, ImageOps

    try:
        opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
        file = BytesIO()
        upright = ImageOps.exif_transpose(opened)
        if upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            upright = upright.convert("RGB")
        upright.save(file, "PNG", compress_level=1)
    except (TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"expected a PIL image or a uint8 array (H, W), (H, W, 3) or (H, W, 4) ({error})") from error
    return file.getvalue()


@call(ExportRequest)
def export(request: ExportRequest) -> "ExportSummary":
    """Export a run's best model: ONNX, a timm folder with a model card, or a page for a Hugging Face Space.

    It is compared with the run on test images, and published only if it answers the same. A timm model has one head: a run
    with several becomes a folder a head.
    """
    from fastfashion.export.export import export as export_run

    return export_run(request)


@call(ServeRequest, computes=False)
def serve(request: ServeRequest) -> None:
    """Show a run on a page: answers as bars, where the model looked, the nearest products, batches, test results, an HTTP API.

    The page loads nothing from other sites. The first start reads the training set once, for the nearest products. Returns when
    the process is stopped.
    """

    serve_with(request, dict(os.environ))


def serve_with(
    request: ServeRequest, environment: MutableMapping[str, str], on_answering: Callable[[str], object] = lambda address: None
) -> None:
    """Serve, with the password in `environment` if the request has none; the variable is removed from there.

    `on_answering` gets the page's address once it answers.
    """
    from fastfashion.serve.auth import find_auth
    from fastfashion.serve.limits import Limits
    from fastfashion.serve.server import ServeRequest as ServerRequest
    from fastfashion.serve.server import serve as run_server

    limits = Limits(
        image_bytes=request.max_mb * 1_000_000, image_pixels=request.max_pixels, batch_files=request.max_files, queue=request.max_queue
    )
    auth = find_auth(request.auth, request.auth_file, environment, lambda text: print(text, file=sys.stderr))
    run_server(
        ServerRequest(
            run=request.run,
            shards=request.shards,
            host=request.host,
            port=request.port,
            auth=auth,
            allow_host=request.allow_host,
            workers=request.workers,
            limits=limits,
        ),
        on_answering,
    )
