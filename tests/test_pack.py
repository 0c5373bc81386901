"""Packing: the same bytes each time, no row lost silently, nothing published half, and resuming after a kill."""

import csv
import io
import json
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import COLUMNS, PackedSmall, digests, make_source, psnr_db, smooth_image, table_row, zip_folder
from PIL import Image
from workers import fastfashion

from fastfashion.catalog import LABEL_COLUMNS
from fastfashion.errors import ConfigError, InputError, PackedSetError
from fastfashion.images import codec, resampling
from fastfashion.images.codec import decode_rgb, encode_jpeg
from fastfashion.pack import PackProgress, PackRequest, dry_run, pack
from fastfashion.places import find_source
from fastfashion.shards import PackedSet, open_packed_set
from photos import photograph


def add_row(source: Path, identity: str, image: bytes | None = None) -> None:
    """Append a row with this id, and its image."""
    with (source / "styles.csv").open("a", encoding="utf-8") as file:
        file.write(",".join([identity, *table_row(1)[1:]]) + "\n")
    if image is not None:
        (source / "images" / f"{identity}.jpg").write_bytes(image)


def jpeg(seed: int, width_px: int = 60, height_px: int = 80) -> bytes:
    file = io.BytesIO()
    smooth_image(seed, width_px, height_px).save(file, "JPEG", quality=92)
    return file.getvalue()


def rejected_of(out: Path) -> list[tuple[str, int, str]]:
    with (out / "rejected.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["id", "line", "reason"]
    return [(identity, int(line), reason) for identity, line, reason in lines]


def published(out: Path) -> list[str]:
    """What a reader could take for a packed set, or a part of one."""
    return [name for name in digests(out) if not name.startswith(".staging/")]


def image_of(packed: PackedSet, name: str, row: int) -> np.ndarray:
    return decode_rgb(packed.open(name).encoded(row))


def pillow_rgb(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def test_packing_twice_gives_the_same_bytes_in_every_file(packed_small: PackedSmall, tmp_path: Path) -> None:
    request = PackRequest(source=packed_small.source, out=tmp_path / "again", resolutions=("32", "full"), rows_per_shard=25)
    pack(request)
    assert digests(request.out) == digests(packed_small.out)
    assert sorted(digests(request.out)) == [
        "32/00000.idx",
        "32/00000.tar",
        "32/00001.idx",
        "32/00001.tar",
        "32/00002.idx",
        "32/00002.tar",
        "32/index.parquet",
        "32/manifest.json",
        "catalog.parquet",
        "full/00000.idx",
        "full/00000.tar",
        "full/00001.idx",
        "full/00001.tar",
        "full/00002.idx",
        "full/00002.tar",
        "full/index.parquet",
        "full/manifest.json",
        "rejected.csv",
        "set.json",
        "vocab.json",
    ]


def test_two_workers_and_a_zip_give_the_same_bytes(packed_small: PackedSmall, tmp_path: Path) -> None:
    archive = zip_folder(packed_small.source, tmp_path / "set.zip")
    request = PackRequest(source=archive, out=tmp_path / "two", resolutions=("full", "32"), rows_per_shard=25, workers=2)
    summary = pack(request)
    assert digests(request.out) == digests(packed_small.out)
    assert (summary.kept, summary.packed_now, summary.resumed) == (60, 60, 0)


def test_the_summary_counts_what_stands_on_disk(packed_small: PackedSmall) -> None:
    summary = packed_small.summary
    assert (summary.num_rows, summary.kept, summary.rejected, summary.packed_now, summary.resumed) == (60, 60, 0, 60, 0)
    assert summary.images_without_row == 0
    images = sum(f.stat().st_size for f in (packed_small.source / "images").iterdir())
    tars = sum(f.stat().st_size for f in (packed_small.out / "full").glob("*.tar"))
    assert summary.resolutions["full"] == {"num_bytes": images, "tar_bytes": tars, "num_shards": 3}


def test_the_catalog_holds_every_row_in_the_tables_order(packed_small: PackedSmall) -> None:
    table = open_packed_set(packed_small.out).table
    with (packed_small.source / "styles.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    assert table["row"].tolist() == list(range(60))
    assert table["line"].tolist() == list(range(2, 62))
    for name in ("id", *LABEL_COLUMNS):
        assert table[name].tolist() == [line[COLUMNS.index(name)] for line in lines], name
    assert table["recovered"].tolist() == [row == 6 for row in range(60)]
    assert table["productDisplayName"].iloc[6] == "Brand Jeans 6, pack of 3"
    assert table["year"].isna().tolist() == [row == 7 for row in range(60)]
    assert table[["height", "width"]].drop(4).drop_duplicates().to_numpy().tolist() == [[80, 60]]
    assert table[["height", "width"]].loc[4].tolist() == [77, 61]


def test_the_vocabulary_holds_the_labels_that_occur(packed_small: PackedSmall) -> None:
    vocab = json.loads((packed_small.out / "vocab.json").read_text(encoding="utf-8"))
    assert list(vocab) == list(LABEL_COLUMNS)
    assert vocab["masterCategory"] == ["Accessories", "Apparel", "Footwear"]
    assert vocab["subCategory"] == ["Bottomwear", "Shoes", "Topwear", "Watches"]
    assert vocab["season"] == ["Summer", "Winter"]
    assert vocab["usage"] == ["Casual", "Sports"]
    assert vocab["baseColour"] == ["Black", "Blue", "White"]


def test_of_images_that_differ_only_twins_share_a_duplicate_group(packed_small: PackedSmall) -> None:
    source, table = packed_small.source, open_packed_set(packed_small.out).table
    a, b = (source / "images" / f"{table['id'].iloc[row]}.jpg" for row in (8, 9))
    assert a.read_bytes() != b.read_bytes()
    assert table["duplicate_group"].tolist() == [8 if row == 9 else row for row in range(60)]


@pytest.mark.parametrize("name", ["full", "32"])
def test_every_row_has_its_image_at_its_offset_with_its_crc(packed_small: PackedSmall, name: str) -> None:
    packed = open_packed_set(packed_small.out)
    index = pd.read_parquet(packed_small.out / name / "index.parquet")
    assert index["row"].tolist() == list(range(60))
    assert index["shard"].tolist() == [row // 25 for row in range(60)]
    opened = packed.open(name)
    for row, line in enumerate(index.itertuples()):
        with tarfile.open(packed_small.out / name / f"{line.shard:05d}.tar") as tar:
            member = tar.getmember(f"{packed.table['id'].iloc[row]}.jpg")
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
        assert (member.offset_data, member.size) == (line.offset, line.size)
        assert opened.encoded(row).tobytes() == data
        assert zlib.crc32(data) == line.crc32
        assert decode_rgb(data).shape == (line.height, line.width, 3)
        assert f"{line.shard:05d}.tar at byte {line.offset}" in opened.where(row)


def test_full_keeps_the_original_bytes(packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    opened = packed.open("full")
    assert opened.manifest.encoder is None
    for row, identity in enumerate(packed.table["id"]):
        assert opened.encoded(row).tobytes() == (packed_small.source / "images" / f"{identity}.jpg").read_bytes()


def test_a_resized_version_has_the_right_shape_and_looks_like_the_original(packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    opened = packed.open("32")
    for row, identity in enumerate(packed.table["id"]):
        found = image_of(packed, "32", row)
        # 80x60 -> 43x32; 77x61 -> 40x32 (heights 42.7 and 40.4 before rounding)
        assert found.shape == ((40, 32, 3) if row == 4 else (43, 32, 3))
        assert found.shape[:2] == (opened.height_px[row], opened.width_px[row])
        whole = pillow_rgb(packed_small.source / "images" / f"{identity}.jpg")
        wanted = np.asarray(whole.resize(found.shape[1::-1], Image.Resampling.BICUBIC))
        # Measured 35 dB and more: quality 90 with halved chroma on 32 pixels of colour ramps. Moved by a pixel it is below 25 dB.
        assert psnr_db(found, wanted) > 33


def test_a_photograph_is_resized_as_well_as_by_full_decoding_and_pillows_bicubic(tmp_path: Path) -> None:
    source = make_source(tmp_path / "set", rows=0)
    sizes = {"even": (1800, 2400), "odd": (1403, 1871), "wide": (1333, 777)}
    for seed, (identity, (width_px, height_px)) in enumerate(sizes.items()):
        drawing = np.asarray(smooth_image(seed, width_px // 2, height_px // 2))
        pixels = photograph(drawing, width_px, height_px, np.random.default_rng(seed))
        add_row(source, identity, encode_jpeg(pixels, 90, "420"))
    pack(PackRequest(source=source, out=tmp_path / "out", resolutions=("512", "224", "64"), quality=100, subsampling="444"))
    packed = open_packed_set(tmp_path / "out")
    for row, identity in enumerate(sizes):
        whole = pillow_rgb(source / "images" / f"{identity}.jpg")
        for name in ("512", "224", "64"):
            found = image_of(packed, name, row)
            assert min(found.shape[:2]) == int(name)
            # At quality 100 what is left is the scaled decode, the cascade 512 -> 224 -> 64, and rounding.
            assert psnr_db(found, np.asarray(whole.resize(found.shape[1::-1], Image.Resampling.BICUBIC))) >= 45, (identity, name)


def test_every_version_has_the_same_bytes_with_and_without_the_native_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path / "set", rows=0)
    sizes = {"large": (900, 1200), "odd": (701, 935), "wide": (1333, 777), "tall": (131, 1205), "small": (60, 80)}
    for seed, (identity, (width_px, height_px)) in enumerate(sizes.items()):
        pixels = photograph(np.asarray(smooth_image(seed, width_px, height_px)), width_px, height_px, np.random.default_rng(seed))
        add_row(source, identity, encode_jpeg(pixels, 90, ("420", "422", "444")[seed % 3]))
    file = io.BytesIO()
    smooth_image(9, 640, 480).save(file, "PNG")
    add_row(source, "png", file.getvalue())
    with_native, without = (
        PackRequest(source=source, out=tmp_path / name, resolutions=("full", "224", "100", "16")) for name in ("with", "without")
    )
    pack(with_native)
    pytest.importorskip("fastfashion.images._native", reason="built without a C compiler")
    for module in (codec, resampling):
        monkeypatch.setattr(module, "_native", None)
    pack(without)
    assert digests(with_native.out) == digests(without.out)


def test_a_small_image_is_not_enlarged(tmp_path: Path) -> None:
    source = make_source(tmp_path / "set", rows=4)
    pack(PackRequest(source=source, out=tmp_path / "out", resolutions=("224",)))
    opened = open_packed_set(tmp_path / "out").open("224")
    assert (opened.height_px.tolist(), opened.width_px.tolist()) == ([80] * 4, [60] * 4)


def test_grayscale_odd_sizes_and_other_formats_survive_as_rgb(packed_small: PackedSmall) -> None:
    packed = open_packed_set(packed_small.out)
    for row, shape in ((3, (80, 60, 3)), (4, (77, 61, 3)), (5, (80, 60, 3))):
        np.testing.assert_array_equal(
            image_of(packed, "full", row), np.asarray(pillow_rgb(packed_small.source / "images" / f"{packed.table['id'].iloc[row]}.jpg"))
        )
        assert image_of(packed, "full", row).shape == shape
    grey = image_of(packed, "32", 3).astype(int)
    assert np.abs(grey - grey[:, :, :1]).max() <= 1


def broken_source(home: Path) -> tuple[Path, list[tuple[str, int, str]]]:
    """Ten good rows, and one of each kind that cannot be packed, with the line and a word of the reason."""
    source = make_source(home / "set", rows=10)
    whole = jpeg(50)
    for identity, image in (
        ("cut", whole[: len(whole) // 2]),
        ("zero", b""),
        ("page", b"<html>403 Forbidden</html>"),
        ("noise", bytes(range(256)) * 4),
        ("lost", None),
        ("fine", whole),
    ):
        add_row(source, identity, image)
    with (source / "styles.csv").open("a", encoding="utf-8") as file:
        file.write("short,Men,Apparel\n")
    (source / "images" / "nobody.jpg").write_bytes(whole)
    reasons = ["truncated", "empty file", "HTML", "no known image format", "no image"]
    expected = [(identity, 12 + place, reasons[place]) for place, identity in enumerate(["cut", "zero", "page", "noise", "lost"])]
    return source, [*expected, ("short", 18, "expected 10 fields, found 3")]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("resolutions", [("full",), ("32",)])
def test_what_cannot_be_packed_is_listed_with_line_and_reason_and_the_rest_goes_on(
    resolutions: tuple[str, ...], workers: int, tmp_path: Path
) -> None:
    source, expected = broken_source(tmp_path)
    request = PackRequest(source=source, out=tmp_path / "out", resolutions=resolutions, workers=workers, rows_per_shard=4)
    summary = pack(request)
    found = rejected_of(request.out)
    assert [(identity, line) for identity, line, _ in found] == [(identity, line) for identity, line, _ in expected]
    for (_, _, reason), (_, _, word) in zip(found, expected, strict=True):
        assert word in reason
    assert (summary.num_rows, summary.kept, summary.rejected, summary.images_without_row) == (17, 11, 6, 1)
    assert open_packed_set(request.out).table["id"].iloc[-1] == "fine"
    again = pack(request)
    assert (again.num_rows, again.kept, again.rejected, again.packed_now) == (17, 11, 6, 0)


def test_a_block_of_nothing_but_broken_images_leaves_a_gap_and_no_shard(tmp_path: Path) -> None:
    source = make_source(tmp_path / "set", rows=4)
    for place in range(2):
        add_row(source, f"broken{place}", b"junk")
    add_row(source, "last", jpeg(51))
    pack(PackRequest(source=source, out=tmp_path / "out", resolutions=("full",), rows_per_shard=2))
    assert sorted(p.name for p in (tmp_path / "out" / "full").glob("*.tar")) == ["00000.tar", "00001.tar", "00003.tar"]
    opened = open_packed_set(tmp_path / "out").open("full")
    assert opened.shard.tolist() == [0, 0, 1, 1, 3]
    assert opened.encoded(4).tobytes() == jpeg(51)


@pytest.mark.parametrize("workers", [1, 2])
def test_more_rejected_than_allowed_stops_and_publishes_nothing(workers: int, tmp_path: Path) -> None:
    source, _ = broken_source(tmp_path)
    request = PackRequest(source=source, out=tmp_path / "out", resolutions=("full",), max_rejected=5, workers=workers, rows_per_shard=4)
    with pytest.raises(InputError, match=r"6 rows cannot be packed, more than --max-rejected 5.*rejected\.csv"):
        pack(request)
    assert published(request.out) == []
    assert len(rejected_of(request.out / ".staging")) == 6
    with pytest.raises(PackedSetError):
        open_packed_set(request.out)
    summary = pack(PackRequest(source=source, out=request.out, resolutions=("full",), max_rejected=6, rows_per_shard=4))
    assert (summary.kept, summary.rejected) == (11, 6)
    assert not (request.out / ".staging").exists()


def test_a_source_of_which_no_image_decodes_publishes_nothing(tmp_path: Path) -> None:
    source = make_source(tmp_path / "set", rows=3)
    for file in (source / "images").iterdir():
        file.write_bytes(b"junk")
    with pytest.raises(InputError, match="no image decodes"):
        pack(PackRequest(source=source, out=tmp_path / "out", resolutions=("full",)))
    assert published(tmp_path / "out") == []


def test_a_table_whose_rows_all_lack_images_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "set", rows=2)
    for place, file in enumerate((source / "images").iterdir()):
        file.rename(file.with_name(f"other{place}.jpg"))
    with pytest.raises(InputError, match=r"none of the 2 rows of styles\.csv has an image"):
        pack(PackRequest(source=source, out=tmp_path / "out"))


def test_a_image_damaged_inside_a_zip_is_rejected_and_the_rest_goes_on(tmp_path: Path) -> None:
    archive = zip_folder(make_source(tmp_path / "set", rows=5), tmp_path / "set.zip")
    with zipfile.ZipFile(archive) as opened:
        hurt = next(info for info in opened.infolist() if info.filename == "images/996.jpg")
    data = bytearray(archive.read_bytes())
    data[hurt.header_offset + 300] ^= 0xFF
    archive.write_bytes(data)
    summary = pack(PackRequest(source=archive, out=tmp_path / "out", resolutions=("full",)))
    assert (summary.kept, summary.rejected) == (4, 1)
    [(identity, line, reason)] = rejected_of(tmp_path / "out")
    assert (identity, line) == ("996", 3)
    assert "Bad CRC-32" in reason


IDS = ["a/b", ".", "..", "../../evil", "a.b", ".hidden", "back\\slash", "x" * 91, "é" * 60]


def test_ids_that_cannot_be_file_names_become_names_and_lead_nowhere(tmp_path: Path) -> None:
    folder = make_source(tmp_path / "set", rows=3)
    for identity in [*IDS, "fine-id_7", "Größe", "é" * 45]:
        add_row(folder, identity)
    archive = zip_folder(folder, tmp_path / "set.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        for place, identity in enumerate([*IDS, "fine-id_7", "Größe", "é" * 45]):
            opened.writestr(f"images/{identity}.jpg", jpeg(80 + place))
    before = {p for p in tmp_path.rglob("*") if "out" not in p.parts}
    pack(PackRequest(source=archive, out=tmp_path / "out", resolutions=("full", "32")))
    rejected = rejected_of(tmp_path / "out")
    assert [identity for identity, _, _ in rejected] == [".", "..", "../../evil", ".hidden"]
    assert all(reason.startswith("no image") for _, _, reason in rejected)
    assert "not below" in rejected[2][2]
    table = open_packed_set(tmp_path / "out").table.iloc[3:]
    assert table["path"].tolist() == ["a/b", "a.b", "back\\slash", "x" * 91, "é" * 60, "fine-id_7", "Größe", "é" * 45]
    ids = table["id"].tolist()
    # the second a_b, and what is too long, end in the first digits of the text's SHA-256
    assert ids == ["a_b", "a_b_2e7336dc", "back_slash", "x" * 81 + "_87b88e4e", "é" * 40 + "_f989aaf5", "fine-id_7", "Größe", "é" * 45]
    with tarfile.open(tmp_path / "out" / "full" / "00000.tar") as tar:
        assert [name.rsplit(".", 1)[0] for name in tar.getnames()[6::2]] == ids
    assert {p for p in tmp_path.rglob("*") if "out" not in p.parts} == before


def test_a_second_resolution_is_added_later_and_the_first_left_as_it_is(packed_small: PackedSmall, tmp_path: Path) -> None:
    first = PackRequest(source=packed_small.source, out=tmp_path / "out", resolutions=("full",), rows_per_shard=25)
    pack(first)
    before = digests(first.out)
    summary = pack(PackRequest(source=packed_small.source, out=first.out, resolutions=("full", "32"), rows_per_shard=25))
    after = digests(first.out)
    assert (summary.packed_now, set(summary.resolutions)) == (60, {"full", "32"})
    assert {name: after[name] for name in before} == before
    assert after == digests(packed_small.out)
    assert open_packed_set(first.out).resolutions == ("32", "full")


def test_what_is_packed_already_is_not_packed_again(packed_small: PackedSmall) -> None:
    before = {p: p.stat().st_mtime_ns for p in packed_small.out.rglob("*")}
    summary = pack(PackRequest(source=packed_small.source, out=packed_small.out, resolutions=("full", "32"), rows_per_shard=25))
    assert (summary.packed_now, summary.kept, summary.rejected) == (0, 60, 0)
    assert {p: p.stat().st_mtime_ns for p in packed_small.out.rglob("*")} == before


@pytest.mark.parametrize("change", ["label", "fewer rows", "more rows", "other ids"])
@pytest.mark.parametrize("resolution", ["full", "32"])
def test_another_table_into_the_same_folder_is_refused_and_changes_nothing(change: str, resolution: str, tmp_path: Path) -> None:
    source = make_source(tmp_path / "one", rows=6)
    pack(PackRequest(source=source, out=tmp_path / "out", resolutions=("full",)))
    before = digests(tmp_path / "out")
    other = make_source(tmp_path / "two", rows=5 if change == "fewer rows" else 6)
    if change == "more rows":
        add_row(other, "added", jpeg(60))
    if change == "label":
        (other / "styles.csv").write_text((other / "styles.csv").read_text().replace("Topwear", "Outerwear"))
    if change == "other ids":
        (other / "styles.csv").write_text((other / "styles.csv").read_text().replace("\n996,", "\n555,"))
        (other / "images" / "996.jpg").rename(other / "images" / "555.jpg")
    with pytest.raises(PackedSetError, match=r"out: holds another set.*choose another --out"):
        pack(PackRequest(source=other, out=tmp_path / "out", resolutions=(resolution,)))
    assert digests(tmp_path / "out") == before


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("mine")
    with pytest.raises(PackedSetError, match=r"out: expected an empty folder or a packed set, found thesis\.doc"):
        pack(PackRequest(source=make_source(tmp_path / "set", rows=2), out=tmp_path / "out"))
    assert list(digests(tmp_path / "out")) == ["thesis.doc"]


def test_a_run_that_was_cut_off_while_it_published_is_finished_by_the_next(packed_small: PackedSmall, tmp_path: Path) -> None:
    files = ("vocab.json", "rejected.csv", "catalog.parquet", "set.json")
    for left in (files[:number] for number in range(5)):
        out = tmp_path / f"out{len(left)}"
        out.mkdir()
        for name in left:
            shutil.copy(packed_small.out / name, out / name)
        pack(PackRequest(source=packed_small.source, out=out, resolutions=("full", "32"), rows_per_shard=25))
        assert digests(out) == digests(packed_small.out)


@pytest.mark.parametrize("name", ["catalog.parquet", "rejected.csv"])
def test_a_damaged_set_is_not_packed_into(packed_small: PackedSmall, name: str, tmp_path: Path) -> None:
    out = shutil.copytree(packed_small.out, tmp_path / "out")
    (out / name).write_bytes(b"")
    with pytest.raises(PackedSetError, match=r"out: holds a damaged set .*; choose another --out or remove it"):
        pack(PackRequest(source=packed_small.source, out=out, resolutions=("48",)))


def test_other_settings_for_a_packed_resolution_are_refused(packed_small: PackedSmall) -> None:
    before = digests(packed_small.out)
    with pytest.raises(PackedSetError, match=r"32: packed with other settings.*remove that folder"):
        pack(PackRequest(source=packed_small.source, out=packed_small.out, resolutions=("32",), quality=80))
    assert digests(packed_small.out) == before


def test_progress_tells_every_image_once(packed_small: PackedSmall, tmp_path: Path) -> None:
    totals: list[int] = []
    told: list[tuple[int, int, int]] = []
    progress = PackProgress(on_start=totals.append, on_packed=lambda *sums: told.append(sums))
    summary = pack(PackRequest(source=packed_small.source, out=tmp_path / "out", resolutions=("32",), rows_per_shard=25), progress)
    assert totals == [60]
    assert sum(images for images, _, _ in told) == 60
    assert sum(num_bytes for _, num_bytes, _ in told) == summary.resolutions["32"]["num_bytes"]
    assert [rejected for _, _, rejected in told] == [0] * len(told)


def test_a_dry_run_writes_nothing_and_estimates_what_a_run_then_takes(tmp_path: Path) -> None:
    source = make_source(tmp_path / "set", rows=90, width_px=150, height_px=200)
    add_row(source, "lost", None)
    add_row(source, "broken", b"junk")
    request = PackRequest(source=source, out=tmp_path / "out", resolutions=("full", "64"), rows_per_shard=25)
    before = {path.name for path in tmp_path.iterdir()}
    plan = dry_run(request)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (plan.num_rows, plan.rejected, plan.to_pack, plan.resumed, plan.num_shards) == (92, 1, 91, 0, 4)
    assert plan.already_packed == ()
    assert plan.free_bytes is not None
    summary = pack(request)
    for name, sizes in summary.resolutions.items():
        assert 0.8 < plan.tar_bytes[name] / sizes["tar_bytes"] < 1.25
    again = dry_run(request)
    assert (again.to_pack, again.already_packed, again.tar_bytes) == (0, ("64", "full"), {})


def test_a_dry_run_tells_what_an_interrupted_run_has_done(packed_small: PackedSmall, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(*sums: int) -> None:
        raise Stop

    request = PackRequest(source=packed_small.source, out=tmp_path / "out", resolutions=("32",), rows_per_shard=25)
    with pytest.raises(Stop):
        pack(request, PackProgress(on_packed=stop))
    before = digests(tmp_path / "out")
    assert (dry_run(request).resumed, dry_run(request).to_pack) == (25, 60)
    assert digests(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resolutions": ("15",)}, "unknown resolution '15': expected full, or the shorter side in pixels, 16 to 4096"),
        ({"resolutions": ("full", "224px")}, "unknown resolution '224px'"),
        ({"resolutions": ("0224",)}, "unknown resolution '0224'"),
        ({"resolutions": ("-32",)}, "unknown resolution '-32'"),
        ({"resolutions": ("٣٢",)}, "unknown resolution"),
        ({"workers": 0}, "--workers: expected 1 to 1024, found 0"),
        ({"quality": 101}, "--quality: expected 1 to 100, found 101"),
        ({"rows_per_shard": 0}, "rows_per_shard: expected 1 to 1000000, found 0"),
        ({"max_rejected": -1}, "--max-rejected: expected 0 or more, found -1"),
        ({"subsampling": "411"}, "subsampling: expected 420, 422, 444, found '411'"),
        ({"max_pixels": 0}, "--max-pixels: expected 1 to"),
        ({"engine": "spark"}, "--engine: expected local or ray, found 'spark'"),
        ({"address": "auto"}, "--address auto: only --engine ray has an address"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PackRequest(**{"source": Path("a"), "out": Path("b")} | wrong)  # type: ignore[arg-type]


def test_the_only_data_set_is_found_and_of_several_none_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)no data set under .*fastfashion download small"):
        find_source(None, tmp_path)
    (tmp_path / "images.zip").touch()
    assert find_source(None, tmp_path) == tmp_path / "images.zip"
    make_source(tmp_path / "synth", rows=1)
    with pytest.raises(ConfigError, match=r"which data set\? There are .*images\.zip.*synth: choose with --source"):
        find_source(None, tmp_path)


def test_the_command_line_packs_and_reports_in_json(packed_small: PackedSmall, tmp_path: Path) -> None:
    arguments = ("shard", "--source", str(packed_small.source), "--out", "out", "--res", "32", "--res", "full", "--workers", "1", "--json")
    done = fastfashion(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["kept"], result["rejected"], result["packed_now"], result["out"]) == (60, 0, 60, "out")
    assert set(result["resolutions"]) == {"32", "full"}
    assert len(open_packed_set(tmp_path / "out")) == 60


def test_the_command_line_prints_the_plan_and_packs_nothing(packed_small: PackedSmall, tmp_path: Path) -> None:
    done = fastfashion("shard", "--source", str(packed_small.source), "--out", "out", "--res", "full", "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "to pack: 60 images, in 1 shard a resolution" in done.stderr
    assert json.loads(done.stdout)["to_pack"] == 60
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_what_is_wrong_in_one_line_and_exits_with_2(tmp_path: Path) -> None:
    done = fastfashion("shard", "--source", "nowhere.zip", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    said = "expected a folder or a zip with image files and a CSV table, such as styles.csv beside images/"
    assert done.stderr == f"error: nowhere.zip: no such file or folder; {said}\n"
    assert list(tmp_path.iterdir()) == []
