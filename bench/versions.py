"""The loader of this checkout beside another version of it, in turns, on the same images.

python bench/versions.py --shards shards/small --other other/bin/python --other-commit 22a9065 --out FILE

The other version is installed in an environment of its own, of which `--other` is the interpreter. Each keeps one process and one open
loader a backend; a round is an epoch of each, the first one by turns. The figure is the median of the rounds' ratios with its 95 % interval
by order statistics (binomial, the usual one for a median).
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from math import comb
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from command import Out, command_line, run
from fastfashion.bars import tqdm
from fastfashion.bench import PACKAGES, spread, write_record
from fastfashion.errors import ConfigError
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.tables import table_text

CHILD = Path(__file__).with_name("versions_child.py")
CONFIDENCE = 0.95


class Side:
    """One version's process for one backend; `epoch` gives images a second."""

    def __init__(self, python: str, settings: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [python, str(CHILD), json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._answer()  # the loader is open

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


def compare(other: str, settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """One backend: rates of both, and the ratio of this version to the other in each round."""
    rates: dict[str, list[float]] = {"this": [], "other": []}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(python, settings)) for name, python in (("this", sys.executable), ("other", other))}
        for number in tqdm(range(rounds + 1), settings["backend"], disable=None, leave=False):
            for name in ("this", "other") if number % 2 else ("other", "this"):
                rates[name].append(sides[name].epoch())
    found: dict[str, Any] = {}
    for name in rates:
        found[name] = spread(rates[name][1:], 1, "images_per_s")  # the first epoch fills what is kept decoded
    ratios = np.divide(rates["this"][1:], rates["other"][1:]).tolist()
    low, high = interval(ratios)
    return {"backend": settings["backend"]} | found | {"ratio": spread(ratios, 4)} | {"interval": [round(low, 4), round(high, 4)]}


def main(
    shards: Annotated[Path, typer.Option(help="Folder of a packed set.")],
    other: Annotated[str, typer.Option(help="Interpreter of the environment with the other version.")],
    other_commit: Annotated[str, typer.Option(help="Commit of the other version, for the record.")],
    size: Annotated[str, typer.Option(help="Input size of a model, HxW in pixels.")] = "auto",
    res: Annotated[str, typer.Option(help="Packed resolution.")] = "auto",
    workers: Annotated[int, typer.Option(help="Threads.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 128,
    images: Annotated[int, typer.Option(help="Images per epoch.")] = 4096,
    rounds: Annotated[int, typer.Option(help="Epochs of each version.")] = 15,
    backend: Annotated[list[str] | None, typer.Option(help="Backend; repeatable. Default: all.")] = None,
    out: Out = None,
) -> None:
    """Compare this checkout's loader with another version's."""
    settings = {"shards": str(shards.resolve()), "size": size, "res": res, "workers": workers, "batch_size": batch_size, "images": images}
    rows = [compare(other, settings | {"backend": name}, rounds) for name in backend or ("threads", "resident", "dali")]
    for row in rows:
        row["this"]["commit"], row["other"]["commit"] = git_commit(), other_commit
    record = {"command": command_line(), "set": shards.resolve().name, "rounds": rounds, "confidence": CONFIDENCE, "rows": rows}
    write_record(out, record | {"machine": machine_info(), "versions": package_versions(PACKAGES)})
    columns = ("backend", "images/s", "other", "ratio", "95 % interval")
    lines = [
        (
            row["backend"],
            f"{row['this']['images_per_s']:,.0f}",
            f"{row['other']['images_per_s']:,.0f}",
            f"{row['ratio']['median']:.3f}",
            f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}",
        )
        for row in rows
    ]
    print(table_text(columns, lines))


if __name__ == "__main__":
    run(main)
