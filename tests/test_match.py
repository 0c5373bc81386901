"""Which file is the image of which row: the one that the table names, and none in its place."""

import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fastfashion as ff
from fastfashion.catalog.ids import make_ids
from fastfashion.errors import InputError, PackedSetError
from fastfashion.images.codec import decode_rgb
from fastfashion.pack import PackSummary
from fastfashion.shards import open_packed_set
from fastfashion.sources import open_source
from fastfashion.sources.listing import Member
from fastfashion.sources.match import Files

LABELS = ["colour"]
PAINT = {"red": (210, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 220), "white": (240, 240, 240)}


def found(names: list[str], texts: list[str], table: str = "shop.csv", root: str | None = None) -> list[str | None]:
    """What each text finds among files of these names."""
    files = Files(Path("/shop"), {name: Member(name) for name in names}, table, root, {})
    return [None if member is None else member.name for member in files.find(texts).members]


@pytest.mark.parametrize(
    ("names", "texts", "expected"),
    [
        # a path is that file, whatever else has its name
        (["train/images/1.jpg", "x/images/1.jpg"], ["train/images/1.jpg", "x/images/1.jpg"], ["train/images/1.jpg", "x/images/1.jpg"]),
        (["a.png", "a.jpg"], ["a.png", "a.jpg"], ["a.png", "a.jpg"]),
        (["new/1.jpg", "old/1.jpg", "old/2.jpg"], ["new/1.jpg", "new/2.jpg"], ["new/1.jpg", None]),
        (["images/1.jpg", "images/sub/1.jpg"], ["images/sub/1.jpg", "sub/1.jpg"], ["images/sub/1.jpg", None]),
        (["images/1.jpg", "images/sub/1.jpg"], ["sub/1.jpg"], ["images/sub/1.jpg"]),
        (["new/2.jpg"], ["new\\2.jpg", ".\\new\\2.jpg"], ["new/2.jpg", "new/2.jpg"]),
        (["a/1.JPG", "a/2.Jpeg"], ["a/1.jpg", "a/2.JPEG"], ["a/1.JPG", "a/2.Jpeg"]),
        (["a/x.jpg", "a/x.JPG"], ["a/x.JPG", "a/x.jpg"], ["a/x.JPG", "a/x.jpg"]),
        # a folder without a suffix, and a suffix without a folder
        (["train/1.jpg", "test/1.jpg"], ["train/1", "test/1"], ["train/1.jpg", "test/1.jpg"]),
        (["mug/a.png", "bowl/b.png", "bowl/b.jpg"], ["a.png", "b.jpg", "b.png"], ["mug/a.png", "bowl/b.jpg", "bowl/b.png"]),
        (["mug/a.png", "images/b.png"], ["b.png", "a.png"], ["images/b.png", None]),
        # neither: by name below images
        (["images/010/0101.jpg", "images/1.jpg", "thumbs/2.jpg"], ["0101", "1", "2"], ["images/010/0101.jpg", "images/1.jpg", None]),
        (["m/images/1.jpg", "b/images/2.jpg", "b/images/x/3.jpg"], ["3", "2"], ["b/images/x/3.jpg", "b/images/2.jpg"]),
        (["images/v1.2.png", "images/foo.jpg.jpg"], ["v1.2", "foo.jpg"], ["images/v1.2.png", "images/foo.jpg.jpg"]),
        (["a/1.jpg", "b/1.jpg", "b/2.jpg"], ["2"], ["b/2.jpg"]),  # the two that have one name are needed by no row
        # Kaggle's layout: images/<id>.jpg
        (["images/7.png", "images/7.jpg", "images/7.gif"], ["7"], ["images/7.jpg"]),
        (["images/7.jpg", "copy/images/7.jpg"], ["7"], ["images/7.jpg"]),
    ],
)  # fmt: skip
def test_a_text_finds_the_file_that_it_names(names: list[str], texts: list[str], expected: list[str | None]) -> None:
    assert found(names, texts) == expected
    assert found(names[::-1], texts) == expected


@pytest.mark.parametrize("table", ["shop.csv", "meta/shop.csv", "meta/deep/shop.csv"])
def test_paths_start_at_the_tables_folder_or_at_the_sources(table: str) -> None:
    names = ["a/1.jpg", "a/2.jpg", "meta/b/1.jpg", "meta/deep/b/2.jpg"]
    assert found(names, ["a/1.jpg", "a/2.jpg"], table) == ["a/1.jpg", "a/2.jpg"]
    assert found(["meta/b/1.jpg", "b/1.jpg"], ["b/1.jpg"], "meta/shop.csv") == ["meta/b/1.jpg"]
    assert found(["a/1.jpg"], ["../a/1.jpg"], "meta/shop.csv") == ["a/1.jpg"]


def test_all_paths_of_a_table_have_one_start() -> None:
    """Else an image that is missing below the table's folder would be taken from another folder of the same name."""
    names = ["train/images/1.jpg", "train/images/3.jpg", "images/1.jpg", "images/2.jpg", "images/3.jpg"]
    texts = ["images/1.jpg", "images/3.jpg", "images/2.jpg"]
    assert found(names, texts, "shop.csv") == ["images/1.jpg", "images/3.jpg", "images/2.jpg"]
    names.remove("images/3.jpg")
    assert found(names, texts, "train/shop.csv") == ["train/images/1.jpg", "train/images/3.jpg", None]


def test_composed_and_decomposed_letters_are_the_same() -> None:
    nfc, nfd = (unicodedata.normalize(form, "größe/café.jpg") for form in ("NFC", "NFD"))
    assert nfc != nfd
    for files, table in ((nfc, nfd), (nfd, nfc)):
        assert found([files], [table, Path(table).name, Path(table).stem]) == [files] * 3


def test_absolute_paths_below_the_source_are_found_and_others_are_said_to_be_outside(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert found(["a/1.jpg"], [f"{root}/a/1.jpg"], root=root) == ["a/1.jpg"]
    files = Files(tmp_path, {"a/1.jpg": Member("a/1.jpg")}, "shop.csv", root, {})
    for text in ("/elsewhere/a/1.jpg", "../a/1.jpg", "C:\\shop\\a\\1.jpg"):
        assert "is not below" in files.find([text]).missing[0]
    assert "an address; download the images" in files.find(["https://host/a/1.jpg"]).missing[0]


def test_where_an_image_is_missing_what_there_is_instead_is_said() -> None:
    files = Files(Path("/shop"), {name: Member(name) for name in ("old/2.jpg", "new/1.jpg", "a.jpeg")}, "shop.csv", None, {})
    missing = files.find(["new/1.jpg", "new/2.jpg", "a.jpg", "b", "new/9.jpg"]).missing
    assert missing == {
        1: "no image at this path; there is old/2.jpg",
        2: "no image at this path; there is a.jpeg",
        3: "no image",
        4: "no image",
    }


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a/1.jpg", "b/1.jpg"], "1"),
        (["a/1.jpg", "b/1.jpg"], "1.jpg"),
        (["a/1.jpg", "a/1.png"], "a/1"),
        (["red/images/1.jpg", "blue/images/1.jpg"], "1"),
        (["images/1.jpg", "images/deep/1.jpg"], "1"),
        (["photos/1.jpg", "photos/1.png"], "1"),
    ],
)
def test_what_the_table_does_not_tell_apart_is_an_error_where_a_row_needs_it(names: list[str], text: str) -> None:
    with pytest.raises(InputError, match=f"'{text}' in the table may be {names[0]} and {names[1]}; write the path into the table"):
        found(names, [text])


def test_copies_in_a_zip_that_are_the_same_are_no_clash(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("id,colour\n1,red\n2,red\n")
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w") as archive:
        for folder in ("set/images", "set/set/images"):
            archive.writestr(f"{folder}/1.jpg", b"the same")
            archive.writestr(f"{folder}/2.jpg", folder.encode())
    source = open_source(tmp_path / "kaggle.zip", str(tmp_path / "own.csv"))
    assert source.finder.find(["1"]).members[0] == source.files["set/images/1.jpg"]
    with pytest.raises(InputError, match=r"'2' in the table may be set/images/2\.jpg and set/set/images/2.jpg"):
        source.read("2")


def test_images_that_no_row_has_are_counted() -> None:
    names = ["images/1.jpg", "images/2.jpg", "thumbs/1.jpg", "thumbs/2.jpg"]
    files = Files(Path("/shop"), {name: Member(name) for name in names}, "shop.csv", None, {})
    assert files.without_row(files.find(["1"]).members) == 1  # thumbs/ is not searched
    assert files.without_row(files.find(["images/1.jpg", "thumbs/1.jpg"]).members) == 2


@pytest.mark.parametrize(
    ("texts", "by_stem", "ids"),
    [
        (["12", "x y", "Größe"], False, ["12", "x y", "Größe"]),
        (["a1.jpg", "new/a1.jpg", "old\\a1.jpg", "a_1"], False, ["a1_jpg", "new_a1_jpg", "old_a1_jpg", "a_1"]),
        # SHA-256 of "a.b.jpg" begins with e7fdb2c9; a text that is an id itself keeps it, whatever comes first
        (["a/b.jpg", "a.b.jpg", "a_b"], False, ["a_b_jpg", "a_b_jpg_e7fdb2c9", "a_b"]),
        (["12.jpg", "13", "14.png"], True, ["12", "13", "14"]),
        (["12.jpg", "12.png", "13.jpg"], True, ["12_jpg", "12_png", "13"]),
    ],
)
def test_ids_are_the_text_where_that_can_be_a_name(texts: list[str], by_stem: bool, ids: list[str]) -> None:
    assert make_ids(texts, by_stem=by_stem) == ids


def test_an_id_of_a_text_that_is_taken_is_another_one() -> None:
    ids = make_ids(["a/b", "a_b", "a.b", "a\\b"], by_stem=False)
    assert ids[1] == "a_b" and len(set(ids)) == 4 and all("/" not in i and "." not in i for i in ids)


def make_shop(folder: Path, rows: list[tuple[str, str]], *, files: dict[str, str], table: str = "shop.csv") -> Path:
    """A table, and images of one colour each."""
    for name, colour in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), PAINT[colour]).save(folder / name)
    (folder / table).parent.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text("\n".join(["file,colour", *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return folder


def colours(out: Path) -> dict[str, tuple[str, str]]:
    """Text of the table -> label, and the colour that the packed pixels have."""
    packed = open_packed_set(out)
    opened, shown = packed.open("full"), {}
    for row, (text, label) in enumerate(zip(packed.table["path"], packed.table["colour"], strict=True)):
        pixel = decode_rgb(opened.encoded(row)).reshape(-1, 3).mean(axis=0)
        shown[text] = (label, min(PAINT, key=lambda name: float(np.abs(np.array(PAINT[name]) - pixel).sum())))
    return shown


def shard(source: Path, out: Path, **more: object) -> PackSummary:
    return ff.shard(source, out, res="full", id_column="file", label_columns=LABELS, workers=1, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_every_label_is_packed_with_the_pixels_of_its_own_file(zipped: bool, tmp_path: Path) -> None:
    files = {
        "train/images/1.png": "red", "test/images/1.png": "green", "test/images/2.png": "white",
        "a.png": "blue", "a.bmp": "red", "images/010/0101.png": "green", "images/9.png": "white", "old/2.png": "white",
    }  # fmt: skip
    rows = [(name, colour) for name, colour in files.items() if name not in ("old/2.png", "test/images/2.png")]
    shop = make_shop(tmp_path / "shop", [*rows, ("new/2.png", "red"), ("train/images/2.png", "red")], files=files)
    if zipped:
        with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
            for file in sorted(shop.rglob("*.*")):
                archive.write(file, file.relative_to(shop).as_posix())
        shop = tmp_path / "shop.zip"
    done = shard(shop, tmp_path / "out")
    assert colours(tmp_path / "out") == {name: (colour, colour) for name, colour in rows}
    assert (done.kept, done.rejected, done.images_without_row) == (6, 2, 2)
    assert pd.read_csv(tmp_path / "out/rejected.csv")["id"].tolist() == ["new/2.png", "train/images/2.png"]


def test_folders_named_images_in_every_class_are_all_looked_into(tmp_path: Path) -> None:
    files = {f"{colour}/images/{number}{colour}.png": colour for number in range(5) for colour in PAINT}
    rows = [(Path(name).stem, colour) for name, colour in files.items()]
    done = shard(make_shop(tmp_path / "shop", rows, files=files), tmp_path / "out")
    assert (done.kept, done.rejected, done.images_without_row) == (20, 0, 0)
    assert all(label == pixel for label, pixel in colours(tmp_path / "out").values())


def test_two_files_of_one_stem_are_two_images_in_kaggles_columns_too(tmp_path: Path) -> None:
    files = {"images/12.png": "red", "images/12.bmp": "green", "images/13.png": "blue"}
    shop = make_shop(tmp_path / "shop", [], files=files)
    labels = "Men,Apparel,Topwear,Shirts,{},Fall,2011,Casual,A shirt"
    header = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
    texts = {"12.png": "red", "12.bmp": "green", "13": "blue", "13.png": "white"}
    (shop / "styles.csv").write_text("\n".join([header, *(f"{text},{labels.format(colour)}" for text, colour in texts.items())]) + "\n")
    done = ff.shard(shop, tmp_path / "out", res="full", workers=1)
    packed = open_packed_set(tmp_path / "out")
    shown = {text: decode_rgb(packed.open("full").encoded(row))[0, 0].tolist() for row, text in enumerate(packed.table["path"])}
    assert shown == {text: list(PAINT[texts[text]]) for text in ("12.png", "12.bmp", "13")} and done.rejected == 1
    assert pd.read_csv(tmp_path / "out/rejected.csv")["reason"].tolist() == ["its image images/13.png already belongs to line 4"]


def test_a_text_is_one_name_and_not_its_letters(tmp_path: Path) -> None:
    shop = make_shop(tmp_path / "shop", [("a", "NA"), ("b", "N"), ("c", "-")], files={f"{name}.png": "red" for name in "abc"})
    done = ff.shard(shop, tmp_path / "out", res="full", id_column="file", label_columns="colour", na_values="NA, -", workers=1)
    assert done.account.no_label == {"colour": {"NA": 1, "-": 1}}
    assert open_packed_set(tmp_path / "out").vocab.classes == {"colour": ("N",)}


def test_two_rows_of_one_image_are_not_both_packed(tmp_path: Path) -> None:
    shop = make_shop(tmp_path / "shop", [("a", "red"), ("a.png", "blue"), ("b.png", "blue")], files={"a.png": "red", "b.png": "blue"})
    assert shard(shop, tmp_path / "out").kept == 2
    assert pd.read_csv(tmp_path / "out/rejected.csv").to_numpy().tolist() == [["a.png", 3, "its image a.png already belongs to line 2"]]


@pytest.mark.parametrize("where", ["shop/deep/shop.csv", "elsewhere/shop.csv", "shop/list.tsv"])
@pytest.mark.parametrize("absolute", [False, True])
def test_the_table_may_be_named_by_any_path(where: str, absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up = "../shop/" if where.startswith("elsewhere") else "../" if "deep" in where else ""
    make_shop(tmp_path / "shop", [], files={"red/1.png": "red", "blue/1.png": "blue"})
    (tmp_path / "shop/shop.csv").rename(tmp_path / "shop/old.csv")
    make_shop(tmp_path, [(f"{up}red/1.png", "red"), (f"{up}blue/1.png", "blue")], files={}, table=where)
    monkeypatch.chdir(tmp_path)
    done = shard(tmp_path / "shop", tmp_path / "out", table=str(tmp_path / where) if absolute else where)
    assert done.kept == 2
    assert set(colours(tmp_path / "out").values()) == {("red", "red"), ("blue", "blue")}


def test_which_of_two_tables_of_one_name_is_to_be_said(tmp_path: Path) -> None:
    shop = make_shop(tmp_path / "shop", [("1", "red")], files={"a/1.png": "red"}, table="train/styles.csv")
    make_shop(shop, [("1", "blue")], files={}, table="test/styles.csv")
    with pytest.raises(InputError, match=r"which table\? There are test/styles\.csv, train/styles\.csv: choose with --table"):
        open_source(shop)
    assert open_source(shop, "train/styles.csv").read_table().endswith(b"red\n")


def test_a_set_of_version_2_is_refused_by_name_and_repaired(tmp_path: Path) -> None:
    """Its ids are names of files without suffix, and its catalog has no column `path`."""
    import pyarrow.parquet as pq

    shop = make_shop(tmp_path / "shop", [("a.png", "red"), ("b.png", "blue")], files={"a.png": "red", "b.png": "blue"})
    kaggle = make_shop(tmp_path / "plain", [("a", "red"), ("b", "blue")], files={"a.png": "red", "b.png": "blue"})
    out = tmp_path / "out"
    shard(kaggle, out)  # with the ids that version 2 gave to a.png and b.png
    pq.write_table(pq.read_table(out / "catalog.parquet").drop_columns("path"), out / "catalog.parquet")
    with pytest.raises(PackedSetError, match="holds a set of format version 2, in which ids are names of images without folder and suffix"):
        shard(shop, out)
    from fastfashion.pack.repair import repair
    from fastfashion.shards.verify import Damage

    tar = out / "full/00000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:600] + b"x" + whole[601:])
    damage = [Damage(where="full/00000.tar", reason="test", resolution="full", shard=0)]
    assert repair(out, shop, damage, 1, id_column="file") == ["full/00000.tar"] and tar.read_bytes() == whole


def test_a_set_of_version_2_with_none_as_a_class_says_how_to_add_a_resolution(tmp_path: Path) -> None:
    """It took `None` for a class."""
    import pyarrow.parquet as pq

    shop = make_shop(tmp_path / "shop", [("a", "None"), ("b", "blue")], files={"a.png": "red", "b.png": "blue"})
    out = tmp_path / "out"
    shard(shop, out, na_values=["NA"])
    pq.write_table(pq.read_table(out / "catalog.parquet").drop_columns("path"), out / "catalog.parquet")
    with pytest.raises(PackedSetError, match=r"its 2 classes of colour would be 1\); version 2 counted only .*: add na_values=\"NA\", or"):
        shard(shop, out)
    assert shard(shop, out, na_values=["NA"]).packed_now == 0
