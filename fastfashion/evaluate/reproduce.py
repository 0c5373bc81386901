"""Published results, trained and tested here: one table, one plot.

cells ─► a run each, on the published split and on the leak-free one ─► reports ─► table.md, table.csv, table.json, table.png

Every run is a `fastfashion train` and a `fastfashion evaluate` of its own. A run that is done is not repeated: the same command resumes.
"""

import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.catalog import Vocab, ids_hash, split_rows
from fastfashion.catalog.splits import Rule
from fastfashion.config import DataConfig, RunConfig, Size
from fastfashion.csv_files import publish_csv
from fastfashion.errors import ConfigError, TrainingError
from fastfashion.evaluate.published import Cell, Published, Score, read_published
from fastfashion.evaluate.reproduce_plot import plot_cells
from fastfashion.extras import lacks
from fastfashion.files import publish, publish_json
from fastfashion.runs.files import REPORT, read_metrics
from fastfashion.runs.folder import changes, changes_that_count
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.tables import table_text

if TYPE_CHECKING:
    import pandas as pd

LEAK_FREE = "stratified"  # the other split that every cell is tried on
SCORES = ("accuracy", "macro_f1")
OTHER = "other"  # data that the published values are not of


@dataclass(frozen=True, kw_only=True)
class ReproduceRequest:
    """Which published results to reproduce, and how. Raises ConfigError if there is no such thing."""

    name: str  # of the published results
    shards: Sequence[Path]  # packed sets of the data that they are of: one, or one for each size of its images
    out: Path
    tasks: Sequence[str] = ()  # of tasks, models and protocols none: all
    models: Sequence[str] = ()
    protocols: Sequence[str] = ()
    recipe: str = "fast"
    heads: str = ""  # ALL: every cell's model learns all labels; "": it learns its own alone
    seeds: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)  # on top of the recipe, as `--set`
    nproc: int | None = None
    any_set: bool = False  # other data than the published values are of, too
    split_file: str = ""  # of a published split that is a file

    def __post_init__(self) -> None:
        self.config()  # raises if there is no such recipe or setting
        known = {"task": self.published.values("task"), "model": self.published.values("model"), "protocol": self.all_protocols}
        for what, values in (("task", self.tasks), ("model", self.models), ("protocol", self.protocols)):
            if unknown := [value for value in values if value not in known[what]]:
                raise ConfigError(f"--{what} {unknown[0]}: expected one of {', '.join(known[what])}")
        if not self.shards:
            raise ConfigError(f"no packed set given: name one of {self.published.data}")
        published = self.published
        if published.protocol == "file" and not self.split_file and "file" in (self.protocols or self.all_protocols):
            raise ConfigError(f"--split-file: expected the published split: {published.split_source}; or a CSV of id,split of its rows")
        if self.split_file and self.published.protocol != "file":
            raise ConfigError(f"--split-file {self.split_file}: the split of {self.name} is no file; leave it out")
        if self.seeds < 1:
            raise ConfigError(f"--seeds: expected 1 or more, found {self.seeds}")

    @cached_property
    def published(self) -> Published:
        return read_published(self.name)

    @property
    def all_protocols(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.published.protocol, LEAK_FREE)))

    def model_of(self, cell: Cell) -> str:
        """The backbone that is trained for a cell: the published one, or that of the settings."""
        return str(self.settings.get("model.name", cell.model))

    def config(self) -> RunConfig:
        """The settings of all runs, whatever the order in which they were given."""
        return RunConfig(data=DataConfig(shards="")).with_recipe(self.recipe, self.settings)

    def open_sets(self) -> dict[str, PackedSet]:
        """By the size of their images, as the published results name it."""
        sets: dict[str, PackedSet] = {}
        for path in self.shards:
            packed = open_packed_set(path)
            images = self.published.images_of(packed)
            if images in sets:
                raise ConfigError(f"{path}: holds {images} images, as {sets[images].path} does; expected one set of each size")
            sets[images] = packed
        return sets

    def cells(self, images: Collection[str]) -> list[Cell]:
        """The chosen ones among the published cells of these images."""
        wanted = {"task": self.tasks, "model": self.models, "images": images}
        return [cell for cell in self.published.cells if all(not some or getattr(cell, what) in some for what, some in wanted.items())]


def reproduce(request: ReproduceRequest) -> dict[str, Any]:
    """Train and test what is not done yet, and write the table after each run: all published cells, with all the folder has of this recipe.

    Returns `{"recipe", "command", "rows": [{"task", "images", "model", "ceiling", "data", …}]}`, each row with a key for each source of
    published scores and for each protocol. A protocol has the scores of each seed and how they were made, or None if not measured;
    `data` is "published", "other" if the set is not the one that the published values are of, or None if there is no set. Raises
    TrainingError if a run fails, ConfigError if the folder was started with other settings or images, and for other data without
    `any_set`.
    """
    sets = request.open_sets()
    published, wanted = request.published, request.tasks or request.published.values("task")
    checked = published.protocol != "file" or request.split_file
    other = published.other_data(sets, wanted, request.any_set, request.split_file) if checked else frozenset()
    check_folder(request.out / f"{request.recipe}.json", request.heads, request.config(), sets)
    for cell in request.cells(sets):
        for protocol in request.protocols or request.all_protocols:
            for seed in range(request.seeds):
                if _run(request, cell, sets[cell.images], protocol, seed):
                    write_tables(request.out, request.published, _result(request, sets, other))
    result = _result(request, sets, other)
    write_tables(request.out, request.published, result)
    return result


def check_folder(path: Path, heads: str, config: RunConfig, sets: Mapping[str, PackedSet]) -> None:
    """Write `path`, which says what a folder of runs was started with. Raises ConfigError if that was something else."""
    images = {name: ids_hash(packed.table["id"].tolist()) for name, packed in sets.items()}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differ = changes_that_count(changes(_spelled(RunConfig.from_dict(before["config"])), _spelled(config)))
        differ.pop("data.shards", None)
        if before["heads"] != heads:
            differ["labels of a model"] = (before["heads"] or "its own", heads or "its own")
        if differ:
            listed = "; ".join(f"{key}: {then} there, {now} now" for key, (then, now) in differ.items())
            raise ConfigError(f"{path.parent}: started with other settings ({listed}); name another --out, or use those settings")
        known = before["ids_sha256"]
        for name, ids in images.items():
            if known.get(name, ids) != ids:
                raise ConfigError(f"{path.parent}: started with other {name} images than {sets[name].path}; name another --out")
        images = known | images
    path.parent.mkdir(parents=True, exist_ok=True)
    publish_json(path, {"heads": heads, "config": config.to_dict(), "ids_sha256": images})


def _spelled(config: RunConfig) -> RunConfig:
    """A size that is one number is a square of two."""
    return config if config.data.size == "auto" else config.replace({"data.size": str(Size.parse(config.data.size))})


def _result(request: ReproduceRequest, sets: Mapping[str, PackedSet], other: Collection[str]) -> dict[str, Any]:
    rows = [_row(request, cell, sets.get(cell.images)) for cell in request.published.cells]
    for row in rows:
        row["data"] = None if row["images"] not in sets else OTHER if row["images"] in other else "published"
    return {"recipe": request.recipe, "command": "fastfashion " + shlex.join(sys.argv[1:]), "rows": rows}


def _row(request: ReproduceRequest, cell: Cell, packed: PackedSet | None) -> dict[str, Any]:
    published = request.published
    has_task = packed is not None and cell.task in packed.vocab.classes
    rule = _rule(request, packed) if packed else None
    highest = ceiling(packed.table, packed.vocab, cell.task, rule) if packed and has_task and rule else None
    row: dict[str, Any] = {"task": cell.task, "images": cell.images, "model": cell.model}
    for source in published.sources:
        score = cell.scores.get(source, Score())
        row[source] = {"accuracy": score.accuracy, "macro_f1": score.macro_f1}
    row["ceiling"] = {"accuracy": None, "macro_f1": highest}
    for protocol in request.all_protocols:
        done = (path.parent for path in (request.out / "runs").glob(f"{_name(request, cell, protocol)}-seed*/{REPORT}"))
        runs = sorted(done, key=lambda run: int(run.name.rpartition("-seed")[2]))
        row[protocol] = _summary(runs, cell.task) if runs else None
    return row


def _rule(request: ReproduceRequest, packed: PackedSet) -> Rule | None:
    """The published split; None if it is a file that was not named."""
    if request.published.protocol == "file" and not request.split_file:
        return None
    return Rule.of(DataConfig(protocol=request.published.protocol, split_file=request.split_file), lambda: packed.table)


def ceiling(table: "pd.DataFrame", vocab: Vocab, task: str, protocol: Rule | str) -> float:
    """Highest macro F1 that any model can reach on a split's test part: a class that is not in training scores 0."""
    codes = vocab.codes(table, [task])[:, 0]
    split = split_rows(table, vocab, task, protocol)
    tested = np.unique(codes[split.test])
    return float(np.isin(tested, codes[split.train]).mean())


def _name(request: ReproduceRequest, cell: Cell, protocol: str) -> str:
    return f"{'joint' if request.published.joint else cell.task}-{cell.images}-{request.model_of(cell)}-{request.recipe}-{protocol}"


def _run(request: ReproduceRequest, cell: Cell, packed: PackedSet, protocol: str, seed: int) -> bool:
    """Train and test a run of a cell; False if that was done before."""
    run = request.out / "runs" / f"{_name(request, cell, protocol)}-seed{seed}"
    if (run / REPORT).is_file():
        return False
    published = request.published
    options = [str(packed.path), "--task", request.heads or (",".join(published.values("task")) if published.joint else cell.task)]
    options += [] if published.joint else ["--split-by", cell.task]
    options += ["--protocol", protocol, *(["--split-file", request.split_file] if protocol == "file" else [])]
    options += ["--model", request.model_of(cell), "--recipe", request.recipe, "--seed", str(seed)]
    if request.recipe == request.published.recipe and "train.epochs" not in request.settings:
        options += ["--epochs", str(cell.epochs)]
    options += [] if request.nproc is None else ["--nproc", str(request.nproc)]
    more = {key: value for key, value in request.settings.items() if key != "model.name"}
    options += [text for key, value in more.items() for text in ("--set", f"{key}={value}")]
    _call(["train", *options, "--runs", str(run.parent), "--name", run.name])
    _call(["evaluate", str(run), "--shards", str(packed.path)])
    return True


def _call(arguments: Sequence[str]) -> None:
    print(f"fastfashion {shlex.join(arguments)}", file=sys.stderr)
    status = subprocess.run([sys.executable, "-m", "fastfashion", *arguments], stdout=subprocess.DEVNULL, check=False).returncode
    if status:
        raise TrainingError(f"fastfashion {shlex.join(arguments)}: ended with {status}; fix that and run the same command to resume")


def _summary(runs: Sequence[Path], task: str) -> dict[str, Any]:
    """Scores of a cell's runs: of each seed, and the mean of their intervals' ends, which are of the choice of test images alone."""
    reports = [json.loads((run / REPORT).read_text(encoding="utf-8")) for run in runs]
    metrics = [read_metrics(run) for run in runs]
    if not all(metrics):
        raise TrainingError(f"{runs[metrics.index([])]}: its metrics are missing; remove that folder and run the same command")
    values = [report["tasks"][task] for report in reports]
    minutes = [sum(line["time"]["seconds"] for line in lines if line["kind"] in ("step", "epoch")) / 60 for lines in metrics]
    starts = [next(line for line in lines if line["kind"] == "start") for lines in metrics]
    return {
        "runs": [str(run) for run in runs],
        "first_weights": reports[0]["first_weights"],
        "size": reports[0]["size"],
        "model": reports[0]["model"],
        "n": values[0]["n"],
        "without_twins": _without_twins(values),
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


def _without_twins(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy on test rows without a near-duplicate in training, of each seed."""
    parts = [each["without_duplicate_in_training"] for each in values]
    return {"n": parts[0]["n"], "seeds": [part["accuracy"] for part in parts]}


def write_tables(out: Path, published: Published, result: Mapping[str, Any]) -> None:
    """table.json, table.csv, table.md and, with matplotlib, table.png of the rows of `reproduce`."""
    out.mkdir(parents=True, exist_ok=True)
    publish_json(out / "table.json", result)
    header = ["task", "images", "model", "score", *published.sources.values(), "ours", "95 % interval", "without twins in training"]
    header += ["first weights", "ceiling", "leak-free split", "data"]
    lines = list(_lines(published, result["rows"]))
    publish_csv(out / "table.csv", header, lines)
    text = table_text(header, lines, markdown=True) + "\n"
    if other := sorted({row["images"] for row in result["rows"] if row["data"] == OTHER}):
        text += f"\nThe {' and '.join(other)} images are not those that the published values are of: do not compare them.\n"
    publish(out / "table.md", lambda beside: beside.write_text(text, encoding="utf-8"))
    if not lacks("matplotlib"):
        plot_cells(out / "table.png", result["rows"], published.sources, {published.protocol: "", LEAK_FREE: ", leak-free split"})


def _lines(published: Published, rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        for score in SCORES:
            ours, leak_free = row[published.protocol], row[LEAK_FREE]
            yield [
                *(row[key] for key in ("task", "images", "model")),
                score.replace("_f1", " F1"),
                *(_number(row[source][score]) for source in published.sources),
                _seeds(ours, score),
                "–".join(_number(end) for end in ours[score]["interval"]) if ours else "not measured",
                _seeds({score: ours["without_twins"]}, score) if ours and score == "accuracy" else "",
                _start(ours, row["model"]) if ours else "",
                _number(row["ceiling"][score]),
                _seeds(leak_free, score),
                {None: "none", OTHER: "OTHER DATA"}.get(row["data"], row["data"]),
            ]


def _start(ours: Mapping[str, Any], model: str) -> str:
    """First weights, and the backbone if it is not the published one."""
    weights = Path(ours["first_weights"]).name
    return weights if ours["model"] == model else f"{ours['model']}, {weights}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _seeds(summary: Mapping[str, Any] | None, score: str) -> str:
    """The score, or mean and range over seeds."""
    if summary is None:
        return "not measured"
    values = summary[score]["seeds"]
    return _number(values[0]) if len(values) == 1 else f"{statistics.fmean(values):.4f} ({min(values):.4f}–{max(values):.4f})"
