"""Compile the native code with sanitizers, each file once: for tools/fuzz_native.py and tools/fuzz_jpeg.py."""

import hashlib
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NATIVE = Path(__file__).parents[1] / "fastfashion" / "images" / "native"
DEBUG = ["-O1", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off", "-fPIC"]
ADDRESS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
MEMORY = ["-fsanitize=memory", "-fsanitize-memory-track-origins", "-fno-sanitize-recover=all"]


def compile_all(compiler: str, sources: Sequence[Path], headers: Path, objects: Path, flags: Sequence[str]) -> list[Path]:
    """Objects of C files, in the folder `objects`; what is there of the same source, headers and flags stays."""
    objects.mkdir(parents=True, exist_ok=True)
    common = hashlib.sha256("\0".join([compiler, *flags]).encode())
    for header in sorted(headers.glob("*.h")):
        common.update(header.read_bytes())

    def compile_one(source: Path) -> Path:
        digest = common.copy()
        digest.update(source.read_bytes())
        found = objects / f"{source.stem}-{digest.hexdigest()[:16]}.o"
        if not found.exists():
            beside = found.with_suffix(".new.o")
            subprocess.run([compiler, *flags, f"-I{headers}", "-c", str(source), "-o", str(beside)], check=True)
            beside.replace(found)
        return found

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, sources))
