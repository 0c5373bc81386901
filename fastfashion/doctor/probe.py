"""What `fastfashion doctor` tries in other processes, so that a driver that crashes or a silent server ends one probe alone.

python -m fastfashion.doctor.probe NAME… ─► one line of JSON each: {"name": …, and what was found, or "error": why not}
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastfashion.extras import install, lacks

HUB_MODEL = "timm/resnet18.a1_in1k"  # the weights that training starts from by default
DALI_BUILDS = "nvidia-dali-cuda"
NETWORK_S = 5.0  # for a server to answer
ROWS = 120  # from 100 on, a drawn set has every kind of product


def gpu() -> dict[str, Any]:
    """What the driver says, and what torch can do with it."""
    import torch

    found: dict[str, Any] = {"torch": str(torch.__version__), "torch_cuda": torch.version.cuda, "gpus": [], **_driver()}
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        for about in map(torch.cuda.get_device_properties, devices):
            found["gpus"].append({"name": about.name, "memory_bytes": about.total_memory, "capability": f"{about.major}.{about.minor}"})
        found |= _attempt(lambda: {"sums": [torch.ones(4, device=f"cuda:{number}").sum().item() for number in devices]})
    return found


def _driver() -> dict[str, Any]:
    """Version, the highest CUDA that it takes, and the GPUs that it sees, whatever torch thinks of them."""
    import ctypes

    found: dict[str, Any] = {"driver": None, "driver_cuda": None, "driver_gpus": []}
    with suppress(OSError):
        version = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) == 0:
            found["driver_cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        lines = [line.partition(", ") for line in done.stdout.splitlines() if ", " in line] if done.returncode == 0 else []
        if lines:
            found["driver"], found["driver_gpus"] = lines[0][0], [name for _, _, name in lines]
    return found


def dali() -> dict[str, Any]:
    """The installed builds, and whether one brings images to the device that training would use."""
    builds = sorted(
        (name, distribution.version)
        for distribution in importlib.metadata.distributions()
        if (name := str(distribution.metadata["Name"]).lower().replace("_", "-")).startswith(DALI_BUILDS)
    )
    found: dict[str, Any] = {"builds": dict(builds)}
    if builds:
        found |= _attempt(lambda: _load("dali"))
    return found


def threads() -> dict[str, Any]:
    from fastfashion.config import DataConfig
    from fastfashion.load.crops import decoder_name, is_native

    return {"native": is_native(), "decoder": decoder_name(DataConfig().decoder), **_attempt(lambda: _load("threads"))}


def _load(backend: str) -> dict[str, Any]:
    """Draw some images, pack them, and load them, on the GPU if there is one."""
    import numpy as np
    import torch

    from fastfashion import dist
    from fastfashion.config import DataConfig
    from fastfashion.load import Loader, Selection, make_spec
    from fastfashion.pack import PackRequest, pack
    from fastfashion.shards import open_packed_set
    from fastfashion.sources.synth import write_synth

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="fastfashion-") as folder:
        home = Path(folder)
        write_synth(home / "drawn", rows=ROWS, width_px=60, height_px=80, seed=0, workers=1)
        pack(PackRequest(source=home / "drawn", out=home / "packed", resolutions=("full",), workers=1))
        packed = open_packed_set(home / "packed")
        data = DataConfig(resolution="full", size="80x64", backend=backend, workers=1, on_bad="skip")
        chosen = Selection(rows=np.arange(64), batch_size=32, tasks=("subCategory",))
        with Loader(make_spec(packed, chosen, data, dist.World(device=device))) as loader:
            num_images = sum(int((batch.rows >= 0).sum()) for batch in loader.steps(0))
    return {"num_images": num_images, "device": device.type}


def kaggle() -> dict[str, Any]:
    """Whether Kaggle gives the small set, with the credentials that are found here."""
    from fastfashion.sources.download import SETS
    from fastfashion.sources.kaggle_api import CutError, credentials, open_archive

    found: dict[str, Any] = {"credentials": None, "num_bytes": None}
    if module := lacks("kaggle", "requests"):
        return found | {"error": f"{module} is not installed\n{install('kaggle')}"}
    found["credentials"] = credentials()
    try:
        archive = open_archive(SETS["small"], NETWORK_S)
    except (CutError, ValueError) as error:
        return found | {"error": str(error)}
    archive.response.close()
    return found | {"num_bytes": archive.size}


def hub() -> dict[str, Any]:
    """Whether the first weights are here already, and whether the Hub has them."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(HUB_MODEL, "model.safetensors"), str)
    found: dict[str, Any] = {"endpoint": constants.ENDPOINT, "offline": bool(constants.HF_HUB_OFFLINE), "cached": cached}
    return found if found["offline"] else found | _attempt(lambda: {"model": HfApi().model_info(HUB_MODEL, timeout=NETWORK_S).id})


def _attempt(what: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the probe returns, or {"error": why it failed}."""
    try:
        return what()
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}


PROBES: dict[str, Callable[[], dict[str, Any]]] = {"gpu": gpu, "dali": dali, "threads": threads, "kaggle": kaggle, "hub": hub}


def main(names: list[str]) -> None:
    """Only the JSON goes to stdout: libraries print there, too."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for name in names:
            print(json.dumps({"name": name} | _attempt(PROBES[name])), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
