"""What planning an epoch costs, and how well it shuffles, as a set grows: python tools/plan_epoch.py 1000000 10000000 100000000

Plans steps of 256 rows of a made-up index (rows int32, heights and widths uint16, 1,000 rows a shard), in windows of 16 shards and as one
permutation of all rows, with every augmentation. Each in a process of its own; prints a JSON line each. No image is read.

    ready_ms           opening the plan, once
    start_ms           the first step of an epoch (which also imports SciPy), of the second half of another, the last step of a third
    step_ms            steps that need no new shard; opening_ms: those that do, most of which make a window
    peak_mb            most memory of the process, 10^6 bytes, index included; index_mb of it is the index
    neighbours         how far apart in the epoch rows lie that are neighbours in the set: n/3 on average in one permutation; in windows a
                       third of a window, but for the one pair in 1,000 between two shards, which lies n/3 apart
    most_of_one_shard  share of a step's rows that come from one shard, of the shard with most, on average over steps
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fastfashion.config import AugmentConfig
from fastfashion.load import Plan

ROWS_PER_SHARD, BATCH_SIZE, WINDOW_SHARDS = 1000, 256, 16
TIMED_STEPS = 2000  # of each epoch that is timed: windows are made every 62 steps
SAMPLED_ROWS = 1_000_000  # pairs of neighbours whose distance is measured
EVERYTHING = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.1, erase=0.25, mixup=0.2, cutmix=1.0)
SHUFFLES = {"window": WINDOW_SHARDS, "epoch": 0}


def make_plan(num_rows: int, window_shards: int) -> Plan:
    numbers = np.random.default_rng(0)
    heights_px, widths_px = (numbers.integers(200, 300, num_rows, dtype=np.uint16) for _ in range(2))
    return Plan(
        rows=np.arange(num_rows, dtype=np.int32),
        heights_px=heights_px,
        widths_px=widths_px,
        batch_size=BATCH_SIZE,
        augment=EVERYTHING,
        shard_starts=np.arange(0, num_rows, ROWS_PER_SHARD),
        window_shards=window_shards,
    )


def timed(plan: Plan, epoch: int, start: int) -> Iterator[tuple[float, np.ndarray]]:
    """Milliseconds and shards, distinct, of each step from `start` on."""
    steps = plan.steps(epoch, start)
    while True:
        started = time.perf_counter()
        step = next(steps, None)
        wall_ms = 1000 * (time.perf_counter() - started)
        if step is None:
            return
        yield wall_ms, np.unique(step.rows // ROWS_PER_SHARD)


def spread(values_ms: list[float]) -> dict[str, float]:
    median, p99, most = np.quantile(values_ms, [0.5, 0.99, 1])
    return {"steps": len(values_ms), "median": round(median, 3), "p99": round(p99, 3), "max": round(most, 3)}


def measure_cost(num_rows: int, shuffle: str) -> dict[str, object]:
    """Time of steps and memory of the process."""
    plan = make_plan(num_rows, SHUFFLES[shuffle])
    started = time.perf_counter()
    plan = replace(plan)  # the index is there: only what Plan itself checks is timed
    ready_ms = 1000 * (time.perf_counter() - started)
    starts_ms = [next(timed(plan, epoch, int(share * (plan.num_steps - 1))))[0] for epoch, share in enumerate((0, 0.5, 1))]
    plain_ms: list[float] = []
    opening_ms: list[float] = []
    for epoch, share in ((3, 0.0), (4, 0.5)):
        steps = timed(plan, epoch, int(share * plan.num_steps))
        seen = set(next(steps)[1].tolist())  # the first is a start
        for _, (wall_ms, shards) in zip(range(TIMED_STEPS), steps, strict=False):
            fresh = set(shards.tolist()) - seen
            # One permutation opens nothing: all is made at its start.
            (opening_ms if fresh and plan.window_shards else plain_ms).append(wall_ms)
            seen |= fresh
    return {
        "rows": num_rows,
        "shuffle": shuffle,
        "steps_an_epoch": plan.num_steps,
        "ready_ms": round(ready_ms, 1),
        "start_ms": [round(wall_ms, 1) for wall_ms in starts_ms],
        "step_ms": spread(plain_ms),
        "opening_ms": spread(opening_ms) if opening_ms else None,
        "index_mb": round((plan.rows.nbytes + plan.heights_px.nbytes + plan.widths_px.nbytes) / 1e6),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }


def measure_quality(num_rows: int, shuffle: str) -> dict[str, object]:
    """Distances of neighbours, and shares of one shard in a step."""
    plan = make_plan(num_rows, SHUFFLES[shuffle])
    order = plan.order(0)
    places = np.empty(num_rows, dtype=np.int32)
    places[order] = np.arange(num_rows, dtype=np.int32)
    first = np.random.default_rng(1).integers(0, num_rows - 1, min(num_rows, SAMPLED_ROWS))
    distances = np.abs(places[first].astype(np.int64) - places[first + 1])
    batches = (order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE) // ROWS_PER_SHARD)[
        :: max(1, num_rows // SAMPLED_ROWS)
    ]
    most = [np.unique(batch, return_counts=True)[1] for batch in batches]
    return {
        "rows": num_rows,
        "shuffle": shuffle,
        "neighbours": {
            "mean": round(distances.mean()),
            **{f"q{100 * q:g}": round(np.quantile(distances, q)) for q in (0.05, 0.5, 0.95)},
            "of_a_permutation": round(num_rows / 3),
        },
        "most_of_one_shard": round(float(np.mean([counts.max() for counts in most])) / BATCH_SIZE, 4),
        "shards_in_a_step": round(float(np.mean([len(counts) for counts in most])), 1),
    }


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure = {"cost": measure_cost, "quality": measure_quality}[sys.argv[2]]
        print(json.dumps(measure(int(sys.argv[3]), sys.argv[4])))
        return
    for num_rows in sys.argv[1:]:
        for what in ("cost", "quality"):
            for shuffle in SHUFFLES:
                subprocess.run([sys.executable, __file__, "--measure", what, num_rows, shuffle], check=True)


if __name__ == "__main__":
    main()
