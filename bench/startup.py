"""From the call to the first batch: seconds and memory besides torch, in fresh processes, beside ImageFolder + DataLoader, in turns.

python bench/startup.py --shards shards/small --out FILE

Each process imports torch, notes the time and its memory, and then imports what it needs, opens a loader of the training rows with crops
and flips, and takes one batch. ImageFolder gets the same images as files in a folder a class. Memory is the resident set (Linux) without
that of `import torch`; `private_mb` leaves out pages of files, such as libraries and mapped shards; `workers_mb` is the proportional share
(PSS) of worker processes. The first round, which warms the disk's cache, is not counted.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import fastfashion as ff
from command import Out, command_line, run
from fastfashion.bars import tqdm
from fastfashion.bench import PACKAGES, spread, write_record
from fastfashion.errors import ConfigError
from fastfashion.provenance import git_commit, machine_info, package_versions
from fastfashion.scratch import scratch
from fastfashion.tables import table_text

CHILD = Path(__file__).with_name("startup_child.py")
OURS, FOLDER = "ff.loader, threads", "ImageFolder + DataLoader, {} workers"
WAYS: dict[str, int | None] = {OURS: None, FOLDER.format(0): 0, FOLDER.format(2): 2}  # worker processes of DataLoader; None: ours
MEASURED = ("seconds", "rss_mb", "private_mb", "workers_mb")


def write_folder(shards: Path, folder: Path) -> int:
    """The images of the training rows as files in a folder a class; returns how many."""
    packed = ff.open_packed_set(shards)
    with ff.loader(packed, backend="threads", device="cpu", augment=False) as loader:
        images, labels = loader.spec.images, loader.spec.labels
        for row in tqdm(loader.rows.tolist(), "files for ImageFolder", disable=None, leave=False):
            path = folder / f"class_{int(labels[row, 0]) + 1:04d}" / f"{images.id_of(row)}.jpg"  # a class may have a slash in its name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(images.encoded(row).tobytes())
        return len(loader.rows)


def first_batch(settings: dict[str, Any]) -> dict[str, float]:
    """What one fresh process measured."""
    done = subprocess.run([sys.executable, str(CHILD), json.dumps(settings)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{CHILD.name}: it ended with status {done.returncode}; its own error is above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def row_of(name: str, measured: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {"name": name} | {what: spread([one[what] for one in measured], 3 if what == "seconds" else 1) for what in MEASURED}


def main(
    shards: Annotated[Path, typer.Option(help="Folder of a packed set.")],
    size: Annotated[str, typer.Option(help="Input size of a model, HxW in pixels.")] = "80x64",
    batch_size: Annotated[int, typer.Option(help="Images of the batch.")] = 128,
    workers: Annotated[int, typer.Option(help="Threads of ff.loader.")] = 2,
    rounds: Annotated[int, typer.Option(help="Fresh processes of each.", min=1)] = 9,
    out: Out = None,
) -> None:
    """Measure how long a loader takes to its first batch, and how much memory."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    with scratch() as folder:
        count = write_folder(shards, folder)
        settings = {"shards": str(shards.resolve()), "folder": str(folder), "size": size, "batch_size": batch_size, "threads": workers}
        for number in tqdm(range(rounds + 1), "rounds", disable=None, leave=False):
            names = list(WAYS)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                one = first_batch(settings | {"workers": WAYS[name]})
                measured[name] += [one] if number else []
    rows = [row_of(name, found) for name, found in measured.items()]
    record: dict[str, Any] = {"command": command_line(), "commit": git_commit(), "set": shards.resolve().name, "images": count}
    record |= {"size": size, "batch_size": batch_size, "threads": workers, "rounds": rounds, "rows": rows}
    write_record(out, record | {"machine": machine_info(), "versions": package_versions(PACKAGES)})
    lines = [[row["name"], f"{row['seconds']['median']:.2f}", *(f"{row[what]['median']:.0f}" for what in MEASURED[1:])] for row in rows]
    print(table_text(["to the first batch", "seconds", "MB besides torch", "of it private", "in workers"], lines))


if __name__ == "__main__":
    run(main)
