"""Tables as people and programs write them: what is forgiven, what is refused with line, expected and found, and where every line went."""

import csv
import gzip
import io
import json
import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import make_source, smooth_image
from hypothesis import given
from hypothesis import strategies as st
from workers import fastfashion

from fastfashion.catalog import LABEL_COLUMNS, NO_LABEL, Columns, Styles, Vocab, read_styles
from fastfashion.catalog.corrections import correct
from fastfashion.catalog.csv_reader import read_csv
from fastfashion.errors import InputError

OWN = Columns(id="file", labels=("kind", "hue"))
PLAIN = [["a.jpg", "mug", "red"], ["b.jpg", "cup", ""], ["c.jpg", "mug", "blue"]]


def own(text: str | bytes) -> Styles:
    return read_styles(text if isinstance(text, bytes) else text.encode(), "shop.csv", OWN)


def rows(styles: Styles) -> list[list[str]]:
    return styles.table[["path", "kind", "hue"]].to_numpy().tolist()


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("file,kind,hue\na.jpg,mug,red\nb.jpg,cup,\nc.jpg,mug,blue\n", ","),
        ("file;kind;hue\r\na.jpg;mug;red\r\nb.jpg;cup;\r\nc.jpg;mug;blue\r\n", ";"),
        ("file\tkind\thue\na.jpg\tmug\tred\nb.jpg\tcup\t\nc.jpg\tmug\tblue", "\t"),
        ("file|kind|hue|note\ra.jpg|mug|red|1,5;2\rb.jpg|cup||\rc.jpg|mug|blue|\r", "|"),
        # a comma in every line of a table whose separator is another
        ("file;price,net;kind;hue\na.jpg;1,5;mug;red\nb.jpg;2,5;cup;\nc.jpg;3,5;mug;blue\n", ";"),
        # spaces before and after quotes
        ('file, kind, hue\n"a.jpg", "mug" , "red"\nb.jpg,  "cup", ""\n c.jpg ,mug , blue\n', ","),
        # empty fields at the end: of all lines, of the header alone, of some lines
        ("file,kind,hue,,\na.jpg,mug,red,,\nb.jpg,cup,,,\nc.jpg,mug,blue,,\n", ","),
        ("file,kind,hue,,\na.jpg,mug,red\nb.jpg,cup,\nc.jpg,mug,blue\n", ","),
        ("file,kind,hue\na.jpg,mug,red,,,\nb.jpg,cup,,\nc.jpg,mug,blue, ,\n", ","),
        # other letters, a byte order mark, blank lines, lines of separators alone, line ends of every kind at once
        ("\ufeffFile,KIND,Hue\r\na.jpg,mug,red\nb.jpg,cup,\rc.jpg,mug,blue", ","),
        ("\n\n ,\nfile,kind,hue\n\na.jpg,mug,red\n,,\nb.jpg,cup,\n  \nc.jpg,mug,blue\n\n\n", ","),
        # a column of the same letters beside the one of the very name
        ("FILE,file,kind,hue\nx,a.jpg,mug,red\ny,b.jpg,cup,\nz,c.jpg,mug,blue\n", ","),
    ],
)
def test_what_other_programs_write_is_read(text: str, separator: str) -> None:
    styles = own(text)
    assert rows(styles) == PLAIN and styles.rejected == []
    assert styles.account.separator == separator


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Export of 2024\nfile,kind,hue\na.jpg,mug,red\n", "line 1: expected the header with the columns file, kind, hue, found 'Export"),
        ("sep=;\n\nfile;kind;hue\na.jpg;mug;red\n", "expected the header .* found 'sep=;'; the header is in line 3: remove"),
        ("# made by x\nfile,kind,hue\na.jpg,mug,red\n", "found '# made by x'; the header is in line 2"),
        ("file,kind\na.jpg,mug\n", "line 1: column 'hue' is not there; expected once among file, kind"),
        ("file:kind:hue\na.jpg:mug:red\n", "column 'file' is not there; expected once among file:kind:hue"),
        ("file,kind,hue,hue\na.jpg,mug,red,red\n", "column 'hue' is there twice"),
        ("file,kind,Hue,HUE\na.jpg,mug,red,red\n", "column 'hue' is there twice; expected once among file, kind, Hue, HUE"),
        ("file,kind,hue\na.jpg,mug,re\x00d\n", "expected a CSV file, found a NUL byte in line 2"),
        ('file,kind,hue\na.jpg,mug,"red\nb.jpg,cup,red\n', "line 2: a quote is opened and never closed"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_named_with_line_expected_and_found(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        own(text)


def spreadsheet(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "<x/>")
    return file.getvalue()


FRAME = pd.DataFrame({"file": ["a"], "kind": ["b"], "hue": ["c"]})


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (spreadsheet("xl/workbook.xml"), r"an Excel workbook \(\.xlsx\): save the table as CSV"),
        (spreadsheet("shop.csv"), "a zip archive: name the CSV in it"),
        (FRAME.to_parquet(), "a Parquet file"),
        (FRAME.to_json(orient="records").encode(), "JSON"),
        (FRAME.to_json(orient="records", lines=True).encode(), "JSON, or JSON lines: write the table"),
        (FRAME.to_html().encode(), "XML or HTML"),
        (b"<!DOCTYPE html>\n<html>sign in</html>", r"a web page \(HTML\)"),
        (gzip.compress(b"file,kind,hue\n"), r"a gzip file \(\.tar\.gz, \.csv\.gz\): unpack it first"),
        ("file,kind,hue\n".encode("utf-16"), r"UTF-16 text: save the table as CSV \(UTF-8\)"),
        ("file,kind,hue\n".encode("utf-16-le"), "a NUL byte in line 1"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), r"an old Office file \(\.xls, \.doc\): save the table"),
    ],
)
def test_a_table_that_is_no_csv_is_named_for_what_it_is(data: bytes, what: str) -> None:
    with pytest.raises(InputError, match=f"shop.csv: expected a CSV file.*, found {what}"):
        own(data)


@pytest.mark.parametrize(
    "text",
    [
        'file,kind,hue\na.jpg,mug,"red\nb.jpg,cup,blue\nc.jpg,mug,"blue"\n',  # closed by the next quote, within its line
        'file,kind,hue\na.jpg,"mug,red\nb.jpg,"cup",blue\nc.jpg,mug,red\n',
        'file,kind,hue\na.jpg,"mug,red\nb.jpg,cup,blue\nc.jpg,mug",red\n',
        'file,kind,hue\n1,"mug,red\n2,cup,"blue\n3,mug",red\n',
        'file,kind,hue\n"a.jpg,mug,red\nb.jpg,cup,blue\n",mug,red\n',
    ],
)
def test_a_quoted_field_that_swallows_rows_is_named(text: str) -> None:
    with pytest.raises(
        InputError, match=r"shop\.csv, line 2: a quoted field extends to line [34], and line 3 in it looks like a row itself"
    ):
        own(text)


@pytest.mark.parametrize(
    "text",
    [
        'file,kind,note\nx/a1.jpg,red,"x\nfoo.png,blue,y\nq.jpg,green,"z"\n',  # names of files that have nothing in common
        'file,kind,note\nA7.jpg,red,"x\nfoo-bar,blue,y\nq.jpg,"green",z\n',
        '"file","kind"\n"A7.jpg","red\n"foo-bar.jpg","blue"\n',
    ],
)
def test_a_quote_that_was_forgotten_shows_where_the_next_one_opens(text: str) -> None:
    with pytest.raises(InputError, match=r"shop\.csv, line 2: a quoted field extends to line [34].*close the quote in line 2"):
        list(read_csv(text.encode(), "shop.csv", ["file", "kind"]))


def test_a_field_of_several_lines_may_hold_quotes_and_end_in_spaces() -> None:
    text = 'file;kind\nA7.jpg;"red\nsays ""hello"""  \n"foo";"blue\n"\nb;"green" shirt\n'
    records = [fields for _, fields in read_csv(text.encode(), "shop.csv", ["file", "kind"])]
    assert records == [["A7.jpg", 'red\nsays "hello"'], ["foo", "blue\n"], ["b", "green shirt"]]


def test_lines_of_quotes_and_separators_alone_are_no_rows() -> None:
    """Found by hypothesis: a quoted carriage return, an empty field and a quoted comma."""
    assert [fields for _, fields in read_csv(b'id,a,b,c\n"k0","\r","",","\n', "x.csv", ["id", "a"])] == [["k0", "\r", "", ","]]


def test_a_description_may_have_lines_with_commas() -> None:
    text = 'file,note,kind,hue\na.jpg,"A mug.\nWash it, dry it, keep it\nat 30, or so",mug,red\nb.jpg,"a\n\nb",cup,\nc.jpg,,mug,blue\n'
    styles = own(text)
    assert rows(styles) == PLAIN
    assert styles.table["line"].tolist() == [2, 5, 8]
    account = styles.account
    assert (account.lines, account.header_lines, account.record_lines, account.blank_lines) == (8, 1, 7, 0)


HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
GOOD = [
    "1,Men,Apparel,Topwear,Tshirts,Navy,Summer,2011,Casual,Plain shirt",
    "2,Women,Apparel,Topwear,Tshirts,Blue,Winter,2012,Sports,Plain shirt",
]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("3,Men,Apparel,Topwear,Tshirts,Navy, Blue,Summer,2011,Casual,Shirt", r"seems to be in baseColour \('Navy, Blue'\); put"),
        ("3,Men,Apparel, Footwear,Topwear,Tshirts,Blue,Summer,2011,Casual,Shirt", r"seems to be in masterCategory \('Apparel, Footwear'\)"),
        ("3,Men,Apparel,Topwear,Tshirts,Navy,Summer,Fall,2011,Casual,Shirt", r"seems to be in season \('Summer,Fall'\)"),
        ("3,Kids,Toys,Bricks,Sets,Neon,Spring,about,2011,Home,Shirt", "expected 10 fields, found 11"),
    ],
)  # fmt: skip
def test_a_comma_in_another_column_than_the_name_shifts_no_label(row: str, said: str) -> None:
    styles = read_styles("\n".join([HEADER, *GOOD, row, GOOD[0].replace("1,", "3,", 1)]).encode(), "my.csv")
    assert styles.table["id"].tolist() == ["1", "2", "3"]
    assert styles.table["line"].tolist() == [2, 3, 5]  # the next line with the same id counts
    (rejected,) = styles.rejected
    assert (rejected.id, rejected.line) == ("3", 4)
    assert rejected.reason.startswith("expected 10 fields, found 11")
    assert re.search(said, rejected.reason)


def test_without_a_year_the_labels_of_other_rows_tell() -> None:
    header = "id,gender,masterCategory,subCategory,articleType,baseColour,season,usage,productDisplayName"
    good = [f"{number},Men,Apparel,Topwear,Tshirts,{colour},Summer,Casual,Shirt" for number, colour in enumerate(("Navy", "Blue", "Red"))]
    shifted = "9,Men,Apparel,Topwear,Tshirts,Navy, Blue,Summer,Casual,Shirt"
    named = "8,Men,Apparel,Topwear,Tshirts,Navy,Summer,Casual,Shirt, blue"
    styles = read_styles("\n".join([header, *good, shifted, named]).encode(), "my.csv")
    assert [(r.id, r.line) for r in styles.rejected] == [("9", 5)]
    assert styles.table[["id", "season", "productDisplayName"]].iloc[-1].tolist() == ["8", "Summer", "Shirt, blue"]


def test_ids_that_went_through_a_column_of_floats_are_whole_again() -> None:
    styles = own("file,kind,hue\n26366.0,mug,red\n5.0,cup,blue\n")
    assert styles.table[["id", "path"]].to_numpy().tolist() == [["26366", "26366.0"], ["5", "5.0"]]
    assert styles.files() == ["26366", "5"] and styles.account.float_ids
    mixed = own("file,kind,hue\n26366.0,mug,red\nv2.0,cup,blue\n")  # not all of them: a version, say
    assert mixed.files() == ["26366.0", "v2.0"] and not mixed.account.float_ids


@pytest.mark.parametrize("name", NO_LABEL)
def test_the_documented_spellings_of_no_label_are_none(name: str) -> None:
    from fastfashion.catalog import Vocab

    styles = own(f"file,kind,hue\na.jpg,mug,{name}\nb.jpg,cup,red\nc.jpg,mug,na\n")
    assert Vocab.of_table(styles.table, OWN.labels).classes == {"kind": ("cup", "mug"), "hue": ("na", "red")}
    assert styles.account.no_label == {"hue": {name: 1}}
    page = (Path(__file__).parents[1] / "docs/tables.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page or name == ""


@given(
    st.lists(st.lists(st.text("ab \"',;é\n\r", max_size=5), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_valid_csv_is_read_as_the_standard_library_reads_it(cells: list[list[str]], separator: str, end: str) -> None:
    file = io.StringIO(newline="")
    table = [[f"k{place}", *fields] for place, fields in enumerate(cells)]
    csv.writer(file, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["id", "a", "b", "c"], *table])
    found = read_csv(file.getvalue().encode(), "x.csv", ["id", "a", "b", "c"])
    read = [[*fields, "", "", ""][:4] for _, fields in found]
    assert [row[:1] + [cell.strip() for cell in row[1:]] for row in read] == [
        row[:1] + [cell.strip() for cell in row[1:]] for row in csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=separator)
    ][1:]
    count = found.count
    assert count["lines"] == count["header_lines"] + count["record_lines"] + count["blank_lines"]


LINE = st.sampled_from(["1,x,y", "2,x", "", " ", ",,", "3,x,y,z", '4,"x",y', '5, "a\nb",c', ",x,y", "6,x,y,,", "1,again,y"])


@given(st.lists(LINE, max_size=12), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_every_line_and_every_record_is_accounted_for(lines: list[str], end: str, last: bool) -> None:
    text = end.join(["file,kind,hue", *lines, "last,x,y"]) + (end if last else "")
    styles = own(text.encode())
    account = styles.account
    assert account.lines == len(text.splitlines()) == account.header_lines + account.record_lines + account.blank_lines
    assert styles.num_rows == len(styles.table) + len(styles.rejected)
    inner = sum("\n" in line for line in lines)
    assert account.record_lines == styles.num_rows + inner


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Eight images and a table with a blank line, a row without an image, cells without a label, and a column without any."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for number in range(8):
        smooth_image(number, 40, 50).save(folder / f"{number}.png")
    hues = ["red", "-", "NA", "", "blue", "red", "nan", "red"]
    lines = [f"{number};{'mug' if number % 2 else 'cup'};{hues[number]};" for number in range(7)]
    (folder / "shop.csv").write_text("\n".join(["File;kind;hue;size", *lines, "", "99;mug;red;"]) + "\n")
    return folder


ARGUMENTS = ["--source", "shop", "--id-column", "file", "--label-columns", "kind,hue,size", "--res", "16", "--out", "out", "--workers", "1"]


def test_the_summary_says_where_every_line_image_and_label_went(shop: Path) -> None:
    for arguments in (["--dry-run"], []):
        done = fastfashion("shard", *ARGUMENTS, *arguments, "--json", cwd=shop.parent)
        assert done.returncode == 0, done.stderr
        text = " ".join(done.stderr.split())
        assert "shop.csv, separator semicolon: 10 lines = 1 header + 8 of records + 1 blank" in text
        assert "8 records = 7 kept + 1 rejected" in text and "1 images without a row" in text.replace("1 image without", "1 images without")
        assert "without a label in hue: 4 (" in text and '1 "-"' in text and '1 "NA"' in text and "1 empty" in text
        assert "without a label in size: 8 (8 empty)" in text
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["account"]["no_label"] == {"hue": {"-": 1, "NA": 1, "": 1, "nan": 1}, "size": {"": 8}}
        assert (found["num_rows"], found["rejected"], found["images_without_row"]) == (8, 1, 1)
    assert json.loads((shop.parent / "out/vocab.json").read_text()) == {"kind": ["cup", "mug"], "hue": ["blue", "red"], "size": []}


def test_other_spellings_of_no_label_may_be_given(shop: Path) -> None:
    done = fastfashion("shard", *ARGUMENTS, "--na-values", "NA,nan", cwd=shop.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads((shop.parent / "out/vocab.json").read_text())["hue"] == ["-", "blue", "red"]
    again = fastfashion("shard", *ARGUMENTS, cwd=shop.parent)
    assert again.returncode == 2 and "packed with other --na-values (its 3 classes of hue would be 2)" in " ".join(again.stderr.split())


def test_a_label_without_a_label_is_left_out_of_all_and_refused_by_name(shop: Path) -> None:
    assert fastfashion("shard", *ARGUMENTS, cwd=shop.parent).returncode == 0
    options = ["out", "--model", "test_resnet", "--no-pretrained", "--epochs", "1", "--batch-size", "4", "--name"]
    named = fastfashion("train", *options, "named", "--task", "kind,size", cwd=shop.parent)
    assert named.returncode == 2 and "'size' has no label in this packed set" in " ".join(named.stderr.split())
    (shop.parent / "shop/shop.csv").write_text(
        "file,kind,hue,size\n" + "".join(f"{n},{'mug' if n % 2 else 'cup'},{'red' if n % 2 else 'blue'},\n" for n in range(8))
    )
    done = fastfashion("shard", *ARGUMENTS[:-4], "--out", "whole", "--workers", "1", cwd=shop.parent)
    assert done.returncode == 0, done.stderr
    trained = fastfashion("train", *["whole", *options[1:]], "all", "--task", "all", cwd=shop.parent)
    assert trained.returncode == 0, trained.stderr
    assert "left out of all, since they have no label in this set: size" in trained.stderr
    config = json.loads((shop.parent / "runs/all/config.json").read_text())
    assert config["data"]["task"] == "kind,hue"


def test_the_same_command_again_finds_its_own_set_whatever_ids_hold(tmp_path: Path) -> None:
    """rejected.csv holds the ids as they were; a carriage return in one made two lines of it on Python 3.11 and 3.12."""
    source = make_source(tmp_path / "shop", rows=4)
    with (source / "styles.csv").open("a", newline="") as file:
        file.write('"lost\rimage",Men,Apparel,Topwear,Tshirts,Black,Summer,2011,Casual,"Na\rme"\n')
    arguments = ["shard", "--source", "shop", "--res", "16", "--out", "out", "--workers", "1", "--json"]
    first, again = (fastfashion(*arguments, cwd=tmp_path) for _ in range(2))
    assert first.returncode == again.returncode == 0, again.stderr
    found = [json.loads(done.stdout.splitlines()[-1]) for done in (first, again)]
    assert [(each["kept"], each["rejected"], each["packed_now"]) for each in found] == [(4, 1, 4), (4, 1, 0)]
    assert pd.read_csv(tmp_path / "out/rejected.csv", dtype=str)["id"].tolist() == ["lost\rimage"]


def test_kaggles_layout_keeps_its_ids_and_labels() -> None:
    table = read_styles("\n".join([HEADER, *GOOD, GOOD[0].replace("1,", "7.jpg,", 1)]).encode(), "my.csv").table
    assert table["id"].tolist() == ["1", "2", "7"] and table["path"].tolist() == ["1", "2", "7.jpg"]
    assert table[list(LABEL_COLUMNS)].iloc[0].tolist() == ["Apparel", "Topwear", "Tshirts", "Men", "Navy", "Summer", "Casual"]


def test_two_byte_order_marks_are_none_of_the_headers() -> None:
    file = read_csv(("\ufeff\ufefffile,kind\na.jpg,red\n").encode(), "shop.csv", ["file", "kind"])
    assert file.header == ["file", "kind"]


def test_two_spellings_of_one_accent_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    table = f"id,hue\n1,{composed}\n2,{decomposed}\n3,red\n".encode()
    assert read_styles(table, "shop.csv", Columns(labels=("hue",))).table["hue"].tolist() == [composed, composed, "red"]
    catalog = pd.DataFrame({"id": ["1", "2"], "path": ["1", "2"], "hue": [composed, "red"]})
    (tmp_path / "c.csv").write_text(f"id,task,label\n2,hue,{decomposed}\n", encoding="utf-8")
    assert correct(catalog, Vocab({"hue": (composed, "red")}), tmp_path / "c.csv")["hue"].tolist() == [composed, composed]
