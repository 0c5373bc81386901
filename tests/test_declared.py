"""What pyproject.toml declares is what is imported, in both directions, extra by extra."""

import ast
import re
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from sys import stdlib_module_names

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"fastfashion", *(path.stem for folder in ("tests", "bench", "tools") for path in (ROOT / folder).rglob("*.py"))}

# Imported by name, and the declared package that cannot do without it; FFCV and NVML are used where somebody has installed them.
BROUGHT = {"fastapi": "gradio", "starlette": "gradio", "uvicorn": "gradio", "huggingface_hub": "timm", "kagglesdk": "kaggle"}
BROUGHT |= {"urllib3": "requests", "gradio_client": "gradio", "h11": "gradio", "python_multipart": "gradio", "httpx": "gradio"}
BROUGHT |= {"boto3": "moto", "botocore": "moto", "yaml": "kubernetes-validate", "IPython": "ipykernel", "ffcv": "", "pynvml": ""}
# Declared, and imported by another library where ours asks it to: a text of ours that does.
REACHED = {"tensorboard": "torch.utils.tensorboard", "s3fs": "s3://"}
# Declared, and never beside another that brings the same modules.
INSTEAD = {"nvidia-dali-cuda130": "nvidia-dali-cuda120"}
# Declared for developers: commands of the Makefile, build tools, types for mypy, and what a tool looks for by itself.
TOOLS = {"pytest", "pytest-randomly", "ruff", "mypy", "mkdocs", "build", "setuptools", "pandas-stubs", "types-tqdm"}
TOOLS |= {"flask", "flask-cors", "ipykernel"}  # moto's server; the notebook's kernel


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[^\w.-]", each)[0]) for each in requirements} - {"fastfashion"}


BASE = names_of(PROJECT["dependencies"])
USERS = BASE | set(chain(*(names_of(requirements) for extra, requirements in EXTRAS.items() if extra != "dev")))


def imported(node: ast.AST) -> list[str]:
    """Modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [str(node.module)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("importorskip", "import_module"):
        return [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
    return []


@cache
def used_in(*folders: str) -> frozenset[str]:
    """Top-level modules that the Python files of these folders import, also those that a string of theirs imports."""
    found: set[str] = set()
    for path in chain(*((ROOT / folder).rglob("*.py") for folder in folders)):
        text = path.read_text(encoding="utf-8")
        found.update(name.partition(".")[0] for node in ast.walk(ast.parse(text)) for name in imported(node))
        found.update(re.findall(r"^ *(?:import|from) (\w+)", text, re.M))
    return frozenset(found - stdlib_module_names - OURS)


@cache
def providers() -> dict[str, set[str]]:
    """Module -> distributions that bring it."""
    return {module: {normal(each) for each in found} for module, found in packages_distributions().items()}


def packages(modules: frozenset[str]) -> set[str]:
    return set(chain(*(providers().get(module, ()) for module in modules)))


@pytest.mark.parametrize(
    ("folders", "declared"), [(("fastfashion",), USERS), (("bench", "tests", "tools"), USERS | names_of(EXTRAS["dev"]))]
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], declared: set[str]) -> None:
    names = {name for name in used_in(*folders) if name in providers() or folders == ("fastfashion",)} - BROUGHT.keys()
    assert {"torch", "gradio" if folders == ("fastfashion",) else "pytest"} <= names
    assert {name: providers().get(name) for name in names if not providers().get(name, set()) & declared} == {}
    assert {BROUGHT[name] for name in BROUGHT.keys() & used_in(*folders)} - {""} <= declared


def reached(package: str) -> bool:
    return package in REACHED and any(REACHED[package] in path.read_text(encoding="utf-8") for path in (ROOT / "fastfashion").rglob("*.py"))


@pytest.mark.parametrize("package", sorted(BASE))
def test_the_package_imports_what_it_asks_everybody_to_install(package: str) -> None:
    assert package in packages(used_in("fastfashion")) or reached(package)


@pytest.mark.parametrize(
    ("extra", "package"), [(extra, package) for extra in EXTRAS if extra != "dev" for package in sorted(names_of(EXTRAS[extra]))]
)
def test_an_extra_is_used_by_the_package_or_by_its_benchmarks(extra: str, package: str) -> None:
    found = packages(used_in("fastfashion", "bench") if extra == "bench" else used_in("fastfashion"))
    assert INSTEAD.get(package, package) in found or reached(package)


@pytest.mark.parametrize("package", sorted(names_of(EXTRAS["dev"]) - TOOLS))
def test_developers_install_what_tests_benchmarks_or_tools_import(package: str) -> None:
    assert package in packages(used_in("tests", "bench", "tools"))


def test_tools_are_declared_and_not_imported() -> None:
    assert names_of(EXTRAS["dev"]) >= TOOLS
