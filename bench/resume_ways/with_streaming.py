"""MosaicML Streaming: StreamingDataLoader.state_dict() and load_state_dict(), as its guide "Fast Resumption" shows.

The state is taken on all ranks, saved on rank 0 and loaded on all.

options: nodes (num_canonical_nodes), listed (a collate_fn that returns a list of samples).
"""

from pathlib import Path
from typing import Any

from resume_ways.job import LAST, Job, Way, draw, main

VERSIONS = ("mosaicml-streaming==0.13.0",)
WAYS = (
    Way(text="StreamingDataLoader, shuffled, same settings"),
    Way(text="… no workers", workers=0),
    Way(text="… broken in the first epoch", epoch=0),
    Way(text="… state saved in the last step", step=LAST),
    Way(text="… batch size 8 to 4", then={"batch": 4}),
    Way(text="… 2 workers to 1", then={"workers": 1}),
    Way(text="… 2 processes, 192 samples", rows=192, world=2),
    Way(text="… 2 processes to 1, same global batch, 192 samples", rows=192, world=2, then={"world": 1}),
    Way(text="… 1 process to 2, same global batch, 192 samples", rows=192, then={"world": 2}),
    Way(text="… 2 processes to 1, same global batch, 203 samples", rows=203, world=2, then={"world": 1}),
    Way(
        text="… 2 processes to 1, same global batch, 203 samples, num_canonical_nodes=2",
        rows=203,
        world=2,
        options={"nodes": 2},
        then={"world": 1},
    ),
    Way(text="… collate_fn that returns a list of samples", options={"listed": True}),
)


def prepare(folder: Path, rows: int) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"id": "int"}, size_limit=512) as writer:
        for row in range(rows):
            writer.write({"id": row})


def as_list(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return samples


def run(job: Job) -> None:
    from streaming import StreamingDataLoader, StreamingDataset

    class Drawn(StreamingDataset):
        def __getitem__(self, at: Any) -> dict[str, Any]:
            return super().__getitem__(at) | {"draw": draw()}

    if job.world > 1:
        import torch

        torch.distributed.init_process_group("gloo")
    more = {"num_canonical_nodes": job.options["nodes"]} if job.options.get("nodes") else {}
    dataset = Drawn(local=str(job.data), batch_size=job.batch_here, shuffle=True, shuffle_seed=1, **more)
    listed = {"collate_fn": as_list} if job.options.get("listed") else {}
    loader = StreamingDataLoader(dataset, batch_size=job.batch_here, num_workers=job.workers, **listed)
    if job.second:
        loader.load_state_dict(job.load())
    for epoch in job.epochs:
        for batch in loader:
            ids, draws = zip(*((one["id"], one["draw"]) for one in batch), strict=True) if listed else (batch["id"], batch["draw"])
            if job.seen(epoch, ids, draws):
                state = loader.state_dict()
                if job.rank == 0:
                    job.save(state)


if __name__ == "__main__":
    main(run, prepare)
