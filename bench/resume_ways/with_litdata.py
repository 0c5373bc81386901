"""LitData: StreamingDataLoader.state_dict() and load_state_dict(), as its README shows under "Pause, resume data streaming".

options: drop_last; parallel (a ParallelStreamingDataset, whose transform gets the generators that the README calls resumable).
"""

from pathlib import Path
from typing import Any

from resume_ways.job import LAST, Job, Way, draw, main

VERSIONS = ("litdata==0.2.76",)
DROP = {"drop_last": True}
WAYS = (
    Way(text="StreamingDataLoader, shuffled, same settings"),
    Way(text="… no workers", workers=0),
    Way(text="… broken in the first epoch", epoch=0),
    Way(text="… state saved in the last step", step=LAST),
    Way(text="… batch size 8 to 4", then={"batch": 4}),
    Way(text="… 2 workers to 1", then={"workers": 1}),
    Way(text="… 2 workers to 3", then={"workers": 3}),
    Way(text="… 2 processes", world=2),
    Way(text="… 2 processes to 1, same global batch", world=2, then={"world": 1}),
    Way(text="… 1 process to 2, same global batch", then={"world": 2}),
    Way(text="… drop_last=True, 2 workers to 1", options=DROP, then={"workers": 1}),
    Way(text="… drop_last=True, 2 workers to 3", options=DROP, then={"workers": 3}),
    Way(text="… drop_last=True, 2 processes to 1", world=2, options=DROP, then={"world": 1}),
    Way(text="ParallelStreamingDataset with generators in its transform, same settings", options={"parallel": True}),
)


def sample(row: int) -> dict[str, int]:
    return {"id": row}


def prepare(folder: Path, rows: int) -> None:
    from litdata import optimize

    optimize(fn=sample, inputs=list(range(rows)), output_dir=str(folder), chunk_size=10, num_workers=1)


def with_generator(samples: Any, generators: Any) -> dict[str, Any]:
    (sample,) = samples
    return sample | {"draw": generators["random"].random()}


def run(job: Job) -> None:
    if job.world > 1:
        import torch

        torch.distributed.init_process_group("gloo")
    loader = make_loader(job)
    if job.second:
        loader.load_state_dict(job.load())
    for epoch in job.epochs:
        for batch in loader:
            if job.seen(epoch, batch["id"], batch["draw"]):
                job.save(loader.state_dict())


def make_loader(job: Job) -> Any:
    from litdata import ParallelStreamingDataset, StreamingDataLoader, StreamingDataset

    class Drawn(StreamingDataset):
        def __getitem__(self, index: Any) -> dict[str, Any]:
            return super().__getitem__(index) | {"draw": draw()}

    given = {"shuffle": True, "drop_last": job.options.get("drop_last", False), "seed": 1}
    if job.options.get("parallel"):
        dataset: Any = ParallelStreamingDataset([StreamingDataset(str(job.data), **given)], transform=with_generator, seed=1)
    else:
        dataset = Drawn(str(job.data), **given)
    return StreamingDataLoader(dataset, batch_size=job.batch_here, num_workers=job.workers)


if __name__ == "__main__":
    main(run, prepare)
