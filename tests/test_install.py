"""How `make` installs: uv gets what pip is configured with, and what it costs is said before anything is fetched."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
assert spec is not None and spec.loader is not None
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)

PIP_CONFIG = """\
:env:.cert='/etc/certs.crt'
:env:.disable-pip-version-check='1'
global.cert='/old.crt'
global.extra-index-url='\\nhttps://a.example/simple\\nfile:///b c'
global.find-links='/wheels https://c.example/wheels'
install.index-url='https://index.example/simple'
global.index-url='https://other.example/simple'
"""


def test_uv_looks_where_pip_looks() -> None:
    assert install.uv_environment(PIP_CONFIG, {}) == {
        "SSL_CERT_FILE": "/etc/certs.crt",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_FIND_LINKS": "/wheels,https://c.example/wheels",
        "UV_INDEX": "https://a.example/simple file:///b c",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_what_the_user_told_uv_stays() -> None:
    given = {"UV_DEFAULT_INDEX": "https://mine.example/simple", "SSL_CERT_FILE": "/mine.crt"}
    found = install.uv_environment(PIP_CONFIG, given)
    assert not set(given) & set(found) and install.uv_environment("", {}) == {}


def test_uv_has_one_version_and_every_kind_of_install_says_its_size() -> None:
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("uv==")]
    assert len(pinned) == 1
    assert all("GB on disk" in said and "minute" in said for said in install.EXPECTED.values())


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize(("goal", "extra"), [("demo", "all"), ("test", "dev"), ("lint", "dev"), ("install", "dev"), ("wheel", "dev")])
def test_each_goal_installs_what_it_needs(goal: str, extra: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt", "tools/install.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(["make", "-n", goal], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split()[-2:] for line in done.stdout.splitlines() if "tools/install.py" in line] == [[".venv", extra]]
