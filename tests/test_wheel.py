"""The wheel: built from the sdist, installed into an empty folder, and used from there; completion as shells ask for it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from fastfashion.load import crops

ROOT = Path(__file__).parents[1]


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"COLUMNS": "100"} | environment
    )


def tracked(*folders: str) -> list[str]:
    """Files that git knows, also those only added; none of them deleted."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made of it. Built without isolation, since a test must not need the package index."""
    pytest.importorskip("build")
    home = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (home / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, home / "source" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(home / "dist"), str(home / "source")]
    done = run(command, home, FASTFASHION_JPEG="")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return home / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone in a folder that was empty; what it depends on comes from this environment."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    done = run([*command, "--target", str(target), str(wheel)], target)
    assert done.returncode == 0, done.stderr
    return target


def test_wheel_and_sdist_hold_the_files_of_the_package_and_nothing_else(wheel: Path, built: Path) -> None:
    package = set(tracked("fastfashion"))
    assert {Path(name).suffix for name in package} >= {".py", ".pyi", ".typed", ".c", ".h", ".toml", ".jinja", ".css", ".csv", ".txt"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    information = {name for name in names if name.startswith("fastfashion-") and ".dist-info/" in name}
    compiled = {name for name in names if name.startswith("fastfashion/images/_native.") and name.endswith((".so", ".pyd"))}
    assert names - information - compiled == {name for name in package if not name.startswith("fastfashion/images/native/")}
    assert {Path(name).name for name in information if "/licenses/" in name} == {"LICENSE", "LICENSE-libjpeg-turbo"}

    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {entry.name.partition("/")[2] for entry in archive if entry.isfile()}
    assert {name for name in held if name.startswith("fastfashion/")} == package
    others = {name for name in held if not name.startswith("fastfashion")} - {"PKG-INFO", "setup.cfg"}
    needed = {"pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "LICENSE-libjpeg-turbo"}
    assert others == needed | {"tools/static_jpeg.py", "tools/smoke.py"}  # no tests/, no shards/


def test_one_wheel_for_every_python_from_3_11(wheel: Path) -> None:
    python, abi, platform = wheel.stem.split("-")[2:]
    assert (python, abi) == ("cp311", "abi3") and platform == sysconfig.get_platform().replace("-", "_").replace(".", "_")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    assert libraries == (["fastfashion/images/_native.abi3.so"] if crops.is_native() else [])
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
