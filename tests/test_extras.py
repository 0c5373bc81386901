"""The core alone packs, trains, evaluates and predicts; work that needs an extra ends with one line that says how to install it."""

import json
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from conftest import make_source
from test_declared import EXTRAS

from fastfashion import extras
from fastfashion.errors import ConfigError

HOME = Path(__file__).parents[1]
MODULES = {  # what an extra installs, as Python imports it
    "cuda12": ["nvidia.dali"],
    "cuda13": ["nvidia.dali"],
    "kaggle": ["kaggle", "kagglesdk", "requests"],
    "report": ["matplotlib", "tensorboard"],
    "ray": ["ray"],
    "remote": ["upath", "s3fs", "aiohttp"],
    "bench": ["webdataset", "datasets", "spdl"],
    "serve": ["gradio"],
    "track": ["wandb", "mlflow"],
    "export": ["onnx", "onnxscript", "onnxruntime"],
}
TINY = "--model test_vit --no-pretrained --size 32x32 --batch-size 16 --nproc 1 --epochs 1"
DALI_ENDS = ", or use --set data.backend=threads"
# Without the extra: the command, what its one line begins with, and how it ends.
LACKING = {
    "cuda12": (f"train set {TINY} --runs runs --name two --set data.backend=dali", "the dali loader needs nvidia", DALI_ENDS),
    "kaggle": ("download small", "a download from Kaggle needs kaggle", ""),
    "ray": ("shard --source source --out other --engine ray", "--engine ray needs ray", ""),
    "remote": ("shard --source s3://bucket/set.zip --out other", "s3://bucket/set.zip: cannot be reached", " adds s3:// and https://"),
    "serve": ("serve runs/one", "the page needs gradio", ""),
    "track": ("train set --set train.track=mlflow", "train.track=mlflow needs mlflow", ""),
    "export": ("export runs/one --to onnx", "export to ONNX needs onnx", ""),
}
NONE_INSTALLED = """
import contextlib, io, json, sys
for module in json.loads(sys.argv[1]):
    sys.modules[module] = None  # what Python itself does for "not importable"
from fastfashion.cli import main
for line in json.loads(sys.argv[2]):
    out, err, status = io.StringIO(), io.StringIO(), 0
    sys.argv = ["fastfashion", *line.split()]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
    print(json.dumps([line, status, out.getvalue(), err.getvalue()]))
"""
WHOLE_JOB = {
    "shard": "shard --source source --res 32 --out set --workers 1",
    "train": f"train set {TINY} --runs runs --name one",
    "evaluate": "evaluate runs/one",
    "predict": "predict runs/one source/images --out answers.csv",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Status, stdout and stderr of each command in a process that can import nothing of any extra, and the folder."""
    folder = tmp_path_factory.mktemp("core")
    make_source(folder / "source")
    modules = sorted({name for names in MODULES.values() for name in names})
    lines = [*WHOLE_JOB.values(), *(line for line, _, _ in LACKING.values())]
    command = [sys.executable, "-c", NONE_INSTALLED, json.dumps(modules), json.dumps(lines)]
    known = os.environ | {"PYTHONPATH": str(HOME), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {line: (status, out, err) for line, status, out, err in found} | {"folder": folder}


@pytest.mark.parametrize("step", WHOLE_JOB)
def test_the_core_does_the_whole_job(ran: dict[str, Any], step: str) -> None:
    status, _, err = ran[WHOLE_JOB[step]]
    assert status == 0, err


def test_training_without_tensorboard_says_so_once(ran: dict[str, Any]) -> None:
    _, out, err = ran[WHOLE_JOB["train"]]
    assert [line for line in (out + err).splitlines() if "TensorBoard" in line or "tensorboard" in line] == [
        "no curves for TensorBoard, which is not installed: pip install 'fastfashion[report]'"
    ]
    assert (ran["folder"] / "runs" / "one" / "metrics.jsonl").is_file()
    assert not list((ran["folder"] / "runs" / "one").glob("events.*"))


def test_evaluating_without_matplotlib_says_that_there_are_no_plots(ran: dict[str, Any]) -> None:
    _, out, err = ran[WHOLE_JOB["evaluate"]]
    note = "plots/ has sheets of mistakes alone, as matplotlib is not installed: pip install 'fastfashion[report]'"
    assert (out + err).count(note) == 1
    run = ran["folder"] / "runs" / "one"
    assert json.loads((run / "report.json").read_text())["notes"] == [note]
    assert not [path.name for path in (run / "plots").iterdir() if not path.name.startswith("mistakes_")]


@pytest.mark.parametrize("extra", LACKING)
def test_a_command_without_its_extra_ends_with_the_line_that_installs_it(ran: dict[str, Any], extra: str) -> None:
    line, begins, ends = LACKING[extra]
    status, out, err = ran[line]
    assert (status, out) == (2, "")
    *said, err = err.splitlines(keepends=True)
    assert err.startswith(f"error: {begins}"), err
    assert not said or extra == "cuda12"  # training says what it will load first
    assert err.endswith(f"pip install 'fastfashion[{extra}]'{ends}\n")


def test_every_extra_is_blocked_in_these_tests() -> None:
    assert MODULES.keys() == EXTRAS.keys() - {"all", "dev"}
    assert MODULES.keys() - LACKING.keys() == {"cuda13", "report", "bench"}  # in place of cuda12; the tests above; programs of bench/
    assert set(EXTRAS["all"][0].removeprefix("fastfashion[").removesuffix("]").split(",")) == MODULES.keys() - {"cuda13"}


def test_a_package_that_is_there_and_broken_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "half_installed.py").write_text("from json import no_such_name")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(
            ConfigError, match=r"^it needs json, which cannot be imported \(cannot import name .*\): pip install 'fastfashion\[ray\]'$"
        ),
        extras.needs("ray", "it"),
    ):
        import half_installed  # noqa: F401
    with extras.needs("ray", "it"):
        import json  # noqa: F401


def test_what_is_there_is_looked_for_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def find(name: str) -> ModuleSpec | None:
        looked.append(name)
        return None if name == "b" else ModuleSpec(name, None)

    monkeypatch.setattr(extras, "find_spec", find)
    assert (extras.lacks("a"), extras.lacks("a", "b", "c")) == (None, "b")
    assert looked == ["a", "a", "b"]


def test_a_module_of_a_package_that_is_not_there_is_lacking() -> None:
    assert extras.lacks("json", "no_such_package.module") == "no_such_package.module"
