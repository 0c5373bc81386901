"""Whatever happens to the bytes of a packed set, `verify` names the file that it happened to; and FORMAT.md is enough to write one."""

import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PackedSmall, smooth_image
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shards import sign

from fastfashion.errors import PackedSetError
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import Manifest, SetFiles
from fastfashion.shards.verify import Damage, VerifyResult, verify

FILES = sorted(
    ["set.json", "catalog.parquet", "vocab.json", "rejected.csv"]
    + [f"{name}/{file}" for name in ("32", "full") for file in ("manifest.json", "index.parquet")]
    + [f"{name}/{number:05d}.{kind}" for name in ("32", "full") for number in range(3) for kind in ("tar", "idx")]
)


def of_shard(where: str) -> tuple[str, str | None, int | None]:
    """What the damage of a file must be said to hit: file, resolution, shard."""
    folder, _, file = where.rpartition("/")
    return where, folder or None, int(file[:5]) if file[:5].isdigit() else None


def named(result: VerifyResult) -> list[tuple[str, str | None, int | None]]:
    return [(found.where, found.resolution, found.shard) for found in result.damage]


@pytest.fixture
def copy(packed_small: PackedSmall, tmp_path: Path) -> Path:
    return shutil.copytree(packed_small.out, tmp_path / "set")


@pytest.fixture(scope="module")
def patient(packed_small: PackedSmall, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that tests hurt and heal again."""
    return shutil.copytree(packed_small.out, tmp_path_factory.mktemp("patient") / "set")


def flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


@contextmanager
def healed(*paths: Path) -> Iterator[None]:
    whole = [path.read_bytes() for path in paths]
    try:
        yield
    finally:
        for path, data in zip(paths, whole, strict=True):
            if path.is_dir():
                path.rmdir()
            path.write_bytes(data)


def test_a_set_as_packed_is_whole_and_every_byte_of_it_is_read(packed_small: PackedSmall) -> None:
    read: list[int] = []
    totals: list[int] = []
    result = verify(packed_small.out, on_bytes=read.append, on_total=totals.append)
    sizes = {path.relative_to(packed_small.out).as_posix(): path.stat().st_size for path in packed_small.out.rglob("*") if path.is_file()}
    assert sorted(sizes) == FILES
    assert result == VerifyResult(damage=(), num_files=len(FILES), num_bytes=sum(sizes.values()), num_rows=60)
    assert totals == [sum(sizes.values())] == [sum(read)]


@pytest.mark.parametrize("where", FILES)
def test_one_flipped_bit_is_found_and_its_file_named(patient: Path, where: str) -> None:
    path = patient / where
    size = path.stat().st_size
    chosen = random.Random(where)
    for position in {0, size - 1, *(chosen.randrange(size) for _ in range(12))}:
        bit = chosen.randrange(8)
        with healed(path):
            flip(path, position, bit)
            assert named(verify(patient)) == [of_shard(where)], (position, bit)
    assert verify(patient).damage == ()


@pytest.mark.parametrize("where", ["set.json", "32/manifest.json"])
def test_a_flipped_bit_in_any_byte_of_a_file_of_checksums_is_found(patient: Path, where: str) -> None:
    path = patient / where
    whole = path.read_bytes()
    kind: Any = SetFiles if where == "set.json" else Manifest
    with healed(path):
        for position in range(len(whole)):
            for bit in range(8):
                path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :])
                with pytest.raises(PackedSetError, match=where):
                    kind.read(path)
            assert named(verify(patient)) == [of_shard(where)], position  # with the last of the eight


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FILES), st.sampled_from(["cut", "one more byte", "empty", "other bytes", "missing", "a folder"]), st.integers(0))
def test_whatever_is_done_to_a_file_is_found_and_its_file_named(patient: Path, where: str, what: str, seed: int) -> None:
    path = patient / where
    whole = path.read_bytes()
    chosen = random.Random(seed)
    with healed(path):
        path.unlink()
        if what == "a folder":
            path.mkdir()
        elif what == "cut":
            path.write_bytes(whole[: chosen.randrange(len(whole))])
        elif what != "missing":
            path.write_bytes(
                {"one more byte": whole + chosen.randbytes(1), "empty": b"", "other bytes": chosen.randbytes(len(whole))}[what]
            )
        assert named(verify(patient)) == [of_shard(where)]
    assert verify(patient).damage == ()


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from([where for where in FILES if not where.endswith(".json")]), min_size=2))
def test_all_of_several_damaged_files_are_named(patient: Path, wheres: set[str]) -> None:
    with healed(*(patient / where for where in wheres)):
        for where in wheres:
            flip(patient / where, 7, 3)
        assert sorted(named(verify(patient))) == sorted(of_shard(where) for where in wheres)


def test_a_damaged_set_is_refused_or_read_when_it_is_opened_but_never_crashes(patient: Path) -> None:
    """Opening leaves the catalog's checksum to `verify`, so that pyarrow meets its flipped bits."""
    chosen = random.Random(5)
    size = (patient / "catalog.parquet").stat().st_size
    for _ in range(300):
        position, bit = chosen.randrange(size), chosen.randrange(8)
        with healed(patient / "catalog.parquet"):
            flip(patient / "catalog.parquet", position, bit)
            try:
                open_packed_set(patient)
            except PackedSetError as error:
                assert "catalog.parquet" in str(error)


def reason_of(path: Path) -> str:
    [found] = verify(path).damage
    return found.reason


def test_the_images_that_a_damaged_shard_hits_are_named_by_id(copy: Path) -> None:
    packed = open_packed_set(copy)
    images, ids = packed.open("full"), packed.table["id"].tolist()
    tar = copy / "full" / "00001.tar"
    for row in (30, 33):
        flip(tar, int(images.offset[row]) + 100, 5)
    assert f"2 of 25 images differ, from byte {images.offset[30]} on: ids {ids[30]}, {ids[33]}" in reason_of(copy)
    for row in range(34, 39):
        flip(tar, int(images.offset[row]), 0)
    assert f"ids {', '.join([ids[30], ids[33], ids[34], ids[35], ids[36]])} and 2 more" in reason_of(copy)


def test_a_shard_whose_labels_are_hit_has_whole_images(copy: Path) -> None:
    images = open_packed_set(copy).open("32")
    flip(copy / "32" / "00000.tar", int(images.offset[3]) - 512, 1)
    assert "its images are whole: labels, headers or padding" in reason_of(copy)


def test_a_shard_cut_short_is_told_by_its_sizes_and_the_images_it_lost(copy: Path) -> None:
    packed = open_packed_set(copy)
    images = packed.open("full")
    size = (copy / "full/00002.tar").stat().st_size
    (copy / "full/00002.tar").write_bytes((copy / "full/00002.tar").read_bytes()[: int(images.offset[58])])
    last = packed.table["id"].tolist()[58:]
    assert f"expected {size} bytes, found {images.offset[58]}; 2 of 10 images differ" in reason_of(copy)
    assert reason_of(copy).endswith(f"ids {last[0]}, {last[1]}")


def test_images_are_not_named_by_an_index_or_a_catalog_that_is_damaged_itself(copy: Path) -> None:
    flip(copy / "full" / "00001.tar", 5000, 5)
    flip(copy / "catalog.parquet", 5000, 5)
    assert ["sha256" in found.reason and "images" not in found.reason for found in verify(copy).damage] == [True, True]


def test_files_that_are_no_part_of_the_set_are_named_and_hidden_ones_of_the_packer_are_not(copy: Path) -> None:
    (copy / ".staging").mkdir()
    (copy / ".staging" / "00000.tar").write_bytes(b"1")
    (copy / ".packing.lock").write_bytes(b"1")
    assert verify(copy).damage == ()
    (copy / "notes.txt").write_text("mine")
    (copy / "backup").mkdir()
    (copy / "full" / "00003.tar").write_bytes(b"more")
    (copy / "32" / ".00001.tar.77.partial").write_bytes(b"half")
    foreign = ["backup", "notes.txt", "32/.00001.tar.77.partial", "full/00003.tar"]
    assert verify(copy).damage == tuple(
        Damage(where=w, resolution=None, shard=None, reason="not part of the set; remove it") for w in foreign
    )


def test_a_label_corrected_by_hand_opens_and_is_told(copy: Path) -> None:
    table = pd.read_parquet(copy / "catalog.parquet")
    table.loc[0, "season"] = "Winter"
    table.to_parquet(copy / "catalog.parquet")
    assert open_packed_set(copy).table.loc[0, "season"] == "Winter"
    assert named(verify(copy)) == [("catalog.parquet", None, None)]


def test_files_of_different_sets_do_not_pass_for_one(copy: Path) -> None:
    def change(where: str, **values: object) -> None:
        sign(copy / where, json.loads((copy / where).read_text()) | values)

    before = (copy / "full/manifest.json").read_bytes()
    change("full/manifest.json", num_rows=61)
    assert [(f.where, f.reason) for f in verify(copy).damage] == [
        ("full/manifest.json", "expected 60 rows as in set.json, found 61"),
    ]
    change("full/manifest.json", num_rows=60, shards=json.loads(before)["shards"][:2])
    assert [(f.where, f.reason) for f in verify(copy).damage] == [
        ("full/00002.idx", "not part of the set; remove it"),
        ("full/00002.tar", "not part of the set; remove it"),
        ("full/manifest.json", "expected 60 rows in its shards, found 50"),
    ]
    (copy / "full/manifest.json").write_bytes(before)
    (copy / "full").rename(copy / "64")
    assert [(f.where, f.reason) for f in verify(copy).damage] == [
        ("64/manifest.json", "expected resolution 64 as its folder is named, found full"),
    ]
    shutil.rmtree(copy / "64")
    change("set.json", num_rows=59)
    assert [(f.where, f.reason) for f in verify(copy).damage] == [
        ("catalog.parquet", "expected 59 rows as in set.json, found 60"),
        ("32/manifest.json", "expected 59 rows as in set.json, found 60"),
    ]


def test_a_set_of_the_version_before_says_so(copy: Path) -> None:
    (copy / "set.json").unlink()
    shutil.rmtree(copy / "full")
    (copy / "32/manifest.json").write_text('{"format": "fastfashion-packed-set", "version": 1}')
    missing, *files, manifest = verify(copy).damage
    assert (missing.where, missing.reason[:8]) == ("set.json", "missing:")
    assert files == []
    assert "expected fastfashion-packed-set version 2 to 4, found 'fastfashion-packed-set' version 1; pack the set again" in manifest.reason


def test_where_there_is_no_set_verify_raises(packed_small: PackedSmall, tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "not a packed set"),
        (packed_small.source, "not a packed set"),
    ):
        with pytest.raises(PackedSetError, match=f"{path}: {reason}"):
            verify(path)


@pytest.fixture
def remote(packed_small: PackedSmall) -> Iterator[Any]:
    """The set on fsspec's storage in memory."""
    upath = pytest.importorskip("upath")
    folder = upath.UPath("memory://shop/verify")
    folder.fs.put(str(packed_small.out), folder.path, recursive=True)
    yield folder
    folder.fs.rm(folder.path, recursive=True)


def test_a_remote_set_is_verified_in_place(packed_small: PackedSmall, remote: Any) -> None:
    assert verify(remote) == verify(packed_small.out)
    image = open_packed_set(remote).open("full")
    data = bytearray((remote / "full" / "00001.tar").read_bytes())
    data[int(image.offset[26])] ^= 1
    (remote / "full" / "00001.tar").write_bytes(bytes(data))
    (remote / "32" / "00002.idx").unlink()
    (remote / "full" / "more.txt").write_bytes(b"1")
    result = verify(remote)
    assert named(result) == [("32/00002.idx", "32", 2), ("full/00001.tar", "full", 1), ("full/more.txt", None, None)]
    assert f"1 of 25 images differ, from byte {image.offset[26]}" in result.damage[1].reason


@pytest.fixture
def website(packed_small: PackedSmall) -> Iterator[Any]:
    """The set on a plain web server, which cannot start in the middle of a file."""
    upath = pytest.importorskip("upath")
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(packed_small.out)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    yield upath.UPath(f"http://127.0.0.1:{server.stdout.readline().split('port ')[1].split()[0]}")
    server.kill()
    server.wait()


def test_a_set_on_a_web_server_is_opened_and_verified(packed_small: PackedSmall, website: Any) -> None:
    assert len(open_packed_set(website).open("full").offset) == 60
    assert verify(website) == verify(packed_small.out)


LABELS = ["masterCategory", "subCategory", "articleType", "gender", "baseColour", "season", "usage"]


def write_by_hand(out: Path) -> list[bytes]:
    """A set of three images in two shards, by FORMAT.md and without fastfashion; returns its images."""
    (out / "full").mkdir(parents=True)
    images, ids = [], ["12", "two words", "größe"]
    for number in range(3):
        smooth_image(number, 40 + number, 50).save(data := io.BytesIO(), "JPEG")
        images.append(data.getvalue())
    labels = {name: [f"{name} {number % 2}" for number in range(3)] for name in LABELS}
    shards, index = [], []
    for number, rows in ((0, [0, 1]), (4, [2])):
        lines = []
        path = out / "full" / f"{number:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                text = json.dumps({"id": ids[row]} | {name: values[row] for name, values in labels.items()}).encode()
                line = []
                for extension, data in (("jpg", images[row]), ("json", text)):
                    member = tarfile.TarInfo(f"{ids[row]}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                    offset = tar.offset - len(data) - (-len(data) % 512)
                    line.append(f"{extension} {offset} {len(data)} {member.name.replace(' ', '_')}")
                    if extension == "jpg":
                        index.append([row, number, offset, len(data), 40 + row, 50, zlib.crc32(data)])
                lines.append(" ".join(line))
        path.with_suffix(".idx").write_text(f"v1.2 {len(rows)}\n" + "\n".join(lines) + "\n", encoding="utf-8")
        tar_sha256, idx_sha256 = (hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, path.with_suffix(".idx")))
        size = path.stat().st_size
        shards.append({"number": number, "num_rows": len(rows), "num_bytes": size, "sha256": tar_sha256, "idx_sha256": idx_sha256})

    catalog = {"row": [0, 1, 2], "id": ids, "line": [2, 3, 5], **labels, "year": pa.array([2011, None, 2012], pa.int16())}
    catalog |= {"productDisplayName": ["a", "b", "c"], "recovered": [False] * 3, "height": [50] * 3, "width": [40, 41, 42]}
    pq.write_table(pa.table(catalog | {"fingerprint": ["0f", "0f", "a0"], "duplicate_group": [0, 0, 2]}), out / "catalog.parquet")
    (out / "vocab.json").write_text(json.dumps({name: sorted(set(values)) for name, values in labels.items()}))
    (out / "rejected.csv").write_text("id,line,reason\n13,4,no image\n")
    files = {}
    for name in ("catalog.parquet", "vocab.json", "rejected.csv"):
        data = (out / name).read_bytes()
        files[name] = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    head = {"format": "fastfashion-packed-set", "version": 3}
    sign(out / "set.json", head | {"num_rows": 3, "files": files})
    columns = np.array(index).T
    names = ["row", "shard", "offset", "size", "width", "height", "crc32"]
    kinds = {"kind": pa.array([2, 2, 2], pa.int8())}  # Pillow writes baseline JPEGs, 4:2:0
    pq.write_table(pa.table(dict(zip(names, columns, strict=True)) | kinds), out / "full" / "index.parquet")
    index_sha256 = hashlib.sha256((out / "full" / "index.parquet").read_bytes()).hexdigest()
    manifest = {"resolution": "full", "num_rows": 3, "index_sha256": index_sha256, "encoder": None, "shards": shards}
    sign(out / "full" / "manifest.json", head | manifest)
    return images


def test_a_set_written_by_hand_after_format_md_opens_and_is_whole(tmp_path: Path) -> None:
    images = write_by_hand(tmp_path / "set")
    assert verify(tmp_path / "set").damage == ()
    packed = open_packed_set(tmp_path / "set")
    opened = packed.open("full")
    assert [opened.encoded(row).tobytes() for row in range(3)] == images
    assert opened.kind.tolist() == [2, 2, 2]
    assert packed.vocab.classes["season"] == ("season 0", "season 1")
    flip(tmp_path / "set/full/00004.tar", 600, 2)
    [found] = verify(tmp_path / "set").damage
    assert (found.where, found.shard) == ("full/00004.tar", 4)
    assert found.reason.endswith("ids größe")
