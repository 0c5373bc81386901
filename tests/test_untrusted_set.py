"""A packed set that somebody else made: whatever its files say, a command that reads it ends in one line, and `verify` says the same."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import workers
from conftest import PackedSmall
from hostile import with_bits_flipped
from test_kinds import load
from test_shards import change_index, change_manifest, change_set, sign

from fastfashion.cli import app
from fastfashion.errors import ConfigError, FastfashionError, PackedSetError
from fastfashion.load.cache import CacheFolder
from fastfashion.pack import PackRequest, pack
from fastfashion.pack.repair import repair
from fastfashion.pack.staging import Staging
from fastfashion.shards import open_packed_set
from fastfashion.shards.layout import ShardEntry
from fastfashion.shards.parquet import read_footer
from fastfashion.shards.verify import verify

Damage = Callable[[Path], object]
A_PATH = "../../../../victim"


@pytest.fixture
def copy(packed_small: PackedSmall, tmp_path: Path) -> Path:
    return shutil.copytree(packed_small.out, tmp_path / "set")


def manifest(**values: object) -> Damage:
    return lambda out: change_manifest(out, **values)


def shard(**values: object) -> Damage:
    def change(out: Path) -> None:
        first, *rest = json.loads((out / "full" / "manifest.json").read_text())["shards"]
        change_manifest(out, shards=[first | values, *rest])

    return change


def text_of(where: str, old: str, new: str) -> Damage:
    """Change the text of a signed file, and sign it again."""

    def change(out: Path) -> None:
        signed = (out / where).read_bytes()[:-83].replace(old.encode(), new.encode(), 1)
        (out / where).write_bytes(signed + b',\n  "sha256": "' + hashlib.sha256(signed).hexdigest().encode() + b'"\n}\n')

    return change


def entry_of(name: str, **values: object) -> Damage:
    def change(out: Path) -> None:
        files = json.loads((out / "set.json").read_text())["files"]
        change_set(out, files=files | {name: files[name] | values})

    return change


def resigned(out: Path, name: str) -> None:
    """set.json says of a file what it is now, as its maker's would."""
    data = (out / name).read_bytes()
    entry_of(name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())(out)


def vocab(change: Callable[[dict[str, Any]], object]) -> Damage:
    def write(out: Path) -> None:
        (out / "vocab.json").write_text(json.dumps(change(json.loads((out / "vocab.json").read_text()))))
        resigned(out, "vocab.json")

    return write


def catalog(change: Callable[[pa.Table], pa.Table], **how: Any) -> Damage:
    def write(out: Path) -> None:
        pq.write_table(change(pq.read_table(out / "catalog.parquet")), out / "catalog.parquet", **how)
        resigned(out, "catalog.parquet")

    return write


def column(name: str, values: Callable[[list[Any]], Any]) -> Damage:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, pa.array(values(table[name].to_pylist())))

    return catalog(change)


def index(**columns: Callable[[pd.Series], object]) -> Damage:
    return lambda out: change_index(out, lambda table: table.assign(**{name: change(table[name]) for name, change in columns.items()}))


def at(row: int, value: object) -> Callable[[pd.Series], object]:
    return lambda values: values.where(values.index != row, value)


def first(value: object) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [value, *values[1:]]


def write(where: str, data: bytes) -> Damage:
    return lambda out: (out / where).write_bytes(data)


def fifo(where: str) -> Damage:
    def make(out: Path) -> None:
        (out / where).unlink()
        os.mkfifo(out / where)

    return make


def device(where: str) -> Damage:
    def make(out: Path) -> None:
        (out / where).unlink()
        (out / where).symlink_to("/dev/zero")

    return make


def many_rows(out: Path) -> None:
    """Few bytes, and rows as a footer says that are all the same: what would be gigabytes at a hundred million."""
    rows = 100_000
    change_set(out, num_rows=rows)
    table = pq.read_table(out / "catalog.parquet").slice(0, 1)
    same = {name: pa.array([0]).take(pa.array(np.zeros(rows, np.int64))) for name in ("row", "duplicate_group")}
    same |= {name: table[name].combine_chunks().take(pa.array(np.zeros(rows, np.int64))) for name in table.column_names if name not in same}
    pq.write_table(pa.table(same), out / "catalog.parquet")
    resigned(out, "catalog.parquet")


def long_texts(out: Path) -> None:
    """A dictionary of one text, which 400 rows repeat."""
    rows = 400
    change_set(out, num_rows=rows)
    table = pq.read_table(out / "catalog.parquet").slice(0, 1)
    table = table.set_column(table.column_names.index("season"), "season", pa.array(["x" * 60_000]))
    table = table.take(pa.array(np.zeros(rows, np.int64)))
    table = table.set_column(table.column_names.index("duplicate_group"), "duplicate_group", pa.array(range(rows)))
    pq.write_table(table, out / "catalog.parquet")
    resigned(out, "catalog.parquet")


def odd_text(values: list[Any]) -> pa.Array:
    return pa.array([value.encode() for value in values[:-1]] + [b"\xff\xfe"], pa.binary()).view(pa.string())


SHA = "full/manifest.json", r"not as expected \(Expected `str` matching regex .*sha256`\)"
INDEX, CATALOG, VOCAB, SET = "full/index.parquet", "catalog.parquet", "vocab.json", "set.json"

# What is done to a set, the file that is then named, and what is said of it.
CASES: dict[str, tuple[Damage, str, str]] = {
    "sha256: a path": (shard(sha256=A_PATH), *SHA),
    "sha256: capitals": (shard(sha256="0A" * 32), *SHA),
    "sha256: 63 digits": (shard(sha256="0" * 63), *SHA),
    "sha256: a line feed after it": (shard(sha256="0" * 64 + "\n"), *SHA),
    "sha256: other digits": (shard(sha256="٣" * 64), *SHA),
    "sha256: a number": (shard(sha256=7), "full/manifest.json", r"Expected `str`, got `int`"),
    "sha256 of an idx": (shard(idx_sha256=A_PATH), *SHA),
    "sha256 of an index": (manifest(index_sha256=A_PATH), *SHA),
    "sha256 in set.json": (entry_of("catalog.parquet", sha256=A_PATH), SET, r"matching regex .*sha256`"),
    "shard number below 0": (shard(number=-1), "full/manifest.json", r"`int` >= 0 - at `\$\.shards\[0\]\.number`"),
    "shard number too large": (shard(number=2**31), "full/manifest.json", r"`int` <= .* - at `\$\.shards\[0\]\.number`"),
    "shard number twice": (shard(number=1), "full/manifest.json", "two shards have the same number"),
    "shard without rows": (shard(num_rows=0), "full/manifest.json", "`int` >= 1"),
    "shard of minus one row": (shard(num_rows=-1), "full/manifest.json", "`int` >= 1"),
    "a fraction of rows": (shard(num_rows=25.5), "full/manifest.json", "Expected `int`, got `float`"),
    "true rows": (shard(num_rows=True), "full/manifest.json", "Expected `int`, got `bool`"),
    "NaN rows": (text_of("full/manifest.json", '"num_rows": 60', '"num_rows": NaN'), "full/manifest.json", "not as expected"),
    "1e999 bytes": (text_of("full/manifest.json", '"num_bytes": ', '"num_bytes": 1e999'), "full/manifest.json", "not as expected"),
    "4000 digits": (text_of("full/manifest.json", '"num_rows": 60', '"num_rows": ' + "6" * 4000), "full/manifest.json", "not as expected"),
    "rows that do not add up": (shard(num_rows=24), "full/manifest.json", "expected 60 rows in its shards, found 59"),
    "resolution: a path": (manifest(resolution="../full"), "full/manifest.json", r"unknown resolution '\.\./full'"),
    "resolution: another": (manifest(resolution="32"), "full/manifest.json", "expected resolution full as its folder is named, found 32"),
    "version 5": (manifest(version=5), "full/manifest.json", "expected fastfashion-packed-set version 2 to 4, found .* version 5"),
    "version as text": (manifest(version="3"), "full/manifest.json", "not as expected|version 2 to 4"),
    "no format": (manifest(format=None), "full/manifest.json", "found None version 3"),
    "a format of two lines": (manifest(format="x\ndone"), "full/manifest.json", r"found 'x\\ndone' version 3"),
    "shards: an object": (manifest(shards={}), "full/manifest.json", "Expected `array`, got `object`"),
    "a field more in a shard": (shard(url="http://127.0.0.1:9/"), "full/manifest.json", "unknown field `url`"),
    "encoder: a list": (manifest(encoder=[1]), "full/manifest.json", "`object | null`, got `array`"),
    "brackets without end": (write("full/manifest.json", b"[" * 100_000), "full/manifest.json", "not as expected"),
    "set.json of a megabyte and more": (write(SET, b" " * ((1 << 20) + 1)), SET, "more than 1048576 bytes"),
    "set of no rows": (lambda out: change_set(out, num_rows=0), SET, "`int` >= 1"),
    "a class twice": (vocab(lambda names: names | {"season": ["Summer", "Summer"]}), VOCAB, "'Summer' is there twice or out of order"),
    "classes out of order": (vocab(lambda names: names | {"season": ["b", "a"]}), VOCAB, "'a' is there twice or out of order"),
    "a class is a number": (vocab(lambda names: names | {"season": [1]}), VOCAB, "Expected `str`, got `int`"),
    "no label columns": (vocab(lambda names: {}), VOCAB, "expected names of columns, each once, found none"),
    "a label column of ids": (vocab(lambda names: {"path": ["a"]}), VOCAB, "'path' is a name that a packed set uses itself"),
    "a label column named as a path": (vocab(lambda names: {A_PATH: ["a"]}), VOCAB, "expected names of 1 to 64 characters"),
    "more classes than rows": (
        vocab(lambda names: names | {"season": [f"{n:03d}" for n in range(61)]}),
        VOCAB,
        "61 classes of season in 60",
    ),
    "a label column that is not there": (vocab(lambda names: names | {"brand": ["a"]}), CATALOG, "expected columns brand"),
    "ids are numbers": (column("id", lambda ids: list(range(60))), CATALOG, "expected text in the column id, found int64"),
    "a row without an id": (column("id", first(None)), CATALOG, "1 rows without id"),
    "a label is a number": (column("season", lambda labels: [1] * 60), CATALOG, "expected text in the column season, found int64"),
    "labels within labels": (column("season", lambda labels: [["a"]] * 60), CATALOG, "expected text in the column season, found list"),
    "recovered is text": (column("recovered", lambda said: ["no"] * 60), CATALOG, "expected true or false in the column recovered"),
    "duplicate group below 0": (column("duplicate_group", first(-1)), CATALOG, "line 0: duplicate_group is neither the row nor"),
    "duplicate group of 2**40": (column("duplicate_group", first(2**40)), CATALOG, "line 0: duplicate_group .*1099511627776"),
    "duplicate group a fraction": (column("duplicate_group", first(0.5)), CATALOG, "expected whole numbers in the column duplicate_group"),
    "an image of no height": (column("height", first(0)), CATALOG, "line 0: an image without pixels"),
    "no UTF-8": (column("season", odd_text), CATALOG, "[Uu][Tt][Ff]-?8"),
    "a column twice": (catalog(lambda table: table.append_column("id", table["id"])), CATALOG, "column id, found 2 such columns|duplicate"),
    "a text of 100 KB": (column("productDisplayName", first("x" * 100_000)), CATALOG, "a text of 100000 bytes in the column"),
    "compressed a thousandfold": (catalog(lambda table: table, compression="zstd"), CATALOG, "compressed by ZSTD; expected SNAPPY or none"),
    "a row less": (catalog(lambda table: table.slice(1)), CATALOG, r"expected 60 rows as in set\.json, found 59"),
    "100,000 rows that are the same": (many_rows, CATALOG, "100000 rows in [0-9]+ bytes"),
    "texts of 24 MB that are the same": (long_texts, CATALOG, "its texts are 24[0-9]+ bytes long, and the file"),
    "no Parquet": (write(CATALOG, b"PAR1" + b"\xff" * 100 + b"PAR1"), CATALOG, "not readable|expected 2[0-9]+ bytes"),
    "an offset below 0": (index(offset=at(31, -512)), INDEX, "line 31: outside of its shard .*offset -512"),
    "an offset past the end": (index(offset=at(31, 2**40)), INDEX, "line 31: outside of its shard"),
    "an offset and a size that overflow": (index(offset=at(31, 2**62), size=at(31, 2**62)), INDEX, "line 31: outside of its shard"),
    "a size of 0": (index(size=at(31, 0)), INDEX, "line 31: outside of its shard"),
    "the place of the row before": (
        lambda out: change_index(out, lambda t: t.assign(offset=t["offset"].where(t["row"] != 31, t["offset"][30]))),
        INDEX,
        "line 31: before the end of the image before it",
    ),
    "a row twice": (index(row=at(31, 30)), INDEX, "line 31: expected rows 0, 1, 2"),
    "a shard that is not there": (index(shard=at(31, 9)), INDEX, "line 31: not in the shard that manifest.json has for it"),
    "a row in the shard before": (index(shard=at(25, 0)), INDEX, "line 25: not in the shard that manifest.json has for it"),
    "crc32 below 0": (index(crc32=at(31, -1)), INDEX, "line 31: crc32 is not a number of 32 bits"),
    "crc32 of 33 bits": (index(crc32=at(31, 2**32)), INDEX, "line 31: crc32 is not a number of 32 bits"),
    "more pixels than allowed": (index(height=at(31, 10_001), width=at(31, 10_000)), INDEX, "line 31: .* more than 100000000 pixels"),
    "a side of 2**33": (index(height=at(31, 2**33)), INDEX, "line 31: an image without pixels"),
    "an unknown kind": (index(kind=at(31, 9)), INDEX, "line 31: kind is not 0, 1 or 2"),
    "offsets are fractions": (index(offset=lambda values: values + 0.5), INDEX, "expected whole numbers in the column offset"),
    "a row without a size": (index(size=lambda values: values.astype("Int64").where(values.index != 5)), INDEX, "1 rows without size"),
    "a row more": (
        lambda out: change_index(out, lambda t: pd.concat([t, t[-1:]])),
        INDEX,
        r"expected 60 rows as in manifest\.json, found 61",
    ),
    **{f"{where} is a pipe": (fifo(where), where, "not a regular file") for where in (SET, INDEX)},
    **{f"{where} is a device": (device(where), where, "not a regular file") for where in (SET, INDEX)},
}


def command(what: str, out: Path, tmp_path: Path) -> None:
    """As the command line does it, in this process."""
    usual = ["--model", "resnet18", "--no-pretrained", "--epochs", "1", "--size", "32x32", "--runs", str(tmp_path / "runs")]
    arguments = {
        "train": ["train", str(out), "--set", "data.resolution=full", *usual],
        "preview": ["preview", str(out), "--set", "data.resolution=full", "--out", str(tmp_path / "preview.png")],
        "bench-loader": ["bench-loader", str(out), "--res", "full", "--images", "64", "--rounds", "1"],
        "audit": ["audit", str(out)],
    }
    app(arguments[what], standalone_mode=False)


@pytest.mark.parametrize("case", CASES)
def test_a_set_that_is_not_as_it_should_be_is_one_line_for_every_command_and_for_verify(case: str, copy: Path, tmp_path: Path) -> None:
    damage, where, said = CASES[case]
    damage(copy)
    for what in ("train", "preview", "bench-loader", "audit"):
        with pytest.raises(PackedSetError, match=rf"{copy}/{where}: (.|\n)*({said})") as caught:
            command(what, copy, tmp_path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    [reason] = [found.reason for found in verify(copy).damage if found.where == where]
    assert re.search(f"{said}|expected [0-9]+ bytes", reason)


def test_nothing_of_the_table_is_refused_where_nothing_was_done(copy: Path, tmp_path: Path) -> None:
    for what in ("preview", "audit"):
        command(what, copy, tmp_path)
    assert verify(copy).damage == ()


EVERY_FILE = [SET, VOCAB, CATALOG, "rejected.csv", "full/manifest.json", INDEX, "full/00001.tar", "full/00001.idx"]


@pytest.mark.parametrize("make", [fifo, device])
@pytest.mark.parametrize("where", EVERY_FILE)
def test_what_is_no_file_is_opened_by_no_command(where: str, make: Callable[[str], Damage], copy: Path, tmp_path: Path) -> None:
    make(where)(copy)
    assert next(found.reason for found in verify(copy).damage if found.where == where).startswith("not a regular file")
    for what in ("train", "preview", "audit"):
        if (where, what) in (("full/manifest.json", "audit"), ("rejected.csv", "train"), ("rejected.csv", "preview")):
            continue  # what is without its manifest is no resolution, and the other one is whole; only audit reads why rows were left out
        if where != "full/00001.idx":
            with pytest.raises(FastfashionError) as caught:
                command(what, copy, tmp_path)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", [SET, "full/manifest.json", INDEX, "full/00001.idx"])
def test_verify_reads_no_further_than_a_file_may_be_long(where: str, copy: Path) -> None:
    os.truncate(copy / where, 1 << 40)  # a hole: it takes no room
    [reason] = [found.reason for found in verify(copy).damage if found.where == where]
    assert re.search("more than [0-9]+ bytes", reason)


def test_a_shard_that_becomes_a_pipe_after_opening_is_named(copy: Path) -> None:
    opened = open_packed_set(copy).open("full")
    fifo("full/00001.tar")(copy)
    with pytest.raises(PackedSetError, match=r"full/00001\.tar: cannot be read any more \(.*not a regular file"):
        opened.encoded(30)


@pytest.mark.parametrize("case", ["sha256: a path", "100,000 rows that are the same"])
def test_the_command_line_ends_with_one_line(case: str, copy: Path, tmp_path: Path) -> None:
    damage, where, said = CASES[case]
    damage(copy)
    arguments = ["train", str(copy), "--set", "data.resolution=full", "--no-pretrained", "--size", "32x32"]
    done = workers.fastfashion(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and re.search(rf"\Aerror: {copy}/{where}: .*({said}).*\n\Z", done.stderr)
    checked = workers.fastfashion("verify", str(copy), cwd=tmp_path)
    assert checked.returncode == 1 and where in checked.stderr and "Traceback" not in checked.stderr


ROWS = np.arange(60)


@pytest.mark.parametrize("backend", ["threads", "resident", "dali"])
@pytest.mark.parametrize(
    ("change", "said", "verified"),
    [
        (index(crc32=at(31, 7)), "expected crc32 7, found [0-9]+", "1 of 60 images are not what its column crc32 says"),
        (index(height=at(31, 20)), "expected 60x20 pixels as the index says, found 60x80", "not what its columns height and width say"),
        (index(height=at(31, 9000)), "expected 60x9000 pixels as the index says, found 60x80", "not what its columns height and width say"),
    ],
)
def test_an_image_that_is_not_what_the_index_says_is_no_image_of_a_batch(
    change: Damage, said: str, verified: str, backend: str, copy: Path
) -> None:
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    change(copy)
    [found] = verify(copy).damage
    ids = open_packed_set(copy).table["id"]
    assert found.where == INDEX and found.reason.endswith(f"{verified}: ids {ids[31]}")
    with pytest.raises(PackedSetError, match=rf"id {ids[31]} in .*full/00001\.tar at byte [0-9]+: .*{said}.*--set data\.on_bad=skip"):
        load(open_packed_set(copy), ROWS[24:40], backend)


def test_a_higher_limit_of_pixels_is_the_readers_to_set(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_packed_set(copy).open("full", max_pixels=81 * 60)
    monkeypatch.setenv("FASTFASHION_MAX_PIXELS", str(80 * 60 - 1))
    with pytest.raises(PackedSetError, match=r"line 0: an image of more than 4799 pixels: .* FASTFASHION_MAX_PIXELS"):
        open_packed_set(copy).open("full")
    assert verify(copy).damage[0].where == INDEX
    monkeypatch.setenv("FASTFASHION_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="FASTFASHION_MAX_PIXELS: expected a number of pixels, found 'many'"):
        open_packed_set(copy).open("full")
    monkeypatch.setenv("FASTFASHION_MAX_PIXELS", str(81 * 60))
    assert len(open_packed_set(copy).open("full").shard) == len(opened.shard)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (column("id", first("a/b")), "line 0: expected an id without"),
        (column("id", first("a\x1b[2J")), "line 0: expected an id without"),
        (column("id", first("")), "line 0: expected an id of 1 to 90 bytes"),
        (column("id", first("é" * 46)), "line 0: expected an id of 1 to 90 bytes"),
        (column("id", lambda ids: [ids[1], *ids[1:]]), "the id .* occurs 2 times"),
        (column("fingerprint", first("G" * 114)), "line 0: expected a fingerprint in lower-case hex"),
        (column("fingerprint", lambda all_: [*all_[:-1], "0"]), "line 59: expected fingerprints of one length"),
        (column("row", first(9)), "line 0: expected rows 0, 1, 2"),
        (column("duplicate_group", lambda groups: [0, 0, 1, *groups[3:]]), "line 2: expected duplicate_group to be the first row"),
    ],
)
def test_verify_looks_at_values_that_opening_does_not_need(change: Damage, said: str, copy: Path) -> None:
    change(copy)
    open_packed_set(copy).open("full")
    [found] = verify(copy).damage
    assert found.where == CATALOG and re.match(said, found.reason)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"v1.2 25", b"v1.2 26", "expected v1.2 and 25 lines"),
        (b"v1.2 25", b"v9 25", "expected v1.2 and 25 lines"),
        (b"jpg 512 ", b"jpg 513 ", "line 2: expected an image of [0-9]+ bytes at byte 512"),
        (b"jpg 512 ", b"jpg -512 ", "line 2: expected an image"),
        (b" json ", b" json 9999999", "line 2: expected an image of [0-9]+ bytes at byte 512, and a JSON"),
    ],
)
def test_an_index_for_other_readers_that_leads_elsewhere_is_damage(old: bytes, new: bytes, said: str, copy: Path) -> None:
    idx = copy / "full" / "00000.idx"
    idx.write_bytes(idx.read_bytes().replace(old, new, 1))
    shard(idx_sha256=hashlib.sha256(idx.read_bytes()).hexdigest())(copy)
    [found] = verify(copy).damage
    assert (found.where, found.shard) == ("full/00000.idx", 0) and re.match(said, found.reason)


def test_a_footer_with_a_bit_wrong_says_something_or_raises_a_value_error(packed_small: PackedSmall) -> None:
    data = (packed_small.out / CATALOG).read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    whole = read_footer(data)
    assert (whole.num_rows, whole.group_rows, whole.compressions) == (60, (60,), {})
    assert whole.names == tuple(pq.read_schema(packed_small.out / CATALOG).names)
    for footer in with_bits_flipped(data[-8 - size :], 2000):
        with suppress(ValueError):
            assert read_footer(b"PAR1" + footer).names is not None


def test_a_set_at_an_address_names_no_file_of_the_cache(copy: Path, tmp_path: Path) -> None:
    upath = pytest.importorskip("upath")
    there = upath.UPath("memory://shop/hostile")
    shard(sha256=A_PATH)(copy)
    there.fs.put(str(copy), there.path, recursive=True)
    try:
        with pytest.raises(PackedSetError, match=r"^memory://shop/hostile/full/manifest\.json: not as expected .*sha256"):
            open_packed_set(there)
        assert [found.where for found in verify(there).damage] == ["full/manifest.json"]
    finally:
        there.fs.rm(there.path, recursive=True)
    victim = tmp_path / "victim.tar"
    victim.write_bytes(b"mine")
    entry = ShardEntry(number=0, num_rows=1, num_bytes=7, sha256=f"../../{victim.stem}", idx_sha256="0" * 64)  # past the schema
    with pytest.raises(ValueError, match="hex"):
        CacheFolder(tmp_path / "a" / "b", 10**6).bring(entry, lambda partial: None, set(), urgent=True, on_bytes=print)
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("how", ["other bytes", "cut", "a link to a device"])
def test_a_cached_shard_is_hashed_before_it_is_used(how: str, tmp_path: Path) -> None:
    data, whole = bytes(2000), CacheFolder(tmp_path / "cache", 10**6)
    entry = ShardEntry(number=0, num_rows=1, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), idx_sha256="0" * 64)
    file = tmp_path / "cache" / f"{entry.sha256}.tar"
    if how == "a link to a device":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(b"x" * (len(data) if how == "other bytes" else 7))
    filled: list[Path] = []

    def fill(partial: Path) -> None:
        filled.append(partial)
        partial.write_bytes(data)

    hashed: list[int] = []
    for _ in range(3):
        assert whole.bring(entry, fill, set(), urgent=True, on_bytes=hashed.append) == file
    assert file.read_bytes() == data and not file.is_symlink() and len(filled) == 1
    assert sum(hashed) == (len(data) if how == "other bytes" else 0)
    again: list[int] = []
    for _ in range(3):  # of another process, which hashes it once
        assert CacheFolder(tmp_path / "cache", 10**6).bring(entry, fill, set(), urgent=True, on_bytes=again.append) == file
    assert (len(filled), again) == (1, [len(data)] * 3)
    os.truncate(file, 1999)
    with file.open("ab") as changed:
        changed.write(b"1")
    whole.bring(entry, fill, set(), urgent=True, on_bytes=again.append)
    assert file.read_bytes() == data


@pytest.mark.parametrize(
    "record",
    [
        b"[]",
        b'{"kept": 1}',
        b'{"kept": {"id": ["a"], "height": [1], "width": [], "fingerprint": ["0"]}, "images": {}, "rejected": [], "shards": {}}',
        b'{"kept": {"id": [], "height": [], "width": [], "fingerprint": []}, "images": {}, "rejected": [], "shards": {"full": {"n": 0}}}',
        b"[" * 100_000,
        None,
    ],
)
def test_a_record_of_unfinished_work_that_is_none_is_work_to_do(record: bytes | None, packed_small: PackedSmall, tmp_path: Path) -> None:
    blocks = tmp_path / "out" / ".staging" / "blocks"
    blocks.mkdir(parents=True)
    if record is None:
        os.mkfifo(blocks / "00000.json")
        os.mkfifo(blocks.parent / "plan.json")
    else:
        (blocks / "00000.json").write_bytes(record)
        (blocks.parent / "plan.json").write_bytes(record)
    assert list(Staging(tmp_path / "out", ("full",)).finished()) == []
    with pytest.raises(PackedSetError, match="not a packed set"):
        open_packed_set(tmp_path / "out")
    pack(PackRequest(source=packed_small.source, out=tmp_path / "out", resolutions=("full",), rows_per_shard=25))
    assert verify(tmp_path / "out").damage == ()


@pytest.mark.parametrize("cascade", [["../../victim", "32"], ["32", 7], "32", ["full"], [], {"32": 1}])
def test_repair_makes_no_folder_of_what_a_manifest_says_of_its_encoder(cascade: object, copy: Path, packed_small: PackedSmall) -> None:
    said = json.loads((copy / "32/manifest.json").read_text())
    sign(copy / "32/manifest.json", said | {"encoder": said["encoder"] | {"cascade": cascade}})
    (copy / "32/00001.tar").unlink()
    with pytest.raises(PackedSetError, match=r"32/manifest\.json: encoder: "):
        repair(copy, packed_small.source, verify(copy).damage, workers=1)
    assert not list(copy.parent.rglob("victim"))
