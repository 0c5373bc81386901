"""Fuzz our own JPEG decoder in C alone, ten times as fast as through Python: `make fuzz`, or this file with --help.

    tests/jpeg_zoo.py: seeds ─► fuzz_jpeg.c: mutate, decode in several ways, compare ─► a report, or none

All is built with AddressSanitizer and UndefinedBehaviorSanitizer (gcc is enough), or with MemorySanitizer (--memory, which takes clang and
does without libjpeg). What runs in a batch of 256 depends on (--seed, number of the batch) alone: a report names both.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sanitized import ADDRESS, DEBUG, MEMORY, NATIVE, compile_all

ROOT = Path(__file__).parents[1]
HARNESS = ROOT / "tools" / "fuzz_jpeg.c"
OPTIONS = {  # a header asks for as much memory as it likes
    "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=2048:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=99",
    "MSAN_OPTIONS": "allocator_may_return_null=1:exitcode=99",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    parser.add_argument("--batches", type=int, default=0, help="end after this many batches of 256 runs instead")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first batch")
    parser.add_argument("--native", type=Path, default=NATIVE, help="folder of the sources to build")
    parser.add_argument("--memory", action="store_true", help="look for reads of memory that nothing was written to (clang)")
    parser.add_argument("--objects", type=Path, help="folder for what is compiled, which a later run uses again")
    parser.add_argument("--keep", type=Path, help="build into this folder, and leave program and corpus there")
    asked = parser.parse_args()
    compiler = os.environ.get("CC", "clang" if asked.memory else "gcc")
    if shutil.which(compiler) is None:
        print(f"error: {compiler} is not here: install it, or name another compiler with CC", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fastfashion-fuzz-") as folder:
        home = asked.keep or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        program = build(compiler, asked.native, asked.objects or home, home, memory=asked.memory)
        make_corpus(home / "corpus")
        limits = [str(asked.seconds), str(asked.batches), str(asked.seed), str(asked.first)]
        status = subprocess.run([str(program), str(home / "corpus"), *limits], env=os.environ | OPTIONS).returncode
    return 1 if status else 0


def build(compiler: str, source: Path, objects: Path, home: Path, memory: bool) -> Path:
    """The harness, and all but Python's entry points."""
    sources = [path for path in sorted(source.glob("*.c")) if "Python.h" not in path.read_text(encoding="utf-8")]
    program, flags = home / "fuzz_jpeg", [*DEBUG, *(MEMORY if memory else ADDRESS)]
    compiled = compile_all(compiler, sources, source, objects, flags)
    compiled += compile_all(compiler, [HARNESS], source, objects, [*flags, "-Wall", "-Wextra", *(["-DWITHOUT_LIBJPEG"] if memory else [])])
    subprocess.run([compiler, *flags, *map(str, compiled), "-o", str(program), "-ljpeg", "-lm"], check=True)
    return program


def make_corpus(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    import jpeg_zoo

    jpeg_zoo.main(folder)


if __name__ == "__main__":
    sys.exit(main())
