"""The wheel: built from the sdist, installed into an empty folder, and used from there; completion as shells ask for it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = {
    "py.typed",
    "__init__.pyi",
    "load/_native.pyi",
    "sources/synth_colours.csv",
    "sources/synth_kinds.csv",
    "sources/synth_drawings.txt",
}
NEEDED |= {"cli/__init__.py", "serve/page.css", "serve/page.jinja", "export/card.md.jinja", "export/space_app.py", "api.py"}
NEEDED |= {"evaluate/published/fashion-product-images.toml"}


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"COLUMNS": "100"} | environment
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation, since a test must not need the package index."""
    pytest.importorskip("build")
    home = tmp_path_factory.mktemp("wheel")
    source = home / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "fastfashion", source / "fastfashion", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    done = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(home / "dist"), str(source)], home)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = (home / "dist").glob("*.whl")
    assert len(list((home / "dist").glob("*.tar.gz"))) == 1
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone in a folder that was empty; what it depends on comes from this environment."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    done = run([*command, "--target", str(target), str(wheel)], target)
    assert done.returncode == 0, done.stderr
    return target


def test_all_files_of_the_package_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        everything = archive.namelist()
        assert {name.split("/")[0].split("-")[0] for name in everything} == {"fastfashion"}  # no benchmark, no test
        names = {name.removeprefix("fastfashion/") for name in everything if name.startswith("fastfashion/")}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    files = [path for path in (ROOT / "fastfashion").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    here = {path.relative_to(ROOT / "fastfashion").as_posix() for path in files if path.suffix not in (".c", ".so")}
    assert here <= names
    assert names >= NEEDED
    assert "Requires-Dist: torch" in metadata and "License-Expression: MIT" in metadata and "# fastfashion" in metadata


def test_the_installed_package_works_by_itself(installed: Path, tmp_path: Path) -> None:
    here = {"PYTHONPATH": str(installed)}
    where = run([sys.executable, "-c", "import fastfashion as ff; print(ff.__file__, ff.synth.__module__)"], tmp_path, **here)
    assert where.stdout.startswith(str(installed)) and where.stdout.split()[1] == "fastfashion.api"
    said = run([sys.executable, "-m", "fastfashion", "--help"], tmp_path, **here)
    assert said.returncode == 0 and "synth" in said.stdout and "export" in said.stdout
    made = run(
        [str(installed / "bin/fastfashion"), "synth", "--rows", "20", "--size", "80x60", "--workers", "1", "--json"], tmp_path, **here
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.splitlines()[-1])["rows"] == 20
    assert len(list((tmp_path / "data/synth/images").glob("*.jpg"))) > 10


@pytest.mark.parametrize("shell", ["bash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zsh", "fish"))])
def test_shells_are_told_how_to_complete(shell: str, installed: Path, tmp_path: Path) -> None:
    here = {"PYTHONPATH": str(installed), "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = str(installed / "bin/fastfashion")
    shown = run([command, "--show-completion", shell], tmp_path, **here)
    assert shown.returncode == 0 and "_FASTFASHION_COMPLETE" in shown.stdout
    done = run([command, "--install-completion", shell], tmp_path, **here)
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "fastfashion" in path.name + path.read_text()]
    assert written, done.stdout


def test_completion_knows_commands_and_options(installed: Path, tmp_path: Path) -> None:
    here = {"PYTHONPATH": str(installed), "_FASTFASHION_COMPLETE": "complete_bash"}
    command = [str(installed / "bin/fastfashion")]
    commands = run(command, tmp_path, COMP_WORDS="fastfashion ev", COMP_CWORD="1", **here)
    assert commands.stdout.split() == ["evaluate"]
    options = run(command, tmp_path, COMP_WORDS="fastfashion export --in", COMP_CWORD="2", **here)
    assert options.stdout.split() == ["--int8"]
