"""Who may read what is published: everybody the umask permits, and others get the true reason."""

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workers
from safetensors.torch import save_file

from fastfashion.config import ModelConfig, Size
from fastfashion.csv_files import publish_csv
from fastfashion.errors import FastfashionError
from fastfashion.evaluate.plots import plot_confusion
from fastfashion.files import publish, publish_folder, publish_json
from fastfashion.model.artifact import ModelDescription, load_artifact, save_artifact
from fastfashion.model.net import build_classifier
from fastfashion.runs.files import read_config, read_report
from fastfashion.train.checkpoint import Checkpoints, Progress, read_checkpoint

OTHER = 65534  # nobody


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def kept_model(folder: Path) -> Path:
    classifier = build_classifier(ModelConfig(name="test_resnet", pretrained=False), {"a": 3}, Size(32, 32))
    description = ModelDescription(model="test_resnet", size="32x32", classes={"a": ["x", "y", "z"]}, flip_average=False)
    save_artifact(folder / "best", classifier.state_dict(), description)
    (folder / "config.json").write_text(json.dumps({"data": {"shards": "none"}}))
    (folder / "report.json").write_text('{"tasks": {}, "split": {"protocol": "x", "seed": 0, "by": [], "num_rows": 0, "train_rows": 0}}')
    return folder


def checkpoint(folder: Path) -> Path:
    with Checkpoints(folder, 2, print, lambda tensors: None) as checkpoints:
        checkpoints.save(1, Progress(), {"model/w": torch.zeros(3)})
    return folder / "step-000000001.json"


def test_every_published_file_has_the_mode_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    publish_json(tmp_path / "a.json", 1)
    publish_csv(tmp_path / "a.csv", ["id"], [[1]])
    publish(tmp_path / "a.safetensors", lambda beside: save_file({"a": torch.zeros(1)}, beside))
    plot_confusion(tmp_path / "a.png", np.eye(2, dtype=np.int64), ["x", "y"], title="t")
    publish_folder(tmp_path / "folder", lambda beside: save_file({"a": torch.zeros(1)}, beside / "b.safetensors"))
    kept_model(tmp_path)
    checkpoint(tmp_path / "checkpoints")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 11
    assert {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {str(path): oct(0o666 & ~umask) for path in files}
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o777 & ~umask}


def test_a_folder_that_cannot_be_filled_leaves_the_older_one(tmp_path: Path) -> None:
    publish_folder(tmp_path / "best", lambda beside: (beside / "a").write_text("old"))
    with pytest.raises(ZeroDivisionError):
        publish_folder(tmp_path / "best", lambda beside: (beside / "a").write_text(str(1 / 0)))
    assert (tmp_path / "best" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def said_to_another(what: str, path: Path) -> str:
    """What another user, in a process of its own, gets as an error for a file or folder; "" if there is none."""
    answers, asked = workers.context.Pipe(duplex=False)
    process = workers.context.Process(target=as_another, args=(what, path, asked))
    process.start()
    said = answers.recv() if answers.poll(60) else "no answer within a minute"
    process.kill()
    process.join()
    return str(said)


def as_another(what: str, path: Path, asked: Any) -> None:
    try:
        if what == "model":
            READERS[what](path)  # what it imports only now is imported before the user changes
    except FastfashionError:
        pass
    os.setgroups([])
    os.setgid(OTHER)
    os.setuid(OTHER)
    try:
        READERS[what](path)
        asked.send("")
    except FastfashionError as error:
        asked.send(str(error))
    except BaseException as error:
        asked.send(f"{type(error).__name__}: {error}")


READERS = {
    "model": load_artifact,
    "settings": read_config,
    "report": read_report,
    "checkpoint": read_checkpoint,
    "load": lambda path: Checkpoints(path, 2, print, lambda tensors: None).load(),
    "weights": lambda path: build_classifier(ModelConfig(name="test_resnet", weights=str(path)), {"a": 3}, Size(32, 32)),
}


@pytest.fixture
def everyones() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are their maker's alone, and pytest makes them so again."""
    if os.getuid():
        pytest.skip("becoming another user needs root")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_another_user_reads_a_kept_model_and_a_checkpoint(everyones: Path) -> None:
    kept_model(everyones)
    assert said_to_another("model", everyones / "best") == ""
    assert said_to_another("settings", everyones) == ""
    assert said_to_another("checkpoint", checkpoint(everyones / "checkpoints")) == ""
    assert said_to_another("weights", everyones / "best" / "model.safetensors").find("permission") < 0


def test_another_user_who_may_not_read_is_told_just_that(everyones: Path) -> None:
    run = kept_model(everyones)
    known = checkpoint(everyones / "checkpoints")
    for what, path, closed in [
        ("model", run / "best", run / "best/model.safetensors"),
        ("model", run / "best", run / "best/model.json"),
        ("model", run / "best", run / "best"),
        ("settings", run, run / "config.json"),
        ("report", run, run / "report.json"),
        ("weights", run / "best/model.safetensors", run / "best/model.safetensors"),
        ("checkpoint", known, known.with_suffix(".safetensors")),
    ]:
        mode = closed.stat().st_mode
        closed.chmod(0o600)
        said = said_to_another(what, path)
        closed.chmod(mode)
        assert "cannot be read (permission denied)" in said, (what, closed, said)
        assert str(closed) in said and "train one" not in said and "Errno" not in said


def test_a_checkpoint_that_may_not_be_read_is_not_thrown_away(everyones: Path) -> None:
    folder = everyones / "checkpoints"
    with Checkpoints(folder, 2, print, lambda tensors: None) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, Progress(), {"model/w": torch.zeros(3)})
    folder.chmod(0o777)
    (folder / "step-000000002.safetensors").chmod(0o600)
    assert "step-000000002.safetensors: cannot be read (permission denied)" in said_to_another("load", folder)
    assert (folder / "step-000000002.json").is_file()
