"""Make a virtual environment and install this checkout into it: `python tools/install.py .venv all` or `… .venv dev`.

uv installs if pip can get it, because it is several times as fast; pip installs if not. uv gets the indexes, certificates and proxy
that pip is configured with, and the versions of constraints.txt. Standard library only: it runs before anything is installed.
"""

import ast
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
EXPECTED = {  # what is said first: disk, and time with a fast network and two cores
    "all": "8 GB on disk (torch with CUDA's libraries, DALI, the page); under a minute with uv, four with pip",
    "dev": "8 GB on disk (torch with CUDA's libraries, DALI, what tests need); under a minute with uv, four with pip",
}
NAMES = {  # pip's name -> uv's variable
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
SECTIONS = ("global", "install", ":env:")  # the later one counts


def uv_environment(pip_config: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make uv look where pip looks; pip_config: what `pip config list` prints. Those that are set already stay."""
    values: dict[str, str] = {}
    lines = [line.partition("=") for line in pip_config.splitlines() if "=" in line]
    for section in SECTIONS:
        for key, _, value in lines:
            if key.startswith(f"{section}."):
                values[key.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    found = {}
    for name, value in values.items():
        if name in NAMES:
            found[NAMES[name]] = (",", " ")[name != "find-links"].join(value.split())
    if "UV_INDEX" in found:  # pip takes the best version of all indexes, uv by itself those of the first that has the package
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in found.items() if name not in environment}


def run(*command: str | Path, **variables: str) -> bool:
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=os.environ | variables, check=False).returncode == 0


def install(venv: Path, extra: str) -> bool:
    python, target = venv / "bin" / "python", f".[{extra}]"
    quiet = ("--quiet", "--disable-pip-version-check")
    if not python.exists() and not run(sys.executable, "-m", "venv", venv):
        return False
    if run(python, "-m", "pip", "install", *quiet, "-c", CONSTRAINTS, "uv"):
        config = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
        command = (venv / "bin" / "uv", "pip", "install", "--quiet", "--python", python, "-c", CONSTRAINTS)
        if run(*command, "--reinstall-package", "fastfashion", "-e", target, **uv_environment(config, os.environ)):
            return True
        print("uv could not install it (above): pip tries", file=sys.stderr)
    else:
        print("pip could not get uv (above), and installs by itself", file=sys.stderr)
    return run(python, "-m", "pip", "install", *quiet, "-c", CONSTRAINTS, "-e", target)


def main() -> int:
    venv, extra = ROOT / sys.argv[1], sys.argv[2]
    print(f"installing fastfashion[{extra}] into {venv}: {EXPECTED[extra]}", file=sys.stderr, flush=True)
    started = time.monotonic()
    if not install(venv, extra):
        print("error: not installed; what failed is above", file=sys.stderr)
        return 1
    print(f"installed in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
