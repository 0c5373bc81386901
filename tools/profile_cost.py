"""What an ICC profile costs when an image is decoded, on drawn images.

    python tools/profile_cost.py --rounds 15 --out bench/results/profile-cost-2-cores.json

In each round, one after the other, the same image with each profile, and without one, through `codec.decode_rgb`; the first decode of a
profile, which makes its conversion, apart (`first_ms`). One thread, CPU time; ratios are to the image without a profile of the same round.
"""

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from fastfashion.bench import spread
from fastfashion.images import codec
from fastfashion.provenance import git_commit, machine_info, package_versions

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from odd_images import ink_corners
from odd_writers import ADOBE_GAMMA, ADOBE_XYZ, P3_XYZ, cmyk_profile, rgb_profile

HEIGHT_PX, WIDTH_PX = 1000, 1000


def drawn() -> np.ndarray:
    """Smooth colours with as much noise as a photograph has, uint8 (1000, 1000, 3)."""
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    waves = [128 + 100 * np.sin(x / (90 + 30 * channel) + y / (140 - 25 * channel)) for channel in range(3)]
    noise = np.random.default_rng(0).normal(0, 4, (HEIGHT_PX, WIDTH_PX, 3))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def jpeg(mode: str, profile: bytes | None) -> bytes:
    out = io.BytesIO()
    Image.fromarray(drawn()).convert(mode).save(out, "JPEG", quality=90, icc_profile=profile)
    return out.getvalue()


def cpu_ms(data: bytes) -> float:
    started = time.process_time()
    codec.decode_rgb(data)
    return 1000 * (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    options = parser.parse_args()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    images = {
        "no profile": jpeg("RGB", None),
        "sRGB": jpeg("RGB", srgb),
        "Display P3": jpeg("RGB", rgb_profile(P3_XYZ)),
        "Adobe RGB": jpeg("RGB", rgb_profile(ADOBE_XYZ, ADOBE_GAMMA)),
        "CMYK, no profile": jpeg("CMYK", None),
        "CMYK": jpeg("CMYK", cmyk_profile(ink_corners())),
    }
    first = {name: cpu_ms(data) for name, data in images.items()}
    times: dict[str, list[float]] = {name: [] for name in images}
    for _ in range(options.rounds):
        for name, data in images.items():
            times[name].append(cpu_ms(data))
    rows = {}
    for name, values in times.items():
        plain = times["CMYK, no profile" if name.startswith("CMYK") else "no profile"]
        ratios = [value / of_plain for value, of_plain in zip(values, plain, strict=True)]
        rows[name] = spread(values, 2, "ms") | {"of_no_profile": spread(ratios, 3)["median"], "first_ms": round(first[name], 2)}
    result = {
        "rows": rows,
        "pixels": HEIGHT_PX * WIDTH_PX,
        "rounds": options.rounds,
        "command": " ".join(["python", *sys.argv]),
        "commit": git_commit(),
        "machine": machine_info(),
        "versions": package_versions(["fastfashion", "simplejpeg", "pillow", "numpy"]),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
