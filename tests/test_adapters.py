"""The loader in the loops of others, as docs/loader.md shows it: killed, resumed in fresh processes, and nothing lost, doubled or moved."""

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapting
import pytest
import workers
from conftest import PackedSmall

STEPS = 18  # of three epochs
EXAMPLES = ["torchrun", "accelerate", "accelerate, with its loader", "Lightning", "transformers", "timm"]


def need(name: str) -> None:
    """Skip where the framework of an example is not installed."""
    if name.startswith("accelerate") or name == "transformers":
        pytest.importorskip("accelerate", reason="accelerate is not installed")
    if name == "transformers":
        pytest.importorskip("transformers", reason="transformers is not installed")
    if name == "Lightning":
        pytest.importorskip("lightning", reason="Lightning is not installed")


def prepare(home: Path, shards: Path) -> Path:
    """A folder for each of the two jobs, with the set where the examples expect it."""
    for job in ("whole", "broken"):
        (home / job / "shards").mkdir(parents=True)
        (home / job / "shards" / "small").symlink_to(shards)
    return home


def kill_at(seed: str, times: int) -> list[int]:
    """Steps to be killed before: each after the one before."""
    return sorted(random.Random(seed).sample(range(1, STEPS), times))


@dataclass(frozen=True)
class Log:
    """What one rank of one life has done."""

    steps: list[Any]  # number of the step, epoch, samples, rows, digest of the pixels
    validated: list[list[int]]  # rows by batch
    weights: str | None  # digest, at the end


def log(home: Path, job: str, life: str, rank: int) -> Log:
    path = home / job / f"{life}.{rank}.log"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    others = {name: value for line in lines if isinstance(line, dict) for name, value in line.items()}
    validated = [line["validated"] for line in lines if "validated" in line]
    return Log([line for line in lines if isinstance(line, list)], validated, others.get("weights"))


def check(home: Path, ended: dict[str, list[int]], killed_at: list[int]) -> None:
    """The broken job took the steps of the unbroken one: same rows, same pixels, same order, same weights."""
    said = {f"{path.parent.name}/{path.name}": path.read_text()[-2000:] for path in home.glob("*/*.said")}
    expected = {"whole": [0, 0], **{f"life{n}": [-9, -9] for n in range(len(killed_at))}, f"life{len(killed_at)}": [0, 0]}
    assert ended == expected, said
    unbroken = [log(home, "whole", "whole", rank) for rank in range(adapting.WORLD)]
    for rank, whole in enumerate(unbroken):
        assert [number for number, *_ in whole.steps] == list(range(STEPS))
        taken: list[Any] = []
        for number, killed in enumerate([*killed_at, STEPS]):
            life = log(home, "broken", f"life{number}", rank)
            first, end = life.steps[0][0], life.steps[-1][0] + 1
            assert end == killed and first <= len(taken)
            assert life.steps == whole.steps[first:end], f"life {number} of rank {rank}"
            taken = taken[:first] + life.steps
        assert taken == whole.steps
        assert life.weights == whole.weights is not None
    for epoch in range(3):
        rows = [row for whole in unbroken for _, at, _, part, _ in whole.steps for row in part if at == epoch and row >= 0]
        assert len(rows) == len(set(rows)) == unbroken[0].steps[-1][2]  # each once


def test_all_examples_are_run() -> None:
    assert list(adapting.parts()) == ["start", *EXAMPLES]


def test_two_ranks_killed_and_started_again_take_the_steps_of_an_unbroken_run(packed_small: PackedSmall, tmp_path: Path) -> None:
    home, steps = prepare(tmp_path, packed_small.out), kill_at("usual", 1)
    check(home, adapting.lives(workers.context, "torchrun", home, steps), steps)


@pytest.mark.dist
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_killed_job_takes_the_steps_of_an_unbroken_one(name: str, packed_small: PackedSmall, tmp_path: Path) -> None:
    need(name)
    home, steps = prepare(tmp_path, packed_small.out), kill_at(name, 2)
    command = [sys.executable, "-W", "ignore", str(Path(adapting.__file__)), name, str(home), *map(str, steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    check(home, json.loads(done.stdout), steps)
    if name == "Lightning":
        check_validation(home)


def check_validation(home: Path) -> None:
    """Each validation sees every row of its split once, also after the check before training has left the first one half-way."""
    by_rank = [log(home, "whole", "whole", rank).validated for rank in range(adapting.WORLD)]
    steps = [sorted(row for part in step for row in part if row >= 0) for step in zip(*by_rank, strict=True)]
    assert len(steps) == 1 + 3 * 2
    looked, first, second = steps[0], steps[1] + steps[2], steps[3] + steps[4]
    assert looked == steps[1]
    assert first == second == steps[5] + steps[6] and len(set(first)) == len(first) > 4
