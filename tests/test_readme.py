"""Every command block of README.md and docs/quickstart.md, run as printed and in order; exceptions are listed with their reason."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import make_source, smooth_image, zip_folder
from workers import free_port

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/quickstart.md")
BLOCK = re.compile(r"(?:^    \S.*\n(?:^(?:    .*)?\n)*)|(?:^```python\n.*?^```$)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:fastfashion|make|pip|torchrun|\. |cd |python )")
SMALLER = "--no-pretrained --epochs 1 --batch-size 16 --size 32x32 --set data.backend=threads"


@dataclass(frozen=True)
class Instead:
    """What runs in place of a printed command, and why; nothing where `command` is empty."""

    command: str
    why: str


def instead(line: str) -> Instead | None:
    if line == "make demo":
        return Instead("", "its installation is the state this test runs in, and the fixture `demo` has run its commands")
    if line.startswith(". .venv/bin/activate && "):
        return Instead(line.partition("&& ")[2], "the test's own environment is active")
    if line.startswith((". .venv", "pip install")):
        return Instead("", "needs the package index; test_wheel.py builds and installs the wheel")
    if line == "fastfashion download small":
        return Instead("cp {zip} data/fashion-product-images-small.zip", "needs Kaggle; test_download.py downloads from a local server")
    if line.startswith("torchrun -m fastfashion.train --nproc 4"):
        dashes = "" if sys.version_info >= (3, 13, 1) or (3, 12, 7) <= sys.version_info < (3, 13) else "-- "
        rest = line.removeprefix("torchrun -m fastfashion.train --nproc 4")
        return Instead(f"torchrun -m fastfashion.train {dashes}--nproc 2{rest} {SMALLER} --name torchrun", "hours; four processes")
    if line.startswith("fastfashion train") and "--epochs" not in line:
        name = "" if "--name" in line else " --name subCategory-resnet18-80x64-stratified-seed0"
        return Instead(f"{line} {SMALLER}{name}", "hours, and weights from the Hub")
    if line.startswith("fastfashion bench-loader"):
        return Instead(f"{line} --images 32 --rounds 1 --batch-size 8", "minutes")
    return None


def blocks(page: str) -> list[str]:
    return [match[0] for match in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))]


def commands(block: str) -> list[str]:
    """The commands of an indented block; none if it shows output."""
    lines = re.sub(r"\\\n\s+", "", block).splitlines()
    return [line.strip() for line in lines if COMMAND.match(line.strip())]


def prepare(home: Path) -> Path:
    """What a user has: an empty `data`, a shop of their own; and a zip in place of Kaggle's."""
    (home / "data").mkdir()
    (home / "shop" / "photos").mkdir(parents=True)
    with (home / "shop" / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "type", "colour", "price"])
        for number in range(40):
            smooth_image(number, 48, 64).save(home / "shop" / "photos" / f"a{number}.jpg")
            writer.writerow([f"photos/a{number}.jpg", ("shoe", "hat")[number % 2], ("red", "blue")[number // 2 % 2], number])
    return zip_folder(make_source(home / "kaggle"), home / "kaggle.zip")


def serve(command: str, home: Path, environment: dict[str, str]) -> None:
    """Run a page until its first answer, then stop it."""
    port = free_port()
    process = subprocess.Popen(["bash", "-c", f"exec {command} --port {port}"], cwd=home, env=environment, start_new_session=True)
    try:
        for _ in range(600):
            assert process.poll() is None, command
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"{command}: no answer")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` makes: the commands of the Makefile, without the installation."""
    home = tmp_path_factory.mktemp("demo")
    recipe = subprocess.run(["make", "-sn", "demo", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"fastfashion .*", recipe.replace("\\\n", ""))
    assert len(lines) == 4
    for line in lines:
        done = subprocess.run(["bash", "-c", line], cwd=home, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    return home / "demo"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs_as_printed(page: str, demo: Path, tmp_path: Path) -> None:
    archive = prepare(tmp_path)
    (tmp_path / "demo").symlink_to(demo)
    ran = []
    for block in blocks(page):
        if block.startswith("```python"):
            code = block.removeprefix("```python\n").removesuffix("```")
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{page}:\n{code}\n{done.stderr}"
            continue
        for line in commands(block):
            replaced = instead(line)
            command = line if replaced is None else replaced.command.replace("{zip}", str(archive))
            if not command:
                continue
            if command.startswith("fastfashion serve"):
                serve(command, tmp_path, environment())
                continue
            done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
            allowed = (0, 1) if command == "fastfashion doctor" else (0,)  # 1: no GPU
            assert done.returncode in allowed, f"{page}: {line}\nran as {command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            ran.append(line)
    assert len(ran) > 5


def test_blocks_are_commands_or_output() -> None:
    """A command that the test does not know would be taken for output and never run."""
    for page in PAGES:
        found = [line for block in blocks(page) for line in commands(block)]
        assert sum(line.startswith("fastfashion") for line in found) >= 9, page
    assert commands("    fastfashion a \\\n        --b\n    torchrun -m c\n") == ["fastfashion a --b", "torchrun -m c"]
    assert commands("    kept 3 of 4\n") == []
