"""Sets that do not say what each image is (format version 2, or somebody else's) open and load as sets of today do."""

import hashlib
import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PackedSmall
from PIL import Image
from test_shards import change_index, sign

from fastfashion.config import Size
from fastfashion.errors import PackedSetError
from fastfashion.images import codec
from fastfashion.images.codec import Kind
from fastfashion.load import Loader, LoaderSpec, Plan
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import PackedSet, Resolution, open_packed_set
from fastfashion.shards.verify import verify


def without_kinds(out: Path, to: Path, version: int = 2) -> Path:
    """A copy of a set as fastfashion wrote it before version 3, or as somebody else may write it now."""
    shutil.copytree(out, to)
    for folder in (to / "full", to / "32"):
        index = pd.read_parquet(folder / "index.parquet").drop(columns="kind")
        index.to_parquet(folder / "index.parquet")
        values = json.loads((folder / "manifest.json").read_text()) | {"version": version}
        sign(folder / "manifest.json", values | {"index_sha256": hashlib.sha256((folder / "index.parquet").read_bytes()).hexdigest()})
    sign(to / "set.json", json.loads((to / "set.json").read_text()) | {"version": version})
    return to


def load(packed: PackedSet, rows: np.ndarray, backend: str = "threads") -> tuple[Resolution, np.ndarray]:
    """Rows through a loader, in order, unshrunk: uint8 (n, 80, 60, 3)."""
    originals = packed.open("full")
    plan = Plan(rows=rows, heights_px=originals.height_px, widths_px=originals.width_px, batch_size=8)
    spec = LoaderSpec(
        images=originals,
        plan=plan,
        labels=np.zeros((len(packed), 0), dtype=np.int64),
        size=Size(80, 60),
        device=torch.device("cpu"),
        backend=backend,
    )
    with closing(Loader(spec)) as loader:
        images = np.concatenate(
            [batch.images.numpy()[: len(step.rows)] for step, batch in zip(plan.steps(0), loader.steps(0), strict=True)]
        )
    return originals, images


def test_the_index_says_what_each_image_is(packed_small: PackedSmall) -> None:
    kinds = open_packed_set(packed_small.out).open("full").kind
    assert kinds.dtype == np.int8
    assert (kinds[3], kinds[5]) == (Kind.GRAY, Kind.OTHER)  # a gray JPEG and a PNG, see make_source
    assert (np.delete(kinds, [3, 5]) == Kind.COLOR).all()
    assert (open_packed_set(packed_small.out).open("32").kind == Kind.COLOR).all()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("backend", ["threads", "resident", "dali"])
def test_a_set_that_does_not_say_it_loads_the_same_and_each_image_is_looked_at_once(
    packed_small: PackedSmall, tmp_path: Path, backend: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    packed = open_packed_set(without_kinds(packed_small.out, tmp_path / "set", version))
    assert verify(packed.path).damage == ()
    assert (packed.open("full").kind == -1).all()
    all_rows = np.arange(60)
    expected = load(open_packed_set(packed_small.out), all_rows, backend)[1]
    originals, images = load(packed, all_rows, backend)
    np.testing.assert_array_equal(images, expected)
    known = open_packed_set(packed_small.out).open("full").kind
    np.testing.assert_array_equal(originals.kind, known)
    monkeypatch.setattr(codec, "kind", lambda data: pytest.fail("read again"))
    np.testing.assert_array_equal(originals.kinds_of(all_rows), known)


def test_only_the_images_that_are_read_are_looked_at(packed_small: PackedSmall, tmp_path: Path) -> None:
    packed = open_packed_set(without_kinds(packed_small.out, tmp_path / "set"))
    some = np.arange(0, 60, 2)
    originals, images = load(packed, some)
    np.testing.assert_array_equal(images, load(open_packed_set(packed_small.out), np.arange(60))[1][some])
    assert (originals.kind[some] >= 0).all() and (np.delete(originals.kind, some) == -1).all()


@pytest.mark.parametrize("kind", [-1, 3])
def test_a_kind_that_the_format_does_not_know_is_refused(packed_small: PackedSmall, tmp_path: Path, kind: int) -> None:
    copy = Path(shutil.copytree(packed_small.out, tmp_path / "set"))
    change_index(copy, lambda index: index.assign(kind=index["kind"].where(index["row"] != 9, kind)))
    with pytest.raises(PackedSetError, match=rf"full/index\.parquet: line 9: kind is not 0, 1 or 2 .*kind {kind}\); pack the set again"):
        open_packed_set(copy).open("full")


@pytest.mark.parametrize("backend", ["threads", "resident", "dali"])
def test_an_index_that_calls_an_image_plain_which_is_not_costs_no_batch(packed_small: PackedSmall, tmp_path: Path, backend: str) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed (Linux only)")
    source = Path(shutil.copytree(packed_small.source, tmp_path / "source"))
    packed = open_packed_set(packed_small.out)
    path = source / "images" / f"{packed.table['id'].iloc[12]}.jpg"
    Image.open(path).convert("P").save(path, "GIF")  # which DALI does not decode
    pack(PackRequest(source=source, out=tmp_path / "set", resolutions=("full", "32")))
    _, expected = load(open_packed_set(tmp_path / "set"), np.arange(60), backend)
    change_index(tmp_path / "set", lambda index: index.assign(kind=2))
    [found] = verify(tmp_path / "set").damage
    ids = packed.table["id"]
    assert (found.where, found.resolution) == ("full/index.parquet", "full")
    assert found.reason == f"3 of 60 images are not what its column kind says: ids {ids[3]}, {ids[5]}, {ids[12]}"
    _, images = load(open_packed_set(tmp_path / "set"), np.arange(60), backend)
    difference = np.abs(images.astype(int) - expected)
    assert np.delete(difference, 4, axis=0).max() == 0  # row 4 is of another size, and resized by DALI or by us
    assert difference[4][4:-4, 4:-4].max() <= 2
