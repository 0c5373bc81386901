"""bench/resume.py: what counts as lost, the tables of docs/loader.md, and that our own loader loses nothing."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import resume
from resume_ways import processes
from resume_ways.job import Way
from resume_ways.score import score

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "bench/results/resume-2-cores.json"


def rows_of_the_record() -> list[dict[str, Any]]:
    return json.loads(RECORD.read_text(encoding="utf-8"))["rows"]


def log(epoch: int, *batches: list[int], rank: int = 0, first_step: int = 1, drawn: float = 0.0) -> list[dict[str, Any]]:
    """Lines of an epoch; a sample's draw is a function of sample and epoch, moved by `drawn`."""
    return [
        {"rank": rank, "epoch": epoch, "step": step, "ids": ids, "draws": [row + epoch / 8 + drawn for row in ids]}
        for step, ids in enumerate(batches, first_step)
    ]


NEXT = log(2, [5, 4], [3, 2], [1, 0])
ONE = log(1, [0, 1], [2, 3], [4, 5]) + NEXT
TWO = log(1, [0], [2], [4]) + log(1, [1], [3], [5], rank=1) + NEXT


@pytest.mark.parametrize(
    ("first", "second", "step", "expected"),
    [
        pytest.param(ONE, log(1, [2, 3], [4, 5]) + NEXT, 1, {}, id="exact"),
        pytest.param(ONE, log(1, [2], [3], [4], [5]) + NEXT, 1, {}, id="other batch size"),
        pytest.param(
            ONE, log(1, [4, 5]) + NEXT, 1, {"lost": 2, "same_ids": False, "same_order": False, "same_pixels": False}, id="skipped"
        ),
        pytest.param(
            ONE,
            log(1, [0, 1], [2, 3], [4, 5]) + NEXT,
            1,
            {"doubled": 2, "same_ids": False, "same_order": False, "same_pixels": False},
            id="again",
        ),
        pytest.param(
            ONE,
            log(1, [0, 1], [4, 5]) + NEXT,
            1,
            {"lost": 2, "doubled": 2, "same_ids": False, "same_order": False, "same_pixels": False},
            id="both",
        ),
        pytest.param(ONE, log(1, [4, 5], [2, 3]) + NEXT, 1, {"same_order": False}, id="other order"),
        pytest.param(ONE, log(1, [2, 3], [4, 5], drawn=0.5) + NEXT, 1, {"same_pixels": False}, id="other augmentation"),
        pytest.param(ONE, log(1, [2, 3], [4, 5]) + log(2, [3, 2]), 1, {"next_lost": 4, "next_same_order": False}, id="next epoch lost"),
        pytest.param(
            ONE, log(1, [2, 3], [4, 5]) + log(2, [0, 1], [2, 3], [4, 5]), 1, {"next_same_order": False, "next_repeats": True}, id="repeated"
        ),
        pytest.param(TWO, log(1, [3, 2], [4, 5]) + NEXT, 1, {}, id="two processes to one"),
        pytest.param(TWO, log(1, [2, 4], [3, 5]) + NEXT, 1, {"same_order": False}, id="two processes to one, other batches"),
        pytest.param(ONE, NEXT, 3, {"rest": 0}, id="last step, then the next epoch by its number"),
        pytest.param(
            ONE, log(1, [5, 4], [3, 2], [1, 0], drawn=1 / 8), 3, {"rest": 0, "starts_next": True}, id="last step, then the next epoch"
        ),
        pytest.param(
            ONE,
            log(1, [0, 1], [2, 3], [4, 5]) + NEXT,
            3,
            {"rest": 0, "doubled": 6, "same_ids": False, "same_order": False, "same_pixels": False},
            id="last step, then the epoch again",
        ),
    ],
)
def test_what_counts_as_lost(first: list[Any], second: list[Any], step: int, expected: dict[str, Any]) -> None:
    exact = {"lost": 0, "doubled": 0, "same_ids": True, "same_order": True, "same_pixels": True, "next_lost": 0, "next_doubled": 0}
    exact |= {"next_same_order": True, "next_repeats": False, "epochs_alike": False, "unbroken": 6, "rest": 4, "starts_next": False}
    assert vars(score(first, second, epoch=1, step=step)) == exact | expected


def test_an_error_is_recorded_by_its_first_words() -> None:
    text = (
        "Traceback (most recent call last):\n  File 'a.py', line 1\npackage.errors.ConfigError: seed: expected 1, found 2. Open it again\n"
    )
    assert processes.error_words(text) == "package.errors.ConfigError: seed: expected 1, found 2"
    assert processes.error_words("[rank0]: AssertionError\nbye") == "AssertionError"


def test_the_record_has_every_way() -> None:
    expected = []
    for name, library in resume.LIBRARIES.items():
        ways = importlib.import_module(f"resume_ways.with_{name}").WAYS
        assert len({json.dumps(way.job(False)) + json.dumps(way.job(True)) for way in ways}) == len(ways), f"{name}: two ways do the same"
        expected += [(library, way.text) for way in ways]
    assert [(row["library"], row["way"]) for row in rows_of_the_record()] == expected


def test_the_tables_of_the_page_are_those_of_the_record() -> None:
    page = (ROOT / "docs/loader.md").read_text(encoding="utf-8")
    assert resume.markdown(rows_of_the_record()) in page


@pytest.mark.slow
def test_our_loader_loses_nothing(tmp_path: Path) -> None:
    rows = resume.measure(["fastfashion"], tmp_path, limit_s=240)
    bad = [row for row in rows if row.get("failed") or row["lost"] or row["doubled"] or row["next_lost"] or row["next_doubled"]]
    assert bad == []
    assert [row["way"] for row in rows if not (row["same_order"] and row["same_pixels"] and row["next_same_order"])] == []
    other_seed = Way(text="", then={"seed": 2})
    row = resume.row_of(other_seed, Path(sys.executable), "with_fastfashion", tmp_path / "refused", tmp_path / "data/fastfashion-200", 240)
    assert "expected seed 2, that of this loader, found 1" in row["failed"]
