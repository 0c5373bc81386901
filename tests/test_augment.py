"""Colour, erasing and mixing: what they do, and that the CPU's way and the device's agree."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from fastfashion.config import AugmentConfig
from fastfashion.load import Plan
from fastfashion.load.augment import MEAN_RGB, apply, apply_one, apply_torch, mix, mix_torch, pixel_boxes
from fastfashion.load.plan import Part

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]  # the code for devices runs on any
GREY = np.array([0.2989, 0.587, 0.114])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def part_of(length: int, **fields: Any) -> Part:
    """A share of `length` images with only the given augmentations."""
    arrays = {name: np.asarray(values, dtype=np.int64 if name == "partners" else np.float32) for name, values in fields.items()}
    rows = np.arange(length)
    return Part(rows=rows, fetch=rows, boxes=np.zeros((length, 4), np.int32), flips=np.zeros(length, bool), **arrays)


def colour_of(matrix: np.ndarray, offset: float = 0.0) -> np.ndarray:
    return np.concatenate([matrix, np.full((3, 1), offset)], axis=1).astype(np.float32)


def largest_difference(a: Any, b: Any) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.mark.parametrize(
    ("colour", "theirs"),
    [
        (colour_of(1.3 * np.eye(3)), lambda rgb: tv.adjust_brightness(rgb, 1.3)),
        (colour_of(0.4 * np.eye(3)), lambda rgb: tv.adjust_brightness(rgb, 0.4)),
        (colour_of(1.6 * np.eye(3) - 0.6 * GREY), lambda rgb: tv.adjust_saturation(rgb, 1.6)),
        (colour_of(np.tile(GREY, (3, 1))), lambda rgb: tv.rgb_to_grayscale(rgb, num_output_channels=3)),
        (colour_of(-np.eye(3), 255), tv.invert),
    ],
    ids=["brighter", "darker", "saturated", "gray", "inverted"],
)
def test_colour_matrices_do_what_torchvision_does(colour: np.ndarray, theirs: Any) -> None:
    image = noise(33, 21)
    expected = theirs(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0)
    by_device = torch.from_numpy(image.copy())[None]
    apply_torch(by_device, part_of(1, colours=colour[None]))
    apply_one(image, colour, None)
    assert largest_difference(image, expected) <= 1
    assert largest_difference(by_device[0], expected) <= 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (80, 64), (33, 224)])
def test_device_and_cpu_agree_on_any_colour_and_box(device: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[1])
    colours = rng.normal(0, 0.7, (12, 3, 4)) * (1, 1, 1, 80)
    colours[:2] = np.eye(3, 4)
    erased = np.sort(rng.random((12, 2, 2)), axis=1).reshape(12, 4)
    erased[1:4] = 0
    part = part_of(12, colours=colours, erased=erased)
    before = torch.from_numpy(noise(12, *shape, seed=1))
    on_cpu, on_device = before.clone(), before.to(device, copy=True)
    apply(on_cpu, part)
    apply_torch(on_device, part)
    assert largest_difference(on_cpu, on_device.cpu()) <= 1
    assert torch.equal(on_cpu[1], before[1])
    assert torch.equal(on_device[1].cpu(), before[1])


def test_both_ways_round_to_the_nearest_grey_level() -> None:
    images = torch.from_numpy(noise(2, 100, 100))
    mixing = part_of(2, partners=[1, 0], shares=[0.3, 0.3], pasted=np.zeros((2, 4)))
    half = part_of(2, colours=[colour_of(0.7 * np.eye(3))] * 2)
    exact = 0.3 * images.double() + 0.7 * images.flip(0).double()
    for mixer in (mix, mix_torch):
        assert (mixer(images, mixing).double() - exact).mean().abs() < 0.02  # cutting the fraction off would lose half a level
    for way in (apply, apply_torch):
        darker = images.clone()
        way(darker, half)
        assert (darker.double() - 0.7 * images.double()).mean().abs() < 0.05  # OpenCV's coefficients have 10 bits after the point


def test_an_erased_box_is_the_mean_colour_whatever_the_colours_do_and_the_rest_is_untouched() -> None:
    image = noise(8, 6)
    expected = 255 - image
    expected[2:6, 3:6] = (124, 116, 104)
    colour, erased = colour_of(-np.eye(3), 255), np.array([0.25, 0.5, 0.75, 1], np.float32)
    by_device = torch.from_numpy(image.copy())[None]
    apply_torch(by_device, part_of(1, colours=colour[None], erased=erased[None]))
    apply_one(image, colour, erased)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(by_device[0], expected)


def test_the_paint_is_what_a_backbone_takes_for_nothing() -> None:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    normalised = (np.array(MEAN_RGB) / 255 - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    assert np.abs(normalised).max() < 0.01


def test_boxes_are_rounded_to_whole_pixels_and_stay_in_the_image() -> None:
    np.testing.assert_array_equal(pixel_boxes(np.array([0.24, 0.26, 0.99, 1], np.float32), 10, 10), [2, 3, 10, 10])
    boxes = np.random.default_rng(0).random((100, 4)).astype(np.float32)
    for height, width in ((1, 1), (17, 4096)):
        pixels = pixel_boxes(boxes, height, width)
        assert (pixels >= 0).all() and (pixels <= (height, width, height, width)).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mixer", [mix, mix_torch])
def test_pairs_are_blended_or_pasted_and_all_others_stay(mixer: Any, device: str) -> None:
    a, b, c, d, alone, padding = images = noise(6, 20, 10)
    part = part_of(
        6,
        partners=[1, 0, 3, 2, 4, 5],
        shares=[0.3, 0.3, 0.875, 0.875, 1, 1],
        pasted=[[0] * 4, [0] * 4, [0.5, 0.5, 0.75, 1], [0.5, 0.5, 0.75, 1], [0] * 4, [0] * 4],
    )
    before = torch.from_numpy(images.copy()).to(device)
    mixed = mixer(before, part).cpu().numpy()
    assert mixed.dtype == np.uint8
    for found, (own, other) in zip(mixed[:2], ((a, b), (b, a)), strict=True):
        assert largest_difference(found, Image.blend(Image.fromarray(other), Image.fromarray(own), 0.3)) <= 1
    for found, (own, other) in zip(mixed[2:4], ((c, d), (d, c)), strict=True):
        expected = own.copy()
        expected[10:15, 5:10] = other[10:15, 5:10]
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(mixed[4:], [alone, padding])
    np.testing.assert_array_equal(before.cpu(), images)


@pytest.mark.parametrize("mixer", [mix, mix_torch])
def test_a_pasted_box_of_less_than_a_pixel_changes_nothing(mixer: Any) -> None:
    images = torch.from_numpy(noise(2, 20, 10))
    part = part_of(2, partners=[1, 0], shares=[0.9999, 0.9999], pasted=[[0.5, 0.5, 0.51, 0.51]] * 2)
    assert torch.equal(mixer(images, part), images)


def test_nothing_to_do_costs_no_copy() -> None:
    images = torch.from_numpy(noise(3, 8, 8))
    before = images.clone()
    apply(images, part_of(3))
    apply(images, part_of(3, colours=[np.eye(3, 4)] * 3, erased=np.zeros((3, 4))))
    apply_torch(images, part_of(3, colours=[np.eye(3, 4)] * 3, erased=np.zeros((3, 4))))
    assert torch.equal(images, before)
    assert mix(images, part_of(3)) is images
    assert mix(images, part_of(3, partners=[0, 1, 2], shares=[1, 1, 1], pasted=np.zeros((3, 4)))) is images


def test_images_that_grayscale_spares_are_left_as_they_are() -> None:
    sides = np.full(40, 80)
    plan = Plan(rows=np.arange(40), heights_px=sides, widths_px=sides, batch_size=40, augment=AugmentConfig(grayscale=0.5))
    before = torch.from_numpy(noise(40, 16, 16))
    images = before.clone()
    apply(images, plan.step(0, 0).part(0, 1, 40))
    grey = (images == images[..., :1]).all(dim=3).flatten(1).all(dim=1)
    assert 10 < grey.sum() < 30
    assert torch.equal(images[~grey], before[~grey])


EVERYTHING = AugmentConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2, erase=0.5, mixup=0.8, cutmix=1.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("world_size", [1, 3])
def test_what_a_plan_draws_looks_the_same_on_device_and_cpu(device: str, world_size: int) -> None:
    sides = np.full(23, 80)
    plan = Plan(rows=np.arange(23), heights_px=sides, widths_px=sides, batch_size=12, seed=5, augment=EVERYTHING)
    for step in plan.steps(epoch=0):
        for rank in range(world_size):
            part = step.part(rank, world_size, plan.num_slots(world_size))
            on_cpu = torch.from_numpy(noise(len(part.rows), 48, 40, seed=rank))
            on_device = on_cpu.to(device, copy=True)
            apply(on_cpu, part)
            apply_torch(on_device, part)
            assert largest_difference(on_cpu, on_device.cpu()) <= 1
            mixed = mix(on_cpu, part)
            assert largest_difference(mixed, mix_torch(on_cpu.to(device), part).cpu()) <= 1
            assert torch.equal(mixed[part.rows == -1], on_cpu[part.rows == -1])


def test_the_share_of_a_pasted_image_is_the_share_of_its_pixels() -> None:
    sides = np.full(64, 80)
    augment = AugmentConfig(cutmix=1.0)
    plan = Plan(rows=np.arange(64), heights_px=sides, widths_px=sides, batch_size=64, augment=augment)
    part = plan.step(0, 0).part(0, 1, 64)
    images = torch.arange(64, dtype=torch.uint8)[:, None, None, None].expand(64, 200, 100, 3).contiguous()
    own = (mix(images, part) == images).float().mean(dim=(1, 2, 3)).numpy()
    # half a pixel at each of the four edges of the box
    np.testing.assert_allclose(own, part.shares, atol=0.5 / 200 * 2 + 0.5 / 100 * 2)
    assert part.shares.min() < 0.5
