"""A run that was never trained: random weights, whole folder, in a second. And a server of it in a process of its own."""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import workers

from fastfashion.config import DataConfig, ModelConfig, RunConfig, Size
from fastfashion.files import publish_json
from fastfashion.load.fit import Fit
from fastfashion.model.artifact import ModelDescription, save_artifact
from fastfashion.model.net import build_classifier
from fastfashion.shards import open_packed_set

TASKS = ("subCategory", "season")


def make_run(
    folder: Path, shards: Path, *, size: str = "64x48", model: str = "resnet10t", tasks: tuple[str, ...] = TASKS, **more: Any
) -> Path:
    """A run on a packed set, its full images, whose classifier has random weights, the same each time; `more` are settings of its data."""
    folder.mkdir(parents=True)
    vocab = open_packed_set(shards).vocab
    classes = {task: list(vocab.names(task)) for task in tasks}
    data = DataConfig(shards=str(shards), resolution="full", size=size, task=",".join(tasks), **more)
    settings = ModelConfig(name=model, pretrained=False)
    publish_json(folder / "config.json", RunConfig(data=data, model=settings).to_dict())
    torch.manual_seed(0)
    classifier = build_classifier(settings, {task: len(names) for task, names in classes.items()}, Size.parse(size))
    classifier.temperatures.fill_(0.25)
    with torch.inference_mode():  # batch norms of random weights let features explode or vanish: use statistics of noise
        classifier.train()
        height, width = map(int, size.split("x"))
        for _ in range(20):
            classifier.features(torch.randint(0, 256, (16, height, width, 3), dtype=torch.uint8))
    description = ModelDescription(model=model, size=size, classes=classes, flip_average=True, fit=Fit.of(data))
    save_artifact(folder / "best", classifier.eval().state_dict(), description)
    return folder


class ServedRun:
    """`fastfashion serve` on a free port of this machine, forked from the warm server."""

    def __init__(self, run: Path, *options: str, home: Path | None = None, timeout_s: float = 900) -> None:
        """`home` is where its temporary files go, if given."""
        self.home = home
        environment = os.environ | {"HF_HUB_OFFLINE": "1"} | ({"TMPDIR": str(home)} if home else {})
        self.process = workers.begin("serve", run, "--port", "0", *options, env=environment)
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(r"(http://\S+/) answers; ", self.said)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise AssertionError(self.said)
            time.sleep(0.02)
        self.url = found[1]

    @property
    def said(self) -> str:
        """All that it has printed for people."""
        return self.process.stderr

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
