"""Seek tables: where decoding can start inside of an image. The pixels are the same, whatever is wrong with tables or their files."""

import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import digests, make_source, table_row
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_scan import read_scan
from PIL import Image

from fastfashion.config import AugmentConfig, Size
from fastfashion.errors import PackedSetError
from fastfashion.files import location
from fastfashion.load import Loader, LoaderSpec, Plan
from fastfashion.load.batch import Profile
from fastfashion.load.crops import load_crops
from fastfashion.load.seek_cache import MadeTables, _num_bytes, _opened_ns, note
from fastfashion.load.threads import CropDecoder
from fastfashion.pack import PackRequest, pack
from fastfashion.pack.repair import repair
from fastfashion.shards import Resolution, open_packed_set, seek
from fastfashion.shards.layout import FORMAT, Manifest
from fastfashion.shards.verify import verify

_native = pytest.importorskip("fastfashion.images._native", reason="built without a C compiler")
Place = tuple[int, int, int, int, int]


def jpeg(seed: int, width_px: int, height_px: int, *, mode: str = "RGB", grain: int = 24, **how: object) -> bytes:
    """A JPEG with fine detail, by Pillow."""
    rng = np.random.default_rng(seed)
    shape = (height_px, width_px) if mode == "L" else (height_px, width_px, 3)
    slope = np.linspace(0, 200, width_px)[None, :] if mode == "L" else np.linspace(0, 200, width_px)[None, :, None]
    pixels = np.clip(slope + rng.integers(-grain, grain + 1, shape), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(data := io.BytesIO(), "JPEG", **how)
    return data.getvalue()


def unpack_by_hand(entry: bytes) -> list[Place]:
    """The marks of an entry, read from FORMAT.md alone."""
    if not entry:
        return []
    n, bit_width, widths = struct.unpack("<HBB", entry[:4])
    fields = (bit_width, widths & 15, widths >> 4, widths >> 4)
    number, at, found, sums = int.from_bytes(entry[4:], "little"), 0, [], [0, 0, 0, 0]
    for k in range((len(entry) - 4) * 8 // sum(fields)):
        for i, width in enumerate(fields):
            value = number >> at & ((1 << width) - 1)
            at += width
            sums[i] += value if i == 0 else value // 2 if value % 2 == 0 else -(value + 1) // 2
        found.append(((k + 1) * n, sums[0], sums[1], sums[2], sums[3]))
    return found


def marks_of_table(table: bytes, places: list[int]) -> list[list[Place]]:
    marks, first = _native.read_marks([np.frombuffer(table, np.uint8)] * len(places), np.array(places, dtype=np.int64))
    found = np.frombuffer(marks, np.int32).reshape(-1, 5)
    starts = np.frombuffer(first, np.int64).tolist()
    return [[tuple(mark) for mark in found[a:b].tolist()] for a, b in itertools.pairwise(starts)]


ZOO = {
    "4:2:0": jpeg(1, 1030, 60, quality=90, subsampling=2),
    "4:2:2": jpeg(2, 1040, 24, quality=75, subsampling=1),
    "4:4:4": jpeg(3, 520, 40, quality=50, subsampling=0),
    "gray": jpeg(4, 530, 50, mode="L", quality=95),
    "coarse": jpeg(5, 1050, 70, quality=5, subsampling=2),
    "finest": jpeg(6, 1024, 33, quality=100, subsampling=2, grain=120),
    "own tables": jpeg(7, 1100, 50, quality=85, optimize=True),
    "small": jpeg(8, 17, 9),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_native_scan_finds_what_plain_python_finds(name: str) -> None:
    expected = read_scan(ZOO[name]).marks()
    found = np.frombuffer(_native.find_marks(ZOO[name]), np.int32).reshape(-1, 5)
    assert found.tolist() == [list(mark) for mark in expected[1:]]


@pytest.mark.parametrize("name", ZOO)
def test_an_entry_has_every_nth_of_them_in_a_share_of_the_bytes(name: str) -> None:
    data = ZOO[name]
    (entry,) = seek.make_entries([data])
    assert len(entry) + seek.END_BYTES <= seek.SHARE * len(data) or not entry
    assert bool(entry) == (name != "small"), "an image of few MCUs needs no marks"
    marks = unpack_by_hand(entry)
    if marks:
        number, all_marks = marks[0][0], read_scan(data).marks()
        assert marks == all_marks[number::number]
    assert marks_of_table(seek.join([b"", entry, entry]), [1, 0, 2]) == [marks, [], marks] if entry else seek.join([entry]) == b""


def test_images_that_cannot_be_entered_have_no_entry() -> None:
    restarts = jpeg(1, 1030, 60, quality=90, restart_marker_blocks=5)
    progressive = jpeg(1, 1030, 60, quality=90, progressive=True)
    cut = ZOO["4:2:0"][:-3000]
    assert seek.make_entries([restarts, progressive, cut, b"", b"\xff\xd8", b"no image"]) == [b""] * 6
    assert _native.find_marks(progressive) is None
    frame = bytearray(jpeg(1, 64, 64))
    at = frame.index(b"\xff\xc0") + 5
    frame[at : at + 4] = b"\xff\xff\xff\xff"  # 65535x65535 pixels in some KB: no memory is taken for their marks
    assert _native.find_marks(bytes(frame)) is None


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(-1, 5), st.integers(0, 6), st.lists(st.integers(0, 300), max_size=6))
def test_any_bytes_are_read_as_marks_that_ascend(entry: bytes, place: int, count: int, ends: list[int]) -> None:
    table = seek.MAGIC + struct.pack("<I", count) + b"".join(struct.pack("<I", end) for end in ends) + entry
    for number in (place, 2**40, -(2**62)):
        (found,) = marks_of_table(table, [number])
        assert [mark[0] for mark in found] == sorted({mark[0] for mark in found} - {0})
        assert [mark[1] for mark in found] == sorted(mark[1] for mark in found)
        assert all(abs(value) < 2**15 for mark in found for value in mark[2:])


@settings(max_examples=200)
@given(st.binary(min_size=4, max_size=100))
def test_any_entry_is_read_as_the_specification_says(entry: bytes) -> None:
    (found,) = marks_of_table(seek.join([entry]), [0])
    n, bit_width, _ = struct.unpack("<HBB", entry[:4])
    if n == 0 or not 8 <= bit_width <= 31:
        assert found == []
    else:
        assert found == unpack_by_hand(entry)[: len(found)]


def crops(data: bytes, boxes: np.ndarray, marks: seek.Marks | None) -> np.ndarray:
    """Crops of one image: uint8 (n, 48, 40, 3)."""
    height_px, width_px = Image.open(io.BytesIO(data)).size[::-1]
    out = np.zeros((len(boxes), 48, 40, 3), np.uint8)
    sizes = np.tile(np.array([[height_px, width_px]], np.int32), (len(boxes), 1))
    encoded, kinds = [np.frombuffer(data, np.uint8)] * len(boxes), np.full(len(boxes), 2, np.int8)
    assert load_crops(encoded, boxes, sizes, np.zeros(len(boxes), bool), out, np.zeros(3), kinds, marks=marks) == {}
    return out


def random_boxes(data: bytes, count: int, seed: int = 0) -> np.ndarray:
    width_px, height_px = Image.open(io.BytesIO(data)).size
    rng = np.random.default_rng(seed)
    y, x = np.sort(rng.integers(0, height_px, (count, 2))), np.sort(rng.integers(0, width_px, (count, 2)))
    return np.stack([y[:, 0], x[:, 0], y[:, 1] + 1, x[:, 1] + 1], axis=1).astype(np.int32)


def repeated(marks: np.ndarray, count: int) -> seek.Marks:
    return np.tile(marks, (count, 1)), np.arange(count + 1, dtype=np.int64) * len(marks)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "small"])
def test_crops_have_the_same_pixels_with_marks_and_without(name: str) -> None:
    data = ZOO[name]
    boxes, all_marks = random_boxes(data, 100), np.frombuffer(_native.find_marks(data), np.int32).reshape(-1, 5)
    expected = crops(data, boxes, None)
    for n in (1, 7, 12):
        np.testing.assert_array_equal(crops(data, boxes, repeated(all_marks[n - 1 :: n], len(boxes))), expected)


def test_marks_are_used() -> None:
    data = ZOO["4:2:0"]
    marks = np.frombuffer(_native.find_marks(data), np.int32).reshape(-1, 5)[11::12].copy()
    box = np.array([[32, 200, 60, 1000]], np.int32)
    expected = crops(data, box, None).astype(int)
    marks[:, 2] += 10
    assert (crops(data, box, repeated(marks, 1)).astype(int) - expected).mean() > 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 5), max_size=30))
def test_wrong_marks_give_wrong_pixels_and_no_more(marks: list[Place]) -> None:
    data = ZOO["4:2:0"]
    wrong = np.array(marks, dtype=np.int32).reshape(-1, 5)
    for some in (wrong, wrong[np.argsort(wrong[:, 0])], np.abs(wrong) % 2000):
        if len(some):
            crops(data, random_boxes(data, 4), repeated(some, 4))


@pytest.mark.parametrize("first", [[0, 2, 1], [0, 1, 99], [-1, 0, 0], [0, 1]])
def test_marks_that_are_not_those_of_the_images_are_refused(first: list[int]) -> None:
    data = ZOO["4:2:0"]
    marks = np.frombuffer(_native.find_marks(data), np.int32).reshape(-1, 5)[:4]
    with pytest.raises(ValueError, match="first"):
        crops(data, random_boxes(data, 2), (marks, np.array(first, dtype=np.int64)))


def test_marks_of_some_images_are_chosen() -> None:
    marks = np.arange(25, dtype=np.int32).reshape(5, 5)
    chosen, first = seek.choose((marks, np.array([0, 2, 2, 5])), np.array([2, 0]))
    assert chosen[:, 0].tolist() == [10, 15, 20, 0, 5] and first.tolist() == [0, 3, 5]


# Sets.


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source of 12 images that are large enough for marks, but for a gray one and a PNG, and its set."""
    home = tmp_path_factory.mktemp("seek")
    source = make_source(home / "set", rows=12, width_px=60, height_px=80)
    for number in {*range(12)} - {3, 5}:
        image = source / "images" / f"{table_row(number)[0]}.jpg"
        image.write_bytes(jpeg(number, 1030, 40 + 16 * (number % 3), quality=90))
    pack(PackRequest(source=source, out=home / "packed", resolutions=("full", "32"), rows_per_shard=4))
    return source, home / "packed"


@pytest.fixture
def copy(packed: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed[1], tmp_path / "copy"))


@pytest.fixture
def before(copy: Path) -> Path:
    """The same set as a packer of version 3 made it."""
    manifest = Manifest.read(copy / "full" / "manifest.json")
    for entry in manifest.shards:
        (copy / "full" / f"{entry.number:05d}.seek").unlink()
    replace_manifest(copy, shards=[replace_fields(entry, seek=None) for entry in manifest.shards], version=3)
    return copy


def replace_fields(value: object, **fields: object) -> object:
    return type(value)(**{name: getattr(value, name) for name in value.__struct_fields__} | fields)  # type: ignore[attr-defined]


def replace_manifest(folder: Path, **fields: object) -> None:
    manifest = Manifest.read(folder / "full" / "manifest.json")
    replace_fields(manifest, **fields).write(folder / "full" / "manifest.json")  # type: ignore[attr-defined]


def spec_of(images: Resolution, cache_dir: Path, **more: object) -> LoaderSpec:
    rows = np.arange(len(images.shard))
    how = {"rows": rows, "heights_px": images.height_px, "widths_px": images.width_px, "batch_size": 6, "seed": 1}
    plan = Plan(augment=AugmentConfig(min_area=0.08), **how)  # type: ignore[arg-type]
    settings = {"size": Size(32, 24), "device": torch.device("cpu"), "backend": "threads", "workers": 2, "cache_dir": str(cache_dir)}
    return LoaderSpec(images=images, plan=plan, labels=rows[:, None], **settings | more)  # type: ignore[arg-type]


def pixels(spec: LoaderSpec, epochs: int = 1) -> np.ndarray:
    with closing(Loader(spec)) as loader:
        return np.concatenate([batch.images.numpy() for epoch in range(epochs) for batch in loader.steps(epoch)])


def test_packing_writes_tables_where_images_have_marks(packed: tuple[Path, Path]) -> None:
    _, out = packed
    assert sorted(path.name for path in out.rglob("*.seek")) == ["00000.seek", "00001.seek", "00002.seek"]  # of full alone
    assert json.loads((out / "full" / "manifest.json").read_text())["version"] == 4
    assert json.loads((out / "32" / "manifest.json").read_text())["version"] == 3, "any reader may open it"
    images = open_packed_set(out).open("full")
    for row in range(12):
        marks = images.seek.marks_of(np.array([row]))
        data = images.encoded(row).tobytes()
        assert (marks is None) == (row in (3, 5))
        if marks is not None:
            number, found = marks[0][0, 0], marks[0].tolist()
            assert found == [list(mark) for mark in read_scan(data).marks()[number::number]]
    marks = images.seek.marks_of(np.array([11, 3, 0, 0]))
    assert marks is not None and np.diff(marks[1])[1] == 0 and np.diff(marks[1])[0] > 0
    assert verify(out).damage == ()
    assert images.seek.manifest.shards[0].seek is not None
    whole = sum(path.stat().st_size for path in out.glob("full/*.seek"))
    assert whole <= 0.015 * int(images.num_bytes.sum()) + 3 * 12


def test_batches_are_the_same_with_tables_and_without(packed: tuple[Path, Path], before: Path, tmp_path: Path) -> None:
    with_tables = open_packed_set(packed[1]).open("full")
    without = open_packed_set(before).open("full")
    plain = spec_of(without, tmp_path / "cache")
    steps = [step.part(0, 1, 6) for step in plain.plan.steps(0)]
    decoder = CropDecoder(plain, Profile(enabled=False))
    made = [decoder.buffer().clone().numpy() for _ in steps]
    for images, part in zip(made, steps, strict=True):
        assert decoder.fill(images, part, slice(0, 6)) == {}
    expected = np.concatenate(made)
    np.testing.assert_array_equal(pixels(spec_of(with_tables, tmp_path / "other")), expected)
    assert not (tmp_path / "other").exists(), "a set with tables needs none of ours"


@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_table_is_an_error_of_the_set_and_is_repaired(packed: tuple[Path, Path], copy: Path, number: int, tmp_path: Path) -> None:
    table = copy / "full" / f"{number:05d}.seek"
    data = bytearray(table.read_bytes())
    data[-3] ^= 1
    table.write_bytes(data)
    with pytest.raises(PackedSetError, match=rf"{number:05d}\.seek: damaged .*expected sha256"):
        pixels(spec_of(open_packed_set(copy).open("full"), tmp_path / "cache"))
    (damage,) = verify(copy).damage
    assert (damage.where, damage.resolution, damage.shard) == (f"full/{number:05d}.seek", "full", number)
    assert repair(copy, packed[0], [damage], 1) == [f"full/{number:05d}.tar"]
    assert digests(copy) == digests(packed[1])


def test_without_the_native_code_a_missing_table_is_not_repaired_and_the_error_says_how_to_build_it(
    packed: tuple[Path, Path], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "full" / "00000.seek").unlink()
    monkeypatch.setattr(seek, "_native", None)
    with pytest.raises(PackedSetError, match=r"00000\.seek: its bytes cannot be made again: .*install it again with a C compiler"):
        repair(copy, packed[0], verify(copy).damage, 1)


def test_a_missing_or_cut_table_is_refused_when_the_set_is_opened(packed: tuple[Path, Path], copy: Path) -> None:
    table = copy / "full" / "00001.seek"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(PackedSetError, match=r"00001\.seek: expected \d+ bytes, found"):
        open_packed_set(copy).open("full")
    table.unlink()
    with pytest.raises(PackedSetError, match=r"00001\.seek: expected \d+ bytes, the seek table is missing"):
        open_packed_set(copy).open("full")
    assert repair(copy, packed[0], verify(copy).damage, 1) == ["full/00001.tar"]
    assert digests(copy) == digests(packed[1])


def test_a_table_of_another_shape_is_refused(copy: Path, tmp_path: Path) -> None:
    entries = Manifest.read(copy / "full" / "manifest.json").shards
    for wrong, said in ((b"junk" * 9, "it is not a seek table"), (seek.join([b"abcd"] * 3), "expected 4 rows, found 3")):
        (copy / "full" / "00000.seek").write_bytes(wrong)
        first = replace_fields(
            entries[0], seek=replace_fields(entries[0].seek, num_bytes=len(wrong), sha256=hashlib.sha256(wrong).hexdigest())
        )
        replace_manifest(copy, shards=(first, *entries[1:]))
        with pytest.raises(PackedSetError, match=said):
            pixels(spec_of(open_packed_set(copy).open("full"), tmp_path / "cache"))
        assert [damage.where for damage in verify(copy).damage] == ["full/00000.seek"]


def test_verify_finds_a_mark_that_is_not_where_an_mcu_begins(packed: tuple[Path, Path], copy: Path) -> None:
    entries = Manifest.read(copy / "full" / "manifest.json").shards
    table = bytearray((copy / "full" / "00001.seek").read_bytes())
    table[-1] ^= 1
    (copy / "full" / "00001.seek").write_bytes(table)
    said_of_it = replace_fields(entries[1].seek, sha256=hashlib.sha256(table).hexdigest())
    replace_manifest(copy, shards=(entries[0], replace_fields(entries[1], seek=said_of_it), entries[2]))
    (damage,) = verify(copy).damage
    assert damage.where == "full/00001.seek" and "its marks of image 3 of the shard are not where MCUs begin" in damage.reason


def test_only_version_4_may_name_tables(copy: Path) -> None:
    assert FORMAT.newest == 4
    replace_manifest(copy, version=4)
    open_packed_set(copy).open("full")
    path = copy / "full" / "manifest.json"
    manifest = Manifest.read(path)
    with pytest.raises(ValueError, match="a seek table in version 3"):
        replace_fields(manifest, version=3)
    huge = replace_fields(manifest.shards[0].seek, num_bytes=10**7)
    with pytest.raises(ValueError, match="a seek table of 10000000 bytes"):
        replace_fields(manifest.shards[0], seek=huge)


# Tables made here, of sets without.


def wait_for(tables: MadeTables, number: int) -> np.ndarray:
    ends = time.monotonic() + 60
    while (table := tables.table(number)) is None:
        assert time.monotonic() < ends, "no table in a minute"
        time.sleep(0.01)
    return table


def kept(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(cache.rglob("*")) if path.is_file()}


def test_tables_of_an_older_set_are_made_once_and_are_those_of_packing(packed: tuple[Path, Path], before: Path, tmp_path: Path) -> None:
    images = open_packed_set(before).open("full")
    assert images.manifest.version == 3 and images.seek.marks_of(np.arange(4)) is None
    for _ in range(2):
        with closing(MadeTables(images, tmp_path / "cache")) as tables:
            for number in range(3):
                assert wait_for(tables, number).tobytes() == (packed[1] / "full" / f"{number:05d}.seek").read_bytes()
            assert tables.failed == ""
        times = kept(tmp_path / "cache")
        assert list(times) == ["00000.seek", "00001.seek", "00002.seek"]
    assert kept(tmp_path / "cache") == times, "made twice"


def test_a_loader_makes_them_while_it_reads_and_its_batches_are_the_same(packed: tuple[Path, Path], before: Path, tmp_path: Path) -> None:
    expected = pixels(spec_of(open_packed_set(packed[1]).open("full"), tmp_path / "unused"), epochs=3)
    spec = spec_of(open_packed_set(before).open("full"), tmp_path / "cache")
    np.testing.assert_array_equal(pixels(spec, epochs=3), expected)
    with closing(Loader(spec)) as loader:
        ends, found = time.monotonic() + 60, loader._open().spec.images.seek
        while (marks := found.marks_of(np.arange(12))) is None or (np.diff(marks[1]) > 0).sum() < 10:
            assert time.monotonic() < ends
            list(loader.steps(0))
    assert len(list((tmp_path / "cache" / "seek").rglob("*.seek"))) == 3
    np.testing.assert_array_equal(pixels(spec, epochs=3), expected)
    assert [thread.name for thread in threading.enumerate() if thread.name == "seek-tables"] == []


def test_loaders_without_crops_make_none(before: Path, tmp_path: Path) -> None:
    spec = spec_of(open_packed_set(before).open("full"), tmp_path / "cache")
    for other in (
        replace(spec, plan=replace(spec.plan, augment=None, shuffle=None)),
        replace(spec, decoder="turbo"),
        replace(spec, backend="resident"),
    ):
        pixels(other)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("junk", [b"", b"x" * 100, "flipped"])
def test_a_damaged_table_in_the_cache_is_made_again(packed: tuple[Path, Path], before: Path, tmp_path: Path, junk: bytes | str) -> None:
    images, cache = open_packed_set(before).open("full"), tmp_path / "cache"
    with closing(MadeTables(images, cache)) as tables:
        expected = wait_for(tables, 1).tobytes()
    (path,) = cache.rglob("00001.seek")
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:] if isinstance(junk, str) else junk)
    with closing(MadeTables(images, cache)) as tables:
        assert wait_for(tables, 1).tobytes() == expected
    assert path.read_bytes()[:-32] == expected


def test_a_set_at_another_place_has_tables_of_its_own(before: Path, tmp_path: Path) -> None:
    """A set that claims the checksums of another one must not decide what that one's images look like."""
    other = shutil.copytree(before, tmp_path / "other")
    for folder in (before, other):
        with closing(MadeTables(open_packed_set(folder).open("full"), tmp_path / "cache")) as tables:
            wait_for(tables, 0)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_an_image_with_other_bytes_than_its_row_says_has_no_entry(packed: tuple[Path, Path], before: Path, tmp_path: Path) -> None:
    images = open_packed_set(before).open("full")
    tar = bytearray((before / "full" / "00000.tar").read_bytes())
    tar[int(images.offset[1]) + 700] ^= 1
    (before / "full" / "00000.tar").write_bytes(tar)
    with closing(MadeTables(open_packed_set(before).open("full"), tmp_path / "cache")) as tables:
        found = marks_of_table(wait_for(tables, 0).tobytes(), [0, 1, 2])
    assert [bool(marks) for marks in found] == [True, False, True]


def test_without_a_folder_to_write_to_they_are_in_memory_alone(before: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    opened = closing(MadeTables(open_packed_set(before).open("full"), tmp_path / "file" / "seek"))
    with pytest.warns(UserWarning, match="made again by each process; name another data.cache_dir"), opened as tables:
        assert len(wait_for(tables, 0)) and len(wait_for(tables, 2))
        assert "file" in tables.failed
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "cannot be written" in note(str(tmp_path / "closed"))
    assert note(str(tmp_path / "open")) == ""


def test_a_table_that_another_process_removes_meanwhile_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "00000.seek").write_bytes(bytes(100))
    (tmp_path / "set" / "00001.seek").symlink_to(tmp_path / "removed")  # found, and not there any more
    assert _num_bytes(tmp_path) == 100
    assert _opened_ns(tmp_path / "removed") == 0


def test_the_folder_keeps_to_its_limit(before: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (old := cache / "old").mkdir(parents=True)
    (old / "00000.seek").write_bytes(bytes(3000))
    os.utime(old, (1, 1))
    images = open_packed_set(before).open("full")
    with closing(MadeTables(images, cache, limit_bytes=3100)) as tables:
        size = len(wait_for(tables, 0)) + 32
        assert not old.exists() and len(list(cache.rglob("*.seek"))) == 1
    with closing(MadeTables(images, cache, limit_bytes=size + 10)) as tables:
        assert len(wait_for(tables, 1)), "in memory alone"
    assert [path.name for path in cache.rglob("*.*")] == ["00000.seek"]


def _make(folder: Path, cache: Path, barrier: "threading.Barrier", seen: list[bytes]) -> None:
    with closing(MadeTables(open_packed_set(folder).open("full"), cache)) as tables:
        barrier.wait()
        seen.append(b"".join(wait_for(tables, number).tobytes() for number in range(3)))


def test_several_that_make_them_at_once_get_the_same(packed: tuple[Path, Path], before: Path, tmp_path: Path) -> None:
    """A lock of flock belongs to an open file: between threads it works as between processes."""
    barrier, seen = threading.Barrier(4), list[bytes]()
    threads = [threading.Thread(target=_make, args=(before, tmp_path / "cache", barrier, seen)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = b"".join((packed[1] / "full" / f"{number:05d}.seek").read_bytes() for number in range(3))
    assert seen == [expected] * 4
    assert list(kept(tmp_path / "cache")) == ["00000.seek", "00001.seek", "00002.seek"]


MAKER = """
import sys, time
from pathlib import Path
from fastfashion.load.seek_cache import MadeTables
from fastfashion.shards import open_packed_set
tables = MadeTables(open_packed_set(Path(sys.argv[1])).open("full"), Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
found = [None] * 3
while any(table is None for table in found):
    found = [tables.table(number) for number in range(3)]
    time.sleep(0.005)
tables.close()
sys.stdout.buffer.write(b"".join(table.tobytes() for table in found))
"""


@pytest.mark.slow
def test_processes_that_make_them_at_once_get_the_same(packed: tuple[Path, Path], before: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(before), str(tmp_path / "cache")]
    made = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) for _ in range(3)]
    for process in made:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    expected = b"".join((packed[1] / "full" / f"{number:05d}.seek").read_bytes() for number in range(3))
    for process in made:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in made] == [expected] * 3
    assert list(kept(tmp_path / "cache")) == ["00000.seek", "00001.seek", "00002.seek"]


def test_what_a_killed_maker_left_is_taken_over(before: Path, tmp_path: Path) -> None:
    images, cache = open_packed_set(before).open("full"), tmp_path / "cache"
    with closing(MadeTables(images, cache)) as tables:
        wait_for(tables, 0)
    (path,) = cache.rglob("00000.seek")
    expected = path.read_bytes()
    path.with_suffix(".partial").write_bytes(path.read_bytes()[:50])
    path.unlink()
    with closing(MadeTables(images, cache)) as tables:
        wait_for(tables, 0)
    assert path.read_bytes() == expected and not path.with_suffix(".partial").exists()


def test_a_set_on_a_web_server_has_its_tables_in_the_cache_of_shards(packed: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("upath")
    expected = pixels(spec_of(open_packed_set(packed[1]).open("full"), tmp_path / "unused"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(packed[1]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, args=(0.02,), daemon=True).start()
        images = open_packed_set(location(f"http://127.0.0.1:{site.server_port}")).open("full")
        with closing(Loader(spec_of(images, tmp_path / "cache"))) as loader:
            found = np.concatenate([batch.images.numpy() for batch in loader.steps(0)])
            kept_there = sorted(path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix)
            assert kept_there == [".seek"] * 3 + [".tar"] * 3
            tables = loader._open().spec.images.seek
            assert tables.marks_of(np.arange(3)) is not None
        site.shutdown()
    np.testing.assert_array_equal(found, expected)
