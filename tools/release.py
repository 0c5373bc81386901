"""The two ends of `make release`: `check` before the tests, `package` after them. docs/releases.md says how a release is made.

check:   clean tree, a version with a date in CHANGELOG.md, no tag of it yet
package: dist/ by make_wheel.py ─► twine check ─► the sdist in an empty environment, too ─► what to upload. Nothing is uploaded.
"""

import argparse
import hashlib
import re
import sys
import tempfile
from pathlib import Path

import make_wheel
import static_jpeg
from make_wheel import DIST, ROOT, WORK, WheelError, run, say

HEADING = re.compile(r"^## (\S+) \((.+)\)$", re.M)


def version_of(root: Path) -> str:
    """`__version__` of the package in a checkout."""
    return re.findall(r'^__version__ = "(.+)"$', (root / "fastfashion" / "__init__.py").read_text(encoding="utf-8"), re.M)[0]


def problems(root: Path) -> list[str]:
    """Why this checkout cannot be released; empty if it can."""
    found = []
    version, changelog = version_of(root), (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if changed := run("git", "status", "--porcelain", cwd=root).strip():
        found.append(f"the tree is not clean: commit or remove\n{changed}")
    newest = HEADING.search(changelog)
    if newest is None or newest[1] != version:
        at = newest[1] if newest else "none"
        found.append(
            f"CHANGELOG.md: expected {version} (fastfashion.__version__) as its newest heading, found {at}: write what changed below it"
        )
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2]):
        found.append(f"CHANGELOG.md: expected a date in `## {version} (YYYY-MM-DD)`, found ({newest[2]})")
    if run("git", "tag", "--list", f"v{version}", cwd=root).strip():
        found.append(f"the tag v{version} exists: this version was released; raise fastfashion.__version__")
    return found


def check_sdist(sdist: Path, jpeg: Path) -> None:
    """The sdist installs into an empty environment, compiled there, and does what the wheel does."""
    with tempfile.TemporaryDirectory(prefix="fastfashion-sdist-") as name:
        folder = Path(name)
        python = make_wheel.environment(sys.executable, folder / "venv", sdist, needs=make_wheel.dependencies(), jpeg=jpeg)
        answer = make_wheel.smoke(python, folder / "run")
    say(f"Python {answer['python']}: the sdist installs and works")


def package() -> None:
    jpeg = WORK / "jpeg"
    sdist, wheel = make_wheel.make(jpeg=jpeg, source=None, dist=DIST, pythons=make_wheel.other_pythons())
    run(make_wheel.tools() / "twine", "check", "--strict", sdist, wheel)
    check_sdist(sdist, jpeg)
    version = version_of(ROOT)
    say(f"\nfastfashion {version} is ready; nothing was uploaded. Files, with their sha256:\n")
    for path in (sdist, wheel):
        say(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT)}")
    say("\nWheels for other systems: cibuildwheel, with this commit checked out on each (docs/releases.md). Then:\n")
    say(f"git tag v{version} && git push origin v{version}\n{make_wheel.tools() / 'twine'} upload dist/*")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["check", "package"])
    asked = parser.parse_args()
    try:
        if asked.step == "package":
            package()
            return 0
        found = problems(ROOT)
    except (WheelError, static_jpeg.BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for each in found:
        print(f"error: {each}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
