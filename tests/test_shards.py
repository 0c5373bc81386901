"""A packed set opens in the tools of others, and what is wrong with one is said before it is read."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import PackedSmall, digests, psnr_db
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastfashion.catalog import LABEL_COLUMNS
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.files import publish
from fastfashion.images.codec import decode_rgb
from fastfashion.shards import open_packed_set
from fastfashion.shards.writer import ShardWriter, member_header


def sign(path: Path, values: dict[str, Any]) -> None:
    """Write set.json or a manifest as FORMAT.md says that others may: any JSON, and its checksum as the last field."""
    head = json.dumps({name: value for name, value in values.items() if name != "sha256"}, separators=(",", ":"))[:-1].encode()
    path.write_bytes(head + b',\n  "sha256": "' + hashlib.sha256(head).hexdigest().encode() + b'"\n}\n')


def tars(packed: PackedSmall, name: str) -> list[Path]:
    return sorted((packed.out / name).glob("*.tar"))


@pytest.mark.parametrize("name", ["full", "32"])
def test_tar_lists_and_unpacks_every_image(packed_small: PackedSmall, name: str, tmp_path: Path) -> None:
    ids = open_packed_set(packed_small.out).table["id"].tolist()
    listed: list[str] = []
    for path in tars(packed_small, name):
        done = subprocess.run(["tar", "-tf", str(path)], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        listed += done.stdout.split()
        subprocess.run(["tar", "-xf", str(path), "-C", str(tmp_path)], check=True)
    assert listed == [f"{identity}.{extension}" for identity in ids for extension in ("jpg", "json")]
    if name == "full":
        originals = {f.name: f.read_bytes() for f in (packed_small.source / "images").iterdir()}
        assert {f.name: f.read_bytes() for f in tmp_path.glob("*.jpg")} == originals


@pytest.mark.parametrize("name", ["full", "32"])
def test_members_are_plain_ustar_files_of_nobody_and_no_time(packed_small: PackedSmall, name: str) -> None:
    for path in tars(packed_small, name):
        assert path.stat().st_size % 10_240 == 0
        with path.open("rb") as file:
            assert file.read(512)[257:265] == b"ustar\x0000"
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                assert (member.uname, member.gname, member.pax_headers) == ("", "", {})
                assert member.isreg()
                # one header block before each member's data: nothing like a PAX header hides between them
                assert member.offset_data == member.offset + 512


def test_python_reads_labels_beside_each_image(packed_small: PackedSmall) -> None:
    table = open_packed_set(packed_small.out).table
    found: list[dict[str, str]] = []
    for path in tars(packed_small, "32"):
        with tarfile.open(path) as tar:
            found += [json.load(tar.extractfile(m)) for m in tar.getmembers() if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert found == table[["id", *LABEL_COLUMNS]].to_dict("records")


def test_webdataset_reads_keys_images_and_labels(packed_small: PackedSmall) -> None:
    wds = pytest.importorskip("webdataset")
    packed = open_packed_set(packed_small.out)
    urls = [str(path) for path in tars(packed_small, "full")]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "json"))
    assert [key for key, _, _ in samples] == packed.table["id"].tolist()
    assert [labels["subCategory"] for _, _, labels in samples] == packed.table["subCategory"].tolist()
    opened = packed.open("full")
    for row, (_, image, labels) in enumerate(samples):
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), decode_rgb(opened.encoded(row)))
        assert labels["id"] == packed.table["id"].iloc[row]


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets_reads_keys_images_and_labels(
    packed_small: PackedSmall, streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    packed = open_packed_set(packed_small.out)
    for name in ("full", "32"):
        files = {"train": [str(path) for path in tars(packed_small, name)]}
        found = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path), streaming=streaming)
        samples = list(found)
        assert [sample["__key__"] for sample in samples] == packed.table["id"].tolist()
        assert [sample["json"] for sample in samples] == packed.table[["id", *LABEL_COLUMNS]].to_dict("records")
        opened = packed.open(name)
        for row, sample in enumerate(samples):
            np.testing.assert_array_equal(np.asarray(sample["jpg"].convert("RGB")), decode_rgb(opened.encoded(row)))


def read_by_dali(paths: list[Path], num_samples: int) -> Iterator[tuple[np.ndarray, bytes, np.ndarray]]:
    """Encoded image, JSON and decoded image of every sample, by DALI's stock reader and our index, on the CPU."""
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=2, device_id=None)
    def read() -> Any:
        jpg, labels = fn.readers.webdataset(
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=["jpg", "json"],
            missing_component_behavior="error",
        )
        return jpg, labels, fn.decoders.image(jpg, device="cpu")

    pipe = read()
    pipe.build()
    for _ in range(num_samples):
        jpg, labels, image = (output.at(0) for output in pipe.run())
        yield np.array(jpg), bytes(labels), np.array(image)


@pytest.mark.parametrize("name", ["full", "32"])
def test_dalis_webdataset_reader_with_our_index_gives_every_image(packed_small: PackedSmall, name: str) -> None:
    packed = open_packed_set(packed_small.out)
    opened = packed.open(name)
    for row, (jpg, labels, image) in enumerate(read_by_dali(tars(packed_small, name), len(packed))):
        data = opened.encoded(row)
        np.testing.assert_array_equal(jpg, data)
        assert json.loads(labels)["id"] == packed.table["id"].iloc[row]
        np.testing.assert_array_equal(image, decode_rgb(data))


def test_ids_with_spaces_and_beyond_ascii_do_not_break_dalis_reader(packed_small: PackedSmall, tmp_path: Path) -> None:
    data = open_packed_set(packed_small.out).open("full").encoded(0).tobytes()
    keys = ["plain", "two words", "Größe", "last"]
    with ShardWriter(tmp_path, 0) as writer:
        for key in keys:
            writer.add(key, {"jpg": data, "json": json.dumps(key).encode()})
    found = [(jpg.tobytes(), json.loads(labels)) for jpg, labels, _ in read_by_dali([tmp_path / "00000.tar"], 4)]
    assert found == [(data, key) for key in keys]
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.getnames()[::2] == [f"{key}.jpg" for key in keys]


@pytest.mark.parametrize("name", ["full", "32"])
def test_dalis_own_tool_writes_the_same_index(packed_small: PackedSmall, name: str, tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    for path in tars(packed_small, name):
        theirs = tmp_path / f"{path.stem}.idx"
        with wds2idx.IndexCreator(str(path), str(theirs), verbose=False) as creator:
            creator.create_index()
        assert theirs.read_text() == path.with_suffix(".idx").read_text()
        assert theirs.read_text().startswith("v1.2 ")


def test_the_manifest_describes_its_shards(packed_small: PackedSmall) -> None:
    for name in ("full", "32"):
        manifest = json.loads((packed_small.out / name / "manifest.json").read_text())
        assert (manifest["format"], manifest["version"], manifest["resolution"]) == ("fastfashion-packed-set", 3, name)
        assert manifest["num_rows"] == 60
        assert [(s["number"], s["num_rows"]) for s in manifest["shards"]] == [(0, 25), (1, 25), (2, 10)]
        sums = digests(packed_small.out / name)
        assert {f"{s['number']:05d}.tar": s["sha256"] for s in manifest["shards"]} == {n: h for n, h in sums.items() if n.endswith(".tar")}
        assert [s["num_bytes"] for s in manifest["shards"]] == [path.stat().st_size for path in tars(packed_small, name)]
        assert {f"{s['number']:05d}.idx": s["idx_sha256"] for s in manifest["shards"]} == {
            n: h for n, h in sums.items() if n.endswith(".idx")
        }
        assert manifest["index_sha256"] == sums["index.parquet"]
    assert manifest["encoder"]["quality"] == 90


def test_set_json_describes_what_lies_beside_the_resolutions(packed_small: PackedSmall) -> None:
    described = json.loads((packed_small.out / "set.json").read_text())
    assert (described["format"], described["version"], described["num_rows"]) == ("fastfashion-packed-set", 3, 60)
    assert described["files"] == {
        name: {"num_bytes": (packed_small.out / name).stat().st_size, "sha256": digests(packed_small.out)[name]}
        for name in ("catalog.parquet", "vocab.json", "rejected.csv")
    }


def test_numbered_resolutions_hold_baseline_jpegs(packed_small: PackedSmall) -> None:
    opened = open_packed_set(packed_small.out).open("32")
    for row in range(60):
        with Image.open(io.BytesIO(opened.encoded(row))) as image:
            assert (image.format, image.mode, min(image.size)) == ("JPEG", "RGB", 32)
            assert "progression" not in image.info


def test_rows_of_all_resolutions_are_the_same_images(packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    full, small = packed.open("full"), packed.open("32")
    for row in range(60):
        found = decode_rgb(small.encoded(row))
        wanted = Image.fromarray(decode_rgb(full.encoded(row))).resize(found.shape[1::-1], Image.Resampling.BICUBIC)
        assert psnr_db(found, np.asarray(wanted)) > 33


def test_resolutions_are_listed_from_small_to_full(packed_small: PackedSmall, tmp_path: Path) -> None:
    out = shutil.copytree(packed_small.out, tmp_path / "set")
    for name in ("224", "64", "1024"):
        shutil.copytree(out / "32", out / name)
    assert open_packed_set(out).resolutions == ("32", "64", "224", "1024", "full")


@pytest.fixture
def copy(packed_small: PackedSmall, tmp_path: Path) -> Iterator[Path]:
    yield shutil.copytree(packed_small.out, tmp_path / "set")


def remove_a_shard(out: Path) -> None:
    (out / "full" / "00001.tar").unlink()


def cut_a_shard(out: Path) -> None:
    os.truncate(out / "full" / "00001.tar", 10_240)


def lengthen_a_shard(out: Path) -> None:
    with (out / "full" / "00001.tar").open("ab") as file:
        file.write(bytes(10_240))


def empty_a_shard(out: Path) -> None:
    os.truncate(out / "full" / "00001.tar", 0)


def change_manifest(out: Path, **values: object) -> None:
    path = out / "full" / "manifest.json"
    sign(path, json.loads(path.read_text()) | values)


def change_set(out: Path, **values: object) -> None:
    sign(out / "set.json", json.loads((out / "set.json").read_text()) | values)


def change_index(out: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Leaves the checksums right, as another program's mistake would."""
    path = out / "full" / "index.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    change_manifest(out, index_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def set_another_version(out: Path) -> None:
    change_manifest(out, version=99)


def set_the_version_before(out: Path) -> None:
    """Which knew neither set.json nor checksums of manifests."""
    (out / "set.json").unlink()
    path = out / "full" / "manifest.json"
    values = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
    path.write_text(json.dumps(values | {"version": 1}))


def edit_the_manifest(out: Path) -> None:
    path = out / "full" / "manifest.json"
    path.write_text(path.read_text().replace('"num_rows": 60', '"num_rows": 61'))


def name_another_resolution(out: Path) -> None:
    change_manifest(out, resolution="32")


def text_for_a_number(out: Path) -> None:
    shards = json.loads((out / "full" / "manifest.json").read_text())["shards"]
    change_manifest(out, shards=[shards[0] | {"num_bytes": "many"}, *shards[1:]])


def remove_set_json(out: Path) -> None:
    (out / "set.json").unlink()


def edit_set_json(out: Path) -> None:
    (out / "set.json").write_text((out / "set.json").read_text().replace('"num_rows": 60', '"num_rows": 59'))


def set_of_other_rows(out: Path) -> None:
    change_set(out, num_rows=59)


def set_of_other_files(out: Path) -> None:
    files = json.loads((out / "set.json").read_text())["files"]
    change_set(out, files={f"../{name}": entry for name, entry in files.items()})


def set_of_no_files(out: Path) -> None:
    change_set(out, files=[])


def set_another_format(out: Path) -> None:
    change_manifest(out, format="mosaic")


def set_other_rows(out: Path) -> None:
    change_manifest(out, num_rows=61)


def cut_the_manifest(out: Path) -> None:
    os.truncate(out / "full" / "manifest.json", 200)


def manifest_of_a_list(out: Path) -> None:
    (out / "full" / "manifest.json").write_text("[1, 2]")


def manifest_of_bytes(out: Path) -> None:
    (out / "full" / "manifest.json").write_bytes(b"\xff\xfe\x00")


def manifest_without_shards(out: Path) -> None:
    path = out / "full" / "manifest.json"
    sign(path, {k: v for k, v in json.loads(path.read_text()).items() if k != "shards"})


def manifest_with_odd_shards(out: Path) -> None:
    change_manifest(out, shards=[{"number": 0}])


def manifest_with_more(out: Path) -> None:
    change_manifest(out, colour="red")


def damage_vocab(out: Path) -> None:
    (out / "vocab.json").write_text("{")


def vocab_of_a_list(out: Path) -> None:
    (out / "vocab.json").write_text("[]")


def vocab_of_numbers(out: Path) -> None:
    (out / "vocab.json").write_text('{"season": 4}')


def remove_vocab(out: Path) -> None:
    (out / "vocab.json").unlink()


def damage_catalog(out: Path) -> None:
    (out / "catalog.parquet").write_bytes(b"PAR1 no more")


def cut_catalog(out: Path) -> None:
    os.truncate(out / "catalog.parquet", (out / "catalog.parquet").stat().st_size // 2)


def remove_catalog(out: Path) -> None:
    (out / "catalog.parquet").unlink()


def damage_index(out: Path) -> None:
    (out / "full" / "index.parquet").write_bytes(b"")


def remove_index(out: Path) -> None:
    (out / "full" / "index.parquet").unlink()


def flip_a_bit_of_the_index(out: Path) -> None:
    path = out / "full" / "index.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shorten_index(out: Path) -> None:
    change_index(out, lambda index: index.iloc[:-1])


def index_without_offsets(out: Path) -> None:
    change_index(out, lambda index: index.drop(columns="offset"))


def index_of_text(out: Path) -> None:
    change_index(out, lambda index: index.assign(shard="first"))


def index_beyond_a_shard(out: Path) -> None:
    change_index(out, lambda index: index.assign(size=index["size"].where(index["row"] != 31, 2**62)))


def index_of_an_unknown_shard(out: Path) -> None:
    change_index(out, lambda index: index.assign(shard=index["shard"] + 10))


def index_of_flat_images(out: Path) -> None:
    change_index(out, lambda index: index.assign(height=index["height"].where(index["row"] != 7, 0)))


def index_in_another_order(out: Path) -> None:
    change_index(out, lambda index: index.iloc[::-1])


def catalog_without_ids(out: Path) -> None:
    path = out / "catalog.parquet"
    pd.read_parquet(path).drop(columns="id").to_parquet(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_a_shard, r"full/00001\.tar: expected \d+ bytes, the shard is missing; pack the set again"),
        (cut_a_shard, r"full/00001\.tar: expected \d+ bytes, found 10240 bytes; pack the set again"),
        (lengthen_a_shard, r"full/00001\.tar: expected \d+ bytes, found \d+ bytes; pack the set again"),
        (empty_a_shard, r"full/00001\.tar: expected \d+ bytes, found 0 bytes; pack the set again"),
        (
            set_another_version,
            r"full/manifest\.json: expected fastfashion-packed-set version 2 to 4, found 'fastfashion-packed-set' version 99; pack",
        ),
        (
            set_the_version_before,
            r"full/manifest\.json: expected fastfashion-packed-set version 2 to 4, found 'fastfashion-packed-set' version 1; pack the set",
        ),
        (set_another_format, r"full/manifest\.json: expected fastfashion-packed-set version 2 to 4, found 'mosaic' version 3; pack"),
        (set_other_rows, r"full/manifest\.json: expected 60 rows as in set\.json, found 61; pack the set again"),
        (edit_the_manifest, r"full/manifest\.json: damaged: its bytes differ from the checksum at its end; pack the set again"),
        (name_another_resolution, r"full/manifest\.json: expected resolution full as its folder is named, found 32; pack"),
        (
            text_for_a_number,
            r"full/manifest\.json: not as expected .*`str` - at `\$\.shards\[0\]\.num_bytes`.*; pack",
        ),
        (cut_the_manifest, r"full/manifest\.json: not as expected .*; pack the set again"),
        (manifest_of_a_list, r"full/manifest\.json: not as expected .*; pack the set again"),
        (manifest_of_bytes, r"full/manifest\.json: not as expected .*; pack the set again"),
        (manifest_without_shards, r"full/manifest\.json: not as expected .*shards.*; pack the set again"),
        (manifest_with_odd_shards, r"full/manifest\.json: not as expected .*; pack the set again"),
        (manifest_with_more, r"full/manifest\.json: not as expected .*colour.*; pack the set again"),
        (remove_set_json, r"set/set\.json: missing: .*run fastfashion shard again"),
        (edit_set_json, r"set/set\.json: damaged: its bytes differ from the checksum at its end; pack the set again"),
        (set_of_other_rows, r"catalog\.parquet: expected 59 rows as in set\.json, found 60; pack the set again"),
        (set_of_other_files, r"set/set\.json: not as expected .*\.\./catalog.*; pack the set again"),
        (set_of_no_files, r"set/set\.json: not as expected .*; pack the set again"),
        (damage_vocab, r"vocab\.json: not as expected .*; pack the set again"),
        (vocab_of_a_list, r"vocab\.json: not as expected .*; pack the set again"),
        (vocab_of_numbers, r"vocab\.json: not as expected .*; pack the set again"),
        (remove_vocab, r"set: not a packed set: expected catalog\.parquet, vocab\.json .*; make one with fastfashion shard"),
        (damage_catalog, r"catalog\.parquet: not readable .*; pack the set again"),
        (cut_catalog, r"catalog\.parquet: not readable .*; pack the set again"),
        (remove_catalog, r"set: not a packed set: expected catalog\.parquet, vocab\.json .*; make one with fastfashion shard"),
        (damage_index, r"full/index\.parquet: damaged: its checksum is not the one in manifest\.json; pack the set again"),
        (flip_a_bit_of_the_index, r"full/index\.parquet: damaged: its checksum is not the one in manifest\.json; pack the set again"),
        (remove_index, r"full/index\.parquet: missing: .*run fastfashion shard again"),
        (shorten_index, r"full/index\.parquet: expected 60 rows as in manifest\.json, found 59; pack the set again"),
        (index_without_offsets, r"full/index\.parquet: expected columns offset, found .*; pack the set again"),
        (index_of_text, r"full/index\.parquet: expected whole numbers .*; pack the set again"),
        (index_beyond_a_shard, r"full/index\.parquet: line 31: outside of its shard .*size 4611686018427387904.*; pack the set again"),
        (
            index_of_an_unknown_shard,
            r"full/index\.parquet: line 0: not in the shard that manifest\.json has for it .*shard 10,",
        ),
        (index_of_flat_images, r"full/index\.parquet: line 7: an image without pixels .*width \d+, height 0.*; pack the set again"),
        (index_in_another_order, r"full/index\.parquet: line 0: expected rows 0, 1, 2, .*row 59,.*; pack the set again"),
        (catalog_without_ids, r"catalog\.parquet: .*id.*; pack the set again"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_set_is_refused_with_its_path_and_what_to_do(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    open_packed_set(copy).open("full")
    damage(copy)
    with pytest.raises(PackedSetError, match=message) as caught:
        open_packed_set(copy).open("full")
    assert str(copy) in str(caught.value)


def test_damage_in_one_resolution_leaves_the_others_usable(copy: Path) -> None:
    cut_a_shard(copy)
    assert open_packed_set(copy).open("32").encoded(59).size > 0


def test_a_resolution_without_its_manifest_does_not_exist(copy: Path) -> None:
    (copy / "full" / "manifest.json").unlink()
    packed = open_packed_set(copy)
    assert packed.resolutions == ("32",)
    with pytest.raises(
        ConfigError, match=r"set: resolution 'full' is not packed, there are 32; run fastfashion shard --res full --out .*set"
    ):
        packed.open("full")


def test_a_shard_that_vanishes_after_opening_is_named(copy: Path) -> None:
    opened = open_packed_set(copy).open("full")
    remove_a_shard(copy)
    assert opened.encoded(0).size > 0
    with pytest.raises(PackedSetError, match=rf"row 25, id {opened.id_of(25)}: .*full/00001\.tar: cannot be .*fastfashion verify {copy}"):
        opened.encoded(25)


def test_a_shard_that_is_cut_after_opening_is_named_and_kills_nobody(copy: Path) -> None:
    opened = open_packed_set(copy).open("full")
    cut_a_shard(copy)
    with pytest.raises(PackedSetError, match=r"row 49, .*full/00001\.tar: .*expected \d+ bytes, found 10240"):
        opened.encoded(49)


def test_a_shard_is_read_from_where_a_copy_of_it_lies(copy: Path, tmp_path: Path) -> None:
    opened = open_packed_set(copy).open("full")
    asked = []

    def local(number: int) -> Path:
        asked.append(number)
        return tmp_path / f"copy-{number}"

    for path in (copy / "full").glob("*.tar"):
        path.rename(local(int(path.stem)))
    asked.clear()
    cached = replace(opened, local=local, _maps={})
    with tarfile.open(tmp_path / "copy-1") as tar:
        assert cached.encoded(26).tobytes() == tar.extractfile(f"{opened.id_of(26)}.jpg").read()  # type: ignore[union-attr]
    assert cached.encoded(25).size > 0 and asked == [1]
    view, before = cached.encoded(27), cached.encoded(27).tobytes()
    (tmp_path / "copy-1").unlink()
    cached.unmap_shard(1)
    assert view.tobytes() == before
    with pytest.raises(PackedSetError, match=r"row 27, .*00001\.tar: cannot be read any more"):
        cached.encoded(27)


@pytest.mark.parametrize("row", [0, 31, 59])
def test_a_place_says_id_shard_and_offset(packed_small: PackedSmall, row: int) -> None:
    opened = open_packed_set(packed_small.out).open("full")
    identity = opened.id_of(row)
    shard = packed_small.out / "full" / f"{row // 25:05d}.tar"
    with tarfile.open(shard) as tar:
        assert opened.where(row) == f"id {identity} in {shard} at byte {tar.getmember(f'{identity}.jpg').offset_data}"
    assert opened.ids.to_pylist() == open_packed_set(packed_small.out).table["id"].tolist()


def test_what_is_no_packed_set_is_refused_with_the_command_that_makes_one(packed_small: PackedSmall, tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "not a packed set"),
        (packed_small.out / "full", "not a packed set"),
        (packed_small.out / "vocab.json", "no such folder"),
        (packed_small.source, "not a packed set"),
    ):
        with pytest.raises(PackedSetError, match=rf"{path}: {reason}.*make one with fastfashion shard --res 224 --out"):
            open_packed_set(path)


def test_an_unknown_resolution_names_those_that_are_packed(packed_small: PackedSmall) -> None:
    with pytest.raises(ConfigError, match=r"resolution '224' is not packed, there are 32, full; run fastfashion shard --res 224 --out"):
        open_packed_set(packed_small.out).open("224")


def test_encoded_images_are_views_that_cannot_be_written(packed_small: PackedSmall) -> None:
    data = open_packed_set(packed_small.out).open("full").encoded(0)
    assert data.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 0


def test_a_shard_is_published_when_it_is_whole_and_leaves_nothing_on_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, 7) as writer:
        writer.add("a", {"jpg": b"123", "json": b"{}"})
        assert [p.name for p in tmp_path.glob("*.tar")] == []
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with ShardWriter(tmp_path, 7) as writer:
        offsets = writer.add("a", {"jpg": b"123", "json": b"{}"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00007.idx", "00007.tar"]
    assert offsets == {"jpg": 512, "json": 1536}
    assert (tmp_path / "00007.idx").read_text() == "v1.2 1\njpg 512 3 a.jpg json 1536 2 a.json\n"
    assert writer.entry is not None
    assert (writer.entry.number, writer.entry.num_rows, writer.entry.num_bytes) == (7, 1, 10_240)
    with ShardWriter(tmp_path, 8) as writer:
        pass
    assert writer.entry is None
    assert len(list(tmp_path.iterdir())) == 2


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100), st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    encoded = name.encode()[:100].decode(errors="ignore").encode()
    info = tarfile.TarInfo(encoded.decode())
    info.size = size
    assert member_header(encoded, size) == info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")


@given(st.lists(st.tuples(st.text("ab Ö語-", min_size=1, max_size=30), st.binary(max_size=3000), st.binary(max_size=600)), min_size=1))
def test_shards_are_those_of_tarfile(samples: list[tuple[str, bytes, bytes]]) -> None:
    theirs = io.BytesIO()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT, encoding="utf-8") as tar:
        for key, jpg, labels in samples:
            for name, data in ((f"{key}.jpg", jpg), (f"{key}.json", labels)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(Path(folder), 3) as writer:
            offsets = [writer.add(key, {"jpg": jpg, "json": labels}) for key, jpg, labels in samples]
        data = (Path(folder) / "00003.tar").read_bytes()
    assert data == theirs.getvalue()
    for (_, jpg, labels), at in zip(samples, offsets, strict=True):
        assert (data[at["jpg"] : at["jpg"] + len(jpg)], data[at["json"] : at["json"] + len(labels)]) == (jpg, labels)
    assert writer.entry is not None
    assert (writer.entry.num_bytes, writer.entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_shard_far_larger_than_what_is_written_at_once_is_the_same(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 700_001), dtype=np.uint8)
    with ShardWriter(tmp_path, 0) as writer:
        for number, image in enumerate(images):
            writer.add(str(number), {"jpg": image.tobytes()})
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert [tar.extractfile(member).read() for member in tar] == [image.tobytes() for image in images]  # type: ignore[union-attr]
    assert writer.entry is not None
    assert writer.entry.sha256 == digests(tmp_path)["00000.tar"]
    assert writer.entry.idx_sha256 == digests(tmp_path)["00000.idx"]


@pytest.mark.parametrize(("key", "fits"), [("a" * 96, True), ("a" * 97, False), ("語" * 32, True), ("語" * 33, False)])
def test_member_names_beyond_what_ustar_holds_are_refused(key: str, fits: bool, tmp_path: Path) -> None:
    if fits:
        with ShardWriter(tmp_path, 0) as writer:
            writer.add(key, {"jpg": b"1"})
        with tarfile.open(tmp_path / "00000.tar") as tar:
            assert tar.getnames() == [f"{key}.jpg"]
    else:
        with pytest.raises(AssertionError, match=r"1 to 100 bytes, found 10[13]"), ShardWriter(tmp_path, 0) as writer:
            writer.add(key, {"jpg": b"1"})
        assert list(tmp_path.iterdir()) == []


def test_unfinished_shards_are_hidden_and_carry_their_process(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 7):
        assert [path.name for path in tmp_path.iterdir()] == [f".00007.tar.{os.getpid()}.partial"]


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from fastfashion.shards.writer import ShardWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
try:
    with ShardWriter(Path(sys.argv[1]), 0) as writer:
        for number in range(100):
            writer.add(str(number), {"jpg": bytes(100_000)})
except OSError as error:
    print(type(error).__name__, error.errno, error.filename)
"""


def test_a_disk_that_takes_no_more_ends_in_an_os_error_that_names_the_shard_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FILL_THE_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["OSError", str(errno.EFBIG), str(tmp_path / "00000.tar")]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def remote() -> Iterator[Path]:
    """A folder of fsspec's own storage in memory, which has no rename and no memory maps."""
    upath = pytest.importorskip("upath")
    folder = upath.UPath("memory://shop/sets")
    yield folder
    if folder.fs.exists(folder.path):
        folder.fs.rm(folder.path, recursive=True)


def test_a_remote_shard_is_uploaded_when_it_is_whole_and_never_on_an_error(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    with pytest.raises(RuntimeError), ShardWriter(remote, 7) as writer:
        writer.add("a", {"jpg": bytes(3_000_000)})
        raise RuntimeError
    assert not remote.exists()
    with ShardWriter(remote, 7) as writer, ShardWriter(tmp_path, 7) as local:
        for shard in (writer, local):
            shard.add("a", {"jpg": bytes(3_000_000), "json": b"{}"})
        assert not remote.exists()
    assert sorted(path.name for path in remote.iterdir()) == ["00007.idx", "00007.tar"]
    for name in ("00007.idx", "00007.tar"):
        assert (remote / name).read_bytes() == (tmp_path / name).read_bytes()
    assert writer.entry == local.entry
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_remote_set_opens_for_everything_but_its_images(packed_small: PackedSmall, remote: Any) -> None:
    remote.fs.put(str(packed_small.out), remote.path, recursive=True)
    here, there = open_packed_set(packed_small.out), open_packed_set(remote)
    pd.testing.assert_frame_equal(there.table, here.table)
    assert (there.vocab, there.resolutions) == (here.vocab, here.resolutions)
    for name in ("32", "full"):
        ours, theirs = here.open(name), there.open(name)
        assert theirs.manifest == ours.manifest
        np.testing.assert_array_equal(theirs.offset, ours.offset)
    with pytest.raises(PackedSetError, match=r"full/00000\.tar: .*copy the set to a disk first: memory://shop/sets"):
        theirs.encoded(0)
    (remote / "full" / "00001.tar").write_bytes(b"cut")
    with pytest.raises(PackedSetError, match=r"memory://shop/sets/full/00001\.tar: expected \d+ bytes, found 3 bytes"):
        there.open("full")


def test_publishing_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")

    def half(beside: Path) -> None:
        beside.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path / "a.json", half)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "old"}
