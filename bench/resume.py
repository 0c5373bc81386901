"""What loaders lose when a run is killed in the middle of an epoch and resumed, each library in an environment of its own.

    library: environment ─► samples in its form ─► way: first run (state saved, later SIGKILL) ─► second run ─► lost, doubled, …

The ways are in `resume_ways/with_*.py`, one file a library; what a run does, in `resume_ways/job.py`; what is counted, in
`resume_ways/score.py`. A sample is an id and the random number that its augmentation drew.
"""

import importlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from command import Out, command_line, run
from fastfashion.bars import tqdm
from fastfashion.bench import write_record
from fastfashion.errors import ConfigError
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.tables import table_text as table
from resume_ways import environments, processes
from resume_ways.job import Way
from resume_ways.score import read_log, score

LIBRARIES = {
    "accelerate": "accelerate",
    "lightning": "Lightning",
    "torchdata": "torchdata",
    "datasets": "Hugging Face datasets",
    "webdataset": "webdataset",
    "litdata": "LitData",
    "streaming": "MosaicML Streaming",
    "fastfashion": "fastfashion",
}
COLUMNS = ("way", "lost", "doubled", "same order", "same ids", "same pixels", "note")


def measure(names: Iterable[str], home: Path, limit_s: float, only: str = "") -> list[dict[str, Any]]:
    """A row for each way of the libraries: what `row_of` returns."""
    rows = []
    for name in names:
        module = importlib.import_module(f"resume_ways.with_{name}")
        pins = [pin.partition("==")[0] for pin in module.VERSIONS] or [name]
        own = module.VERSIONS
        python = environments.make_environment(home / "environments", name, own) if own else Path(sys.executable)
        versions = environments.versions_in(python, [*pins, "torch", "numpy"])
        for way in tqdm([way for way in module.WAYS if only in way.text], desc=name):
            data = home / "data" / f"{name}-{way.rows}"
            processes.prepare(python, f"with_{name}", data, way.rows)
            begin = time.monotonic()
            row = {"library": LIBRARIES[name], "version": versions[pins[0]], "versions": versions, "way": way.text}
            row |= worst([row_of(way, python, f"with_{name}", home / "runs" / name, data, limit_s) for _ in range(way.times)])
            rows.append(row | {"seconds": round(time.monotonic() - begin, 1)})
    return rows


def worst(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row with the most samples lost or doubled; where there are several, with what each lost."""
    bad = [float("inf") if row.get("failed") else row["lost"] + row["doubled"] for row in rows]
    chosen = rows[bad.index(max(bad))]
    if len(rows) == 1:
        return chosen
    return chosen | {"runs": [{name: row.get(name) for name in ("failed", "lost", "doubled")} for row in rows]}


def row_of(way: Way, python: Path, module: str, folder: Path, data: Path, limit_s: float) -> dict[str, Any]:
    """Run a way: its settings, what was lost, and `failed` with the first words of an error if it could not be run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = {name: value for name, value in asdict(way).items() if name not in ("text", "note", "shuffled")}
    row: dict[str, Any] = {"settings": settings, "shuffled": way.shuffled, "note": way.note}
    first = processes.run_processes(python, module, way, folder, data, second=False, limit_s=limit_s)
    if not first.killed:
        return row | {"failed": f"when saving: {first.failed or 'ended without being killed'}"}
    second = processes.run_processes(python, module, way, folder, data, second=True, limit_s=limit_s)
    if second.failed:
        return row | {"failed": second.failed}
    found = score(read_log(folder, "first"), read_log(folder, "second"), epoch=way.epoch, step=way.saved_at)
    return row | asdict(found)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table, from the column `way` on."""
    if row.get("failed"):
        return [row["way"], "", "", "", "", "", code(row["failed"])]
    marks = ["yes" if row[name] else "no" for name in ("same_order", "same_ids", "same_pixels")]
    if row["rest"] == 0:  # nothing to compare
        marks[0] = marks[2] = ""
    return [row["way"], str(row["lost"]), str(row["doubled"]), *marks, note(row)]


def code(text: str) -> str:
    """As Markdown's code, with longer fences where the text has backticks."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def note(row: Mapping[str, Any]) -> str:
    """What the columns do not say: other runs of the same way, the epoch after, what is true of an unbroken run as well."""
    said = [row["note"]] if row["note"] else []
    if "runs" in row:
        exact = sum(run["lost"] == run["doubled"] == 0 for run in row["runs"])
        said.append(f"the worst of {len(row['runs'])} runs; {exact} lost and doubled nothing")
    lost, doubled = row["next_lost"], row["next_doubled"]
    if lost or doubled:
        said.append(f"next epoch: {lost} lost, {doubled} doubled")
    elif row["next_repeats"]:
        said.append("the next epoch repeats the order of this one")
    elif not row["next_same_order"] and row["same_order"]:
        said.append("the next epoch has another order than without a break")
    if row["epochs_alike"] and row["shuffled"]:
        said.append("this epoch and the next have one order, without a break as well")
    if row["unbroken"] != row["settings"]["rows"]:
        said.append(f"an unbroken epoch has {row['unbroken']} of {row['settings']['rows']} samples")
    if row["rest"] == 0:
        said.append("the first iteration is the next epoch" if row["starts_next"] else "nothing is left of the epoch")
    return "; ".join(said)


def table_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows for people."""
    lines = []
    last = ""
    for row in rows:
        library = title(row)
        lines.append(["" if library == last else library, *cells(row)])
        last = library
    return table(["library", *COLUMNS], lines, left=(0, 1, -1))


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """The tables of docs/loader.md, one a library."""
    lines = []
    for library, own in groupby(rows, key=title):
        lines += ["", f"**{library}**", "", f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
        lines += [f"| {' | '.join(cells(row))} |".replace("  ", " ") for row in own]
    return "\n".join(lines[1:])


def title(row: Mapping[str, Any]) -> str:
    return f"{row['library']} {row['version']}"


def others(record: Path, names: Collection[str]) -> list[dict[str, Any]]:
    """The rows of a record that are of other libraries, each with the commit that it was measured at."""
    found = json.loads(record.read_text(encoding="utf-8"))
    measured = {LIBRARIES[name] for name in names}
    return [{"commit": found["commit"]} | row for row in found["rows"] if row["library"] not in measured]


def main(
    library: Annotated[
        list[str] | None, typer.Option(help=f"Measure these alone, and keep the others of --out: {', '.join(LIBRARIES)}.", metavar="NAME")
    ] = None,
    only: Annotated[str, typer.Option(help="Measure the ways with this text alone.", metavar="TEXT")] = "",
    home: Annotated[Path | None, typer.Option(help="Keep environments and runs in this folder.", metavar="FOLDER")] = None,
    limit: Annotated[float, typer.Option(help="Kill a run that takes longer.", metavar="SECONDS")] = 120.0,
    table_of: Annotated[Path | None, typer.Option(help="Print the tables of this record for docs/loader.md.", metavar="RECORD")] = None,
    out: Out = None,
) -> None:
    """Count what each library loses on resume, in environments made with uv."""
    if table_of is not None:
        sys.stdout.write(markdown(json.loads(table_of.read_text(encoding="utf-8"))["rows"]) + "\n")
        return
    names = library or list(LIBRARIES)
    if unknown := [name for name in names if name not in LIBRARIES]:
        raise ConfigError(f"--library: expected {', '.join(LIBRARIES)}, found {', '.join(unknown)}")
    commit = git_commit()
    kept = [] if library is None or out is None or not out.is_file() else others(out, names)
    scratch = tempfile.mkdtemp(prefix="resume-") if home is None else None
    try:
        rows = [row | {"commit": commit} for row in measure(names, Path(scratch or home or ".").resolve(), limit, only)]
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
    rows = sorted(rows + kept, key=lambda row: list(LIBRARIES.values()).index(row["library"]))
    result = {
        "command": command_line(),
        "commit": commit,
        "machine": machine_info(),
        "versions": package_versions(("fastfashion", "torch", "uv")),
        "rows": rows,
    }
    write_record(out, result)
    sys.stdout.write(table_text(rows) + "\n")


if __name__ == "__main__":
    run(main)
