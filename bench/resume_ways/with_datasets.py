"""Hugging Face datasets: IterableDataset.state_dict() and load_state_dict(), by hand or through torchdata's StatefulDataLoader, as the
docstring of state_dict and the guide "Stream" show. Four shards of 50 rows.

options: buffer (shuffle(seed=1, buffer_size=…)), max_input (its max_buffer_input_shards), set_epoch (called in every epoch; second run of
"once": not called in the new process), stateful (StatefulDataLoader, else a plain loop without workers), steps (further operations).
"""

from typing import Any

from resume_ways.job import LAST, Job, Way, draw, in_batches, main

VERSIONS = ("datasets==5.2.0", "torchdata==0.11.0")
STATEFUL = {"stateful": True}
WAYS = (
    Way(text="IterableDataset.state_dict, no shuffling, set_epoch in every epoch"),
    Way(text="… after map, filter and batch", options={"steps": True}),
    Way(text="… without set_epoch in the new process", then={"set_epoch": False}),
    Way(text="… state saved in the last step", step=LAST),
    Way(text="shuffle(buffer_size=50), set_epoch in every epoch", options={"buffer": 50}),
    Way(text="shuffle(buffer_size=200), as large as the data", options={"buffer": 200}),
    Way(text="StatefulDataLoader, 2 workers, no shuffling", options=STATEFUL),
    Way(text="… no workers", workers=0, options=STATEFUL),
    Way(text="… batch size 8 to 4", options=STATEFUL, then={"batch": 4}),
    Way(text="… 2 workers to 4", options=STATEFUL, then={"workers": 4}),
    Way(text="StatefulDataLoader, 2 workers, shuffle(buffer_size=50)", options=STATEFUL | {"buffer": 50}),
    Way(
        text="StatefulDataLoader, 2 workers, shuffle(buffer_size=50, max_buffer_input_shards=1)",
        options=STATEFUL | {"buffer": 50, "max_input": 1},
    ),
    Way(text="split_dataset_by_node, 2 processes, no shuffling", world=2),
    Way(text="… 2 processes to 1, same global batch", world=2, then={"world": 1}),
    Way(text="… 1 process to 2, same global batch", then={"world": 2}),
)


def with_draw(sample: dict[str, Any]) -> dict[str, Any]:
    return sample | {"draw": draw()}


def run(job: Job) -> None:
    options = job.options
    stream = dataset(job)
    source: Any = stream
    if options.get("stateful"):
        from torchdata.stateful_dataloader import StatefulDataLoader

        source = StatefulDataLoader(stream, batch_size=job.batch_here, num_workers=job.workers)
    if job.second:
        source.load_state_dict(job.load())
    for epoch in job.epochs:
        if options.get("set_epoch", True):
            stream.set_epoch(epoch)
        if options.get("stateful") or options.get("steps"):
            batches: Any = ((batch["id"], batch["draw"]) for batch in source)
        else:
            batches = in_batches(source, job.batch_here)
        for ids, draws in batches:
            if job.seen(epoch, ids, draws):
                job.save(source.state_dict())


def dataset(job: Job) -> Any:
    from datasets import Dataset
    from datasets.distributed import split_dataset_by_node

    options = job.options
    stream = Dataset.from_dict({"id": list(range(job.rows))}).to_iterable_dataset(num_shards=4)
    if options.get("buffer"):
        more = {"max_buffer_input_shards": options["max_input"]} if options.get("max_input") else {}
        stream = stream.shuffle(seed=1, buffer_size=options["buffer"], **more)
    if job.world > 1 or options.get("split"):
        stream = split_dataset_by_node(stream, rank=job.rank, world_size=job.world)
    stream = stream.map(with_draw)
    if options.get("steps"):
        stream = stream.filter(lambda sample: sample["id"] % 5 != 0).batch(job.batch_here)
    return stream


if __name__ == "__main__":
    main(run)
