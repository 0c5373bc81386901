"""The epoch plan: every row once, the same for every world, addressed by position."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import AUGMENTED, CROPPED, SIZES, WINDOWED, assert_same, make_plan

from fastfashion.config import AugmentConfig
from fastfashion.errors import InputError
from fastfashion.load.plan import Plan, Samples

# What seed 1, epoch 2 over eight images of 80x60 gave when the format of a plan was fixed.
GOLDEN_ROWS: list[int] = [7, 0, 5, 4, 6, 2, 3, 1]
GOLDEN_BOXES = [
    [6, 5, 78, 60],
    [2, 0, 74, 58],
    [1, 0, 77, 60],
    [6, 2, 78, 48],
    [13, 5, 76, 55],
    [0, 1, 78, 55],
    [9, 4, 79, 60],
    [0, 2, 67, 60],
]
GOLDEN_FLIPS: list[bool] = [True, False, False, False, True, False, True, True]

KINDS = pytest.mark.parametrize("plans", [CROPPED, AUGMENTED, WINDOWED], ids=["cropped", "augmented", "windowed"])


@KINDS
@given(st.data(), st.integers(0, 50))
def test_an_epoch_visits_every_row_exactly_once_in_steps_of_even_size(
    plans: st.SearchStrategy[Plan], data: st.DataObject, epoch: int
) -> None:
    plan = data.draw(plans)
    sizes = [len(step.rows) for step in plan.steps(epoch)]
    seen = np.concatenate([step.rows for step in plan.steps(epoch)])
    assert sorted(seen) == sorted(plan.rows)
    np.testing.assert_array_equal(seen, plan.order(epoch))
    assert len(sizes) == plan.num_steps
    assert max(sizes) <= plan.batch_size
    assert max(sizes) - min(sizes) <= 1


@KINDS
@given(st.data(), st.integers(0, 50), st.integers(1, 8))
def test_any_world_sees_and_mixes_the_same_images(plans: st.SearchStrategy[Plan], data: st.DataObject, epoch: int, world_size: int) -> None:
    plan = data.draw(plans)
    num_slots = plan.num_slots(world_size)
    for step in plan.steps(epoch):
        parts = [step.part(rank, world_size, num_slots) for rank in range(world_size)]
        assert {len(part.rows) for part in parts} == {num_slots}
        real = [part.rows >= 0 for part in parts]
        drawn = [field.name for field in dataclasses.fields(Samples) if field.name != "partners" and getattr(step, field.name) is not None]
        assert {"rows", "boxes", "flips"} <= set(drawn) and (step.partners is None or set(drawn) >= {"shares", "pasted"})
        for name in drawn:
            together = np.concatenate([getattr(part, name)[keep] for part, keep in zip(parts, real, strict=True)])
            np.testing.assert_array_equal(together, getattr(step, name), err_msg=name)
        for part in parts:
            assert np.isin(part.fetch, step.rows).all()  # padding loads a real image
        assert max(keep.sum() for keep in real) - min(keep.sum() for keep in real) <= (1 if step.partners is None else 2)  # a pair
        if step.partners is not None:
            mixed_with = np.concatenate([part.rows[part.partners][keep] for part, keep in zip(parts, real, strict=True)])
            np.testing.assert_array_equal(mixed_with, step.rows[step.partners])
            for part, keep in zip(parts, real, strict=True):
                np.testing.assert_array_equal(part.partners[~keep], np.flatnonzero(~keep))
                assert (part.shares[~keep] == 1).all() and not part.pasted[~keep].any()


@KINDS
@given(st.data(), st.integers(0, 50))
def test_starting_at_a_step_equals_the_tail_of_the_whole_epoch(plans: st.SearchStrategy[Plan], data: st.DataObject, epoch: int) -> None:
    plan = data.draw(plans)
    start = data.draw(st.integers(0, plan.num_steps - 1))
    whole, tail = list(plan.steps(epoch)), list(plan.steps(epoch, start))
    assert len(tail) == len(whole) - start
    for a, b in zip(whole[start:], tail, strict=True):
        assert_same(a, b)


@given(CROPPED, st.integers(0, 50))
def test_boxes_are_within_their_images(plan: Plan, epoch: int) -> None:
    for step in plan.steps(epoch):
        y0, x0, y1, x1 = step.boxes.T
        assert ((y0 >= 0) & (y0 < y1) & (y1 <= SIZES[step.rows, 0])).all()
        assert ((x0 >= 0) & (x0 < x1) & (x1 <= SIZES[step.rows, 1])).all()


def test_a_position_keeps_its_crop_when_the_batch_size_changes() -> None:
    small, large = (list(make_plan(400, size, seed=7).steps(3)) for size in (10, 100))
    np.testing.assert_array_equal(np.concatenate([s.rows for s in small]), np.concatenate([s.rows for s in large]))
    np.testing.assert_array_equal(np.concatenate([s.boxes for s in small]), np.concatenate([s.boxes for s in large]))


def test_seed_and_epoch_each_change_order_and_crops() -> None:
    def first(seed: int, epoch: int) -> tuple[list[int], list[list[int]]]:
        step = make_plan(500, 500, seed=seed).step(epoch, 0)
        by_row = np.argsort(step.rows)
        return step.rows.tolist(), step.boxes[by_row].tolist()

    for other in (first(1, 0), first(0, 1)):
        assert other[0] != first(0, 0)[0]
        assert other[1] != first(0, 0)[1]


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_crops_are_spread_as_promised(seed: int) -> None:
    sizes = np.full(4000, 100)
    augment = AugmentConfig(min_area=0.5, max_stretch=1.0, flip=0.25)
    plan = Plan(rows=np.arange(4000), heights_px=sizes, widths_px=sizes, batch_size=4000, seed=seed, augment=augment)
    step = plan.step(0, 0)
    y0, x0, y1, x1 = step.boxes.T.astype(float)
    area = (y1 - y0) * (x1 - x0) / 1e4
    # Uniform on [0.5, 1]: mean 0.75, standard error 0.1443 / sqrt(4000) = 0.0023; five of them, and one for whole pixels.
    assert abs(area.mean() - 0.75) < 0.014
    assert 0.48 < area.min() < 0.52 and area.max() > 0.98
    assert abs(step.flips.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)
    centre = (y0 + y1) / 2
    assert abs(centre.mean() - 50) < 1.0
    assert abs(np.corrcoef(y0, x0)[0, 1]) < 0.5


def test_evaluation_takes_whole_images_in_the_order_given() -> None:
    plan = make_plan(101, 20, augment=None)
    steps = list(plan.steps(0))
    np.testing.assert_array_equal(np.concatenate([s.rows for s in steps]), plan.rows)
    assert not any(s.flips.any() for s in steps)
    for s in steps:
        np.testing.assert_array_equal(s.boxes[:, 2:], SIZES[s.rows])
        assert (s.boxes[:, :2] == 0).all()


def test_the_plan_is_the_same_on_every_machine_and_version() -> None:
    # Golden: what a checkpoint made yesterday relies on.
    rows = np.arange(8)
    plan = Plan(rows=rows, heights_px=np.full(8, 80), widths_px=np.full(8, 60), batch_size=8, seed=1, augment=AugmentConfig())
    step = plan.step(2, 0)
    assert step.rows.tolist() == GOLDEN_ROWS
    assert step.boxes.tolist() == GOLDEN_BOXES
    assert step.flips.tolist() == GOLDEN_FLIPS


def test_no_rows_is_an_error() -> None:
    with pytest.raises(InputError, match="no rows"):
        Plan(rows=np.array([], dtype=np.int64), heights_px=SIZES[:, 0], widths_px=SIZES[:, 1], batch_size=4)
