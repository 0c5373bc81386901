"""An environment a library, with its pinned versions; torch is this interpreter's, so that it is not downloaded eight times."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastfashion.errors import FastfashionError

BESIDE = ("numpy", "filelock", "typing_extensions", "sympy", "jinja2", "networkx", "fsspec", "setuptools", "pillow")  # what torch imports
LINKED = ("torch", "torchvision")


def make_environment(home: Path, name: str, versions: Sequence[str]) -> Path:
    """Make the environment `home/name` with uv, unless it is there; returns its interpreter."""
    folder, done = home / name, home / name / "complete"
    python = folder / "bin" / "python"
    wanted = "\n".join([*versions, *BESIDE])
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    _uv("venv", "--quiet", "--python", sys.executable, str(folder))
    left_out = folder / "left-out.txt"
    left_out.write_text("".join(f'{package}; python_version < "3"\n' for package in LINKED), encoding="utf-8")
    _uv("pip", "install", "--quiet", "--python", str(python), "--override", str(left_out), *versions, *BESIDE)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "torch-of-the-main-environment.pth").write_text(f"{link_torch(home / 'torch')}\n", encoding="utf-8")
    done.write_text(wanted, encoding="utf-8")
    return python


def versions_in(python: Path, names: Iterable[str]) -> dict[str, str]:
    """Installed versions in an environment."""
    code = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))"
    wanted = list(names)
    found = subprocess.run([str(python), "-c", code, *wanted], capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(wanted, found, strict=True))


def link_torch(folder: Path) -> Path:
    """A folder of links to torch and what it needs of compiled libraries, so that an environment sees these and nothing else of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    for distribution in _closure(LINKED):
        for file in importlib.metadata.distribution(distribution).files or ():
            top = file.parts[0]
            link, target = folder / top, Path(str(importlib.metadata.distribution(distribution).locate_file(top))).resolve()
            if top not in ("..", "__pycache__", "bin") and not link.is_symlink() and target.exists():
                link.symlink_to(target)
    return folder


def _closure(names: Iterable[str]) -> set[str]:
    """Distributions and the installed ones that they need, and so on; without those that every environment installs itself."""
    found: set[str] = set()
    left = list(names)
    while left:
        one = left.pop()
        if one in found or one in BESIDE:
            continue
        try:
            needs = importlib.metadata.requires(one) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(one)
        left += [re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in needs if "extra ==" not in need or one == "cuda-toolkit"]
    return found


def _uv(*arguments: str) -> None:
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.is_file() else None)
    if uv is None:
        raise FastfashionError("uv: not found; it makes the environments: pip install uv")
    done = subprocess.run([uv, *arguments], capture_output=True, text=True, check=False, env={**os.environ, "VIRTUAL_ENV": ""})
    if done.returncode:
        raise FastfashionError(f"uv {' '.join(arguments[:2])}: exit status {done.returncode}\n{done.stderr.strip()[-2000:]}")
