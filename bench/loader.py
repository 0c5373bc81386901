"""`fastfashion bench-loader` with the peers: what other people load images with, doing the same work. And what a busy main thread costs.

python bench/loader.py --shards shards/small --images 8192 --batch-size 256 --profile --out bench/results/loader-small-2-cores.json
"""

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from command import Out, run
from fastfashion import bench
from fastfashion.bench import EPOCH, BenchRequest, rate, spread, write_record
from fastfashion.dist import cores_per_process
from fastfashion.load import Loader
from fastfashion.load.crops import OWN
from loader_peers import PEERS

BACKENDS = bench.BACKENDS | PEERS
BUSY = 0.8  # of a step's time is what the loader takes for a batch, if the main thread is measured


def measure(request: BenchRequest) -> dict[str, Any]:
    """The record of `fastfashion bench-loader`, with `busy_main`.

    `busy_main` is the time of an epoch whose main thread sleeps, as if it waited for an accelerator, so long that the loader (threads)
    needs BUSY of it, over the time of that thread alone.
    """
    return bench.bench(request) | {"busy_main": _busy_main(request)}


def _busy_main(request: BenchRequest) -> dict[str, Any]:
    work = request.work()
    with closing(Loader(work.spec)) as loader:
        ratios = []
        for _ in range(request.rounds):
            images_per_s = rate("threads", work, lambda: ((batch.rows, batch.images) for batch in loader.steps(EPOCH)))
            ratios.append(_busy_ratio(loader, work.spec.plan.batch_size / images_per_s / BUSY))
    return spread(ratios, 4, "ratio")


def _busy_ratio(loader: Loader, step_s: float) -> float:
    """Seconds of an epoch whose consumer is busy for `step_s` a batch, over those of the consumer alone."""
    started, steps = time.perf_counter(), 0
    for _ in loader.steps(EPOCH):
        time.sleep(step_s)
        steps += 1
    together = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(steps):
        time.sleep(step_s)
    return together / (time.perf_counter() - started)


def table_text(result: dict[str, Any]) -> str:
    """The result of `measure` for people."""
    busy = result["busy_main"]["ratio"]
    said = f"a main thread that is busy for 1 / {BUSY} of the loader's time takes {busy:.3f} of its own time for an epoch"
    return f"{bench.table_text(result)}\n{said}"


def main(
    shards: Annotated[Path, typer.Option(help="Folder of a packed set.")],
    size: Annotated[str, typer.Option(help="Input size of a model, HxW in pixels; default: the images' shape.")] = "auto",
    res: Annotated[str, typer.Option(help="Packed resolution; default: the smallest that is large enough.")] = "auto",
    workers: Annotated[int, typer.Option(help="Threads, or worker processes of some peers; default: one per core.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 64,
    images: Annotated[int, typer.Option(help="Images per measurement, the same for every backend.")] = 4096,
    rounds: Annotated[int, typer.Option(help="Interleaved measurements of each backend.")] = 5,
    decoder: Annotated[str, typer.Option(help="Decoder of our backends: own or turbo.")] = OWN,
    backend: Annotated[list[str] | None, typer.Option(help="Backend to measure, by the start of its name; repeatable.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Also print where the time of a batch goes.")] = False,
    out: Out = None,
) -> None:
    """Compare our loaders with what other people use, and with decoding alone."""
    request = BenchRequest(
        shards=shards,
        resolution=res,
        size=size,
        threads=workers or cores_per_process(1),
        batch_size=batch_size,
        num_images=images,
        rounds=rounds,
        decoder=decoder,
        backends=tuple(backend or ()),
        known=BACKENDS,
        profile=profile,
        command="python bench/loader.py",
    )
    result = measure(request)
    write_record(out, result)
    print(table_text(result))


if __name__ == "__main__":
    run(main)
