"""Lightning: ModelCheckpoint(every_n_train_steps=…) in the first run, Trainer.fit(…, ckpt_path=…) in the second.

options: seed (seed_everything before anything else), kind of loader: "shuffled", "fixed" (map-style without shuffling), "stream" (an
IterableDataset without a length), "distributed" (a StatefulDistributedSampler given to the loader); stateful (a torchdata
StatefulDataLoader, which Lightning saves and loads); epochs (every_n_epochs=1 with save_on_train_epoch_end=True in place of
every_n_train_steps).
"""

from typing import Any

from resume_ways.job import LAST, Job, Way, main

VERSIONS = ("lightning==2.6.6", "torchdata==0.11.0")
STATEFUL = {"stateful": True}
DISTRIBUTED = {"stateful": True, "seed": 1, "kind": "distributed"}
SAMPLER = "StatefulDataLoader given a StatefulDistributedSampler"
WAYS = (
    Way(text="DataLoader, map-style, no shuffling, broken in the first epoch", epoch=0, shuffled=False, options={"kind": "fixed"}),
    Way(text="DataLoader, shuffled, seed_everything", options={"seed": 1}),
    Way(text="… no seed set"),
    Way(text="DataLoader, IterableDataset without a length, in fixed order", epoch=0, shuffled=False, options={"kind": "stream"}),
    Way(text="StatefulDataLoader, shuffled", options=STATEFUL),
    Way(text="… no workers, seed_everything", workers=0, options=STATEFUL | {"seed": 1}),
    Way(text="… batch size 8 to 4", options=STATEFUL, then={"batch": 4}),
    Way(text="… 2 workers to 0", options=STATEFUL, then={"workers": 0}),
    Way(text="… state saved in the last step", step=LAST, options=STATEFUL),
    Way(
        text="… state saved after the epoch (every_n_epochs=1)",
        step=LAST,
        options=STATEFUL | {"epochs": True},
    ),
    Way(text="… 2 processes (ddp), seed_everything", world=2, options=STATEFUL | {"seed": 1}),
    Way(text="… 2 processes to 1", world=2, options=STATEFUL | {"seed": 1}, then={"world": 1}),
    Way(text=f"{SAMPLER}, 2 processes (ddp)", world=2, options=DISTRIBUTED),
    Way(text="… broken in the first epoch", epoch=0, world=2, options=DISTRIBUTED),
)


def run(job: Job) -> None:
    import torch
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            ids, draws = batch
            job.seen(self.current_epoch, ids, draws)
            return self.layer(draws.float()[:, None]).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    if job.options.get("seed") is not None:
        seed_everything(job.options["seed"])
    steps = job.epoch * -(-job.rows // 8) + job.step  # optimizer steps until the state is saved; only the first run saves
    when: dict[str, Any] = (
        {"every_n_epochs": 1, "save_on_train_epoch_end": True} if job.options.get("epochs") else {"every_n_train_steps": steps}
    )
    saves = ModelCheckpoint(job.folder, filename="{step}", save_top_k=-1, enable_version_counter=False, **when)
    trainer = Trainer(
        max_epochs=job.epochs[-1] + 1,
        accelerator="cpu",
        devices=job.world,
        strategy="ddp" if job.world > 1 else "auto",
        callbacks=[saves],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader(job), ckpt_path=job.folder / f"step={steps}.ckpt" if job.second else None)


def loader(job: Job) -> Any:
    from torch.utils.data import DataLoader
    from torchdata.stateful_dataloader import StatefulDataLoader

    from resume_ways.samples import Samples, Stream

    given = StatefulDataLoader if job.options.get("stateful") else DataLoader
    kind = job.options.get("kind", "shuffled")
    if kind == "stream":
        return given(Stream(job.rows), batch_size=job.batch_here, num_workers=job.workers)
    samples = Samples(job.rows)
    if kind == "distributed":
        from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

        sampler = StatefulDistributedSampler(samples, num_replicas=job.world, rank=job.rank, shuffle=True)
        return given(samples, batch_size=job.batch_here, num_workers=job.workers, sampler=sampler)
    return given(samples, batch_size=job.batch_here, num_workers=job.workers, shuffle=kind == "shuffled")


if __name__ == "__main__":
    main(run)
