"""One image, one set of pixels: every kind through packing, three loader backends, predict, the page, and other people's readers."""

import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_source
from odd_images import HEIGHT, WIDTH, OddImage, odd_images
from PIL import Image, ImageOps
from serving import make_run
from test_pack import add_row

from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import PackedSetError
from fastfashion.images.codec import Kind
from fastfashion.load import Loader, LoaderSpec, Plan
from fastfashion.pack import PackRequest, pack
from fastfashion.predict.inputs import find_inputs
from fastfashion.predict.predictor import Predictor, load_images
from fastfashion.serve.limits import Limits
from fastfashion.serve.state import State
from fastfashion.shards import PackedSet, Resolution, open_packed_set
from fastfashion.shards.layout import shard_name

CPU = torch.device("cpu")
BACKENDS = ["threads", "resident", "dali"]
WHOLE = Size(HEIGHT, WIDTH)


@dataclass(frozen=True)
class World:
    """A source with one image of every kind, and the set packed from it."""

    images: dict[str, OddImage]  # by id, in the order of rows
    source: Path
    out: Path

    def packed(self) -> PackedSet:
        return open_packed_set(self.out)

    def rows(self, *kinds: str) -> np.ndarray:
        """Rows of images of some kinds."""
        return np.array([row for row, image in enumerate(self.images.values()) if image.kind in kinds])

    def file(self, identity: str) -> Path:
        return next(path for path in (self.source / "images").iterdir() if path.stem == identity)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = tmp_path_factory.mktemp("same-pixels")
    source = make_source(home / "source", rows=0)
    images = {re.sub(r"[^\w ]", "_", name): image for name, image in odd_images().items()}
    for identity, image in images.items():
        add_row(source, identity, image.data)
        (source / "images" / f"{identity}.jpg").rename(source / "images" / f"{identity}{image.suffix}")
    summary = pack(PackRequest(source=source, out=home / "set", resolutions=("full", "32"), rows_per_shard=30))
    assert summary.rejected == 0, (home / "set" / "rejected.csv").read_text()
    return World(images, source, home / "set")


def open_one(images: Resolution, rows: np.ndarray, size: Size, backend: str, *, crops: bool = False, on_bad: str = "stop") -> Loader:
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    plan = Plan(
        rows=rows,
        heights_px=images.height_px,
        widths_px=images.width_px,
        batch_size=16,
        augment=AugmentConfig() if crops else None,
    )
    return Loader(
        LoaderSpec(
            images=images,
            plan=plan,
            labels=np.zeros((len(images.shard), 0), dtype=np.int64),
            size=size,
            device=CPU,
            backend=backend,
            workers=2,
            on_bad=on_bad,
        )
    )


def load(packed: PackedSet, size: Size, backend: str, resolution: str = "full", **how: Any) -> np.ndarray:
    """All rows by row: uint8 (N, H, W, 3)."""
    images = np.zeros((len(packed), size.height_px, size.width_px, 3), dtype=np.uint8)
    with closing(open_one(packed.open(resolution), np.arange(len(packed)), size, backend, **how)) as loader:
        for batch in loader.steps(0):
            images[batch.rows[batch.rows >= 0].numpy()] = batch.images[batch.rows >= 0].numpy()
    return images


def largest(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


def test_the_index_says_who_may_decode_each_image(world: World) -> None:
    found = dict(zip(world.images, world.packed().open("full").kind.tolist(), strict=True))
    assert found == {identity: Kind[image.kind] for identity, image in world.images.items()}
    assert (world.packed().open("32").kind == Kind.COLOR).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_shows_every_kind_as_it_was_drawn(world: World, backend: str) -> None:
    found = load(world.packed(), WHOLE, backend)
    for image, (identity, odd) in zip(found, world.images.items(), strict=True):
        if odd.expected.shape == image.shape:
            assert largest(image, odd.expected) <= odd.tolerance, identity


@pytest.mark.parametrize("other", ["resident", "dali"])
@pytest.mark.parametrize("resolution", ["full", "32"])
def test_without_a_resize_all_backends_have_the_same_pixels(world: World, resolution: str, other: str) -> None:
    size = WHOLE if resolution == "full" else Size(32, 48)
    packed = world.packed()
    images = packed.open(resolution)
    usual = (images.height_px == size.height_px) & (images.width_px == size.width_px)
    assert usual.sum() >= len(packed) - 5
    np.testing.assert_array_equal(load(packed, size, other, resolution)[usual], load(packed, size, "threads", resolution)[usual])


@pytest.mark.parametrize("size", [Size(128, 128), Size(48, 56)], ids=str)
def test_crops_of_every_kind_are_the_same_in_all_backends(world: World, size: Size) -> None:
    packed = world.packed()
    threads, resident, dali = (load(packed, size, backend, crops=True) for backend in BACKENDS)
    other = world.rows("OTHER")
    np.testing.assert_array_equal(dali[other], threads[other])  # DALI is given what threads shows
    assert largest(resident, threads) <= 2
    assert largest(dali[:, 4:-4, 4:-4], threads[:, 4:-4, 4:-4]) <= 2  # DALI repeats the border


def test_scaled_decoding_costs_grey_levels_only_where_it_scales(world: World) -> None:
    packed, plain = world.packed(), world.rows("GRAY", "COLOR")
    small = {backend: load(packed, Size(16, 24), backend)[plain] for backend in BACKENDS}  # decoded at 1/2 for threads, in full for others
    assert largest(small["resident"], small["dali"]) <= 4
    assert largest(small["threads"], small["resident"]) <= 17


def test_predict_and_the_page_see_what_the_loader_sees(world: World, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", world.out, size=f"{HEIGHT}x{WIDTH}")
    predictor = Predictor(run, CPU, workers=1)
    packed = world.packed()
    spec = predictor.spec(packed, np.arange(len(packed)), 16)
    assert spec.images.name == "full"
    expected = load(packed, WHOLE, "threads")
    with closing(Loader(spec)) as loader:
        np.testing.assert_array_equal(np.concatenate([batch.images[batch.rows >= 0].numpy() for batch in loader.steps(0)]), expected)

    paths = [world.file(identity) for identity in world.images]
    pixels = np.zeros_like(expected)
    assert load_images(list(find_inputs(map(str, paths))), pixels) == {}  # type: ignore[arg-type]
    for found, wanted, identity in zip(pixels, expected, world.images, strict=True):
        np.testing.assert_array_equal(found, wanted, err_msg=identity)
    with closing(State(run=run, predictor=predictor, limits=Limits(), products=None, no_products="")) as state:
        for line, wanted, path in zip(state.batch(paths), expected, paths, strict=True):
            assert line.pixels is not None, line.record
            np.testing.assert_array_equal(line.pixels, wanted, err_msg=path.name)


def members(out: Path, resolution: str = "full") -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each image, by tarfile alone."""
    for path in sorted((out / resolution).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield member.name.removesuffix(".jpg"), file.read()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def test_tarfile_and_pillow_read_every_sample_and_see_our_pixels_where_images_are_plain(world: World) -> None:
    found = dict(members(world.out))
    assert found == {identity: image.data for identity, image in world.images.items()}
    expected = dict(zip(world.images, load(world.packed(), WHOLE, "threads"), strict=True))
    xmp = {identity for identity in world.images if "xmp" in identity}  # Pillow turns by XMP alone, and nobody else does
    for identity, odd in world.images.items():
        if odd.kind != "OTHER" and identity not in xmp:
            np.testing.assert_array_equal(by_pillow(found[identity]), expected[identity], err_msg=identity)
    for identity, data in members(world.out, "32"):
        assert by_pillow(data).shape[2] == 3, identity


def test_webdataset_reads_every_sample(world: World) -> None:
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted((world.out / "full").glob("*.tar"))]
    samples = {sample["__key__"]: sample["jpg"] for sample in wds.WebDataset(urls, shardshuffle=False)}
    assert samples == {identity: image.data for identity, image in world.images.items()}
    shown = {name: image for name, image in wds.WebDataset(urls, shardshuffle=False).to_tuple("__key__", "jpg")}
    assert shown == samples


def read_by_dali(world: World, tmp_path: Path, identities: list[str], decode: bool) -> Iterator[np.ndarray]:
    """Some samples by DALI's own reader, encoded or decoded; an index of DALI's may list any part of a tar."""
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    from nvidia.dali import fn, pipeline_def

    names = {f"{identity.replace(' ', '_')}.jpg" for identity in identities}
    paths, indices = [], []
    for path in sorted((world.out / "full").glob("*.tar")):
        lines = path.with_suffix(".idx").read_text(encoding="utf-8").splitlines()[1:]
        if wanted := [line for line in lines if line.split()[3] in names]:
            indices.append(tmp_path / f"{path.stem}.idx")
            indices[-1].write_text("\n".join([f"v1.2 {len(wanted)}", *wanted, ""]), encoding="utf-8")
            paths.append(path)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read() -> Any:
        jpg = fn.readers.webdataset(paths=[str(path) for path in paths], index_paths=[str(index) for index in indices], ext=["jpg"])
        return fn.decoders.image(jpg, device="cpu") if decode else jpg

    pipeline = read()
    pipeline.build()
    for _ in identities:
        yield np.array(pipeline.run()[0].at(0))


def test_dalis_reader_reads_every_sample_and_sees_our_pixels_where_images_are_plain(world: World, tmp_path: Path) -> None:
    for data, (identity, image) in zip(read_by_dali(world, tmp_path, list(world.images), False), world.images.items(), strict=True):
        assert data.tobytes() == image.data, identity
    expected = load(world.packed(), WHOLE, "threads")
    plain = world.rows("GRAY", "COLOR")
    identities = [list(world.images)[row] for row in plain]
    for found, row, identity in zip(read_by_dali(world, tmp_path, identities, True), plain, identities, strict=True):
        np.testing.assert_array_equal(found, expected[row], err_msg=identity)


@pytest.fixture
def damaged(world: World, tmp_path: Path) -> PackedSet:
    """The set with zeros where images were; sizes stay, so that only decoding can notice."""
    out = Path(shutil.copytree(world.out, tmp_path / "damaged"))
    images = open_packed_set(out).open("full")
    for row in range(0, len(world.images), 2):
        with (out / "full" / shard_name(int(images.shard[row]))).open("r+b") as file:
            file.seek(int(images.offset[row]))
            file.write(bytes(int(images.num_bytes[row])))
    return open_packed_set(out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_that_do_not_decode_are_skipped_whatever_they_were(world: World, damaged: PackedSet, backend: str) -> None:
    rows = np.arange(len(damaged))
    expected = load(world.packed(), WHOLE, backend)
    with closing(open_one(damaged.open("full"), rows, WHOLE, backend, on_bad="skip")) as loader:
        for batch in loader.steps(0):
            whole = batch.rows >= 0
            np.testing.assert_array_equal(batch.images[whole].numpy(), expected[batch.rows[whole].numpy()])
        assert sorted(loader.skipped) == rows[::2].tolist()
        for row, skipped in loader.skipped.items():
            assert list(world.images)[row] in skipped.where


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["OTHER", "GRAY", "COLOR"])
def test_an_image_that_does_not_decode_is_named_whatever_it_was(world: World, damaged: PackedSet, backend: str, kind: str) -> None:
    row = int(next(row for row in world.rows(kind) if row % 2 == 0))
    rows = np.array([1, row])
    identity = list(world.images)[row]
    with (
        closing(open_one(damaged.open("full"), rows, WHOLE, backend)) as loader,
        pytest.raises(PackedSetError, match=r"--set data\.on_bad=skip") as error,
    ):
        list(loader.steps(0))
    assert identity in str(error.value)
