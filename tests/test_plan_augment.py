"""What a plan draws beyond crop and flip: colours, erased boxes, mixtures; the same at any world size, and spread as promised."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from plans import AUGMENTED, EVERYTHING, make_plan
from torchvision.transforms.v2 import functional as tv

from fastfashion.config import AugmentConfig
from fastfashion.load.draws import colour_matrices
from fastfashion.load.plan import Plan, Step

DRAWN = ("colours", "erased", "shares", "pasted")
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def sample(count: int, seed: int = 0, **augment: float) -> Step:
    """One step of `count` images with nothing but these augmentations."""
    sides = np.full(count, 100)
    plan = Plan(rows=np.arange(count), heights_px=sides, widths_px=sides, batch_size=count, seed=seed, augment=AugmentConfig(**augment))
    return plan.step(0, 0)


@given(AUGMENTED, st.integers(0, 50))
def test_neighbours_are_mixed_with_each_other_with_one_share_and_box(plan: Plan, epoch: int) -> None:
    for step in plan.steps(epoch):
        size = len(step.rows)
        np.testing.assert_array_equal(step.partners[step.partners], np.arange(size))
        assert (np.abs(step.partners - np.arange(size)) == 1).sum() == size // 2 * 2
        np.testing.assert_array_equal(step.shares[step.partners], step.shares)
        np.testing.assert_array_equal(step.pasted[step.partners], step.pasted)
        if size % 2:
            assert step.partners[-1] == size - 1 and step.shares[-1] == 1 and not step.pasted[-1].any()


@given(AUGMENTED, st.integers(0, 50))
def test_boxes_are_in_the_image(plan: Plan, epoch: int) -> None:
    for step in plan.steps(epoch):
        for boxes in (step.erased, step.pasted):
            assert boxes.dtype == np.float32
            y0, x0, y1, x1 = boxes.T
            assert ((y0 >= 0) & (y0 <= y1) & (y1 <= 1) & (x0 >= 0) & (x0 <= x1) & (x1 <= 1)).all()


@given(AUGMENTED, st.integers(0, 50))
def test_other_augmentations_leave_order_crops_and_flips_alone(plan: Plan, epoch: int) -> None:
    plain = dataclasses.replace(plan, augment=AugmentConfig())
    for a, b in zip(plan.steps(epoch), plain.steps(epoch), strict=True):
        for name in ("rows", "boxes", "flips"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "grayscale"])
def test_each_augmentation_draws_the_same_whatever_else_is_on(name: str) -> None:
    alone = sample(50, erase=0.6)
    np.testing.assert_array_equal(sample(50, erase=0.6, **{name: 0.3}).erased, alone.erased)
    assert sample(50, **{name: 0.3}).colours is not None and alone.colours is None


def test_what_is_off_is_none_and_evaluation_draws_nothing() -> None:
    for step in (sample(9), make_plan(9, 9, augment=None).step(0, 0)):
        for holder in (step, step.part(0, 2, 5)):
            assert [getattr(holder, name) for name in (*DRAWN, "partners")] == [None] * 5
    assert sample(9, erase=1.0).partners is None
    assert sample(9, mixup=1.0).erased is None


def test_images_that_are_drawn_no_colour_keep_theirs_bit_for_bit() -> None:
    colours = sample(400, grayscale=0.5).colours
    kept = (colours == np.eye(3, 4, dtype=np.float32)).all(axis=(1, 2))
    gray = np.isclose(colours[:, :, :3], LUMA, atol=1e-7).all(axis=(1, 2)) & (colours[:, :, 3] == 0).all(axis=1)
    assert (kept ^ gray).all()


# --- how it is spread; each bound is five standard errors, which are worked out beside it ---

COUNT = 4000
seeds = st.integers(0, 2**31)


def near(values: np.ndarray, mean: float, deviation: float) -> None:
    assert abs(values.mean() - mean) < 5 * deviation / np.sqrt(len(values))


@settings(max_examples=15)
@given(seeds)
def test_colour_factors_are_uniform_in_their_ranges(seed: int) -> None:
    def uniform(values: np.ndarray, low: float, high: float) -> None:
        assert low - 1e-6 <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high + 1e-6
        near(values, (low + high) / 2, (high - low) / np.sqrt(12))

    uniform(sample(COUNT, seed, brightness=0.4).colours[:, 0, 0], 0.6, 1.4)
    contrast = sample(COUNT, seed, contrast=0.2).colours
    uniform(contrast[:, 0, 0], 0.8, 1.2)
    np.testing.assert_allclose(contrast[:, :, :3] @ np.full(3, 127.5) + contrast[:, :, 3], 127.5, rtol=1e-5)
    saturation = sample(COUNT, seed, saturation=0.5).colours
    uniform(saturation[:, 0, 0] - saturation[:, 1, 0], 0.5, 1.5)
    hue = sample(COUNT, seed, hue=0.05).colours
    # The trace of a turned matrix is 1 + 2 cos: |turn| is uniform in [0, 0.05].
    uniform(np.arccos(np.clip((np.trace(hue[:, :, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)) / (2 * np.pi), 0, 0.05)
    assert 0.4 < (hue[:, 0, 1] > hue[:, 0, 2]).mean() < 0.6  # both directions
    gray = np.isclose(sample(COUNT, seed, grayscale=0.2).colours[:, 0, 0], LUMA[0])
    near(gray, 0.2, 0.4)


def test_colour_factors_are_independent_of_each_other_and_of_the_crops() -> None:
    def drawn(name: str) -> np.ndarray:
        colours = sample(COUNT, **{name: 0.5}).colours
        return colours[:, 0, 0] - colours[:, 1, 0] if name == "saturation" else colours[:, 0, 2 if name == "hue" else 0]

    step = sample(COUNT, erase=1.0, mixup=0.5)
    columns = [drawn(name) for name in ("brightness", "contrast", "saturation", "hue", "grayscale")]
    columns += [step.boxes[:, 0], step.erased[:, 0], step.shares]
    others = np.corrcoef(columns)[np.triu_indices(len(columns), 1)]
    assert np.abs(others).max() < 5 / np.sqrt(COUNT)


@settings(max_examples=15)
@given(seeds)
def test_erased_boxes_are_spread_as_promised(seed: int) -> None:
    boxes = sample(COUNT, seed, erase=0.3).erased.astype(float)
    near(boxes.any(axis=1), 0.3, np.sqrt(0.3 * 0.7))
    y0, x0, y1, x1 = boxes[boxes.any(axis=1)].T
    area, aspect = (y1 - y0) * (x1 - x0), (y1 - y0) / (x1 - x0)
    assert 0.02 - 1e-6 <= area.min() < 0.03 and 0.32 < area.max() <= 1 / 3 + 1e-6
    near(area, (0.02 + 1 / 3) / 2, (1 / 3 - 0.02) / np.sqrt(12))
    assert 0.3 - 1e-5 <= aspect.min() < 0.32 and 3.1 < aspect.max() <= 1 / 0.3 + 1e-5
    near(np.log(aspect), 0, np.log(1 / 0.3) / np.sqrt(3))  # what does not fit is left out on both sides alike
    for low, high in ((y0, y1), (x0, x1)):
        place = low[high - low < 0.99] / (1 - (high - low)[high - low < 0.99])
        near(place, 0.5, 1 / np.sqrt(12))


def follows_beta(shares: np.ndarray, alpha: float) -> None:
    """Kolmogorov and Smirnov's test of the lower half alone: above it, float32 rounds small alphas' shares to 1."""
    lower = shares[shares < 0.5]
    assert scipy.stats.kstest(lower, lambda x: 2 * scipy.stats.beta(alpha, alpha).cdf(x)).pvalue > 1e-6


@settings(max_examples=10)
@given(seeds, st.sampled_from([0.1, 0.2, 0.8, 1.0, 4.0]))
def test_mixup_shares_follow_beta(seed: int, alpha: float) -> None:
    step = sample(COUNT, seed, mixup=alpha)
    assert not step.pasted.any()
    shares = step.shares[::2].astype(float)
    deviation = 0.5 / np.sqrt(2 * alpha + 1)  # of Beta(alpha, alpha), whose mean is 1/2
    near(shares, 0.5, deviation)
    fourth = scipy.stats.beta(alpha, alpha).expect(lambda x: (x - 0.5) ** 4) if alpha >= 1 else 1 / 16
    near((shares - 0.5) ** 2, deviation**2, np.sqrt(fourth - deviation**4))
    follows_beta(shares, alpha)


@settings(max_examples=10)
@given(seeds)
def test_cutmix_shares_are_exactly_what_the_box_leaves(seed: int) -> None:
    step = sample(COUNT, seed, cutmix=1.0)
    y0, x0, y1, x1 = step.pasted.astype(float).T
    np.testing.assert_array_equal(step.shares, (1 - (y1 - y0) * (x1 - x0)).astype(np.float32))
    # Boxes that are not clipped are squares, in shares, of area 1 - Beta(1, 1): uniform; the centre is too.
    inside = ((y0 > 0) & (x0 > 0) & (y1 < 1) & (x1 < 1))[::2]
    np.testing.assert_allclose((y1 - y0)[::2][inside], (x1 - x0)[::2][inside], atol=1e-6)
    # Each side s = sqrt(u) is clipped to min(c + s/2, 1) - max(c - s/2, 0), whose mean over a uniform c is s - s^2/4; the squared mean
    # is u - u^1.5/2 + u^2/16 a box, over uniform u 1/2 - 1/5 + 1/48. A share is in [0, 1]: its deviation is 1/2 at most.
    near(1 - step.shares[::2], 1 / 2 - 1 / 5 + 1 / 48, 0.5)


def test_with_both_half_of_the_pairs_are_blended_and_half_pasted() -> None:
    step = sample(COUNT, mixup=0.4, cutmix=1.0)
    cut = step.pasted[::2].any(axis=1)
    near(cut, 0.5, 0.5)
    blended = step.shares[::2][~cut]
    follows_beta(blended, 0.4)


@pytest.mark.parametrize("alpha", [1e-9, 1e-3, 10.0])
def test_extreme_alphas_give_shares(alpha: float) -> None:
    for name in ("mixup", "cutmix"):
        shares = sample(1001, **{name: alpha}).shares
        assert np.isfinite(shares).all() and shares.min() >= 0 and shares.max() <= 1


# --- what the colour matrices do, against others ---


def matrix(brightness: float = 1, contrast: float = 1, saturation: float = 1, turn: float = 0) -> np.ndarray:
    return colour_matrices(*(np.array([float(value)]) for value in (brightness, contrast, saturation, turn)))[0]


def changed(rgb: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The definition of `colours`, for uint8 or float (..., 3)."""
    return np.clip(np.rint(rgb.astype(float) @ colour[:, :3].T.astype(float) + colour[:, 3]), 0, 255)


IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
BALANCED = np.concatenate([IMAGE, 255 - IMAGE])  # its mean grey is 127.5, about which torchvision then turns its contrast


def by_torchvision(function: Callable[..., torch.Tensor], *args: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rgb: 255 * function(torch.from_numpy(rgb / 255).permute(2, 0, 1), *args).permute(1, 2, 0).numpy()


def by_pillow(enhancer: type, factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rgb: np.asarray(enhancer(Image.fromarray(rgb)).enhance(factor))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (matrix(brightness=1.4), by_torchvision(tv.adjust_brightness, 1.4)),
        (matrix(brightness=0.3), by_pillow(ImageEnhance.Brightness, 0.3)),
        (matrix(contrast=1.7), by_torchvision(tv.adjust_contrast, 1.7)),
        (matrix(contrast=0.2), by_torchvision(tv.adjust_contrast, 0.2)),
        (matrix(saturation=1.6), by_torchvision(tv.adjust_saturation, 1.6)),
        (matrix(saturation=0.5), by_pillow(ImageEnhance.Color, 0.5)),
        (matrix(saturation=0), by_torchvision(lambda rgb: tv.rgb_to_grayscale(rgb, 3))),
        (matrix(saturation=0), lambda rgb: np.asarray(Image.fromarray(rgb).convert("L").convert("RGB"))),
    ],
    ids=["brighter", "darker-pillow", "contrast", "flat", "saturated", "pale-pillow", "gray", "gray-pillow"],
)
def test_colour_matrices_are_those_of_torchvision_and_pillow(ours: np.ndarray, theirs: Callable[[np.ndarray], np.ndarray]) -> None:
    assert np.abs(changed(BALANCED, ours) - theirs(BALANCED)).max() <= 1


@pytest.mark.parametrize("twist", [{"hue": 40.0}, {"hue": -100.0}, {"hue": 77.0, "saturation": 0.6, "brightness": 1.2}])
def test_hue_turns_as_dali_turns_it(twist: dict[str, float]) -> None:
    dali = pytest.importorskip("nvidia.dali")
    image = IMAGE // 4 + 96  # nothing is clipped on the way

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        return dali.fn.color_twist(dali.fn.external_source(source=lambda: [image], batch=True), **twist)

    built = pipeline()
    built.build()
    theirs = np.asarray(built.run()[0][0]).astype(float)
    ours = matrix(twist.get("brightness", 1), 1, twist.get("saturation", 1), twist["hue"] / 360)
    assert np.abs(changed(image, ours) - theirs).max() <= 2  # DALI's matrices have three digits


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_hue_keeps_luma_and_greys_and_turns_add_up(turn: float, more: float) -> None:
    turned = matrix(turn=turn)
    np.testing.assert_allclose(LUMA @ turned[:, :3], LUMA, atol=1e-6)
    np.testing.assert_allclose(turned[:, :3] @ np.ones(3), 1, atol=1e-6)
    assert not turned[:, 3].any()
    np.testing.assert_allclose(matrix(turn=more)[:, :3] @ turned[:, :3], matrix(turn=turn + more)[:, :3], atol=1e-5)


def test_no_turn_and_no_factor_is_the_identity_and_a_turn_goes_from_red_over_green_to_blue() -> None:
    np.testing.assert_array_equal(matrix(), np.eye(3, 4))
    np.testing.assert_allclose(matrix(turn=1), np.eye(3, 4), atol=1e-6)
    red = np.array([200, 40, 40])
    assert np.argmax(changed(red, matrix(turn=1 / 3))) == 1
    assert np.argmax(changed(red, matrix(turn=2 / 3))) == 2


def test_factors_are_applied_one_after_the_other() -> None:
    soft = IMAGE // 8 + 112  # no step is clipped
    one_by_one = soft.astype(float)
    for one in (matrix(brightness=1.1), matrix(contrast=0.8), matrix(saturation=1.3), matrix(turn=0.07)):
        one_by_one = one_by_one @ one[:, :3].T.astype(float) + one[:, 3]
    assert np.abs(changed(soft, matrix(1.1, 0.8, 1.3, 0.07)) - one_by_one).max() <= 0.51


# What seed 1, epoch 2 over five images gave when the format of these draws was fixed; what a checkpoint made yesterday relies on.
GOLDEN_COLOURS = [
    [[0.828087, -0.259826, 0.271868, 17.023453], [0.15259, 0.869399, -0.18186, 17.023453], [-0.754119, 0.530755, 1.063493, 17.023453]],
    [[0.376083, 0.73833, 0.143389, 4.130254]] * 3,
]
GOLDEN_ERASED = [
    [0.334415, 0.274192, 0.710526, 0.916781],
    [0, 0, 0, 0],
    [0.657212, 0.056406, 0.93385, 0.454433],
    [0.207813, 0.022729, 0.51521, 0.707672],
    [0.339726, 0.212394, 0.773661, 0.564951],
]
GOLDEN_SHARES = [0.252411, 0.252411, 0.867657, 0.867657, 1]
GOLDEN_PASTED = [[0.118053, 0, 1, 0.847657]] * 2 + [[0, 0, 0, 0]] * 3


def test_draws_are_the_same_on_every_machine_and_version() -> None:
    sides = np.full(5, 80)
    step = Plan(rows=np.arange(5), heights_px=sides, widths_px=sides, batch_size=5, seed=1, augment=EVERYTHING).step(2, 0)
    np.testing.assert_allclose(step.colours[:2], GOLDEN_COLOURS, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(step.erased, GOLDEN_ERASED, atol=1e-5)
    np.testing.assert_allclose(step.shares, GOLDEN_SHARES, atol=1e-5)
    np.testing.assert_allclose(step.pasted, GOLDEN_PASTED, atol=1e-5)
    assert step.partners.tolist() == [1, 0, 3, 2, 4]
