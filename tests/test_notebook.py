"""The notebook, executed from top to bottom on the drawn stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from workers import free_port

NOTEBOOK = Path(__file__).parents[1] / "tools" / "fashion_colab.ipynb"


def test_the_notebook_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(codes) > 10
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in codes)


@pytest.mark.parametrize(
    ("repository", "is_checkout", "said"),
    [
        ("..", True, "['install', '--quiet', 'fastfashion[cuda12,kaggle,report,serve,export] @ {parent}']"),
        (
            "https://example.org/f.git",
            False,
            "['install', '--quiet', 'fastfashion[cuda12,kaggle,report,serve,export] @ git+https://example.org/f.git']",
        ),
        ("..", False, "is no checkout of fastfashion"),
    ],
)
def test_the_notebook_installs_from_the_repository_that_is_named(repository: str, is_checkout: bool, said: str, tmp_path: Path) -> None:
    """IPython runs the cell if there is no fastfashion, with a pip in front of the real one that only says what it was asked for."""
    pytest.importorskip("IPython")
    sources = {cell["id"]: "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]}
    assert sources["cell-repository"] == 'REPOSITORY = ".."'
    folder = tmp_path / "a checkout" / "tools"
    folder.mkdir(parents=True)
    (folder / "pip.py").write_text("import sys; print(sys.argv[1:])", encoding="utf-8")
    if is_checkout:
        (folder.parent / "pyproject.toml").touch()
    hide = "import sys; sys.modules['fastfashion'] = None"
    (folder / "cells.ipy").write_text(f"{hide}\nREPOSITORY = {repository!r}\n{sources['cell-01']}", encoding="utf-8")
    environment = os.environ | {"IPYTHONDIR": str(tmp_path)}
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "cells.ipy"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert said.format(parent=folder.parent.as_uri()) in done.stdout + done.stderr


def shown(notebook: Any, kind: str) -> list[Any]:
    """All outputs of a MIME type."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def printed(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream" and output["name"] == "stdout")


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("FASTFASHION_DATA", "synth")
    monkeypatch.setenv("FASTFASHION_PORT", str(free_port()))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    said = printed(notebook)
    assert "images kept" in said and "on validation, after epoch" in said and "differs from the run by at most" in said
    learned = json.loads((tmp_path / "runs/notebook-synth/report.json").read_text(encoding="utf-8"))["tasks"]["subCategory"]
    assert learned["accuracy"] > learned["chance_accuracy"] + 0.15
    assert len(shown(notebook, "image/png")) >= 5  # classes, batch, training, and the plots of the test
    assert any("macro_f1" in table for table in shown(notebook, "text/html"))
    assert (tmp_path / "runs/notebook-synth/export/hub/gender/model.safetensors").is_file()
    assert len(list((tmp_path / "images").glob("*.jpg"))) == 3
