"""The reference project's twelve cells, trained and tested here: one table, one image.

cells ─► a run each, on the reference split and on the leak-free one ─► reports ─► table.md, table.csv, table.json, table.png

Every run is a `fastfashion train` and a `fastfashion evaluate` of its own: what is done stays done, and the same command goes on.
"""

import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.catalog import Vocab, split_rows
from fastfashion.config import DataConfig, RunConfig
from fastfashion.csv_files import publish_csv
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.evaluate.reference import IMAGES, MODELS, PUBLISHED, TASKS, reference_epochs
from fastfashion.evaluate.reproduce_folder import check_data, check_folder
from fastfashion.files import publish, publish_json
from fastfashion.runs.opened import REPORT, read_metrics
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.tables import table_text

if TYPE_CHECKING:
    import pandas as pd

PROTOCOLS = ("reference", "stratified")
SCORES = ("accuracy", "macro_f1")
OTHER = "other"  # data that the published values are not of


@dataclass(frozen=True, kw_only=True)
class ReproduceRequest:
    """Which cells, with what. Raises ConfigError where none is left."""

    out: Path
    sets: Mapping[str, Path]  # "small" or "full" -> packed set
    tasks: Sequence[str] = TASKS
    models: Sequence[str] = MODELS
    protocols: Sequence[str] = PROTOCOLS
    recipe: str = "fast"
    heads: str = ""  # ALL: every cell's model learns all labels; "": it learns its own alone
    seeds: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)  # on top of the recipe, as `--set`
    nproc: int | None = None
    any_set: bool = False  # other data than the published values are of, too

    def __post_init__(self) -> None:
        self.config()  # raises where there is no such recipe or setting
        chosen = (("task", self.tasks, TASKS), ("model", self.models, MODELS), ("protocol", self.protocols, PROTOCOLS))
        for what, values, known in chosen:
            if unknown := [value for value in values if value not in known]:
                raise ConfigError(f"--{what} {unknown[0]}: expected one of {', '.join(known)}")
        if not self.sets:
            raise ConfigError("which images? Name a packed set with --small, --full, or both")
        if self.seeds < 1:
            raise ConfigError(f"--seeds: expected 1 or more, found {self.seeds}")

    def config(self) -> RunConfig:
        """What the settings of all runs come to, whatever the order in which they were given."""
        return RunConfig(data=DataConfig(shards="")).with_recipe(self.recipe, self.settings)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One of the twelve."""

    task: str
    images: str
    model: str


def cells(request: ReproduceRequest) -> list[Cell]:
    """Those that are asked for, in the order of the reference project's table."""
    wanted = ((task, images, model) for task in TASKS for images in IMAGES for model in MODELS)
    return [
        Cell(task=task, images=images, model=model)
        for task, images, model in wanted
        if task in request.tasks and images in request.sets and model in request.models
    ]


def reproduce(request: ReproduceRequest) -> dict[str, Any]:
    """Train and test what is not done yet, and write the table after each run: twelve cells, with all the folder has of this recipe.

    Returns `{"recipe", "command", "rows": [{"task", "images", "model", "published", "notebook", "ceiling", "reference", "stratified"}]}`,
    the last two with the scores of each seed and how they were made, or None where not measured; `data` is "published", "other" where
    the set is not the one that the published values are of, or None where there is no set. Raises TrainingError where a run fails,
    ConfigError where the folder was begun with other settings or images, and for other data without `any_set`.
    """
    sets = {images: open_packed_set(path) for images, path in request.sets.items()}
    other = check_data(sets, request.tasks, request.any_set)
    check_folder(request.out / f"{request.recipe}.json", request.heads, request.config(), sets)
    for cell in cells(request):
        for protocol in (each for each in PROTOCOLS if each in request.protocols):
            for seed in range(request.seeds):
                if _run(request, cell, protocol, seed):
                    write_tables(request.out, _result(request, sets, other))
    result = _result(request, sets, other)
    write_tables(request.out, result)
    return result


def _result(request: ReproduceRequest, sets: Mapping[str, PackedSet], other: Collection[str]) -> dict[str, Any]:
    rows = [_row(request, Cell(task=task, images=images, model=model), sets.get(images)) for task, images, model in PUBLISHED]
    for row in rows:
        row["data"] = None if row["images"] not in sets else OTHER if row["images"] in other else "published"
    return {"recipe": request.recipe, "command": "fastfashion " + shlex.join(sys.argv[1:]), "rows": rows}


def _row(request: ReproduceRequest, cell: Cell, packed: PackedSet | None) -> dict[str, Any]:
    published = PUBLISHED[cell.task, cell.images, cell.model]
    has_task = packed is not None and cell.task in packed.vocab.classes
    row: dict[str, Any] = {
        "task": cell.task,
        "images": cell.images,
        "model": cell.model,
        "published": {"accuracy": published.accuracy, "macro_f1": published.macro_f1},
        "notebook": {"accuracy": published.notebook_accuracy, "macro_f1": published.notebook_macro_f1},
        "ceiling": {"accuracy": None, "macro_f1": ceiling(packed.table, packed.vocab, cell.task) if packed and has_task else None},
    }
    for protocol in PROTOCOLS:
        done = (path.parent for path in (request.out / "runs").glob(f"{_name(request, cell, protocol)}-seed*/{REPORT}"))
        runs = sorted(done, key=lambda run: int(run.name.rpartition("-seed")[2]))
        row[protocol] = _summary(runs, cell.task) if runs else None
    return row


def ceiling(table: "pd.DataFrame", vocab: Vocab, task: str) -> float:
    """Highest macro F1 that any model can reach on the reference split's test part: classes that do not stand in training score 0."""
    codes = vocab.codes(table, [task])[:, 0]
    split = split_rows(table, vocab, task, "reference")
    tested = np.unique(codes[split.test])
    return float(np.isin(tested, codes[split.train]).mean())


def _name(request: ReproduceRequest, cell: Cell, protocol: str) -> str:
    return f"{cell.task}-{cell.images}-{cell.model}-{request.recipe}-{protocol}"


def _run(request: ReproduceRequest, cell: Cell, protocol: str, seed: int) -> bool:
    """Train and test a run of a cell; False where that was done before."""
    run = request.out / "runs" / f"{_name(request, cell, protocol)}-seed{seed}"
    if (run / REPORT).is_file():
        return False
    options = ["--shards", str(request.sets[cell.images]), "--task", request.heads or cell.task, "--split-by", cell.task]
    options += ["--protocol", protocol, "--model", cell.model, "--recipe", request.recipe, "--seed", str(seed)]
    if request.recipe == "reference" and "train.epochs" not in request.settings:
        options += ["--epochs", str(reference_epochs(cell.task, cell.images))]
    options += [] if request.nproc is None else ["--nproc", str(request.nproc)]
    options += [text for key, value in request.settings.items() for text in ("--set", f"{key}={value}")]
    _call(["train", *options, "--out", str(run.parent), "--name", run.name])
    _call(["evaluate", str(run), "--shards", str(request.sets[cell.images])])
    return True


def _call(arguments: Sequence[str]) -> None:
    print(f"fastfashion {shlex.join(arguments)}", file=sys.stderr)
    status = subprocess.run([sys.executable, "-m", "fastfashion", *arguments], stdout=subprocess.DEVNULL, check=False).returncode
    if status:
        raise TrainingError(
            f"fastfashion {shlex.join(arguments)}: ended with {status}; the same reproduce command goes on after it is cured"
        )


def _summary(runs: Sequence[Path], task: str) -> dict[str, Any]:
    """Scores of a cell's runs: of each seed, and the mean of their intervals' ends, which are of the choice of test images alone."""
    reports = [json.loads((run / REPORT).read_text(encoding="utf-8")) for run in runs]
    metrics = [read_metrics(run) for run in runs]
    values = [report["tasks"][task] for report in reports]
    minutes = [sum(line["time"]["seconds"] for line in lines if line["kind"] in ("step", "epoch")) / 60 for lines in metrics]
    starts = [next(line for line in lines if line["kind"] == "start") for lines in metrics]
    return {
        "runs": [str(run) for run in runs],
        "first_weights": reports[0]["first_weights"],
        "size": reports[0]["size"],
        "n": values[0]["n"],
        "test_ids_sha256": values[0]["test_ids_sha256"],
        "minutes": [round(each, 1) for each in minutes],
        "starts": [{key: start[key] for key in ("command", "commit", "machine", "versions")} for start in starts],
    } | {
        name: {
            "seeds": [each[name] for each in values],
            "interval": np.mean([each["intervals"][name] for each in values], axis=0).tolist(),
        }
        for name in SCORES
    }


def write_tables(out: Path, result: Mapping[str, Any]) -> None:
    """table.json, table.csv, table.md and table.png."""
    from fastfashion.evaluate.reproduce_plot import plot_cells

    out.mkdir(parents=True, exist_ok=True)
    publish_json(out / "table.json", result)
    lines = list(_lines(result))
    publish_csv(out / "table.csv", HEADER, lines)
    text = table_text(HEADER, lines, markdown=True) + "\n"
    if other := sorted({row["images"] for row in result["rows"] if row["data"] == OTHER}):
        text += f"\nThe {' and '.join(other)} images are not those that the published values are of: do not compare them.\n"
    publish(out / "table.md", lambda beside: beside.write_text(text, encoding="utf-8"))
    plot_cells(out / "table.png", result["rows"])


HEADER = ["task", "images", "model", "score", "reference README", "notebook", "ours", "95 % interval", "first weights", "ceiling"]
HEADER += ["leak-free split", "data"]


def _lines(result: Mapping[str, Any]) -> Iterator[list[str]]:
    for row in result["rows"]:
        for score in SCORES:
            ours, leak_free = row["reference"], row["stratified"]
            yield [
                *(row[key] for key in ("task", "images", "model")),
                score.replace("_f1", " F1"),
                *(_number(row[source][score]) for source in ("published", "notebook")),
                _seeds(ours, score),
                "–".join(_number(end) for end in ours[score]["interval"]) if ours else "not measured",
                ours["first_weights"] if ours else "",
                _number(row["ceiling"][score]),
                _seeds(leak_free, score),
                {None: "none", OTHER: "OTHER DATA"}.get(row["data"], row["data"]),
            ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _seeds(summary: Mapping[str, Any] | None, score: str) -> str:
    """The score, or mean and range over seeds."""
    if summary is None:
        return "not measured"
    values = summary[score]["seeds"]
    return _number(values[0]) if len(values) == 1 else f"{statistics.fmean(values):.4f} ({min(values):.4f}–{max(values):.4f})"
