"""Wheels with libjpeg-turbo linked in, and what `make release` refuses."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import make_wheel  # noqa: E402
import release  # noqa: E402
import static_jpeg  # noqa: E402

sys.path.remove(str(ROOT / "tools"))

STUB = "struct jpeg_error_mgr *jpeg_std_error(struct jpeg_error_mgr *errors) { return errors; }\n"


def extend(home: Path, prefix: Path | str) -> subprocess.CompletedProcess[str]:
    """Build the extension alone, from a copy of its sources in `home`, with FASTFASHION_JPEG=prefix."""
    for name in ("pyproject.toml", "setup.py", "README.md", "fastfashion/__init__.py"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, home / name)
    shutil.copytree(ROOT / "fastfashion/images/native", home / "fastfashion/images/native", dirs_exist_ok=True)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "built"]
    environment = os.environ | {"FASTFASHION_JPEG": str(prefix), "CFLAGS": "-O0"}
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)


def test_a_prefix_without_a_static_library_is_an_error_and_no_slow_wheel(tmp_path: Path) -> None:
    done = extend(tmp_path, tmp_path / "nowhere")
    assert done.returncode != 0 and "expected lib/libjpeg.a and include/jpeglib.h there" in done.stderr
    assert str(tmp_path / "nowhere") in done.stderr and "tools/static_jpeg.py" in done.stderr


def test_the_static_library_is_linked_and_none_of_its_functions_is_shown(tmp_path: Path) -> None:
    """A library of one function does for the linker; others stay undefined, as in any shared library that is never loaded."""
    header = next(iter(Path("/usr/include").rglob("jpeglib.h")), None)
    if header is None or not all(map(shutil.which, ("gcc", "ar", "nm", "readelf"))):
        pytest.skip("needs gcc, binutils and libjpeg-turbo's header (Debian: gcc libjpeg-dev)")
    prefix = tmp_path / "prefix"
    (prefix / "include").mkdir(parents=True)
    (prefix / "lib").mkdir()
    shutil.copy(header, prefix / "include")
    (tmp_path / "stub.c").write_text(f"struct jpeg_error_mgr;\n{STUB}")
    subprocess.run(["gcc", "-fPIC", "-c", "stub.c"], cwd=tmp_path, check=True)
    subprocess.run(["ar", "rc", prefix / "lib" / "libjpeg.a", "stub.o"], cwd=tmp_path, check=True)
    done = extend(tmp_path / "source", prefix)
    assert done.returncode == 0, done.stderr[-2000:]
    library = tmp_path / "source" / "built" / "fastfashion" / "images" / "_native.abi3.so"
    dynamic = subprocess.run(["readelf", "--dynamic", library], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in dynamic and "jpeg" not in dynamic and "RUNPATH" not in dynamic and "RPATH" not in dynamic
    shown = subprocess.run(["nm", "--dynamic", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in shown.splitlines()] == ["PyInit__native"]


def test_the_compiled_loader_keeps_to_the_abi_that_the_wheel_promises() -> None:
    """Python's headers hide what is newer than Py_LIMITED_API; the tag and the least Python are of the same version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    source = (ROOT / "fastfashion" / "images" / "native" / "module.c").read_text(encoding="utf-8")
    (limit,) = re.findall(r"^#define Py_LIMITED_API 0x03([0-9a-f]{2})0000$", source, re.M)
    assert source.index("Py_LIMITED_API") < source.index("#include <Python.h>")
    assert project["tool"]["distutils"]["bdist_wheel"]["py-limited-api"] == f"cp3{int(limit, 16)}"
    assert project["project"]["requires-python"] == f">=3.{int(limit, 16)}"


def test_another_source_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "libjpeg-turbo.tar.gz"
    other.write_bytes(b"another")
    with pytest.raises(static_jpeg.BuildError, match=f"sha256 is [0-9a-f]{{64}}, expected {static_jpeg.SHA256}"):
        static_jpeg.provide(tmp_path / "prefix", other)
    with pytest.raises(static_jpeg.MissingError, match="no such file"):
        static_jpeg.provide(tmp_path / "prefix", tmp_path / "missing.tar.gz")
    assert not (tmp_path / "prefix").exists()


def git(folder: Path, *arguments: str) -> None:
    named = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("heading", "tag", "extra", "said"),
    [
        ("## 0.2.0 (2027-01-31)", "v0.1.0", None, None),
        ("## 0.2.0 (unreleased)", None, None, r"CHANGELOG.md: expected a date .* found \(unreleased\)"),
        ("## 0.1.0 (2026-12-01)", None, None, r"CHANGELOG.md: expected 0.2.0 .* found 0.1.0"),
        ("# Changes", None, None, "CHANGELOG.md: expected 0.2.0 .* found none"),
        ("## 0.2.0 (2027-01-31)", "v0.2.0", None, "the tag v0.2.0 exists"),
        ("## 0.2.0 (2027-01-31)", None, "left.py", "the tree is not clean.*\n.*left.py"),
    ],
)
def test_what_cannot_be_released_is_refused(heading: str, tag: str | None, extra: str | None, said: str | None, tmp_path: Path) -> None:
    (tmp_path / "fastfashion").mkdir()
    (tmp_path / "fastfashion" / "__init__.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changes\n\n{heading}\n\n- One.\n\n## 0.0.9 (2026-01-01)\n" if "##" in heading else heading)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    if tag:
        git(tmp_path, "tag", tag)
    if extra:
        (tmp_path / extra).touch()
    found = release.problems(tmp_path)
    assert len(found) == (said is not None)
    if said is not None:
        assert pytest.raises(AssertionError, match=said).matches(AssertionError(found[0]))


def test_the_version_of_this_checkout_heads_its_changelog() -> None:
    newest = release.HEADING.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert newest is not None and newest[1] == release.version_of(ROOT)


@pytest.mark.slow
def test_the_wheel_has_the_fast_path_where_there_is_no_compiler_and_no_libjpeg(tmp_path: Path) -> None:
    """`make wheel`: the same shards and batches as this environment's build, and other Pythons decode as Pillow does."""
    jpeg = ROOT / "build" / "jpeg"
    try:
        static_jpeg.provide(jpeg)
    except static_jpeg.MissingError as error:
        pytest.skip(f"libjpeg-turbo cannot be built here: {error}")
    sdist, wheel = make_wheel.make(jpeg=jpeg, source=None, dist=tmp_path / "dist", pythons=make_wheel.other_pythons())
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as source:
        assert not any(name.startswith(("tests/", "shards/")) for name in archive.namelist())
        assert not any("/tests/" in name for name in source.getnames())
    if sys.platform == "linux":
        assert "-cp311-abi3-" in wheel.name and "manylinux" in wheel.name
