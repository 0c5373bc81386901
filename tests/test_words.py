"""What commands say of numbers: one is no plural, a ratio is no share, nothing to do is said, a negative time is none."""

from pathlib import Path
from typing import Any

import pytest

from fastfashion.audit.suspects import suspects_text
from fastfashion.bench import table_text as loader_text
from fastfashion.catalog.styles import Account
from fastfashion.doctor.doctor import Report, report_text
from fastfashion.doctor.judge import Finding
from fastfashion.evaluate.report import report_text as evaluate_text
from fastfashion.pack import PackSummary
from fastfashion.pack.text import summary_text
from fastfashion.words import counted, os_error_text
from train import table_text as train_text


def test_one_is_no_plural() -> None:
    assert [counted(n, "row") for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    assert [counted(n, "batch", "batches") for n in (1, 2)] == ["1 batch", "2 batches"]


def packed(**changes: Any) -> str:
    sizes = {"32": {"num_bytes": 100, "tar_bytes": 10240, "num_shards": 1}}
    values: dict[str, Any] = {"out": Path("set"), "num_rows": 60, "kept": 60, "rejected": 0, "images_without_row": 0, "packed_now": 0}
    return summary_text(
        PackSummary(
            **(
                values
                | {"resumed": 0, "resolutions": sizes, "seconds": 0.0, "table": "t.csv", "account": Account(), "passed_over": {}}
                | changes
            )
        )
    )


def test_a_set_that_is_packed_already_says_so() -> None:
    said = packed()
    assert said.startswith("set: 60 of 60 rows packed before; nothing to do, 0 rejected") and "now" not in said
    assert "32: 1 shard, " in said and "rejected.csv" not in said


@pytest.mark.parametrize(
    ("now", "before", "seconds", "said"),
    [
        (60, 0, 2.0, "(60 now, 30 images/s)"),
        (40, 20, 2.0, "(40 now, 20 images/s, 20 by an interrupted run)"),
        (0, 60, 1.0, "(0 now, 60 by"),
    ],
)
def test_what_was_packed_now_and_what_before(now: int, before: int, seconds: float, said: str) -> None:
    assert said in packed(packed_now=now, resumed=before, seconds=seconds)


@pytest.mark.parametrize(
    ("gaps", "broken", "said"), [(1, 0, ", with 1 gap"), (2, 0, ", with 2 gaps"), (0, 1, "1 fault above"), (0, 2, "2 faults above")]
)
def test_the_doctor_counts_gaps(gaps: int, broken: int, said: str) -> None:
    findings = [Finding(name="x", state=state, found="", advice="") for state in ["gap"] * gaps + ["broken"] * broken + ["ok"]]
    last = report_text(Report(findings=findings, facts={})).splitlines()[-1]
    assert said in last and (said.endswith("gaps") or "gaps" not in last)


def test_a_rate_above_that_of_decoding_alone_is_no_share_of_it() -> None:
    row = {"images_per_s": 100.0, "low": 90.0, "high": 110.0, "of_image_folder": 2.0, "of_threads": 1.0}
    rows = [
        row | {"backend": "threads", "decodes": True, "of_ceiling": 1.07},
        row | {"backend": "resident", "decodes": False, "of_ceiling": 4.71},
    ]
    result = {
        "set": "s",
        "resolution": "full",
        "size": "80x64",
        "threads": 1,
        "decoder": "own",
        "batch_size": 8,
        "num_images": 1,
        "rounds": 1,
        "rows": rows,
    }
    said = loader_text(result | {"ceiling_images_per_s": 93.0, "profile": {}})
    assert "%" not in said and "ceiling" not in said and "4.71" not in said
    assert "1 image, 1 round" in said
    threads, decode, resident = said.splitlines()[2:5]
    assert threads.split()[-2:] == ["1.07", "2.00"] and decode.startswith("decode only") and resident.split()[-2:] == ["-", "2.00"]


@pytest.mark.parametrize(
    ("cost", "said"), [(-15.558, "less than rounds differ (-20.000 to +3.000 s"), (0.27, "lengthens training by 0.270 s")]
)
def test_a_checkpoint_never_costs_less_than_nothing(cost: float, said: str) -> None:
    rate = {"median": 10.0, "by_round": [10.0]}
    config = {"model": {"name": "m"}, "data": {"size": "80x64"}, "train": {"batch_size": 8, "precision": "fp32"}}
    result = {"config": config, "device": "cpu", "loader_threads": 1, "rounds": 3, "steps": 12, "of_same_batch": rate}
    result |= {"images_per_s": {"loader": rate, "same batch": rate}, "phases_s": {"data": 1.0}, "checkpoint_stall_s": 0.02}
    result |= {"checkpoint_s": {"median": cost, "by_round": [-20.0, cost, 3.0]}, "checkpoint_share": max(0.0, cost) / 600}
    last = train_text(result).splitlines()[-1]
    assert said in last and "-15.558" not in last


def report(twins: dict[str, int | None], others: dict[str, int | None]) -> dict[str, Any]:
    values = {"accuracy": 0.5, "macro_f1": 0.5, "top3_accuracy": 1.0, "calibration_error": 0.1, "chance_accuracy": 0.5}
    values |= {"intervals": {"accuracy": [0.4, 0.6], "macro_f1": [0.4, 0.6]}}
    task = values | {"with_duplicate_in_training": twins, "without_duplicate_in_training": others}
    split = {"num_rows": 1, "train_rows": 9, "protocol": "stratified", "by": ["season"]}
    return {"run": "r", "model": "m", "size": "8x8", "split": split, "tasks": {"season": task}, "skipped": [{"row": 1}]}


def test_without_near_duplicates_the_report_says_so_once() -> None:
    none = evaluate_text(Path("r"), report({"n": 0, "accuracy": None}, {"n": 9, "accuracy": 0.5}))
    assert "of 0" not in none and none.count("no test row has a near-duplicate in training") == 1
    assert "1 test row of the" in none and "1 test image left out" in none
    some = evaluate_text(Path("r"), report({"n": 3, "accuracy": 1.0}, {"n": 0, "accuracy": None}))
    assert "100.00 % of 3" in some and "no such row" in some and "of 0" not in some


def test_one_suspicious_label_is_one() -> None:
    said = suspects_text({"out": "o", "rows": 1, "unseen": 1, "suspects": {"season": 1, "gender": 2}}).splitlines()
    assert said[0].endswith("1 of 1 row") and said[1].endswith("1 suspicious label") and said[2].endswith("2 suspicious labels")


def test_what_the_system_says_of_a_file_has_place_reason_and_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, said in (
        (tmp_path / "a/b", "no such file or folder"),
        (tmp_path / "file/b", "part of that path is a file"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(OSError) as caught:
            place.open("w")
        text = os_error_text(caught.value)
        assert text.startswith(f"{place}: ") and said in text and ";" in text and "Errno" not in text
    assert os_error_text(OSError("no answer")) == "no answer"
