"""The loader of this checkout beside another version of it, and beside decoding alone, in turns, on the same images and crops.

python bench/versions.py --shards shards/small --other other/bin/python --other-commit 22a9065 --out FILE
python bench/versions.py --table shards --other other/bin/python --other-commit 22a9065 --out FILE

The other version is installed in an environment of its own, of which `--other` is the interpreter. Each side keeps one process and one open
loader; a round is an epoch of each side, the first one by turns. The figure is the median of the rounds' ratios with its 95 % interval
by order statistics (binomial, the usual one for a median). `--table` measures all rows of docs/benchmarks.md on the sets of a folder:
small, synth-224 and photos, packed by the older version.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from command import Out, command_line, run
from fastfashion.bars import tqdm
from fastfashion.bench import PACKAGES, spread, write_record
from fastfashion.config import AugmentConfig
from fastfashion.errors import ConfigError
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.tables import table_text

CHILD = Path(__file__).with_name("versions_child.py")
CONFIDENCE = 0.95
OTHER, DECODE_ONLY, WITHOUT_SEEK = "other", "decode_only", "without_seek"  # what this version is compared with
USUAL_AREA, SMALL_AREA = AugmentConfig().min_area, 0.08  # the smallest crop: the default, and torchvision's RandomResizedCrop's


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is loaded, by which backend, and what it is compared with."""

    name: str
    set: str
    backend: str = "threads"
    res: str = "auto"
    size: str = "auto"
    batch_size: int = 128
    images: int = 4096
    min_area: float = USUAL_AREA
    against: tuple[str, ...] = (OTHER, DECODE_ONLY)


SMALL = {"set": "small", "res": "full", "images": 16384}
DRAWN = {"set": "synth-224", "res": "224", "size": "224", "images": 2047, "batch_size": 64}
PHOTOS = {"set": "photos", "res": "full", "size": "224", "images": 256, "batch_size": 16}
EVERYTHING = (OTHER, DECODE_ONLY, WITHOUT_SEEK)
TABLE: tuple[dict[str, Any], ...] = (
    SMALL | {"name": "small, threads", "size": "80x64"},
    DRAWN | {"name": "224, threads"},
    PHOTOS | {"name": "photos, threads"},
    DRAWN | {"name": "224, crops from 8 %", "min_area": SMALL_AREA, "against": EVERYTHING},
    PHOTOS | {"name": "photos, crops from 8 %", "min_area": SMALL_AREA, "against": EVERYTHING},
    SMALL | {"name": "small, resident", "backend": "resident", "size": "80x64", "against": (OTHER,)},
    SMALL | {"name": "small, resident, 160x128", "backend": "resident", "size": "160x128", "against": (OTHER,)},
)


class Side:
    """One process with an open loader; `epoch` gives images a second. `plan` is a digest of its rows, crops and flips."""

    def __init__(self, python: str, settings: dict[str, Any]) -> None:
        found = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or python == sys.executable}
        self._process = subprocess.Popen(
            [python, str(CHILD), json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=found
        )
        self.plan = self._answer()["plan"]  # the loader is open

    def epoch(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("epoch\n")
        return float(self._answer()["images_per_s"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError(f"{self._process.args!r}: it ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def interval(values: list[float]) -> tuple[float, float]:
    """The narrowest symmetric pair of order statistics that holds the median with CONFIDENCE; all values if there are too few."""
    ordered, n = sorted(values), len(values)
    inside = [skip for skip in range(n // 2) if 2 * sum(comb(n, k) for k in range(skip + 1)) / 2**n <= 1 - CONFIDENCE]
    skip = max(inside, default=0)
    return ordered[skip], ordered[n - 1 - skip]


def compare(case: Case, shards: Path, other: str, workers: int, rounds: int) -> dict[str, Any]:
    """One case: the rates of all sides, and the ratios of this version to each of the others in each round.

    Raises ConfigError if the sides would not load the same rows with the same crops and flips.
    """
    names = ("this", *case.against)
    asked = asdict(case) | {"shards": str(shards.resolve()), "workers": workers}
    rates: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(other if name == OTHER else sys.executable, asked | {"side": name})) for name in names}
        if len({side.plan for side in sides.values()}) > 1:
            raise ConfigError(f"{case.name}: the sides plan other rows or crops: { ({name: side.plan for name, side in sides.items()}) }")
        for number in tqdm(range(rounds + 1), case.name, disable=None, leave=False):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                rates[name].append(sides[name].epoch())
    found: dict[str, Any] = {name: asdict(case)[name] for name in ("name", "set", "backend", "size", "batch_size", "images", "min_area")}
    found |= {name: spread(rates[name][1:], 1, "images_per_s") for name in names}  # the first epoch fills what is kept decoded
    for name in case.against:
        ratios = np.divide(rates["this"][1:], rates[name][1:]).tolist()
        found[f"of_{name}"] = spread(ratios, 4) | {"interval": [round(end, 4) for end in interval(ratios)]}
    return found


def cases_of(shards: Path, asked: dict[str, Any], backends: list[str] | None) -> list[Case]:
    """One set, a case a backend."""
    return [Case(name=name, set=shards.resolve().name, backend=name, **asked) for name in backends or ("threads", "resident", "dali")]


def text(rows: list[dict[str, Any]]) -> str:
    """The ratios for people, each with its 95 % interval."""

    def cell(row: dict[str, Any], name: str) -> str:
        ratio = row.get(f"of_{name}")
        return "" if ratio is None else f"{ratio['median']:.3f} ({ratio['interval'][0]:.3f} to {ratio['interval'][1]:.3f})"

    lines = [(row["name"], f"{row['this']['images_per_s']:,.0f}", *(cell(row, name) for name in EVERYTHING)) for row in rows]
    return table_text(("what", "images/s", "of other", "of decode only", "of no seek table"), lines)


def markdown(record: dict[str, Any], place: str) -> str:
    """The table of docs/benchmarks.md; place: of the record, as the page links to it."""

    def figure(name: str, where: str, value: float, digits: int) -> str:
        return f'[{value:,.{digits}f}]({place} "rows[name={name}].{where}")'

    def ratio(row: dict[str, Any], against: str) -> str:
        if (found := row.get(against)) is None:
            return ""
        median, low, high = (
            figure(row["name"], f"{against}.{where}", value, 2)
            for where, value in (("median", found["median"]), *((f"interval[{end}]", found["interval"][end]) for end in (0, 1)))
        )
        return f"{median} ({low} to {high})"

    head = ["images/s", f"of commit {record['other_commit']}", "of decoding alone", "of no seek table"]
    lines = [f"| what | {' | '.join(head)} |", "| --- " * (len(head) + 1) + "|"]
    for row in record["rows"]:
        rate = figure(row["name"], "this.images_per_s", row["this"]["images_per_s"], 0)
        lines.append(f"| {row['name']} | {' | '.join([rate, *(ratio(row, f'of_{name}') for name in EVERYTHING)])} |")
    return "\n".join(lines) + "\n"


def main(
    other: Annotated[str, typer.Option(help="Interpreter of the environment with the other version.")] = "",
    other_commit: Annotated[str, typer.Option(help="Commit of the other version, for the record.")] = "",
    shards: Annotated[Path | None, typer.Option(help="Folder of a packed set.")] = None,
    table: Annotated[Path | None, typer.Option(help="Folder with the sets small, synth-224 and photos: measure the whole table.")] = None,
    size: Annotated[str, typer.Option(help="Input size of a model, HxW in pixels.")] = "auto",
    res: Annotated[str, typer.Option(help="Packed resolution.")] = "auto",
    workers: Annotated[int, typer.Option(help="Threads.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 128,
    images: Annotated[int, typer.Option(help="Images per epoch; with --table at most this many.")] = 0,
    min_area: Annotated[float, typer.Option(help="Smallest crop, as a share of the image.")] = USUAL_AREA,
    rounds: Annotated[int, typer.Option(help="Epochs of each side.")] = 15,
    backend: Annotated[list[str] | None, typer.Option(help="Backend; repeatable. Default: all.")] = None,
    table_of: Annotated[Path | None, typer.Option(help="Print the table of this record for docs/benchmarks.md.", metavar="RECORD")] = None,
    out: Out = None,
) -> None:
    """Compare this checkout's loader with another version's, and with decoding alone."""
    if table_of is not None:
        sys.stdout.write(markdown(json.loads(table_of.read_text(encoding="utf-8")), f"../bench/results/{table_of.name}"))
        return
    if (shards is None) == (table is None) or not other or not other_commit:
        raise ConfigError("expected --other, --other-commit, and one of --shards and --table")
    if table is not None:
        cases = [Case(**row | {"images": min(row["images"], images or row["images"])}) for row in TABLE]
        folders = [table / case.set for case in cases]
    else:
        assert shards is not None
        asked = {"res": res, "size": size, "batch_size": batch_size, "images": images or 4096, "min_area": min_area}
        cases = cases_of(shards, asked, backend)
        folders = [shards] * len(cases)
    rows = [compare(case, folder, other, workers, rounds) for case, folder in zip(cases, folders, strict=True)]
    record: dict[str, Any] = {"command": command_line(), "commit": git_commit(), "other_commit": other_commit}
    record |= {"workers": workers, "rounds": rounds, "confidence": CONFIDENCE, "rows": rows}
    write_record(out, record | {"machine": machine_info(), "versions": package_versions(PACKAGES)})
    print(text(rows))


if __name__ == "__main__":
    run(main)
