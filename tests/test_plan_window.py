"""Shuffling in windows of shards: every row once, from anywhere, at any world size, with few shards open at a time."""

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import WINDOWED, assert_same

from fastfashion.config import AugmentConfig
from fastfashion.errors import InputError
from fastfashion.load.plan import Plan

# What seed 1, epoch 2 over twelve rows in five shards, two a window, gave when the format of a plan was fixed.
GOLDEN_ROWS = [9, 8, 3, 5, 7, 4, 6, 0, 11, 1, 2, 10]


def uniform_plan(num_shards: int, rows_per_shard: int, window_shards: int, *, seed: int = 0, batch_size: int = 256) -> Plan:
    sides = np.full(num_shards * rows_per_shard, 80, dtype=np.uint16)
    return Plan(
        rows=np.arange(len(sides), dtype=np.int32),
        heights_px=sides,
        widths_px=sides,
        batch_size=batch_size,
        seed=seed,
        augment=AugmentConfig(),
        shard_starts=np.arange(num_shards) * rows_per_shard,
        window_shards=window_shards,
    )


def shards_of(plan: Plan, rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(plan.shard_starts, rows, side="right") - 1


@given(WINDOWED, st.integers(0, 50))
def test_only_the_shards_of_one_window_are_open_at_a_time(plan: Plan, epoch: int) -> None:
    order = shards_of(plan, plan.order(epoch))
    opened, closed = np.zeros(len(order) + 1, int), np.zeros(len(order) + 1, int)
    for shard in np.unique(order):
        places = np.flatnonzero(order == shard)
        opened[places[0]] += 1
        closed[places[-1] + 1] += 1
    assert np.cumsum(opened - closed).max() <= plan.window_shards


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 50))
def test_a_step_reads_the_shards_of_two_windows_at_most(num_shards: int, window_shards: int, epoch: int) -> None:
    plan = uniform_plan(num_shards, 10, window_shards, batch_size=5)
    for step in plan.steps(epoch):
        assert len(np.unique(shards_of(plan, step.rows))) <= min(2 * window_shards, 5)


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_memory_grows_with_a_window_and_not_with_the_epoch_wherever_it_starts(share: float) -> None:
    plan = uniform_plan(3000, 1000, 4)
    start = int(share * plan.num_steps)
    tracemalloc.start()
    for _ in zip(plan.steps(3, start), range(100), strict=False):
        pass
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10**6  # one order of the epoch is 24 MB


@given(WINDOWED, st.integers(0, 50))
def test_the_type_of_rows_and_sizes_and_their_order_change_nothing(plan: Plan, epoch: int) -> None:
    small = dataclasses.replace(
        plan,
        rows=np.random.default_rng(0).permutation(plan.rows).astype(np.int32),
        heights_px=plan.heights_px.astype(np.uint16),
        widths_px=plan.widths_px.astype(np.int32),
    )
    for a, b in zip(plan.steps(epoch), small.steps(epoch), strict=True):
        assert_same(a, b)
        assert b.rows.dtype == np.int64


def test_memory_maps_of_sizes_change_nothing(tmp_path: Path) -> None:
    plan = uniform_plan(20, 50, 4)
    np.save(tmp_path / "sizes.npy", plan.heights_px)
    mapped = np.load(tmp_path / "sizes.npy", mmap_mode="r")
    for a, b in zip(plan.steps(1), dataclasses.replace(plan, heights_px=mapped, widths_px=mapped).steps(1), strict=True):
        assert_same(a, b)


@given(WINDOWED)
def test_evaluation_keeps_the_order_that_it_was_given(plan: Plan) -> None:
    rows = np.random.default_rng(0).permutation(plan.rows)
    steps = dataclasses.replace(plan, rows=rows, augment=None).steps(0)
    np.testing.assert_array_equal(np.concatenate([step.rows for step in steps]), rows)


def test_a_window_over_all_shards_shuffles_like_one_permutation() -> None:
    plan = uniform_plan(40, 100, 40)
    places = np.argsort(plan.order(0))
    distances = np.abs(np.diff(places))
    # Of two random places among n the distance is n/3 on average, its deviation n/sqrt(18); neighbouring distances are correlated a little.
    assert abs(distances.mean() - 4000 / 3) < 6 * 4000 / np.sqrt(18) / np.sqrt(4000)
    assert abs(np.corrcoef(places, np.arange(4000))[0, 1]) < 5 / np.sqrt(4000)


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_rows_are_shuffled_all_over_their_window(seed: int) -> None:
    plan = uniform_plan(64, 50, 16, seed=seed)
    order = plan.order(0)
    for window in range(4):
        rows = order[window * 800 : (window + 1) * 800]
        assert len(np.unique(shards_of(plan, rows))) == 16
        assert abs(np.corrcoef(rows, np.arange(800))[0, 1]) < 5 / np.sqrt(800)
        distances = np.abs(np.diff(np.argsort(rows)))
        assert abs(distances.mean() - 800 / 3) < 6 * 800 / np.sqrt(18) / np.sqrt(800)


def test_epochs_and_seeds_put_other_shards_together_and_windows_differ_in_their_order() -> None:
    def windows(seed: int, epoch: int) -> list[list[int]]:
        plan = uniform_plan(64, 10, 8, seed=seed)
        return [sorted(set(shards_of(plan, rows).tolist())) for rows in plan.order(epoch).reshape(8, 80)]

    assert windows(0, 0) != windows(0, 1)
    assert windows(0, 0) != windows(1, 0)
    places = [np.argsort(rows).tolist() for rows in uniform_plan(64, 10, 8).order(0).reshape(8, 80)]
    assert len({tuple(p) for p in places}) == 8


def test_shards_without_rows_take_no_place_in_a_window() -> None:
    plan = dataclasses.replace(uniform_plan(100, 10, 4), rows=np.arange(0, 1000, 50))  # a row in every fifth shard
    order = shards_of(plan, plan.order(0))
    assert [len(set(order[at : at + 4])) for at in range(0, 20, 4)] == [4] * 5


def test_windows_are_of_nearly_equal_numbers_of_shards() -> None:
    plan = uniform_plan(17, 10, 16)  # not 16 and 1, whose rows would hardly be shuffled
    order = shards_of(plan, plan.order(0))
    assert sorted([len(set(order[:80])), len(set(order[80:]))]) == [8, 9]


def test_a_step_in_the_middle_of_a_long_epoch_is_that_of_its_order() -> None:
    plan = uniform_plan(3000, 100, 4, batch_size=64)
    order, steps = plan.order(5), plan.num_steps
    for number in (0, steps // 2, steps - 1):
        first, end = number * len(order) // steps, (number + 1) * len(order) // steps
        np.testing.assert_array_equal(plan.step(5, number).rows, order[first:end])


@pytest.mark.parametrize("starts", [None, np.array([], dtype=np.int64), np.array([3, 10]), np.array([0, 10, 5])])
def test_shard_starts_that_would_lose_rows_are_refused(starts: np.ndarray | None) -> None:
    with pytest.raises(InputError, match="first row of each shard"):
        dataclasses.replace(uniform_plan(3, 10, 2), shard_starts=starts)


def test_negative_rows_are_refused() -> None:
    with pytest.raises(InputError, match="found -1"):
        dataclasses.replace(uniform_plan(3, 10, 2), rows=np.array([4, -1, 7]))


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    sides = np.full(12, 80)
    plan = Plan(
        rows=np.arange(12),
        heights_px=sides,
        widths_px=sides,
        batch_size=5,
        seed=1,
        augment=AugmentConfig(),
        shard_starts=np.array([0, 3, 4, 8, 10]),
        window_shards=2,
    )
    assert plan.order(2).tolist() == GOLDEN_ROWS
