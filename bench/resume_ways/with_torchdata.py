"""torchdata: StatefulDataLoader.state_dict() and load_state_dict(), as its README and tutorial show.

options: seed (torch.manual_seed before anything else; none: torch draws one), every (snapshot_every_n_steps), sampler ("shuffle";
"distributed": StatefulDistributedSampler, set_epoch in every epoch; None: fixed order), state (the dataset keeps its generator's state
itself), nodes (torchdata.nodes in place of StatefulDataLoader, as its guide
"Migrating to torchdata.nodes" builds it, with this sampler).
"""

from typing import Any

from resume_ways.job import LAST, Job, Way, main

VERSIONS = ("torchdata==0.11.0",)
LOADER = "StatefulDataLoader, shuffled"
WAYS = (
    Way(text=f"{LOADER}, same settings, seed set", options={"seed": 1}),
    Way(text="… no seed set"),
    Way(text="… no workers", workers=0),
    Way(text="… broken in the first epoch", epoch=0),
    Way(text="… snapshot_every_n_steps=5", options={"every": 5}),
    Way(text="… no workers, the dataset's state_dict() has the state of torch's generator", workers=0, options={"state": True}),
    Way(text="… 2 workers, the dataset's state_dict() has the state of torch's generator", options={"state": True}),
    Way(text="… state saved in the last step", step=LAST),
    Way(text="… batch size 8 to 4", then={"batch": 4}),
    Way(text="… batch size 8 to 16", then={"batch": 16}),
    Way(text="… 2 workers to 0", then={"workers": 0}),
    Way(text="… 0 workers to 2", workers=0, then={"workers": 2}),
    Way(text="torchdata.nodes, SamplerWrapper(RandomSampler), 2 threads, same settings", options={"nodes": "random", "seed": 1}),
    Way(text="torchdata.nodes, SamplerWrapper(DistributedSampler), 2 threads, same settings", options={"nodes": "distributed", "seed": 1}),
    Way(text="StatefulDataLoader with a StatefulDistributedSampler, 2 processes", world=2, options={"sampler": "distributed"}),
    Way(
        text="… 2 processes to 1, same global batch",
        world=2,
        options={"sampler": "distributed"},
        then={"world": 1},
    ),
    Way(text="… 1 process to 2, same global batch", options={"sampler": "distributed"}, then={"world": 2}),
)


def run(job: Job) -> None:
    import torch

    if (seed := job.options.get("seed")) is not None:
        torch.manual_seed(seed)
    sampler, loader = nodes(job) if job.options.get("nodes") else stateful(job)
    if job.second:
        loader.load_state_dict(job.load())
    for epoch in job.epochs:
        if sampler is not None:
            sampler.set_epoch(epoch)
        for ids, draws in loader:
            if job.seen(epoch, ids, draws):
                job.save(loader.state_dict())


def stateful(job: Job) -> tuple[Any, Any]:
    """A sampler that must be given the epoch, if any, and the loader."""
    from torchdata.stateful_dataloader import StatefulDataLoader
    from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

    from resume_ways.samples import Samples, SamplesWithState

    samples = (SamplesWithState if job.options.get("state") else Samples)(job.rows)
    kind = job.options.get("sampler", "shuffle")
    sampler = StatefulDistributedSampler(samples, num_replicas=job.world, rank=job.rank, shuffle=True) if kind == "distributed" else None
    loader = StatefulDataLoader(
        samples,
        batch_size=job.batch_here,
        sampler=sampler,
        shuffle=kind == "shuffle" or None,
        num_workers=job.workers,
        snapshot_every_n_steps=job.options.get("every", 1),
    )
    return sampler, loader


def nodes(job: Job) -> tuple[Any, Any]:
    """The same with torchdata.nodes."""
    from torch.utils.data import DistributedSampler, RandomSampler, default_collate
    from torchdata.nodes import Batcher, Loader, ParallelMapper, SamplerWrapper

    from resume_ways.samples import Samples

    samples = Samples(job.rows)
    # SamplerWrapper calls set_epoch where a sampler has it, and counts what a sampler without a state has given.
    by_epoch = job.options["nodes"] == "distributed"
    sampler: Any = DistributedSampler(samples, num_replicas=job.world, rank=job.rank) if by_epoch else RandomSampler(samples)
    batches = Batcher(SamplerWrapper(sampler), batch_size=job.batch_here, drop_last=False)
    return None, Loader(
        ParallelMapper(batches, lambda rows: default_collate([samples[row] for row in rows]), num_workers=2, method="thread")
    )


if __name__ == "__main__":
    main(run)
