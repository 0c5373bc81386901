"""Floor 8, the names of `import fastfashion as ff`: what the commands do, for notebooks and programs.

They take plain values and return what the commands print as JSON, or open what can be looked into. The two that train and test are called
train_run and evaluate_run, because `fastfashion.train` and `fastfashion.evaluate` are the packages that they stand on.
Errors that can be cured are `fastfashion.errors.FastfashionError`s, and name arguments. None of these functions changes the program
that calls it (docs/embedding.md).
"""

import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fastfashion.arguments import EmbeddedLoader, embedded, names_of, place_of, run_of
from fastfashion.config import DataConfig, RunConfig
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.options import find_shards, find_source, parse_image_size

if TYPE_CHECKING:
    import torch

    from fastfashion.load import Loader
    from fastfashion.runs import OpenRun
    from fastfashion.shards import PackedSet


Place = str | Path  # a path, or an address such as s3://bucket/set
Run: TypeAlias = "Place | OpenRun | Mapping[str, Any]"  # a run's folder, or what open_run or train_run returned
Set: TypeAlias = "Place | PackedSet"
Result = dict[str, Any]


@embedded
def synth(out: Place = "data/synth", *, rows: int = 1200, res: str = "600x800", seed: int = 0, workers: int | None = None) -> Result:
    """Draw a stand-in data set in the layout of the real one, of images of `res` (width x height); as `fastfashion synth`."""
    from fastfashion.dist import cores_per_process
    from fastfashion.sources.synth import write_synth

    width_px, height_px = parse_image_size(res)
    workers = workers or cores_per_process(1)
    summary = write_synth(Path(out), rows=rows, width_px=width_px, height_px=height_px, seed=seed, workers=workers)
    return _plain(asdict(summary) | {"out": out})


@embedded
def shard(
    source: Place | None = None,
    out: Place | None = None,
    *,
    res: int | str | Sequence[int | str] = 224,
    table: str = "",
    id_column: str = "id",
    label_columns: str | Sequence[str] | None = None,
    na_values: str | Sequence[str] | None = None,
    quality: int = 90,
    max_rejected: int = 1000,
    max_pixels: int = 100_000_000,
    workers: int | None = None,
) -> Result:
    """Pack images and their table into shards; as `fastfashion shard`.

    `res`: the shorter side in pixels, or "full", or several of them. Goes on where an interrupted call stopped. A table of your own:
    `table`, its name within the source or any other path; `id_column`, paths or names of its images; `label_columns`, what to learn;
    `na_values`, spellings of a cell without a label (docs/tables.md). These two may be one text with commas, as on the command line.
    """
    from fastfashion.catalog import LABEL_COLUMNS, NO_LABEL, Columns
    from fastfashion.dist import cores_per_process
    from fastfashion.pack import PackRequest, bar_progress, pack

    found = find_source(None if source is None else place_of(source))
    request = PackRequest(
        source=found,
        out=Path("shards") / found.stem if out is None else place_of(out),
        table=table,
        columns=Columns(
            id=id_column,
            labels=LABEL_COLUMNS if label_columns is None else names_of(label_columns),
            no_label=NO_LABEL if na_values is None else tuple(dict.fromkeys(["", *names_of(na_values)])),
        ),
        resolutions=tuple(dict.fromkeys(map(str, [res] if isinstance(res, int | str) else res))),
        workers=workers or cores_per_process(1),
        max_rejected=max_rejected,
        max_pixels=max_pixels,
        quality=quality,
    )
    with bar_progress() as progress:
        summary = pack(request, progress)
    return _plain(asdict(summary) | {"out": request.out})


@embedded
def open_packed_set(shards: "Set | None" = None) -> "PackedSet":
    """A packed set to look into: its `table` (pandas), `vocab`, and images by `open(resolution)`."""
    from fastfashion.shards import open_packed_set as open_set

    return open_set(find_shards(None if shards is None else place_of(shards)))


@embedded
def open_loader(
    shards: "Set | None" = None,
    *,
    task: str = "subCategory",
    part: Literal["train", "val"] = "train",
    size: str = "auto",
    batch_size: int = 128,
    settings: Mapping[str, Any] | None = None,
    device: "str | torch.device | None" = None,
) -> "Loader":
    """Batches as training gets them: `for batch in loader.steps(epoch=0)`, and `loader.close()` at the end.

    A batch has `images`, uint8 (B, H, W, 3); `labels`, int64 (B, T), -1 where there is none; `rows`, int64 (B,), -1 for padding.
    `task`: a label, several with commas between, or "all". `settings`: as `--set`, such as {"augment.mixup": 0.2}.
    `batch_size` counts the images of all ranks of `torch.distributed`, where your program has initialised it; each rank gets its share.
    Nothing of your program is changed. Batches are on `device`, by default the current one. One iterator at a time.
    """
    import torch

    from fastfashion import dist
    from fastfashion.load import open_loader as open_spec
    from fastfashion.train.data import prepare_data
    from fastfashion.train.job import resolve

    if part not in ("train", "val"):
        raise ConfigError(f"part: expected train or val, found {part!r}")
    flags = {"data.task": task, "data.size": size, "train.batch_size": batch_size, "model.pretrained": False}
    config = resolve(_config(shards, "fast", flags, settings))
    world = dist.here()
    started = dist.env_int("WORLD_SIZE", 1)
    if world.size == 1 and started > 1 and not torch.distributed.is_initialized():
        raise ConfigError(
            f"this is one of {started} processes (WORLD_SIZE), and each would get all rows: call torch.distributed.init_process_group first"
        )
    data = prepare_data(config, world if device is None else replace(world, device=dist.device_of(device)))
    return EmbeddedLoader(open_spec(data.spec if part == "train" else data.val_spec), inspect.signature(open_loader).parameters)


@embedded
def train_run(
    shards: "Set | None" = None,
    *,
    task: str = "subCategory",
    model: str = "resnet18",
    pretrained: bool = True,
    size: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    recipe: str = "fast",
    settings: Mapping[str, Any] | None = None,
    nproc: int = 1,
    out: Place = "runs",
    name: str | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    allow_config_change: str | Sequence[str] = (),
) -> Result:
    """Train a classifier on a packed set, going on with a run of the same name; as `fastfashion train`.

    With `nproc` above 1 in processes of their own, otherwise here: in the process group of your program, where it has initialised one and
    all its ranks call this. `settings`: as `--set`, such as {"optim.lr": 5e-4}. The result's `run` is the folder that `evaluate_run`,
    `predict` and `export` take. Ctrl-C raises KeyboardInterrupt, as everywhere; the same call continues from the last checkpoint.
    """
    from fastfashion import dist
    from fastfashion.runs.folder import check_run_folder
    from fastfashion.train.job import resolve, run_name
    from fastfashion.train.job import train as train_here

    flags = {"data.task": task, "model.name": model, "model.pretrained": pretrained}
    optional = (("data.size", size), ("train.epochs", epochs), ("train.batch_size", batch_size))
    flags |= {key: value for key, value in optional if value is not None}
    config = resolve(_config(shards, recipe, flags, settings))
    run, allowed = Path(out) / (name or run_name(config, recipe)), names_of(allow_config_change)
    if nproc == 1:
        with dist.joined(config.train.timeout_s) as world:
            if world.is_main:  # which starts writing while others still look
                check_run_folder(run, config, resume=resume, allowed=allowed)
            return _plain(asdict(train_here(config, run, world, f"fastfashion.train_run, {run.name}")))
    check_run_folder(run, config, resume=resume, allowed=allowed)
    options = ["--shards", config.data.shards, "--out", str(run.parent), "--name", run.name, "--nproc", str(nproc), "--resume", resume]
    options += [text for key in allowed for text in ("--allow-config-change", key)]
    chosen = {f"{section}.{key}": value for section, values in config.to_dict().items() for key, value in values.items()}
    del chosen["data.shards"]
    return _command(["train", *options, *(text for key, value in chosen.items() for text in ("--set", f"{key}={value}"))])


@embedded
def evaluate_run(
    run: Run,
    *,
    shards: "Set | None" = None,
    rows: Literal["test", "unseen"] = "test",
    batch_size: int = 256,
    workers: int = 0,
    device: "str | torch.device | None" = None,
) -> Result:
    """Test a run's best weights on the test rows of its split; as `fastfashion evaluate`.

    Writes report.json, predictions.parquet and plots/ into the run, and returns the report. `rows`: "unseen" tests ids of `shards` that
    the run neither trained, validated nor tested, and writes into RUN/unseen. This process does it alone, whatever process group your
    program has initialised.
    """
    from fastfashion import dist
    from fastfashion.evaluate import EvaluateRequest
    from fastfashion.evaluate import evaluate_run as evaluate

    folder, where = run_of(run, shards)
    request = EvaluateRequest(run=folder, shards=where, rows=rows, batch_size=batch_size, workers=workers)
    return _plain(evaluate(request, dist.alone(device)))


@embedded
def compare(first: Run, second: Run) -> Result:
    """Whether the second evaluated run is better than the first, on the rows both were tested on; as `fastfashion compare`."""
    from fastfashion.evaluate.compare import compare as compare_runs

    return _plain(compare_runs(run_of(first)[0], run_of(second)[0]))


@embedded
def open_run(run: Run, shards: "Set | None" = None) -> "OpenRun":
    """A run to look into: its `model` (a torch module, uint8 images to logits), `config`, `packed` set, `codes` and `split`."""
    from fastfashion.runs import open_run as open_folder

    return open_folder(*run_of(run, shards))


@embedded
def predict(
    run: Run,
    paths: "Set | Iterable[Set]",
    *,
    top: int = 3,
    task: str | Sequence[str] = (),
    batch_size: int = 256,
    workers: int | None = None,
    device: "str | torch.device | None" = None,
) -> list[Result]:
    """What images show: files, folders, zips or packed sets; as the lines of `fastfashion predict --format jsonl`.

    An image is `{"path", "answers": {task: [{"label", "probability"}, …]}, "error": None}`, the most probable first; of one that cannot be
    read `answers` is None and `error` says why.
    """
    from fastfashion import dist

    for name, value in (("top", top), ("batch_size", batch_size), ("workers", workers if workers is not None else 1)):
        if value < 1:
            raise ConfigError(f"{name}: expected 1 or more, found {value}")
    from fastfashion.predict.inputs import find_inputs
    from fastfashion.predict.outputs import records
    from fastfashion.predict.predictor import Predictor

    named = paths if isinstance(paths, Iterable) and not isinstance(paths, str) else [paths]
    tasks = names_of(task)
    predictor = Predictor(run_of(run)[0], dist.alone(device).device, workers=workers or dist.cores_per_process(1), tasks=tasks)
    answers = predictor.answer(find_inputs(str(place_of(one)) for one in named), top=top, batch_size=batch_size)
    return [record for each in answers for record in records(each, predictor.classes)]


@embedded
def export(
    run: Run,
    to: Literal["onnx", "hub", "space"],
    *,
    out: Place | None = None,
    task: str | Sequence[str] = (),
    int8: bool = False,
    shards: "Set | None" = None,
) -> Result:
    """Write a run's best model for others, compared with the run before it is published; as `fastfashion export`."""
    from fastfashion.export.export import ExportRequest
    from fastfashion.export.export import export as export_run

    folder, where = run_of(run, shards)
    request = ExportRequest(
        run=folder,
        to=to,
        out=None if out is None else Path(out),
        tasks=names_of(task),
        int8=int8,
        shards=where,
    )
    return _plain(asdict(export_run(request)))


def _config(shards: "Set | None", recipe_name: str, flags: Mapping[str, Any], settings: Mapping[str, Any] | None) -> RunConfig:
    found = find_shards(None if shards is None else place_of(shards))
    return RunConfig(data=DataConfig(shards=str(found))).with_recipe(recipe_name, dict(flags) | dict(settings or {}))


def _plain(value: Any) -> Any:
    """What it is after it was written as JSON and read again."""
    return json.loads(json.dumps(value, default=str))


def _command(arguments: Sequence[str]) -> Result:
    """The JSON of a command; what it says on the way is passed on. Raises TrainingError where it fails."""
    last = ""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        command = [sys.executable, "-m", "fastfashion", *arguments, "--json"]
        with subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                last = line.strip() or last
                print(line, end="", file=sys.stderr)
        if process.returncode:
            raise TrainingError(f"fastfashion {arguments[0]} ended with {process.returncode}: {last.removeprefix('error: ')}")
        said.seek(0)
        return json.loads(said.read().splitlines()[-1])
