"""The audit: counts and leakage as counted by hand, and a contact sheet with the images that it should show."""

import dataclasses
import hashlib
import json
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import PackedSmall, make_source
from PIL import Image

from fastfashion.audit.report import audit, audit_text, duplicate_tiles, leakage
from fastfashion.catalog import Styles, Vocab
from fastfashion.errors import InputError, PackedSetError
from fastfashion.images.codec import decode_rgb
from fastfashion.images.sheets import draw_sheet
from fastfashion.pack import PackRequest, pack
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.sources import Source

TASKS = ("masterCategory", "subCategory", "articleType", "gender", "baseColour", "season", "usage")


def test_images_sizes_and_labels_are_those_of_the_hand_made_set(packed_small: PackedSmall) -> None:
    report = audit(packed_small.out)
    assert report["images"] == 60
    assert report["rejected"] == {"rows": 0, "reasons": {}}
    assert report["sizes"] == {"images": {"60x80": 59, "61x77": 1}, "shorter_side_px": {"min": 60, "median": 60.0, "max": 61}}
    assert tuple(report["labels"]) == TASKS
    assert report["labels"]["masterCategory"] == {
        "classes": 3,
        "missing": 0,
        "rare": 0,
        "images": {"Apparel": 36, "Accessories": 12, "Footwear": 12},
    }
    assert report["labels"]["usage"] == {"classes": 2, "missing": 24, "rare": 0, "images": {"Casual": 24, "Sports": 12}}
    assert {task: report["labels"][task]["missing"] for task in TASKS} == dict.fromkeys(TASKS, 0) | {
        "baseColour": 6,
        "season": 5,
        "usage": 24,
    }


def test_bytes_are_those_of_the_files(packed_small: PackedSmall) -> None:
    sizes = [file.stat().st_size for file in (packed_small.source / "images").iterdir()]
    report = audit(packed_small.out)["resolutions"]
    assert list(report) == ["32", "full"]
    assert report["full"] == {
        "num_bytes": sum(sizes),
        "median_bytes": statistics.median(sizes),
        "min_bytes": min(sizes),
        "max_bytes": max(sizes),
        "tar_bytes": sum(tar.stat().st_size for tar in (packed_small.out / "full").glob("*.tar")),
        "num_shards": 3,
    }


def test_the_one_pair_of_twins_is_found_with_the_labels_in_which_it_differs(packed_small: PackedSmall) -> None:
    # rows 8 and 9: Shirts, Boys, Blue, Summer, Casual beside Watches, Men, Black, Summer and no usage
    differing = {"masterCategory": 1, "subCategory": 1, "articleType": 1, "gender": 1, "baseColour": 1, "season": 0, "usage": 0}
    assert audit(packed_small.out)["duplicates"] == {"groups": 1, "images": 2, "largest": 2, "groups_with_different_labels": differing}


def test_rejected_rows_are_counted_by_reason_and_rare_classes_by_what_is_left(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", 12)
    images = {int(file.stem) - 995: file for file in (source / "images").iterdir() if int(file.stem) < 10_000}
    images[1].unlink()
    for number in (2, 4, 7):
        images[number].write_bytes(b"<html>no such image")
    pack(PackRequest(source=source, out=tmp_path / "packed", resolutions=("full",)))
    report = audit(tmp_path / "packed")
    html = "not an image: begins like an HTML or XML page"
    assert (report["images"], report["rejected"]) == (8, {"rows": 4, "reasons": {html: 3, "no image": 1}})
    # left are 0, 3, 5, 6, 8, 9, 10 and 11
    assert report["labels"]["articleType"]["images"] == {"Tshirts": 3, "Jeans": 2, "Shirts": 2, "Watches": 1}
    assert report["labels"]["articleType"]["rare"] == 4
    assert f"rejected: {html} (3)" in audit_text(report)


# id, class, first row of the duplicate group. ImageFolder and random_split of torch 2.15 put 4, 30, 10000, 10, 1, 100 and 1000 into
# training, 3 into validation, and 999 and 10-a into the test.
SPLIT = [
    ("1000", "Topwear", 0),
    ("999", "Topwear", 1),
    ("10000", "Topwear", 2),
    ("10", "bags", 3),
    ("10-a", "bags", 4),
    ("1", "Zip", 5),
    ("30", "Zip", 6),
    ("4", "Topwear", 7),
    ("77", "", 8),
    ("3", "bags", 9),
    ("100", "Zip", 10),
]


@pytest.mark.parametrize(
    ("twins", "leaked"),
    [
        ({}, (0, 0)),
        ({"4": "999"}, (0, 1)),
        ({"4": "999", "30": "10-a", "100": "3"}, (1, 2)),
        ({"100": "999", "3": "999"}, (1, 1)),
        ({"3": "10-a"}, (0, 0)),  # validation and test share an image, which training does not
        ({"77": "999"}, (0, 0)),  # one that is in no part
    ],
)
def test_leakage_counts_rows_whose_image_is_in_training_too(twins: dict[str, str], leaked: tuple[int, int]) -> None:
    table = pd.DataFrame(SPLIT, columns=["id", "subCategory", "duplicate_group"])
    table["recovered"] = False
    place = {identity: row for row, identity in enumerate(table["id"])}
    for one, other in twins.items():
        first, row = sorted((place[one], place[other]))
        table.loc[row, "duplicate_group"] = table.loc[first, "duplicate_group"]
    found = leakage(table, Vocab.of_table(table, ["subCategory"]), "subCategory", "reference", 0)
    assert found == {"rows": {"train": 7, "val": 1, "test": 2}, "leaked": dict(zip(("val", "test"), leaked, strict=True))}


def test_stratified_leaks_nothing_and_a_split_that_cannot_be_made_says_why(packed_small: PackedSmall) -> None:
    report = audit(packed_small.out, protocols=("stratified", "reference", "random"))["leakage"]
    assert {task: tuple(r["leaked"].values()) for task, r in report["stratified"].items()} == dict.fromkeys(TASKS, (0, 0))
    assert sum(report["reference"]["subCategory"]["rows"].values()) == 59  # without the name that held a comma
    assert report["random"]["season"] == {"impossible": "unknown protocol 'random': there are stratified, reference, folds, file, column"}


def test_the_seed_reaches_the_stratified_split(packed_small: PackedSmall) -> None:
    assert "seed of the split" in audit(packed_small.out, seed=-1)["leakage"]["stratified"]["season"]["impossible"]


def test_the_reference_projects_test_of_subcategory_knows_177_images_from_training(real_styles: Styles, real_source: Source) -> None:
    table = real_styles.table[real_styles.table["id"].isin(real_source.images.keys())].reset_index(drop=True)
    first: dict[bytes, int] = {}
    pixels = (decode_rgb(real_source.read(identity)) for identity in table["id"])
    table["duplicate_group"] = [
        first.setdefault(hashlib.sha256(p.tobytes()).digest() + bytes(p.shape[:2]), i) for i, p in enumerate(pixels)
    ]
    found = leakage(table, Vocab.of_table(table), "subCategory", "reference", 0)
    assert (found["rows"]["test"], found["leaked"]["test"]) == (6664, 177)


def test_text_names_what_the_report_counts(packed_small: PackedSmall) -> None:
    lines = [" ".join(line.split()) for line in audit_text(audit(packed_small.out)).splitlines()]
    assert lines[0] == f"{packed_small.out}: 60 images, 0 rows rejected"
    assert "sizes (width x height): 60x80 (59), 61x77 (1)" in lines
    assert "usage 2 24 0 Casual 24, Sports 12" in lines
    assert "duplicates: 1 group of 2 images, the largest of 2" in lines
    assert any(line.startswith("stratified season 0 of ") for line in lines)


def test_text_shortens_long_lists_and_shows_why_a_split_is_impossible(packed_small: PackedSmall) -> None:
    report = audit(packed_small.out, protocols=("random",))
    report["rejected"] = {"rows": 15, "reasons": {"a": 5, "b": 4, "c": 3, "d": 2, "e": 1}}
    report["labels"]["season"]["images"] = {name: ord("z") - ord(name) for name in "abcdefgh"}
    text = audit_text(report)
    assert "rejected: 2 others (3)" in text
    assert "a 25, b 24, c 23, …, f 20, g 19, h 18" in text
    assert "unknown protocol 'random'" in text


def grouped(packed: PackedSet, *groups: range) -> PackedSet:
    """The same set, with other duplicate groups."""
    first = np.arange(len(packed))
    for rows in groups:
        first[rows] = rows[0]
    place = packed.columns.column_names.index("duplicate_group")
    return dataclasses.replace(packed, columns=packed.columns.set_column(place, "duplicate_group", pa.array(first)))


MARGIN, GAP, LINE, TITLE, CAPTION = 20, 8, 230, 20, 30  # pixels; lines of images are 230 apart: title, image, caption, gap


def drawn(packed: PackedSet) -> np.ndarray:
    return np.asarray(draw_sheet(duplicate_tiles(packed)))


def tile(sheet: np.ndarray, line: int, place: int) -> np.ndarray:
    """120x160 pixels of an image."""
    top, left = MARGIN + LINE * line + TITLE, MARGIN + (120 + GAP) * place
    return sheet[top : top + 160, left : left + 120]


def test_the_contact_sheet_shows_each_group_in_a_row_the_largest_first_and_eight_images_at_most(packed_small: PackedSmall) -> None:
    packed = grouped(open_packed_set(packed_small.out), range(10, 13), range(20, 30), range(40, 42))
    sheet = drawn(packed)
    assert sheet.shape == (20 + 3 * 230, 2 * 20 + 8 * 128 - 8, 3)
    for line, rows in enumerate((range(20, 28), range(10, 13), range(40, 42))):
        for place in range(8):
            found = tile(sheet, line, place)
            if place >= len(rows):
                assert (found == 255).all()
                continue
            with Image.open(packed_small.source / "images" / f"{packed.table['id'][rows[place]]}.jpg") as image:
                expected = image.convert("RGB").resize((120, 160), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(found, np.asarray(expected))
            caption = sheet[MARGIN + LINE * line + TITLE + 160 :][:CAPTION, MARGIN + (120 + GAP) * place :][:, :120]
            assert (caption < 130).any()  # the id


def test_an_image_of_another_shape_is_in_the_middle_of_its_tile(packed_small: PackedSmall) -> None:
    wide = tile(drawn(grouped(open_packed_set(packed_small.out), range(3, 5))), 0, 1)  # 61x77 becomes 120x151
    assert (wide[:4] == 255).all()
    assert (wide[-5:] == 255).all()
    assert (wide[4:-5] != 255).any(axis=(1, 2)).all()


def test_the_contact_sheet_is_made_from_the_smallest_resolution_that_fills_a_tile(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", 12, width_px=300, height_px=400)
    pack(PackRequest(source=source, out=tmp_path / "packed", resolutions=("full", "32", "120")))
    packed = open_packed_set(tmp_path / "packed")
    (tmp_path / "packed" / "full" / "00000.tar").write_bytes(bytes((tmp_path / "packed" / "full" / "00000.tar").stat().st_size))
    np.testing.assert_array_equal(tile(drawn(packed), 0, 0), decode_rgb(packed.open("120").encoded(8)))


def test_a_damaged_image_is_named(packed_small: PackedSmall, tmp_path: Path) -> None:
    pack(PackRequest(source=packed_small.source, out=tmp_path / "packed", resolutions=("full",)))
    shard = tmp_path / "packed" / "full" / "00000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(PackedSetError, match=r"full/00000\.tar at byte \d+: .*fastfashion verify"):
        duplicate_tiles(open_packed_set(tmp_path / "packed"))


def test_what_is_written_is_the_report_and_the_sheet_and_a_stale_sheet_goes(packed_small: PackedSmall, tmp_path: Path) -> None:
    out = tmp_path / "new" / "audit"
    report = audit(packed_small.out, out)
    assert json.loads((out / "audit.json").read_text(encoding="utf-8")) == report
    assert sorted(file.name for file in out.iterdir()) == ["audit.json", "duplicates.png"]
    with Image.open(out / "duplicates.png") as sheet:
        assert sheet.size == (2 * 20 + 2 * 128 - 8, 20 + 230)
    single = make_source(tmp_path / "single", 8)  # without the twins
    pack(PackRequest(source=single, out=tmp_path / "packed", resolutions=("full",)))
    assert audit(tmp_path / "packed", out)["duplicates"]["groups"] == 0
    assert [file.name for file in out.iterdir()] == ["audit.json"]


def test_a_folder_that_cannot_be_written_and_a_missing_list_of_rejected_rows_are_named(packed_small: PackedSmall, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/audit: cannot be written .* --out"):
        audit(packed_small.out, tmp_path / "file" / "audit")
    pack(PackRequest(source=make_source(tmp_path / "source", 12), out=tmp_path / "packed", resolutions=("full",)))
    (tmp_path / "packed" / "rejected.csv").unlink()
    with pytest.raises(PackedSetError, match=r"rejected\.csv"):
        audit(tmp_path / "packed")
