"""What an installed fastfashion must do, and the bytes that it makes: `python tools/smoke.py [--decode]`, from any folder but the checkout.

    JPEGs ─► native decoder = Pillow, bit for bit;  synth ─► shard ─► two batches;  doctor ─► "compiled"

Prints one JSON document with checksums, to compare installations, and ends with 1 where something is wrong. --decode: only the decoder,
which needs numpy and Pillow and nothing else.
"""

import argparse
import hashlib
import importlib.util
import io
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

SIZES_PX = ((1, 1), (17, 9), (60, 80), (299, 224))
MODES = (("RGB", 0), ("RGB", 1), ("RGB", 2), ("L", 0))  # 4:4:4, 4:2:2, 4:2:0, grayscale


class SmokeError(Exception):
    """What was expected of the installed package, and what was found."""


def package() -> Path:
    """The folder of the installed package, not imported yet; raises SmokeError if there is none."""
    spec = importlib.util.find_spec("fastfashion")
    if spec is None or spec.origin is None:
        raise SmokeError(f"fastfashion is not installed for {sys.executable}")
    return Path(spec.origin).resolve().parent


def native(home: Path) -> ModuleType:
    """The compiled loader, imported without the rest of the package, which needs torch."""
    found = sorted(home.glob("images/_native*.so")) + sorted(home.glob("images/_native*.pyd"))
    if not found:
        raise SmokeError(f"{home / 'images'} has no compiled loader (_native.abi3.so)")
    spec = importlib.util.spec_from_file_location("fastfashion.images._native", found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decode(module: ModuleType) -> int:
    """Whole JPEGs of several sizes and samplings are what Pillow decodes, bit for bit; returns how many."""
    import numpy as np
    from PIL import Image

    count = 0
    for number, (height, width) in enumerate(SIZES_PX):
        for mode, sampling in MODES:
            noise = np.random.default_rng(number).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(noise).convert(mode).resize((width, height)).save(file, "JPEG", quality=85, subsampling=sampling)
            box, size = np.array([[0, 0, height, width]], dtype=np.int32), np.array([[height, width]], dtype=np.int32)
            out, left, flips = np.zeros((1, height, width, 3), dtype=np.uint8), np.ones(1, dtype=np.uint8), np.zeros(1, dtype=bool)
            data = np.frombuffer(file.getvalue(), dtype=np.uint8)
            module.load_crops([data], box, size, flips, out, height, width, 1e9, left, np.zeros(3))
            expected = np.asarray(Image.open(file).convert("RGB"))
            if left[0] or not np.array_equal(out[0], expected):
                worst = int(np.abs(out[0].astype(int) - expected).max())
                raise SmokeError(
                    f"a {height}x{width} JPEG ({mode}, subsampling {sampling}): expected Pillow's pixels, found a difference of "
                    f"{worst} grey levels (status {left[0]})"
                )
            count += 1
    return count


def digest(parts: "list[bytes]") -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def work(home: Path) -> dict[str, Any]:
    """Synth, shard and two batches by the installed package in folder `home`; checksums of the shards and of the batches."""
    import fastfashion as ff
    from fastfashion.load import crops

    if not crops.is_native():
        raise SmokeError("fastfashion.load.crops.is_native() is False: the compiled loader is not used")
    ff.synth(out=home / "synth", rows=60, size="120x90", workers=1)
    ff.shard(home / "synth", home / "shards", res="full,64", workers=1)
    packed = sorted(path for path in (home / "shards").rglob("*.tar"))
    settings = {"augment.brightness": 0.2}
    with ff.loader(home / "shards", size="80x64", batch_size=16, backend="threads", settings=settings, device="cpu") as loader:
        batches = [batch.images.numpy().tobytes() + batch.rows.numpy().tobytes() for batch in itertools.islice(loader, 2)]
    return {"shards": digest([path.read_bytes() for path in packed]), "batches": digest(batches)}


def doctor() -> str:
    """What `fastfashion doctor` says of the thread loader; raises SmokeError if that is not "compiled"."""
    command = [sys.executable, "-m", "fastfashion", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        facts = json.loads(done.stdout)["facts"]
    except (ValueError, KeyError) as error:
        raise SmokeError(f"fastfashion doctor --json ended with {done.returncode}: {done.stderr[-500:]}") from error
    if not facts["threads"].get("native") or "error" in facts["threads"]:
        raise SmokeError(f"fastfashion doctor: expected a compiled loader, found {facts['threads']}")
    return "compiled"


def system_jpeg() -> list[str] | None:
    """Files of a libjpeg of the system that this process has loaded; None where that cannot be read."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return None
    paths = {line.split(maxsplit=5)[5] for line in maps.read_text(encoding="utf-8").splitlines() if line.count("/")}
    return sorted(path for path in paths if Path(path).name.startswith("libjpeg") and "site-packages" not in path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decode", action="store_true", help="only compare the compiled decoder with Pillow")
    asked = parser.parse_args()
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]  # the other scripts beside this one are no modules
    try:
        home = package()
        answer: dict[str, Any] = {"python": sys.version.split()[0], "package": str(home), "decoded": decode(native(home))}
        if not asked.decode:
            with tempfile.TemporaryDirectory(prefix="fastfashion-smoke-") as folder:
                answer |= work(Path(folder))
            answer["doctor"] = doctor()
        answer["system_jpeg"] = system_jpeg()
    except SmokeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
