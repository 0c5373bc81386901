"""accelerate: save_state() and load_state(), then skip_first_batches() in the broken epoch, as its guide "Checkpointing" shows.

options: seed (set_seed before anything else), seedable and stateful (use_seedable_sampler and use_stateful_dataloader of
DataLoaderConfiguration), given (a torchdata StatefulDataLoader given to prepare in place of a DataLoader), set_epoch (called on the
prepared loader in every epoch), skip (skip_first_batches; by default where not stateful), stream (an IterableDataset), dispatch
(dispatch_batches).
"""

from typing import Any

from resume_ways.job import LAST, Job, Way, main

VERSIONS = ("accelerate==1.15.0", "torchdata==0.11.0")
SKIP = "skip_first_batches"
BEST = {"seedable": True, "seed": 1, "set_epoch": True}
GIVEN = {"stateful": True, "given": True}
GIVEN_TEXT = "StatefulDataLoader given to prepare, use_stateful_dataloader=True"
BEST_TEXT = f"{SKIP}, use_seedable_sampler=True, seed set, set_epoch by hand"
WAYS = (
    Way(text=f"{SKIP}, shuffled DataLoader, defaults"),
    Way(text="… broken in the first epoch", epoch=0),
    Way(text="… seed set", options={"seed": 1}),
    Way(text=f"{SKIP}, use_seedable_sampler=True, seed set", options={"seedable": True, "seed": 1}),
    Way(text="… broken in the first epoch", epoch=0, options={"seedable": True, "seed": 1}),
    Way(text=BEST_TEXT, options=BEST),
    Way(text="… no workers", workers=0, options=BEST),
    Way(text="… no seed set", options=BEST | {"seed": None}),
    Way(text="… batch size 8 to 4 (24 batches skipped)", options=BEST, then={"batch": 4}),
    Way(text="… 2 workers to 0", options=BEST, then={"workers": 0}),
    Way(text="… state saved in the last step", step=LAST, options=BEST),
    Way(text="… 2 processes", world=2, options=BEST),
    Way(text="… 2 processes to 1, same global batch", world=2, options=BEST, then={"world": 1}),
    Way(text="… 1 process to 2, same global batch", options=BEST, then={"world": 2}),
    Way(text="use_stateful_dataloader=True, shuffled DataLoader", options={"stateful": True}),
    Way(
        text="use_stateful_dataloader=True, use_seedable_sampler=True, seed set, shuffled DataLoader",
        options={"stateful": True, "seedable": True, "seed": 1},
    ),
    Way(text="… and set_epoch by hand", options={"stateful": True} | BEST),
    Way(text="… and set_epoch by hand, 2 processes", world=2, options={"stateful": True} | BEST),
    Way(text=f"… and set_epoch by hand and {SKIP}, 2 processes", world=2, options={"stateful": True, "skip": True} | BEST),
    Way(text=GIVEN_TEXT, options=GIVEN),
    Way(text="… batch size 8 to 4", options=GIVEN, then={"batch": 4}),
    Way(text="… 2 workers to 0", options=GIVEN, then={"workers": 0}),
    Way(text="… 2 processes, no seed set", world=2, options=GIVEN),
    Way(text="… seed set, 2 processes", world=2, options=GIVEN | {"seed": 1}),
    Way(text="… seed set, 2 processes to 1", world=2, options=GIVEN | {"seed": 1}, then={"world": 1}),
    Way(text="… seed set, 1 process to 2", options=GIVEN | {"seed": 1}, then={"world": 2}),
    Way(text=f"{SKIP}, IterableDataset in fixed order", shuffled=False, options={"stream": True}),
    Way(text="… 2 processes", world=2, shuffled=False, options={"stream": True}),
    Way(text="use_stateful_dataloader=True, IterableDataset in fixed order", shuffled=False, options={"stream": True, "stateful": True}),
    Way(
        text="… 2 processes",
        world=2,
        shuffled=False,
        options={"stream": True, "stateful": True},
        times=3,
        note="both processes write the state to one file",
    ),
    Way(
        text="… 2 processes, dispatch_batches=False",
        world=2,
        shuffled=False,
        options={"stream": True, "stateful": True, "dispatch": False},
    ),
)


def run(job: Job) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    options = job.options
    config = DataLoaderConfiguration(
        use_seedable_sampler=options.get("seedable", False),
        use_stateful_dataloader=options.get("stateful", False),
        dispatch_batches=options.get("dispatch"),
    )
    accelerator = Accelerator(cpu=True, dataloader_config=config)
    if options.get("seed") is not None:
        set_seed(options["seed"])
    loader = accelerator.prepare(unprepared(job))
    state = str(job.folder / "accelerate")
    if job.second:
        accelerator.load_state(state)
    for epoch in job.epochs:
        if options.get("set_epoch"):
            loader.set_epoch(epoch)
        active = loader
        if job.second and epoch == job.epoch and options.get("skip", not options.get("stateful", False)):
            active = accelerator.skip_first_batches(loader, to_skip(job))
        for ids, draws in active:
            if job.seen(epoch, ids, draws):
                accelerator.save_state(state)


def unprepared(job: Job) -> Any:
    from torch.utils.data import DataLoader
    from torchdata.stateful_dataloader import StatefulDataLoader

    from resume_ways.samples import Samples, Stream

    given = StatefulDataLoader if job.options.get("given") else DataLoader
    if job.options.get("stream"):
        return given(Stream(job.rows), batch_size=job.batch_here, num_workers=job.workers)
    return given(Samples(job.rows), batch_size=job.batch_here, num_workers=job.workers, shuffle=True)


def to_skip(job: Job) -> int:
    """Batches of this run that hold what the first one had done: both have the same number of samples."""
    return job.step * job.options.get("batch_saved", 8) // job.batch


if __name__ == "__main__":
    main(run)
