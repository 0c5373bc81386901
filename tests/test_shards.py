"""A packed set opens in the tools of others, and what is wrong with one is said before it is read."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import PackedSmall, digests, psnr_db
from PIL import Image

from fastfashion.catalog import LABEL_COLUMNS
from fastfashion.errors import ConfigError, PackedSetError
from fastfashion.files import publish
from fastfashion.image import decode_rgb
from fastfashion.shards import open_packed_set
from fastfashion.shards.writer import ShardWriter


def tars(packed: PackedSmall, name: str) -> list[Path]:
    return sorted((packed.out / name).glob("*.tar"))


@pytest.mark.parametrize("name", ["full", "32"])
def test_tar_lists_and_unpacks_every_picture(packed_small: PackedSmall, name: str, tmp_path: Path) -> None:
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


def test_python_reads_labels_beside_each_picture(packed_small: PackedSmall) -> None:
    table = open_packed_set(packed_small.out).table
    found: list[dict[str, str]] = []
    for path in tars(packed_small, "32"):
        with tarfile.open(path) as tar:
            found += [json.load(tar.extractfile(m)) for m in tar.getmembers() if m.name.endswith(".json")]  # type: ignore[arg-type]
    assert found == table[["id", *LABEL_COLUMNS]].to_dict("records")


def test_webdataset_reads_keys_pictures_and_labels(packed_small: PackedSmall) -> None:
    wds = pytest.importorskip("webdataset")
    packed = open_packed_set(packed_small.out)
    urls = [str(path) for path in tars(packed_small, "full")]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "json"))
    assert [key for key, _, _ in samples] == packed.table["id"].tolist()
    assert [labels["subCategory"] for _, _, labels in samples] == packed.table["subCategory"].tolist()
    opened = packed.open("full")
    for row, (_, picture, labels) in enumerate(samples):
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), decode_rgb(opened.encoded(row)))
        assert labels["id"] == packed.table["id"].iloc[row]


def read_by_dali(paths: list[Path], num_samples: int) -> Iterator[tuple[np.ndarray, bytes, np.ndarray]]:
    """Encoded picture, JSON and decoded picture of every sample, by DALI's stock reader and our index, on the CPU."""
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
def test_dalis_webdataset_reader_with_our_index_gives_every_picture(packed_small: PackedSmall, name: str) -> None:
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
        assert (manifest["format"], manifest["version"], manifest["resolution"]) == ("fastfashion-packed-set", 1, name)
        assert manifest["num_rows"] == 60
        assert [(s["number"], s["num_rows"]) for s in manifest["shards"]] == [(0, 25), (1, 25), (2, 10)]
        sums = digests(packed_small.out / name)
        assert {f"{s['number']:05d}.tar": s["sha256"] for s in manifest["shards"]} == {n: h for n, h in sums.items() if n.endswith(".tar")}
        assert [s["num_bytes"] for s in manifest["shards"]] == [path.stat().st_size for path in tars(packed_small, name)]
        assert manifest["index_sha256"] == sums["index.parquet"]
    assert manifest["encoder"]["quality"] == 90


def test_numbered_resolutions_hold_baseline_jpegs(packed_small: PackedSmall) -> None:
    opened = open_packed_set(packed_small.out).open("32")
    for row in range(60):
        with Image.open(io.BytesIO(opened.encoded(row))) as picture:
            assert (picture.format, picture.mode, min(picture.size)) == ("JPEG", "RGB", 32)
            assert "progression" not in picture.info


def test_rows_of_all_resolutions_are_the_same_pictures(packed_small: PackedSmall) -> None:
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
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def set_another_version(out: Path) -> None:
    change_manifest(out, version=2)


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
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "shards"}))


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


def shorten_index(out: Path) -> None:
    path = out / "full" / "index.parquet"
    pd.read_parquet(path).iloc[:-1].to_parquet(path)


def index_without_offsets(out: Path) -> None:
    path = out / "full" / "index.parquet"
    pd.read_parquet(path).drop(columns="offset").to_parquet(path)


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
            r"full/manifest\.json: expected fastfashion-packed-set version 1, found fastfashion-packed-set version 2; pack",
        ),
        (set_another_format, r"full/manifest\.json: expected fastfashion-packed-set version 1, found mosaic version 1; pack"),
        (set_other_rows, r"full: expected 60 rows as in catalog\.parquet, found 60 in index\.parquet and 61 in manifest\.json; pack"),
        (cut_the_manifest, r"full/manifest\.json: not a readable manifest .*; pack the set again"),
        (manifest_of_a_list, r"full/manifest\.json: expected fastfashion-packed-set version 1.*; pack the set again"),
        (manifest_of_bytes, r"full/manifest\.json: not a readable manifest .*; pack the set again"),
        (manifest_without_shards, r"full/manifest\.json: damaged manifest .*shards.*; pack the set again"),
        (manifest_with_odd_shards, r"full/manifest\.json: damaged manifest .*; pack the set again"),
        (manifest_with_more, r"full/manifest\.json: damaged manifest .*colour.*; pack the set again"),
        (damage_vocab, r"vocab\.json: not readable .*; pack the set again"),
        (vocab_of_a_list, r"vocab\.json: not readable .*; pack the set again"),
        (vocab_of_numbers, r"vocab\.json: not readable .*; pack the set again"),
        (remove_vocab, r"set: not a packed set: expected catalog\.parquet, vocab\.json .*; make one with fastfashion shard"),
        (damage_catalog, r"catalog\.parquet: not readable .*; pack the set again"),
        (cut_catalog, r"catalog\.parquet: not readable .*; pack the set again"),
        (remove_catalog, r"set: not a packed set: expected catalog\.parquet, vocab\.json .*; make one with fastfashion shard"),
        (damage_index, r"full/index\.parquet: not readable .*; pack the set again"),
        (remove_index, r"full/index\.parquet: not readable .*; pack the set again"),
        (shorten_index, r"full: expected 60 rows as in catalog\.parquet, found 59 in index\.parquet and 60 in manifest\.json; pack"),
        (index_without_offsets, r"full/index\.parquet: .*offset.*; pack the set again"),
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
    with pytest.raises(PackedSetError, match=r"full/00001\.tar: cannot be read any more"):
        opened.encoded(25)


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


def test_encoded_pictures_are_views_that_cannot_be_written(packed_small: PackedSmall) -> None:
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


def test_publishing_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")

    def half(beside: Path) -> None:
        beside.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path / "a.json", half)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "old"}
