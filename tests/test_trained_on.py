"""What a run was trained on: the same ids are the same set, others are refused, and what was never seen can be tested."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_source
from safetensors import safe_open
from safetensors.torch import load_file

from fastfashion import dist
from fastfashion.audit.suspects import SuspectsRequest, find_suspects
from fastfashion.catalog import JointSplit, ids_hash
from fastfashion.catalog.styles import Columns
from fastfashion.config import AugmentConfig, DataConfig, RunConfig
from fastfashion.errors import ConfigError, InputError
from fastfashion.evaluate import EvaluateRequest, evaluate_run
from fastfashion.evaluate.compare import compare, compare_text
from fastfashion.evaluate.report import report_text
from fastfashion.export.export import ExportRequest, export, export_text
from fastfashion.load import Plan
from fastfashion.pack import PackRequest, pack
from fastfashion.runs import open_run
from fastfashion.runs.files import read_report
from fastfashion.runs.trained_on import SetIdentity, TrainedOn, read_trained_on, write_trained_on
from fastfashion.shards import open_packed_set
from fastfashion.train.job import resolve, train

ALONE = dist.World(device=torch.device("cpu"))
TINY = {"model.name": "test_resnet", "model.pretrained": False, "model.dropout": 0.2, "data.size": "32x32", "data.workers": 1}
TINY |= {"data.task": "gender", "train.batch_size": 8, "train.epochs": 4, "train.precision": "fp32", "train.deterministic": True}
TINY |= {"data.oversample": 0.6, "train.log_every_steps": 1}  # rare classes twice, by which the steps of an epoch are more


def set_of(source: Path, out: Path, **settings: Any) -> Path:
    pack(PackRequest(source=source, out=out, resolutions=("32",), workers=1, rows_per_shard=10, **settings))
    return out


def shuffled(source: Path, out: Path) -> Path:
    """The same products, the table's lines in another order."""
    shutil.copytree(source, out)
    lines = (out / "styles.csv").read_text().splitlines()
    order = np.random.default_rng(4).permutation(len(lines) - 1) + 1
    (out / "styles.csv").write_text("\n".join([lines[0], *(lines[i] for i in order)]) + "\n")
    return out


def without(source: Path, out: Path, ids: list[str]) -> Path:
    shutil.copytree(source, out)
    lines = (out / "styles.csv").read_text().splitlines(keepends=True)
    (out / "styles.csv").write_text("".join(line for line in lines if line.split(",")[0] not in ids))
    return out


@dataclass(frozen=True)
class Shop:
    """Packed sets of one shop, and the sources of them."""

    home: Path
    whole: Path  # 60 rows
    shuffled: Path  # the same ids in another order, in other shards
    fewer: Path  # two products removed
    grown: Path  # ten appended, in the middle of the others after sorting
    other: Path  # another shop's ids with the same classes


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    home = tmp_path_factory.mktemp("shop")
    source = make_source(home / "source")
    reordered = shuffled(source, home / "shuffled_source")
    fewer = without(source, home / "fewer_source", ["10000", "996"])
    grown = shuffled(make_source(home / "more_source", rows=70), home / "grown_source")
    other = shutil.copytree(source, home / "other_source")
    lines = [f"7{line}" for line in (source / "styles.csv").read_text().splitlines(keepends=True)]
    (other / "styles.csv").write_text("".join([lines[0][1:], *lines[1:]]))
    for image in list((other / "images").iterdir()):
        image.rename(image.with_name(f"7{image.name}"))
    names = {"whole": source, "fewer": fewer, "grown": grown, "other": other}
    sets = {name: set_of(each, home / name) for name, each in names.items()}
    pack(PackRequest(source=reordered, out=home / "shuffled", resolutions=("32",), workers=1, rows_per_shard=7))
    return Shop(home=home, shuffled=home / "shuffled", **sets)


def config_of(shards: Path, **settings: Any) -> RunConfig:
    chosen = TINY | {key.replace("__", "."): value for key, value in settings.items()}
    return resolve(RunConfig(data=DataConfig(shards=str(shards))).replace(chosen))


def trained(shards: Path, run: Path, **settings: Any) -> Path:
    train(config_of(shards, **settings), run, ALONE)
    return run


@pytest.fixture(scope="module")
def whole(shop: Shop) -> Path:
    return trained(shop.whole, shop.home / "runs" / "whole")


def lines_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines if line["kind"] != "start"]


def tensors_of(run: Path) -> dict[str, bytes]:
    (last,) = (run / "checkpoints").glob("*.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(last).items()}


def stopped(shards: Path, run: Path, steps: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Path:
    """A run that was killed after a step, in the middle of an epoch; its last checkpoint is of that step."""
    from fastfashion.train import trainer

    seed = trainer.seed_step

    def kill(number: int, step: int, rank: int) -> None:
        if step == steps:
            raise KeyboardInterrupt
        seed(number, step, rank)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "seed_step", kill)
        with pytest.raises(KeyboardInterrupt):
            train(config_of(shards, train__checkpoint_every_steps=1, **settings), run, ALONE)
    return run


# --- the list ---------------------------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_ids_that_trained_validated_and_tested_in_order(whole: Path, shop: Shop) -> None:
    kept = read_trained_on(whole)
    assert kept is not None and not kept.assumed
    packed = open_packed_set(shop.whole)
    assert kept.ids.tolist() == packed.table["id"].tolist()
    opened = open_run(whole)
    assert kept.split.train.tolist() == opened.split.train.tolist()
    parts = [set(rows.tolist()) for rows in (kept.split.train, kept.split.val["gender"], kept.split.test["gender"])]
    assert sum(map(len, parts)) == len(set.union(*parts)) and all(parts)
    known = json.loads((whole / "trained_on.json").read_text())
    assert known["sha256"] == hashlib.sha256((whole / "trained_on.safetensors").read_bytes()).hexdigest()
    ids = sorted(packed.table["id"])
    assert known["set"] == {"path": str(shop.whole), "num_rows": 60, "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    assert known["rows"]["train"] == len(kept.split.train)


@pytest.mark.parametrize("rows", [44_000, 70_000])
def test_the_list_takes_at_most_eight_bytes_a_row_beside_the_ids(rows: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    splits = {}
    for task in ("a", "b", "c"):  # three splits of their own, which no two share, none of them sorted
        order = rng.permutation(rows)
        splits[task] = (order[: int(0.7 * rows)], order[int(0.7 * rows) : int(0.85 * rows)], order[int(0.85 * rows) :])
    train = splits["a"][0]
    kept = TrainedOn(
        source=SetIdentity(path="x", num_rows=rows, ids_sha256="0" * 64),
        ids=np.array([str(number) for number in range(rows)], dtype=object),
        split=JointSplit(train=train, val={t: s[1] for t, s in splits.items()}, test={t: s[2] for t, s in splits.items()}),
        times=rng.integers(1, 4, len(train)),
        shard_starts=np.zeros(1, dtype=np.int64),
        classes={t: ("x",) for t in splits},
        train_counts={t: (1,) for t in splits},
    )
    write_trained_on(tmp_path, kept)
    with safe_open(tmp_path / "trained_on.safetensors", framework="np") as file:
        ids = len(file.get_tensor("ids"))
    size = sum((tmp_path / name).stat().st_size for name in ("trained_on.safetensors", "trained_on.json"))
    assert size - ids <= 8 * rows
    again = read_trained_on(tmp_path)
    assert again is not None and again.ids.tolist() == kept.ids.tolist()
    assert np.array_equal(again.times, kept.times) and np.array_equal(again.split.train, train)
    for part in ("val", "test"):
        found, expected = getattr(again.split, part), getattr(kept.split, part)
        assert list(found) == list(expected) and all(np.array_equal(found[task], expected[task]) for task in expected)


def test_a_damaged_list_is_refused_with_the_way_out(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    path = run / "trained_on.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"trained_on\.safetensors: damaged.*put it back from a copy"):
        open_run(run)
    path.unlink()
    with pytest.raises(InputError, match=r"trained_on\.safetensors: missing"):
        open_run(run)
    (run / "trained_on.json").write_text("{")
    with pytest.raises(InputError, match=r"trained_on\.json: not as expected"):
        open_run(run)


# --- resuming ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"data__shuffle": "window", "data__window_shards": 2}], ids=["epoch", "window"])
def test_a_run_resumed_on_the_same_ids_in_another_order_takes_the_same_steps_bit_for_bit(
    settings: dict[str, Any], shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = trained(shop.whole, tmp_path / "uninterrupted", **settings)
    run = stopped(shop.whole, tmp_path / "run", 11, monkeypatch, **settings)
    assert open_packed_set(shop.shuffled).table["id"].tolist() != open_packed_set(shop.whole).table["id"].tolist()
    moved = shutil.copytree(shop.shuffled, tmp_path / "a folder of another name")
    trained(moved, run, **settings)
    assert lines_of(run) == lines_of(uninterrupted)
    assert tensors_of(run) == tensors_of(uninterrupted)
    assert (run / "best/model.safetensors").read_bytes() == (uninterrupted / "best/model.safetensors").read_bytes()


def test_other_ids_are_refused_with_both_sets_and_the_first_ids_that_differ(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(shop.whole, tmp_path / "run", 3, monkeypatch)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "status.json"}
    with pytest.raises(
        InputError, match=r"whole \(60 rows, ids \w{12}\), and .*fewer \(58 rows.*2 ids of the training are missing"
    ) as caught:
        train(config_of(shop.fewer), run, ALONE)
    assert "'10000'" in str(caught.value) and "'996'" in str(caught.value) and "--name" in str(caught.value)
    with pytest.raises(InputError, match=r"holds other ids: 10 are new \('"):
        train(config_of(shop.grown), run, ALONE)
    assert {path: path.read_bytes() for path in before} == before
    # A run that is finished says the same, and not that there is nothing to do.
    done = trained(shop.whole, tmp_path / "done", train__epochs=1)
    with pytest.raises(InputError, match="holds other ids"):
        train(config_of(shop.grown, train__epochs=1), done, ALONE)


def corrected_in_place(shards: Path, out: Path, change: dict[str, str]) -> Path:
    """A copy of a set whose catalog says other genders, as somebody who edits it or packs a corrected table leaves it."""
    shutil.copytree(shards, out)
    table = pd.read_parquet(out / "catalog.parquet")
    table["gender"] = [change.get(identity, label) for identity, label in zip(table["id"], table["gender"], strict=True)]
    table.to_parquet(out / "catalog.parquet", index=False)
    vocab = json.loads((out / "vocab.json").read_text())
    vocab["gender"] = sorted(set(table["gender"]))
    (out / "vocab.json").write_text(json.dumps(vocab))
    return out


def test_corrected_labels_are_no_other_set_unless_they_change_the_classes(
    shop: Shop, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_packed_set(shop.whole).table.set_index("id")["gender"]
    men = table.index[table == "Men"].tolist()
    corrected = corrected_in_place(shop.whole, tmp_path / "corrected", dict.fromkeys(men[:3], "Boys"))
    run = stopped(shop.whole, tmp_path / "run", 3, monkeypatch)
    trained(corrected, run)
    kept = read_trained_on(run)
    assert kept is not None and kept.split.train.tolist() == read_trained_on(whole).split.train.tolist()  # type: ignore[union-attr]
    assert len(lines_of(run)) == len(lines_of(whole))  # as many steps, though other classes are the rare ones now
    for name, change, words in [
        ("gone", dict.fromkeys(men, "Boys"), r"its 2 classes of gender are not the 3.*missing: 'Men'"),
        ("new", {men[0]: "Girls"}, r"its 4 classes of gender are not the 3.*new: 'Girls'"),
    ]:
        other = corrected_in_place(shop.whole, tmp_path / name, change)
        run = stopped(shop.whole, tmp_path / f"run_{name}", 3, monkeypatch)
        with pytest.raises(ConfigError, match=words):
            train(config_of(other), run, ALONE)
        with pytest.raises(ConfigError, match="classes of gender are not the 3"):
            open_run(whole, other)


def test_a_plan_in_windows_is_the_same_for_rows_in_another_order() -> None:
    rng = np.random.default_rng(1)
    sizes = np.full(40, 32)
    starts = np.arange(0, 40, 5)
    settings: dict[str, Any] = {"heights_px": sizes, "widths_px": sizes, "batch_size": 6, "augment": AugmentConfig(), "window_shards": 2}
    one = Plan(rows=np.arange(3, 40), shard_starts=starts, **settings)
    row_of = rng.permutation(40)  # of each old row
    other = Plan(rows=row_of[np.arange(3, 40)], shard_starts=starts, numbers=np.argsort(row_of), **settings)
    for epoch in (0, 1):
        for before, after in zip(one.steps(epoch), other.steps(epoch), strict=True):
            assert np.array_equal(row_of[before.rows], after.rows) and np.array_equal(before.boxes, after.boxes)


# --- testing ----------------------------------------------------------------------------------------------------------------------


def test_a_run_is_tested_on_its_own_test_ids_whatever_the_order_of_the_set(whole: Path, shop: Shop) -> None:
    first = evaluate_run(EvaluateRequest(run=whole), ALONE)
    answers = pd.read_parquet(whole / "predictions.parquet").set_index("id")["gender_prediction"]
    again = evaluate_run(EvaluateRequest(run=whole, shards=shop.shuffled), ALONE)
    assert again["tasks"]["gender"]["test_ids_sha256"] == first["tasks"]["gender"]["test_ids_sha256"]
    assert again["split"] == first["split"]
    for score in ("accuracy", "macro_f1"):
        assert again["tasks"]["gender"]["intervals"][score] == first["tasks"]["gender"]["intervals"][score]
    assert pd.read_parquet(whole / "predictions.parquet").set_index("id")["gender_prediction"].sort_index().equals(answers.sort_index())
    kept = read_trained_on(whole)
    assert kept is not None and first["split"]["train_ids_sha256"] == ids_hash(kept.ids[kept.split.train].tolist())


@pytest.mark.parametrize("name", ["fewer", "grown", "other"])
def test_other_ids_are_not_tested_judged_or_exported_with(name: str, whole: Path, shop: Shop, tmp_path: Path) -> None:
    shards = getattr(shop, name)
    with pytest.raises(InputError, match=r"whole \(60 rows.*holds other ids.*--rows unseen"):
        evaluate_run(EvaluateRequest(run=whole, shards=shards), ALONE)
    with pytest.raises(InputError, match="holds other ids"):
        find_suspects(SuspectsRequest(runs=[whole], out=tmp_path / "audit", shards=shards), ALONE)
    with pytest.raises(InputError, match="holds other ids"):
        export(ExportRequest(run=whole, to="hub", out=tmp_path / "export", shards=shards))


def test_a_set_that_grew_in_its_place_is_noticed_and_an_export_says_so(whole: Path, shop: Shop, tmp_path: Path) -> None:
    here = shutil.copytree(shop.whole, tmp_path / "here")
    run = trained(here, tmp_path / "run", train__epochs=1)
    shutil.rmtree(here)
    shutil.copytree(shop.grown, here)
    with pytest.raises(InputError, match="10 are new"):
        evaluate_run(EvaluateRequest(run=run), ALONE)
    summary = export(ExportRequest(run=run, to="hub", out=tmp_path / "export"))
    assert summary.images == "drawn" and "10 are new" in export_text(summary)


def test_rows_that_a_run_never_saw_are_tested_on_a_set_that_has_grown(whole: Path, shop: Shop) -> None:
    evaluate_run(EvaluateRequest(run=whole), ALONE)
    own = (whole / "report.json").read_bytes()
    report = evaluate_run(EvaluateRequest(run=whole, shards=shop.grown, rows="unseen"), ALONE)
    before, now = (set(open_packed_set(shards).table["id"]) for shards in (shop.whole, shop.grown))
    tested = pd.read_parquet(whole / "unseen" / "predictions.parquet")
    kept = read_trained_on(whole)
    assert kept is not None
    expected = (now - before) | set(kept.ids[~kept.seen])  # and those that stood in no part, if any
    assert set(tested["id"]) == expected and len(now - before) == 10
    assert report["split"]["num_rows"] == len(expected) and report["split"]["part"] == "unseen"
    assert report["set"]["num_rows"] == 70 and report["trained_on"]["num_rows"] == 60
    assert f"{len(expected)} rows of {shop.grown} that it neither trained, validated nor tested" in report_text(whole, report)
    assert (whole / "report.json").read_bytes() == own and read_report(whole / "unseen") == report
    twins = report["tasks"]["gender"]["with_duplicate_in_training"]["n"] + report["tasks"]["gender"]["without_duplicate_in_training"]["n"]
    assert twins == report["tasks"]["gender"]["n"]


def test_unseen_rows_are_none_of_the_set_that_was_trained_on_and_all_of_another(whole: Path, shop: Shop) -> None:
    kept = read_trained_on(whole)
    assert kept is not None
    if kept.seen.all():
        with pytest.raises(InputError, match="has trained, validated or tested on all of its 60 ids"):
            evaluate_run(EvaluateRequest(run=whole, shards=shop.shuffled, rows="unseen"), ALONE)
    report = evaluate_run(EvaluateRequest(run=whole, shards=shop.other, rows="unseen"), ALONE)
    assert report["split"]["num_rows"] == 60
    assert report["tasks"]["gender"]["with_duplicate_in_training"] == {"n": 0, "accuracy": None}
    with pytest.raises(ConfigError, match="expected test or unseen"):
        EvaluateRequest(run=whole, rows="all")


def test_classes_that_the_run_does_not_know_are_counted_and_left_out(whole: Path, shop: Shop, tmp_path: Path) -> None:
    added = sorted(set(open_packed_set(shop.grown).table["id"]) - set(open_packed_set(shop.whole).table["id"]))
    grown = corrected_in_place(shop.grown, tmp_path / "grown", dict.fromkeys(added[:3], "Unisex"))
    report = evaluate_run(EvaluateRequest(run=whole, shards=grown, rows="unseen"), ALONE)
    assert report["unknown_classes"] == {"gender": {"Unisex": 3}}
    assert report["split"]["num_rows"] - report["tasks"]["gender"]["n"] == 3
    assert "3 of them are not tested for gender, whose classes Unisex (3) the run does not know" in report_text(whole, report)
    tested = pd.read_parquet(whole / "unseen" / "predictions.parquet").set_index("id")
    assert tested.loc[added[:3], "gender_label"].isna().all() and tested.loc[added[3:], "gender_label"].notna().all()


# --- runs from before -------------------------------------------------------------------------------------------------------------


def from_before(whole: Path, run: Path) -> Path:
    shutil.copytree(whole, run)
    for name in ("trained_on.json", "trained_on.safetensors"):
        (run / name).unlink()
    return run


def test_a_run_from_before_says_so_once_and_is_checked_from_then_on(whole: Path, shop: Shop, tmp_path: Path) -> None:
    run = from_before(whole, tmp_path / "run")
    (run / "report.json").unlink(missing_ok=True)
    report = evaluate_run(EvaluateRequest(run=run), ALONE)
    assert len(report["notes"]) == 1 and "from before runs kept the ids" in report_text(run, report).splitlines()[0]
    kept = read_trained_on(run)
    assert kept is not None and kept.assumed and kept.split.train.tolist() == read_trained_on(whole).split.train.tolist()  # type: ignore[union-attr]
    assert evaluate_run(EvaluateRequest(run=run), ALONE)["notes"] == []
    with pytest.raises(InputError, match="holds other ids"):
        evaluate_run(EvaluateRequest(run=run, shards=shop.grown), ALONE)


def test_a_run_from_before_whose_report_names_other_training_rows_is_refused(whole: Path, shop: Shop, tmp_path: Path) -> None:
    evaluate_run(EvaluateRequest(run=whole), ALONE)
    run = from_before(whole, tmp_path / "run")
    with pytest.raises(InputError, match=r"was trained on other rows than .*shuffled gives it now: the training ids in"):
        evaluate_run(EvaluateRequest(run=run, shards=shop.shuffled), ALONE)
    assert read_trained_on(run) is None


def test_a_run_from_before_whose_epochs_had_another_number_of_steps_is_not_resumed(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: 41 steps an epoch of 60 rows, and 97 of 140 from there on."""
    run = stopped(shop.whole, tmp_path / "run", 11, monkeypatch)
    for name in ("trained_on.json", "trained_on.safetensors"):
        (run / name).unlink()
    with pytest.raises(InputError, match=r"gives it now: its epochs had 6 steps, of this set they have 7"):
        train(config_of(shop.grown), run, ALONE)
    with pytest.raises(InputError, match="its epochs had 6 steps"):
        open_run(run, shop.grown)


def test_a_run_from_before_is_resumed_with_a_word_and_has_a_list_then(
    whole: Path, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(shop.whole, tmp_path / "run", 11, monkeypatch)
    for name in ("trained_on.json", "trained_on.safetensors"):
        (run / name).unlink()
    capsys.readouterr()
    trained(shop.whole, run)
    assert capsys.readouterr().err.count("from before runs kept the ids") == 1
    assert read_trained_on(run) is not None and tensors_of(run) == tensors_of(whole)


def test_a_run_from_before_is_not_taken_for_one_of_a_set_that_its_settings_do_not_name(whole: Path, shop: Shop, tmp_path: Path) -> None:
    """Two products fewer are as many steps an epoch."""
    run = from_before(whole, tmp_path / "run")
    (run / "report.json").unlink(missing_ok=True)
    near = set_of(without(shop.home / "source", tmp_path / "near_source", ["10000"]), tmp_path / "near")
    with pytest.raises(InputError, match=r"its settings name .*whole \(60 rows.*near \(59 rows.* holds other ids"):
        evaluate_run(EvaluateRequest(run=run, shards=near), ALONE)
    assert read_trained_on(run) is None
    report = evaluate_run(EvaluateRequest(run=run, shards=shop.grown, rows="unseen"), ALONE)
    kept = read_trained_on(run)
    assert kept is not None and kept.source.num_rows == 60 and report["split"]["num_rows"] == 10 + int((~kept.seen).sum())


def test_a_set_that_is_asked_for_unseen_rows_need_not_have_what_the_run_had(whole: Path, shop: Shop, tmp_path: Path) -> None:
    """No such label, none of the ids that were corrected, none of the training images."""
    corrections = tmp_path / "corrections.csv"
    corrections.write_text("id,task,label\n10000,season,Winter\n")
    settings = {"data__task": "gender,season", "data__corrections": str(corrections), "train__epochs": 1, "data__oversample": 0.0}
    run = trained(shop.whole, tmp_path / "run", **settings)
    with pytest.raises(InputError, match="holds other ids: 2 ids of the training are missing"):
        evaluate_run(EvaluateRequest(run=run, shards=shop.fewer), ALONE)
    with pytest.raises(InputError, match="holds other ids: 2 ids of the training are missing"):
        trained(shop.fewer, run, **settings)
    bare = set_of(shop.home / "other_source", tmp_path / "bare", columns=Columns(labels=("gender",)))
    report = evaluate_run(EvaluateRequest(run=run, shards=bare, rows="unseen"), ALONE)
    assert list(report["tasks"]) == ["gender"] and report["tasks"]["gender"]["n"] == 60
    text = report_text(run, report)
    assert f"{bare} has no label season: not tested" in text
    missing = report["split"]["train_rows"]
    assert f"{missing} of the {missing} training rows are not in {bare}" in text and "no test row has a near-duplicate" not in text


# --- comparing --------------------------------------------------------------------------------------------------------------------


def test_runs_are_compared_on_the_rows_that_both_were_tested_on(whole: Path, shop: Shop, tmp_path: Path) -> None:
    evaluate_run(EvaluateRequest(run=whole), ALONE)
    grown = trained(shop.grown, tmp_path / "grown", train__epochs=1, data__split_seed=4)  # of which two test rows are the other's, too
    evaluate_run(EvaluateRequest(run=grown), ALONE)
    tested = [set(pd.read_parquet(run / "predictions.parquet")["id"]) for run in (whole, grown)]
    common = tested[0] & tested[1]
    result = compare(whole, grown)
    assert result["tasks"]["gender"]["n"] == len(common) == 2
    assert result["tasks"]["gender"]["tested"] == [9, 9]
    text = compare_text(result)
    assert "the sets differ: " in text and "compared on the 2 rows that both were tested on, of 9 and 9" in text
    other = trained(shop.other, tmp_path / "other", train__epochs=1)
    evaluate_run(EvaluateRequest(run=other), ALONE)
    with pytest.raises(InputError, match="different rows for gender and have none in common"):
        compare(whole, other)
