"""webdataset: it has no state of its own (its author recommends `resampled=True` and a new start), so torchdata's StatefulDataLoader counts
batches around it. Eight tars of 25 samples.

options: loader ("web": WebLoader, else StatefulDataLoader), seed (of WebDataset), buffer (shuffle), resampled, detshuffle, persistent
(workers), pipeline (stages by hand, so that detshuffle gets the epoch).
"""

import io
import tarfile
from pathlib import Path
from typing import Any

from resume_ways.job import Job, Way, draw, main

VERSIONS = ("webdataset==1.0.2", "torchdata==0.11.0")
SHARDS = 8
DETSHUFFLE = {"seed": 1, "detshuffle": True, "persistent": True, "buffer": 0}
WAYS = (
    Way(text="WebLoader.state_dict()", options={"loader": "web"}),
    Way(text="StatefulDataLoader, shardshuffle=100, shuffle(50), no seed"),
    Way(text="StatefulDataLoader, shardshuffle=100, shuffle(50, seed=1), seed=1", options={"seed": 1}),
    Way(text="StatefulDataLoader, detshuffle=True, seed=1, shardshuffle=100, persistent workers", options=DETSHUFFLE),
    Way(text="… broken in the first epoch", epoch=0, options=DETSHUFFLE),
    Way(text="… as a DataPipeline, detshuffle(100, seed=1, epoch=e - 1) in the new process", options=DETSHUFFLE | {"pipeline": True}),
    Way(text="StatefulDataLoader, no shuffling", shuffled=False, options={"seed": 1, "buffer": 0, "shards": False}),
    Way(text="… batch size 8 to 4", shuffled=False, options={"buffer": 0, "shards": False}, then={"batch": 4}),
    Way(text="… 2 workers to 1", shuffled=False, options={"buffer": 0, "shards": False}, then={"workers": 1}),
    Way(text="StatefulDataLoader, resampled=True, with_epoch(100)", options={"resampled": True}),
)


def prepare(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for row in range(shard * rows // SHARDS, (shard + 1) * rows // SHARDS):
                data = str(row).encode()
                member = tarfile.TarInfo(f"{row:06}.txt")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def with_draw(sample: dict[str, Any]) -> tuple[int, float]:
    return int(sample["txt"]), draw()


def run(job: Job) -> None:
    loader = make_loader(job)
    if job.second:
        loader.load_state_dict(job.load())
    for epoch in job.epochs:
        for ids, draws in loader:
            if job.seen(epoch, ids, draws):
                job.save(loader.state_dict())


def make_loader(job: Job) -> Any:
    import webdataset as wds
    from torchdata.stateful_dataloader import StatefulDataLoader

    options = job.options
    seed, buffer, resampled = options.get("seed"), options.get("buffer", 50), options.get("resampled", False)
    shards = sorted(str(path) for path in job.data.glob("*.tar"))
    more = {} if seed is None else {"seed": seed}
    shuffled = 100 if options.get("shards", True) and not resampled else False
    dataset = wds.WebDataset(shards, shardshuffle=shuffled, resampled=resampled, detshuffle=options.get("detshuffle", False), **more)
    if buffer:
        dataset = dataset.shuffle(buffer, **more)
    dataset = pipeline(job, shards) if options.get("pipeline") else dataset.decode().map(with_draw)
    if resampled:
        dataset = dataset.with_epoch(job.rows // 2)
    settings: dict[str, Any] = {
        "batch_size": job.batch_here,
        "num_workers": job.workers,
        "persistent_workers": options.get("persistent", False),
    }
    return wds.WebLoader(dataset, **settings) if options.get("loader") == "web" else StatefulDataLoader(dataset, **settings)


def pipeline(job: Job, shards: list[str]) -> Any:
    """The stages by hand, since only detshuffle itself takes the epoch that it starts after."""
    import webdataset as wds

    return wds.DataPipeline(
        wds.SimpleShardList(shards),
        wds.detshuffle(100, seed=job.options["seed"], epoch=job.epochs[0] - 1),
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.decode(),
        wds.map(with_draw),
    )


if __name__ == "__main__":
    main(run, prepare)
