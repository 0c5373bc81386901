"""A run's folder: what a start leaves behind, what may be resumed and with which settings, and what a finished run keeps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import workers
from conftest import PackedSmall, make_source

from fastfashion import dist
from fastfashion.config import Change, DataConfig, RunConfig, changeable
from fastfashion.errors import ConfigError, FastfashionError, TrainingError
from fastfashion.pack import PackRequest, pack
from fastfashion.runs.files import BEST, CHECKPOINTS, CONFIG, METRICS, PLOTS, PREDICTIONS, REPORT, STATUS
from fastfashion.runs.folder import TrainSummary, check_run_folder, flat, is_untrained
from fastfashion.sources.skipped import what_folder
from fastfashion.train.job import resolve, train

ALONE = dist.World(device=torch.device("cpu"))
TINY = {"model.name": "test_resnet", "model.pretrained": False, "data.size": "32x32", "data.workers": 1, "train.batch_size": 16}
TINY |= {"data.task": "gender", "train.epochs": 2, "train.precision": "fp32", "train.checkpoint_every_steps": 1}


@pytest.fixture(scope="module")
def shards(packed_small: PackedSmall) -> Path:
    return packed_small.out


def config_of(shards: Path, **settings: Any) -> RunConfig:
    chosen = TINY | {key.replace("__", "."): value for key, value in settings.items()}
    return resolve(RunConfig(data=DataConfig(shards=str(shards))).replace(chosen))


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    train(config_of(shards), run, ALONE)
    return run


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def steps_of(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("*")) if (run / "checkpoints").exists() else []


@pytest.mark.parametrize("name", [BEST, CHECKPOINTS, METRICS, PLOTS, PREDICTIONS, REPORT, STATUS])
def test_a_source_recognises_a_run_by_the_names_of_its_files(name: str) -> None:
    """sources/ is below runs/ and spells them itself."""
    assert what_folder([CONFIG, name]) == "a training run"


# --- settings ---------------------------------------------------------------------------------------------------------------------


def test_every_setting_is_free_allowed_or_fixed_on_resume() -> None:
    known = set(flat(RunConfig(data=DataConfig(shards="x"))))
    groups = [changeable(change) for change in Change]
    assert set.union(*map(set, groups)) == known, "config.py must say of a new setting whether it may change on resume"
    assert sum(map(len, groups)) == len(known), "a setting is in one group"


def test_what_is_free_or_allowed_by_name_resumes_and_what_is_fixed_never_does(copied: Path, shards: Path) -> None:
    check_run_folder(copied, config_of(shards, train__keep_checkpoints=7, data__workers=2, data__decoder="turbo"))
    with pytest.raises(TrainingError, match=r"train\.validate_every: 1 there, 2 now.*--allow-config-change train\.validate_every"):
        check_run_folder(copied, config_of(shards, train__validate_every=2))
    check_run_folder(copied, config_of(shards, train__validate_every=2), allowed=["train.validate_every"])
    with pytest.raises(TrainingError, match="the settings it has"):
        check_run_folder(copied, config_of(shards, data__oversample=0.5))
    with pytest.raises(ConfigError, match="a checkpoint does not fit"):
        check_run_folder(copied, config_of(shards, data__oversample=0.5), allowed=["data.oversample"])


# --- a start that fails -----------------------------------------------------------------------------------------------------------


def wrong_starts(shards: Path, home: Path) -> dict[str, RunConfig]:
    home.mkdir(exist_ok=True)
    (home / "corrections.csv").write_text("id,task,label\n10000,gender,Mne\n")
    (home / "weights.safetensors").write_bytes(b"no weights at all")
    few = home / "few"
    if not few.exists():
        pack(PackRequest(source=make_source(home / "source", rows=2), out=few, resolutions=("32",), workers=1))
    return {
        "corrections": config_of(shards, data__corrections=str(home / "corrections.csv")),
        "weights": config_of(shards, model__weights=str(home / "weights.safetensors")),
        "cuda": config_of(shards, train__cuda_graphs=True),
        "batch": config_of(shards, train__batch_size=1, augment__mixup=0.2),
        "rows": config_of(few),
    }


@pytest.mark.parametrize("what", ["corrections", "weights", "cuda", "batch", "rows"])
@pytest.mark.parametrize("before", ["nothing", "empty", "left by a killed start"])
def test_a_start_that_fails_leaves_nothing_behind(what: str, before: str, shards: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available() and what == "cuda":
        pytest.skip("there is a GPU, with which this start does not fail")
    run = tmp_path / "runs" / "one"
    if before != "nothing":
        run.mkdir(parents=True)
    if before == "left by a killed start":
        for name in ("config.json", "status.json", ".training.lock", "events.out.tfevents.1.host.1.0"):
            (run / name).write_text("{}")
        (run / "metrics.jsonl").write_text('{"kind": "start", "epoch": 0, "step": 0}\n')
    with pytest.raises(FastfashionError):
        train(wrong_starts(shards, tmp_path / "home")[what], run, ALONE)
    assert {path.name for path in tmp_path.iterdir()} == {"home", *([] if before == "nothing" else ["runs"])}
    if before != "nothing":
        assert list(run.iterdir()) == []
    check_run_folder(run, config_of(shards, train__seed=9))  # the name is free, whatever the settings


def test_a_start_that_fails_in_its_first_step_leaves_nothing_and_in_its_second_all(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastfashion.train import trainer

    seed = trainer.seed_step

    def fail_at(bad: int) -> None:
        def failing(number: int, step: int, rank: int) -> None:
            if step == bad:
                raise RuntimeError("out of memory, as the test asked for")
            seed(number, step, rank)

        monkeypatch.setattr(trainer, "seed_step", failing)
        with pytest.raises((RuntimeError, TrainingError), match="out of memory"):
            train(config_of(shards), tmp_path / "run", ALONE)

    fail_at(0)
    assert not (tmp_path / "run").exists()
    fail_at(1)
    assert {"config.json", "trained_on.json", "metrics.jsonl", "checkpoints"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "failed"


def test_what_safetensors_leaves_when_it_is_killed_blocks_no_name_and_does_not_stay(copied: Path, shards: Path, tmp_path: Path) -> None:
    """It writes through .tmpXXXXXX beside its target."""
    started = tmp_path / "started"
    started.mkdir()
    (started / ".tmpa1B2c3").write_bytes(b"half")
    check_run_folder(started, config_of(shards))
    train(config_of(shards), started, ALONE)
    assert not list(started.rglob(".tmp*")) and (started / "best").is_dir()
    (copied / "checkpoints/.tmpZ9y8X7").write_bytes(b"half")
    train(config_of(shards, train__epochs=3), copied, ALONE)
    assert not list(copied.rglob(".tmp*"))


@pytest.mark.parametrize("size", [1, 2])
def test_processes_of_a_start_that_fails_leave_nothing_behind(size: int, shards: Path, tmp_path: Path) -> None:
    config = wrong_starts(shards, tmp_path / "home")["corrections"]
    statuses = workers.run_all(config.to_dict(), tmp_path / "runs" / "one", size, tmp_path / "home" / "log")
    assert 2 in statuses and 0 not in statuses, (tmp_path / "home" / "log").read_text()
    assert "did you mean Men" in (tmp_path / "home" / "log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.dist
def test_the_launcher_of_processes_that_fail_leaves_nothing_behind(shards: Path, tmp_path: Path) -> None:
    wrong_starts(shards, tmp_path / "home")
    settings = [text for key, value in TINY.items() for text in ("--set", f"{key}={value}")]
    arguments = ["train", str(shards), *settings, "--corrections", str(tmp_path / "home/corrections.csv")]
    done = workers.fastfashion(*arguments, "--runs", str(tmp_path / "runs"), "--name", "one", "--nproc", "2", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_folder_with_something_else_is_not_taken_for_a_start(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("{}")
    assert is_untrained(tmp_path)
    (tmp_path / "thesis.tex").write_text("")
    assert not is_untrained(tmp_path)
    with pytest.raises(TrainingError, match=r"holds files but no config\.json"):
        check_run_folder(tmp_path, config_of(shards))
    with pytest.raises(TrainingError, match="a file, expected a folder"):
        check_run_folder(tmp_path / "thesis.tex", config_of(shards))


# --- checkpoints that are gone ----------------------------------------------------------------------------------------------------


def test_a_finished_run_has_nothing_to_do_and_changes_nothing(
    copied: Path, shards: Path, capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    summary = train(config_of(shards), copied, ALONE)
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before
    assert "finished; nothing to do" in capsys.readouterr().err
    known = json.loads((finished / "status.json").read_text())["summary"]
    assert summary == TrainSummary(**known | {"run": str(copied), "resumed_at_step": known["steps"]})


@pytest.mark.parametrize("summary", [True, False], ids=["", "from before status.json had a summary"])
def test_where_checkpoints_are_gone_the_best_weights_of_a_finished_run_stay(
    summary: bool, copied: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "checkpoints")
    status = json.loads((copied / "status.json").read_text())
    known = status["summary"]
    if not summary:
        del status["summary"], status["optimizer"]
        (copied / "status.json").write_text(json.dumps(status))
    best = (copied / "best/model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match=r"--resume must, but checkpoints/ holds no checkpoint; put checkpoints/ back"):
        check_run_folder(copied, config_of(shards), resume="must")
    check_run_folder(copied, config_of(shards))
    found = train(config_of(shards), copied, ALONE)
    assert "finished; nothing to do" in capsys.readouterr().err
    assert (copied / "best/model.safetensors").read_bytes() == best
    # Runs from before kept the earlier one of two epochs that are equally good.
    for name in ("epochs", "steps", "best_metric", "num_parameters", "train_rows", "val_rows", *(["best_epoch"] if summary else [])):
        assert getattr(found, name) == known[name], name
    longer = config_of(shards, train__epochs=3)
    with pytest.raises(TrainingError, match=r"finished, and cannot be trained further with train\.epochs: 2 there, 3 now.*--weights"):
        check_run_folder(copied, longer, allowed=["train.epochs"])


def test_where_checkpoints_of_an_unfinished_run_are_gone_must_refuses_and_auto_says_so(
    copied: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "checkpoints")
    status = json.loads((copied / "status.json").read_text()) | {"state": "interrupted"}
    (copied / "status.json").write_text(json.dumps(status))
    with pytest.raises(TrainingError, match=r"--resume must, but checkpoints/ holds no checkpoint.*to train it from the start"):
        check_run_folder(copied, config_of(shards), resume="must")
    check_run_folder(copied, config_of(shards))
    train(config_of(shards), copied, ALONE)
    assert "checkpoints/ holds no checkpoint: training starts from the beginning" in capsys.readouterr().err


# --- what a finished run keeps ----------------------------------------------------------------------------------------------------


def test_a_finished_run_keeps_one_full_checkpoint_and_can_be_lengthened(copied: Path, shards: Path) -> None:
    (last,) = [name for name in steps_of(copied) if name.endswith(".safetensors")]
    assert len(steps_of(copied)) == 2
    longer = config_of(shards, train__epochs=3)
    check_run_folder(copied, longer, allowed=["train.epochs"])
    summary = train(longer, copied, ALONE)
    assert summary.epochs == 3 and f"step-{summary.resumed_at_step:09d}.safetensors" == last
    assert [name for name in steps_of(copied) if name.endswith(".safetensors")] == [f"step-{summary.steps:09d}.safetensors"]


def test_without_the_optimizer_a_finished_run_keeps_none_and_refuses_to_be_lengthened(shards: Path, tmp_path: Path) -> None:
    settings = [text for key, value in TINY.items() for text in ("--set", f"{key}={value}")]
    arguments = ["train", str(shards), *settings, "--set", "train.keep_optimizer=no", "--runs", str(tmp_path), "--name", "run"]
    first = workers.fastfashion(*arguments, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    run = tmp_path / "run"
    assert not (run / "checkpoints").exists() and (run / "best/model.safetensors").is_file()
    assert "checkpoints" not in first.stderr
    again = workers.fastfashion(*arguments, "--resume", "must", cwd=tmp_path)  # as a cluster does that restarts its jobs
    assert again.returncode == 0 and "finished; nothing to do" in again.stderr
    longer = workers.fastfashion(*arguments, "--set", "train.epochs=3", "--allow-config-change", "train.epochs", cwd=tmp_path)
    assert longer.returncode == 2
    assert (
        "cannot be trained further with train.epochs: 2 there, 3 now: its optimiser state was not kept (train.keep_optimizer=no)"
        in longer.stderr
    )
    assert "--weights" in longer.stderr and (run / "best/model.safetensors").is_file()


def test_a_run_that_was_interrupted_keeps_its_checkpoints_whatever_is_dropped_at_the_end(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastfashion.train import trainer

    seed = trainer.seed_step

    def failing(number: int, step: int, rank: int) -> None:
        if step == 3:
            raise RuntimeError("as the test asked for")
        seed(number, step, rank)

    config = config_of(shards, train__keep_optimizer=False)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "seed_step", failing)
        with pytest.raises(RuntimeError):
            train(config, tmp_path / "run", ALONE)
    assert steps_of(tmp_path / "run")
    assert train(config, tmp_path / "run", ALONE).resumed_at_step == 3
    assert steps_of(tmp_path / "run") == []
