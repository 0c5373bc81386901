"""One fresh process of startup.py: python startup_child.py '{"shards": …, "workers": null, …}' ─► a line of JSON."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

MB = 1e6


def memory() -> dict[str, float]:
    """Resident memory of this process, and what of it is no page of a file, in MB; 0 if the system does not say."""
    fields = {}
    if (status := Path("/proc/self/status")).is_file():
        fields = {name: value for name, _, value in (line.partition(":") for line in status.read_text().splitlines())}
    return {name: int(fields.get(key, "0").split()[0]) * 1024 / MB for name, key in (("rss_mb", "VmRSS"), ("private_mb", "RssAnon"))}


def workers_mb() -> float:
    """The proportional share of memory of this process's children, in MB."""
    found = 0
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
            found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found * 1024 / MB


def ours(settings: dict[str, Any]) -> Any:
    import fastfashion as ff

    loader = ff.loader(
        settings["shards"],
        batch_size=settings["batch_size"],
        size=settings["size"],
        backend="threads",
        workers=settings["threads"],
        device="cpu",
    )
    batches = iter(loader)
    return next(batches).images, batches


def image_folder(settings: dict[str, Any]) -> Any:
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    height, width = map(int, settings["size"].split("x"))
    crops = [transforms.RandomResizedCrop((height, width)), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    dataset = ImageFolder(settings["folder"], transform=transforms.Compose(crops))
    batches = iter(DataLoader(dataset, batch_size=settings["batch_size"], shuffle=True, num_workers=settings["workers"]))
    return next(batches)[0], batches


def main() -> None:
    settings = json.loads(sys.argv[1])
    before, started = memory(), time.perf_counter()
    images, batches = (ours if settings["workers"] is None else image_folder)(settings)
    seconds, after = time.perf_counter() - started, memory()
    assert images.shape[0] in (settings["batch_size"], settings["batch_size"] - 1) and images.dtype == torch.uint8, images.shape
    found = {"seconds": seconds, "workers_mb": workers_mb(), **{name: after[name] - before[name] for name in after}}
    print(json.dumps(found), flush=True)
    del batches
    os._exit(0)  # the end of DataLoader's processes is not measured


main()
