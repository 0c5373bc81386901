"""Plans for property tests: one permutation with crops only, with every augmentation, in windows of shards; and evaluation."""

import dataclasses

import numpy as np
from hypothesis import strategies as st

from fastfashion.config import AugmentConfig
from fastfashion.load.plan import Part, Plan, Step

CROPS = AugmentConfig(min_area=0.3, max_stretch=1.5)
EVERYTHING = AugmentConfig(brightness=0.4, contrast=0.3, saturation=0.5, hue=0.1, grayscale=0.2, erase=0.6, mixup=0.2, cutmix=1.0)
SIZES = np.random.default_rng(0).integers(20, 300, (500, 2))
SEEDS = st.integers(0, 2**63 - 1)


def make_plan(num_rows: int, batch_size: int, *, seed: int = 0, augment: AugmentConfig | None = CROPS) -> Plan:
    rows = np.random.default_rng(num_rows).permutation(500)[:num_rows]
    return Plan(rows=rows, heights_px=SIZES[:, 0], widths_px=SIZES[:, 1], batch_size=batch_size, seed=seed, augment=augment)


@st.composite
def windowed(draw: st.DrawFn) -> Plan:
    """Shards of uneven size, some of them without a row of the part that is loaded."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, sum(sizes)))
    rows = rng.permutation(sum(sizes))[:count]
    sides = rng.integers(20, 300, (sum(sizes), 2))
    return Plan(
        rows=np.sort(rows) if draw(st.booleans()) else rows,
        heights_px=sides[:, 0],
        widths_px=sides[:, 1],
        batch_size=draw(st.integers(1, 80)),
        seed=draw(SEEDS),
        augment=AugmentConfig(brightness=0.4, erase=0.5, mixup=0.5, cutmix=1.0),
        shard_starts=np.cumsum([0, *sizes[:-1]]),
        window_shards=draw(st.integers(1, 24)),
    )


CROPPED = st.builds(make_plan, st.integers(1, 500), st.integers(1, 600), seed=SEEDS, augment=st.sampled_from([CROPS, None]))
AUGMENTED = st.builds(make_plan, st.integers(1, 150), st.integers(1, 200), seed=SEEDS, augment=st.just(EVERYTHING))
WINDOWED = windowed()


def assert_same(a: Step | Part, b: Step | Part) -> None:
    for field in dataclasses.fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)
