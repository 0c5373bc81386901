"""fastfashion: ff.loader(…).state_dict() and load_state_dict(), as docs/loader.md shows; taken and saved on rank 0, loaded on all.

Its "draw" is the CRC-32 of the image as the loader gives it, crop and flip included.

options: seed; backend; exact (no resize, so that backends give the same bytes: crops off, flips, brightness and contrast on); ahead
(batches that a wrapper draws before the loop gets one; the state is then that of the batch: state_dict(batch)).
"""

import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resume_ways.job import LAST, Job, Way, main

VERSIONS = ()  # of this interpreter
EXACT = {"exact": True, "backend": "threads"}
WAYS = (
    Way(text="ff.loader, shuffled, same settings"),
    Way(text="… broken in the first epoch", epoch=0),
    Way(text="… state saved in the last step", step=LAST),
    Way(text="… state_dict(batch) behind a wrapper that draws 3 batches ahead", options={"ahead": 3}),
    Way(text="… batch size 8 to 4", then={"batch": 4}),
    Way(text="… batch size 8 to 16", then={"batch": 16}),
    Way(text="… 2 workers to 1", then={"workers": 1}),
    Way(text="… backend threads to resident (images not resized)", options=EXACT, then={"backend": "resident"}),
    Way(text="… 2 processes", world=2),
    Way(text="… 2 processes to 1, same global batch", world=2, then={"world": 1}),
    Way(text="… 1 process to 2, same global batch", then={"world": 2}),
    Way(text="… 2 processes to 1, same global batch, 203 samples", rows=203, world=2, then={"world": 1}),
)


def prepare(folder: Path, rows: int) -> None:
    import fastfashion as ff

    source = folder.with_name(f"{folder.name}-source")
    ff.synth(source, rows=rows + 20, size="80x60", workers=1)  # some have no file, as in the real table
    ff.shard(source, folder, res="full", workers=1)


def run(job: Job) -> None:
    import fastfashion as ff

    if job.world > 1:
        import torch

        torch.distributed.init_process_group("gloo")
    exact = {"min_area": 1.0, "max_stretch": 1.0, "brightness": 0.3, "contrast": 0.3}
    packed = ff.open_packed_set(job.data)
    loader = ff.loader(
        packed,
        split=list(range(job.rows)),
        task=None,
        batch_size=job.batch,
        size="80x60" if job.options.get("exact") else "64x48",
        backend=job.options.get("backend", "threads"),
        workers=job.workers,
        seed=job.options.get("seed", 1),
        shuffle=True,
        augment=exact if job.options.get("exact") else True,
    )
    if job.second:
        loader.load_state_dict(job.load())
    for epoch in range(loader.epoch, job.epochs[-1] + 1):
        loader.set_epoch(epoch)
        for batch in drawn_ahead(loader, job.options.get("ahead", 0)):
            here = batch.rows.numpy() >= 0  # the others are padding
            crcs = [zlib.crc32(image.tobytes()) for image in batch.images.numpy()[here]]
            if job.seen(epoch, batch.rows.numpy()[here], crcs) and job.rank == 0:
                job.save(loader.state_dict(batch) if job.options.get("ahead") else loader.state_dict())


def drawn_ahead(batches: Any, ahead: int) -> Iterator[Any]:
    """The batches, each after `ahead` later ones were drawn."""
    waiting: deque[Any] = deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


if __name__ == "__main__":
    main(run, prepare)
