"""The loader backends: all execute the same plan, agree with each other, and end cleanly."""

import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PackedSmall
from PIL import Image

from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.images import codec
from fastfashion.images.jpeg_header import MAGIC as JPEG_MAGIC
from fastfashion.load import Batch, Loader, LoaderSpec, Plan, choose_images, dali, resident
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import PackedSet, Resolution, open_packed_set
from fastfashion.shards.layout import shard_name
from fastfashion.sources.synth import write_synth

BACKENDS = ["threads", "dali", "resident"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def packed(packed_small: PackedSmall) -> PackedSet:
    return open_packed_set(packed_small.out)


@pytest.fixture
def opened() -> Iterator[Any]:
    loaders: list[Loader] = []

    def make(packed: PackedSet, backend: str, *, size: Size, train: bool = True, resolution: str = "full", **changes: Any) -> Loader:
        if backend == "dali":
            pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
        images = packed.open(resolution)
        plan = Plan(
            rows=np.arange(len(packed)),
            heights_px=images.height_px,
            widths_px=images.width_px,
            batch_size=changes.pop("batch_size", 16),
            seed=3,
            augment=changes.pop("augment", AugmentConfig()) if train else None,
        )
        labels = packed.vocab.codes(packed.table, ["subCategory", "season"])
        spec = LoaderSpec(images=images, plan=plan, labels=labels, size=size, device=CPU, backend=backend, workers=2, **changes)
        loaders.append(Loader(spec))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def stacked(batches: list[Batch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    real = [batch.rows >= 0 for batch in batches]
    parts = [(b.rows[keep], b.labels[keep], b.images[keep]) for b, keep in zip(batches, real, strict=True)]
    rows, labels, images = (torch.cat([part[i] for part in parts]).numpy() for i in range(3))
    return rows, labels, images


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_have_the_promised_shapes_and_labels(packed: PackedSet, opened: Any, backend: str) -> None:
    batch = next(iter(opened(packed, backend, size=Size(48, 32)).steps(0)))
    assert batch.images.dtype == torch.uint8 and tuple(batch.images.shape[1:]) == (48, 32, 3)
    assert batch.labels.dtype == torch.int64 and batch.labels.shape == (len(batch.rows), 2)
    for row, label in zip(batch.rows.tolist(), batch.labels.tolist(), strict=True):
        if row == -1:
            assert label == [-1, -1]
            continue
        for task, code in zip(("subCategory", "season"), label, strict=True):
            written = packed.table[task].iloc[row]
            assert (code == -1 and written in ("", "NA")) or packed.vocab.names(task)[code] == written


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_resize_the_pixels_are_those_of_the_file(packed: PackedSet, opened: Any, backend: str) -> None:
    originals = packed.open("full")
    usual = (originals.height_px == 80) & (originals.width_px == 60)
    rows, _, images = stacked(list(opened(packed, backend, size=Size(80, 60), train=False).steps(0)))
    for row, found in zip(rows, images, strict=True):
        if usual[row]:
            expected = np.asarray(Image.open(io.BytesIO(originals.encoded(row).tobytes())).convert("RGB"))
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("other", ["dali", "resident"])
@pytest.mark.parametrize("size", [Size(128, 96), Size(40, 30), Size(80, 20)], ids=str)
def test_all_backends_give_the_same_batch_for_the_same_plan(packed: PackedSet, opened: Any, size: Size, other: str) -> None:
    (rows, labels, images), (other_rows, other_labels, other_images) = (
        stacked(list(opened(packed, backend, size=size).steps(1))) for backend in ("threads", other)
    )
    np.testing.assert_array_equal(rows, other_rows)
    np.testing.assert_array_equal(labels, other_labels)
    difference = np.abs(images.astype(float) - other_images.astype(float))
    # `threads` converts colours after the resize; DALI rounds after each axis, and repeats the border, beyond which we see nothing.
    assert difference[:, 4:-4, 4:-4].max() <= 2
    assert difference.mean() <= 0.6
    # Another epoch's crops differ by far more, so the tolerance does distinguish images and boxes.
    later = stacked(list(opened(packed, "threads", size=size).steps(2)))
    by_row, later_by_row = images[np.argsort(rows)], later[2][np.argsort(later[0])]
    assert np.abs(by_row.astype(float) - later_by_row.astype(float)).mean() > 5


def test_dali_cuts_the_same_crops_out_of_whole_images(packed: PackedSet, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = opened(packed, "dali", size=Size(40, 30))
    with monkeypatch.context() as patched:
        patched.setattr(dali, "uses_nvjpeg", lambda spec: True)
        whole = stacked(list(opened(packed, "dali", size=Size(40, 30)).steps(1)))
    rows, labels, images = stacked(list(parts.steps(1)))
    np.testing.assert_array_equal(whole[0], rows)
    np.testing.assert_array_equal(whole[1], labels)
    np.testing.assert_array_equal(whole[2][rows != 3], images[rows != 3])  # row 3 is gray, which nvJPEG does not see


def test_dali_is_given_the_pixels_of_gray_jpegs_where_nvjpeg_decodes(tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_synth(tmp_path / "drawn", rows=12, width_px=61, height_px=80, workers=1)
    for number, path in enumerate(sorted((tmp_path / "drawn/images").iterdir())):
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8  # turned, too
        Image.open(path).convert("L" if number % 3 else "RGB").save(path, quality=90, exif=exif)
    pack(PackRequest(source=tmp_path / "drawn", out=tmp_path / "gray", resolutions=("full",), workers=1))
    packed = open_packed_set(tmp_path / "gray")
    gray = packed.open("full").kind == codec.Kind.GRAY
    assert gray.sum() == 8
    rows, _, expected = stacked(list(opened(packed, "threads", size=Size(40, 30)).steps(1)))
    monkeypatch.setattr(dali, "uses_nvjpeg", lambda spec: True)
    given: list[tuple[int, bytes]] = []
    build = dali.build_pipeline

    def watched(spec: LoaderSpec, feed: Any) -> Any:
        def watching() -> Any:
            values = feed()
            given.extend(zip(loader._opened.backend._fed[-1].part.fetch.tolist(), (data[:2].tobytes() for data in values[0]), strict=True))
            return values

        return build(spec, watching)

    monkeypatch.setattr(dali, "build_pipeline", watched)
    loader = opened(packed, "dali", size=Size(40, 30))
    _, _, images = stacked(list(loader.steps(1)))
    assert np.abs(images[gray[rows]].astype(int) - expected[gray[rows]]).max() <= 1
    assert set(given) == {(row, b"P6" if gray[row] else JPEG_MAGIC[:2]) for row in range(len(packed))}


def test_the_resident_loader_of_a_gpu_gives_the_same_batches_on_a_cpu(
    packed: PackedSet, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_host = opened(packed, "resident", size=Size(40, 30))
    monkeypatch.setattr(resident, "HostStore", resident.DeviceStore)
    on_device = opened(packed, "resident", size=Size(40, 30))
    for epoch in range(2):  # while images are decoded, and when all are
        rows, labels, images = stacked(list(on_host.steps(epoch)))
        other_rows, other_labels, other_images = stacked(list(on_device.steps(epoch)))
        np.testing.assert_array_equal(rows, other_rows)
        np.testing.assert_array_equal(labels, other_labels)
        assert np.abs(images.astype(int) - other_images).max() <= 1


@pytest.mark.parametrize("other", ["dali", "resident"])
def test_all_backends_colour_erase_and_mix_alike(packed: PackedSet, opened: Any, other: str) -> None:
    augment = AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.5, hue=0.1, grayscale=0.3, erase=0.5, mixup=0.5, cutmix=0.5)
    plain, batches, others = (
        list(opened(packed, backend, size=Size(48, 40), augment=how).steps(1))
        for backend, how in (("threads", AugmentConfig()), ("threads", augment), (other, augment))
    )
    for batch, same in zip(batches, others, strict=True):
        assert batch.partners is not None and batch.shares is not None and same.partners is not None and same.shares is not None
        for a, b in ((batch.rows, same.rows), (batch.labels, same.labels), (batch.partners, same.partners), (batch.shares, same.shares)):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert (batch.images.float() - same.images.float()).abs().mean() < 0.6
    assert np.abs(stacked(plain)[2].astype(float) - stacked(batches)[2]).mean() > 10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("train", [True, False])
def test_one_two_and_three_ranks_together_see_each_row_once_and_the_same(packed: PackedSet, opened: Any, backend: str, train: bool) -> None:
    whole = {}
    for world_size in (1, 2, 3):
        ranks = [
            stacked(list(opened(packed, backend, size=Size(32, 32), train=train, batch_size=10, rank=rank, world_size=world_size).steps(0)))
            for rank in range(world_size)
        ]
        rows = np.concatenate([rows for rows, _, _ in ranks])
        assert sorted(rows) == list(range(len(packed)))
        whole[world_size] = np.concatenate([images for _, _, images in ranks])[np.argsort(rows)]
    np.testing.assert_array_equal(whole[1], whole[2])
    np.testing.assert_array_equal(whole[1], whole[3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_starting_in_mid_epoch_gives_the_tail_and_a_loader_left_half_way_starts_clean(packed: PackedSet, opened: Any, backend: str) -> None:
    loader = opened(packed, backend, size=Size(32, 32))
    whole = list(loader.steps(4))
    for leave_after in (1, 2, len(whole)):
        for count, _ in enumerate(loader.steps(5), 1):
            if count == leave_after:
                break
        tail = list(loader.steps(4, 3))
        assert len(tail) == len(whole) - 3
        for a, b in zip(whole[3:], tail, strict=True):
            torch.testing.assert_close(a.images, b.images, rtol=0, atol=0)
            assert a.rows.tolist() == b.rows.tolist()
            assert a.num_labelled == b.num_labelled


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_stays_as_it_was_while_later_ones_are_made(packed: PackedSet, opened: Any, backend: str) -> None:
    loader = opened(packed, backend, size=Size(32, 32))
    batches = loader.steps(0)
    first = next(batches)
    copy = first.images.clone()
    for _ in batches:
        pass
    torch.testing.assert_close(first.images, copy, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_during_an_epoch_is_quiet(packed: PackedSet, opened: Any, backend: str) -> None:
    loader = opened(packed, backend, size=Size(32, 32))
    batches = loader.steps(0)
    next(batches)
    loader.close()
    batches.close()  # would raise if the rest of the epoch were still asked for
    assert next(batches, None) is None


def test_closing_ends_the_threads(packed: PackedSet, opened: Any) -> None:
    before = threading.active_count()
    loader = opened(packed, "threads", size=Size(32, 32))
    next(iter(loader.steps(0)))
    loader.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_that_does_not_decode_names_set_and_cure(packed_small: PackedSmall, opened: Any, backend: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(packed_small.out, damaged)
    packed = open_packed_set(damaged)
    images = packed.open("full")
    shard = damaged / "full" / shard_name(int(images.shard[5]))
    with shard.open("r+b") as file:  # the size stays, so that only decoding can notice
        file.seek(int(images.offset[5]))
        file.write(bytes(int(images.num_bytes[5])))
    with pytest.raises(PackedSetError, match="fastfashion verify ") as caught:
        list(opened(packed, backend, size=Size(32, 32)).steps(0))
    for said in (shard.name, f"byte {images.offset[5]}", packed.table["id"].iloc[5]):
        assert said in str(caught.value)


def test_dali_starts_every_epoch_with_a_pipeline_that_works(
    packed_small: PackedSmall, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(packed_small.out, tmp_path / "damaged")
    packed = open_packed_set(tmp_path / "damaged")
    images = packed.open("full")
    with (tmp_path / "damaged/full" / shard_name(int(images.shard[5]))).open("r+b") as file:
        file.seek(int(images.offset[5] + images.num_bytes[5] // 2))
        file.write(b"\xff\xd9" * int(images.num_bytes[5] // 4))  # the end of a JPEG, too early
    monkeypatch.setattr(Resolution, "unlike", lambda self, rows, encoded: {})  # only decoding may notice
    loader = opened(packed, "dali", size=Size(32, 32))
    for epoch in range(2):
        with pytest.raises(PackedSetError, match=rf"at byte {images.offset[5]}: "):
            list(loader.steps(epoch))


def test_the_smallest_sufficient_resolution_is_chosen(packed: PackedSet) -> None:
    assert packed.resolutions == ("32", "full")
    for size, expected in (("32x32", "32"), ("40x30", "32"), ("80x64", "full"), ("224", "full")):
        assert choose_images(packed, "auto", size)[0].name == expected
    for crop_pct, expected in ((1.0, "32"), (0.875, "full")):  # 28 of its 32 pixels are fewer than the size has
        assert choose_images(packed, "auto", "32x32", crop_pct)[0].name == expected
    images, size = choose_images(packed, "auto", "auto")
    assert images.name == "full" and (size.height_px, size.width_px) == (80, 64)  # 80x60 to the next multiple of 16
    images, size = choose_images(packed, "auto", "auto", min_side_px=96)
    assert images.name == "full" and (size.height_px, size.width_px) == (128, 96), "small images are enlarged, in their shape"
    assert choose_images(packed, "auto", "auto", min_side_px=40)[1] == Size(80, 64)
    with pytest.raises(ConfigError, match="there are 32, full"):
        choose_images(packed, "224", "auto")


def test_an_unknown_backend_is_refused_by_name(packed: PackedSet, opened: Any) -> None:
    with pytest.raises(ConfigError, match="auto, dali, threads, resident"):
        opened(packed, "ffcv", size=Size(32, 32))


def test_images_that_do_not_fit_into_memory_are_refused_with_numbers(
    packed: PackedSet, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "free_bytes", lambda device: 800_000)  # 60 images of 61x80 are 878,400 bytes
    with pytest.raises(ConfigError, match=r"60 images of up to 61x80 take 0\.000878 GB, of which at most 0\.00064 GB are free on cpu"):
        opened(packed, "resident", size=Size(32, 32))
