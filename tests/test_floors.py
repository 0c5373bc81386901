"""The house: which room may import which, and what importing must not cost."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fastfashion"
FLOORS = {
    "images": 0,
    "catalog": 1,
    "sources": 2,
    "shards": 3,
    "pack": 4,
    "load": 4,
    "model": 5,
    "runs": 6,
    "evaluate": 7,
    "train": 8,
    "audit": 8,
    "predict": 8,
    "doctor": 8,
    "export": 9,
    "serve": 10,
    "bench": 10,
    "cli": 11,
}
ROOT_ROOM, ROOT_FLOOR = "(package root)", -1
DALI_ROOMS = ("load/dali.py",)
HEAVY = ("torch", "torchvision", "timm", "nvidia", "pandas", "cv2", "matplotlib", "sklearn")


def room_of(module: str) -> str:
    """Folder of a module such as `fastfashion.load.plan`; the command line and the notebook's names are a room of their own, on top."""
    parts = module.split(".")[1:]
    if parts[:1] in (["cli"], ["__main__"], ["api"]):
        return "cli"
    return parts[0] if parts and parts[0] in FLOORS else ROOT_ROOM


def floor_of(room: str) -> int:
    return ROOT_FLOOR if room == ROOT_ROOM else FLOORS[room]


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every module that is imported anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            # `from fastfashion import image` names a module, `from fastfashion import __version__` a value
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "fastfashion" else base) for alias in node.names)


def check_imports(path: str, source: str) -> list[str]:
    """What a file of the package, given by its path within the package, imports against the rule."""
    parts = ["fastfashion", *Path(path).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    wrong = []
    for line, name in imports(ast.parse(source), module, is_package):
        if name.split(".")[0] == "nvidia" and path not in DALI_ROOMS:
            wrong.append(f"{path}:{line} imports {name}, which only {' and '.join(DALI_ROOMS)} may")
        if name.split(".")[0] != "fastfashion" or name == "fastfashion.__version__":
            continue
        mine, theirs = room_of(module), room_of(name)
        if mine != theirs and floor_of(theirs) >= floor_of(mine):
            wrong.append(f"{path}:{line} {mine} (floor {floor_of(mine)}) imports {name} (floor {floor_of(theirs)})")
    return wrong


FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_every_folder_has_a_floor() -> None:
    folders = {path.split("/")[0] for path in FILES if "/" in path}
    assert folders <= set(FLOORS)
    assert set(FLOORS) <= folders | {path.removesuffix(".py") for path in FILES}


@pytest.mark.parametrize("path", FILES)
def test_a_module_imports_from_its_own_folder_and_from_floors_below(path: str) -> None:
    assert check_imports(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


def graph() -> dict[str, set[str]]:
    """Which file imports which, imports inside functions and for types included."""
    names = {".".join(["fastfashion", *Path(path).with_suffix("").parts]).removesuffix(".__init__"): path for path in FILES}
    found = {}
    for module, path in names.items():
        used: set[str] = set()
        for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                used |= {
                    full if (full := f"{node.module}.{alias.name}") in names or alias.name == "_native" else node.module
                    for alias in node.names
                }
            elif isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
        found[module] = (used & names.keys()) - {"fastfashion"}
    return found


def cycles(arrows: dict[str, set[str]]) -> list[list[str]]:
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return [error.args[1]]
    return []


def test_no_file_imports_itself_through_others() -> None:
    assert cycles(graph()) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("catalog/styles.py", "from fastfashion.shards import open_packed_set"),
        ("catalog/styles.py", "import fastfashion.shards.layout"),
        ("pack/packer.py", "from fastfashion.load.plan import Plan"),
        ("load/plan.py", "def f():\n    from fastfashion.pack import pack"),
        ("errors.py", "from fastfashion import cli"),
        ("images/codec.py", "from fastfashion.catalog import Vocab"),
        ("train/trainer.py", "from ..bench import bench"),
        ("load/spec.py", "from .. import train"),
        ("catalog/__init__.py", "from ..pack import pack"),
        ("evaluate/report.py", "from fastfashion.train.job import train"),
        ("load/threads.py", "import nvidia.dali"),
        ("train/__main__.py", "from fastfashion.cli import app"),
    ],
)
def test_an_import_upwards_or_sideways_is_found(path: str, source: str) -> None:
    assert len(check_imports(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pack/packer.py", "from fastfashion.pack.engines import Job\nfrom fastfashion.catalog import Source\nfrom .engines import Block"),
        ("command_line.py", "from fastfashion.errors import ConfigError\nfrom fastfashion import __version__"),
        ("cli.py", "from fastfashion import dist\nfrom fastfashion.train.__main__ import train\nfrom fastfashion.bench import bench"),
        ("__main__.py", "from fastfashion.cli import main"),
        ("load/dali.py", "import nvidia.dali"),
        ("train/job.py", "from fastfashion.model import Classifier\nimport torch"),
    ],
)
def test_an_import_downwards_or_within_the_folder_is_allowed(path: str, source: str) -> None:
    assert check_imports(path, source) == []


@pytest.mark.parametrize("path", [path for path in FILES if path not in DALI_ROOMS])
def test_only_the_dali_backend_names_the_modules_of_nvidia(path: str) -> None:
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [text for text in texts if "nvidia.dali" in text] == []


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    loaded = modules_after("import fastfashion.cli")
    assert "typer" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_worker_processes_of_the_packer_start_without_pandas() -> None:
    assert not {"pandas", "pyarrow", "torch"} & modules_after("import fastfashion.pack.engines")


def test_the_look_at_loaded_modules_would_see_a_heavy_one() -> None:
    assert "pandas" in modules_after("import fastfashion.pack.packer")


def test_importing_prints_nothing_and_leaves_random_state_alone() -> None:
    names = [".".join(["fastfashion", *Path(path).with_suffix("").parts]).removesuffix(".__init__") for path in FILES]
    names = [name for name in names if not name.endswith("__main__")]
    code = (
        "import random, importlib; before = random.getstate()\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert random.getstate() == before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
