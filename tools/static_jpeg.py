"""Build a static, position-independent libjpeg-turbo: `python tools/static_jpeg.py PREFIX [--source TARBALL]`.

    pinned tarball (sha256 checked) ─► cmake, SIMD required ─► PREFIX/lib/libjpeg.a, PREFIX/include ─► FASTFASHION_JPEG=PREFIX pip wheel .

Wheels link it, so that everybody who installs one has the native loader, without a compiler and without the system's libjpeg. A PREFIX
that holds this version already stays as it is. Needs cmake, a C compiler and, on x86-64, nasm. Standard library only, Python 3.11: it runs
in build containers.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

# Decodes to the same pixels as 2.1.5, which the golden pixels of tests/ come from. Debian has this file as libjpeg-turbo_3.1.3.orig.tar.gz.
VERSION = "3.1.3"
URL = f"https://github.com/libjpeg-turbo/libjpeg-turbo/archive/refs/tags/{VERSION}.tar.gz"
SHA256 = "3a13a5ba767dc8264bc40b185e41368a80d5d5f945944d1dbaa4b2fb0099f4e5"
SOURCE = "FASTFASHION_JPEG_SOURCE"  # where --source is not given: a tarball on this machine
SIMD = (b"jsimd_idct_islow_avx2", b"jsimd_idct_islow_neon")  # without these functions decoding takes three times as long
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_POSITION_INDEPENDENT_CODE": "1",
    "CMAKE_INSTALL_LIBDIR": "lib",
    "ENABLE_SHARED": "0",
    "REQUIRE_SIMD": "1",  # an error where nasm is missing
    "WITH_TURBOJPEG": "0",
    "WITH_TOOLS": "0",
    "WITH_TESTS": "0",
}


class BuildError(Exception):
    """What went wrong, and what to do."""


class MissingError(BuildError):
    """The source or a program is not on this machine."""


def stamp() -> str:
    return f"libjpeg-turbo {VERSION} {SHA256}\n"


def is_built(prefix: Path) -> bool:
    """Whether PREFIX holds this version, complete."""
    marked = prefix / "version.txt"
    return marked.is_file() and marked.read_text(encoding="utf-8") == stamp()


def has_simd(library: Path) -> bool:
    """Whether a static library, or a shared one with its symbols, holds the SIMD decoder of x86-64 or of ARM."""
    data = library.read_bytes()
    return any(name in data for name in SIMD)


def fetch(target: Path) -> None:
    """Download the pinned tarball. Raises MissingError if it cannot be read."""
    try:
        with urllib.request.urlopen(URL, timeout=30) as answer, target.open("wb") as out:
            shutil.copyfileobj(answer, out)
    except (urllib.error.URLError, OSError) as error:
        raise MissingError(
            f"{URL} cannot be downloaded: {error}; name a copy on this machine with --source or {SOURCE} (its sha256 must be {SHA256})"
        ) from error


def checked(tarball: Path) -> Path:
    """The tarball, if its bytes are the pinned ones; raises BuildError otherwise."""
    if not tarball.is_file():
        raise MissingError(f"{tarball}: no such file; expected the source of libjpeg-turbo {VERSION}")
    found = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if found != SHA256:
        raise BuildError(
            f"{tarball}: sha256 is {found}, expected {SHA256}: not the source of libjpeg-turbo {VERSION} that this project pins"
        )
    return tarball


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"`{command[0]} …` failed with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def build(tarball: Path, prefix: Path) -> None:
    """Unpack, build and install into PREFIX, which is replaced as a whole."""
    needed = ["cmake", *(["nasm"] if platform.machine() in ("x86_64", "AMD64") else [])]
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        raise BuildError(
            f"{' and '.join(missing)} not found: install it (Debian: apt install {' '.join(missing)} gcc; cmake also from PyPI)"
        )
    with tempfile.TemporaryDirectory(prefix="fastfashion-jpeg-") as name:
        home = Path(name)
        with tarfile.open(tarball) as archive:
            archive.extractall(home, filter="data")
        (source,) = home.iterdir()
        options = [f"-D{key}={value}" for key, value in OPTIONS.items()]
        run("cmake", "-S", source, "-B", home / "build", f"-DCMAKE_INSTALL_PREFIX={home / 'installed'}", *options)
        run("cmake", "--build", home / "build", "--parallel", str(os.cpu_count() or 1))
        run("cmake", "--install", home / "build")
        library = home / "installed" / "lib" / "libjpeg.a"
        if not has_simd(library):
            raise BuildError("the built libjpeg.a has no SIMD decoder: decoding would take three times as long")
        (home / "installed" / "version.txt").write_text(stamp(), encoding="utf-8")
        shutil.rmtree(prefix, ignore_errors=True)
        prefix.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(home / "installed", prefix)


def provide(prefix: Path, source: Path | None = None) -> None:
    """PREFIX holds the pinned library afterwards. `source`: a tarball, by default $FASTFASHION_JPEG_SOURCE, else a download."""
    if is_built(prefix):
        return
    source = source or (Path(os.environ[SOURCE]) if os.environ.get(SOURCE) else None)
    with tempfile.TemporaryDirectory(prefix="fastfashion-jpeg-") as name:
        if source is None:
            source = Path(name) / "source.tar.gz"
            fetch(source)
        build(checked(source), prefix)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", type=Path, help="folder that is made: lib/libjpeg.a and include/")
    parser.add_argument("--source", type=Path, help=f"the tarball, where it need not be downloaded (default ${SOURCE})")
    asked = parser.parse_args()
    try:
        provide(asked.prefix.resolve(), asked.source)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"libjpeg-turbo {VERSION} is in {asked.prefix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
