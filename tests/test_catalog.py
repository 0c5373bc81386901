"""styles.csv: what becomes a row, what is left out with its reason, and the codes of labels."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfashion.catalog import LABEL_COLUMNS, Columns, Styles, Vocab, read_styles
from fastfashion.errors import ConfigError, InputError
from fastfashion.sources import Source

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
SHIRT = "1163,Men,Apparel,Topwear,Tshirts,Blue,Summer,2011,Sports,Nike Tshirt"
WATCH = "59263,Women,Accessories,Watches,Watches,Silver,Winter,2016,Casual,Titan Watch"


def parse(*lines: str, newline: str = "\n") -> Styles:
    return read_styles((newline.join(lines) + newline).encode(), "my.csv")


def test_a_plain_file_becomes_a_table_in_the_files_order() -> None:
    styles = parse(HEADER, WATCH, SHIRT)
    assert styles.rejected == []
    assert styles.table.to_dict("records") == [
        {
            "line": 2,
            "id": "59263",
            "path": "59263",
            "masterCategory": "Accessories",
            "subCategory": "Watches",
            "articleType": "Watches",
            "gender": "Women",
            "baseColour": "Silver",
            "season": "Winter",
            "usage": "Casual",
            "year": 2016,
            "productDisplayName": "Titan Watch",
            "recovered": False,
        },
        {
            "line": 3,
            "id": "1163",
            "path": "1163",
            "masterCategory": "Apparel",
            "subCategory": "Topwear",
            "articleType": "Tshirts",
            "gender": "Men",
            "baseColour": "Blue",
            "season": "Summer",
            "usage": "Sports",
            "year": 2011,
            "productDisplayName": "Nike Tshirt",
            "recovered": False,
        },
    ]


def test_an_unquoted_comma_in_a_name_that_stands_last_is_put_back() -> None:
    styles = parse(HEADER, SHIRT + ", Blue, pack of 2", WATCH)
    assert styles.table["productDisplayName"].tolist() == ["Nike Tshirt, Blue, pack of 2", "Titan Watch"]
    assert styles.table["recovered"].tolist() == [True, False]
    assert styles.table["usage"].tolist() == ["Sports", "Casual"]


def test_an_unquoted_comma_in_a_name_that_stands_in_the_middle_is_put_back() -> None:
    header = "id,productDisplayName,gender,masterCategory,subCategory,articleType,baseColour,season,usage"
    styles = parse(header, "7,Cap, red,Men,Accessories,Headwear,Caps,Red,Fall,Casual", "8,Belt,Men,Accessories,Belts,Belts,Tan,Fall,Formal")
    row = styles.table.iloc[0]
    assert (row["productDisplayName"], row["gender"], row["usage"], row["recovered"]) == ("Cap, red", "Men", "Casual", True)
    assert styles.table.iloc[1]["usage"] == "Formal"
    assert styles.table["year"].isna().all()


def test_surplus_fields_without_a_name_column_are_rejected() -> None:
    header = HEADER.removesuffix(",productDisplayName")
    styles = parse(header, "1,Men,A,B,C,D,Fall,2011,Casual,extra", "2,Men,A,B,C,D,Fall,2011,Casual")
    assert styles.table["id"].tolist() == ["2"]
    assert [(r.id, r.line, r.reason) for r in styles.rejected] == [("1", 2, "expected 9 fields, found 10")]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    plain = parse(HEADER, SHIRT, WATCH)
    windows = read_styles(b"\xef\xbb\xbf" + "\r\n".join([HEADER, SHIRT, WATCH, ""]).encode(), "my.csv")
    pd.testing.assert_frame_equal(plain.table, windows.table)


def test_quoted_fields_may_hold_commas_quotes_and_newlines() -> None:
    quoted = SHIRT.replace("Nike Tshirt", '"Nike, ""Dry""\nTshirt"')
    styles = parse(HEADER, quoted, WATCH)
    assert styles.table["productDisplayName"].tolist() == ['Nike, "Dry"\nTshirt', "Titan Watch"]
    assert styles.table["recovered"].tolist() == [False, False]
    assert styles.table["line"].tolist() == [2, 4]


def test_a_quote_inside_an_unquoted_field_is_a_plain_character() -> None:
    styles = parse(HEADER, SHIRT.replace("Nike Tshirt", '15" Laptop "Bag"'), WATCH)
    assert styles.table["productDisplayName"].tolist() == ['15" Laptop "Bag"', "Titan Watch"]


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest_of_the_file() -> None:
    with pytest.raises(InputError, match=r"my\.csv, line 3.*quote.*never closed"):
        parse(HEADER, WATCH, SHIRT.replace("Nike", '"Nike'), WATCH.replace("59263", "2"), WATCH.replace("59263", "3"))


def test_columns_may_stand_in_another_order_with_others_between() -> None:
    header = "sku,season,usage,baseColour,articleType,subCategory,masterCategory,gender,id,price"
    data = header + "\nx9,Fall,Casual,Red,Caps,Headwear,Accessories,Men,41,9.90\n"
    row = read_styles(data.encode(), "my.csv").table.iloc[0]
    assert [row[name] for name in ("id", *LABEL_COLUMNS)] == ["41", "Accessories", "Headwear", "Caps", "Men", "Red", "Fall", "Casual"]


@pytest.mark.parametrize("missing", ["id", *LABEL_COLUMNS])
def test_a_missing_column_is_named_with_file_and_line(missing: str) -> None:
    header = ",".join(name for name in HEADER.split(",") if name != missing)
    with pytest.raises(InputError, match=rf"my\.csv, line 1: column '{missing}' is not there"):
        parse(header, SHIRT)


def test_a_table_of_other_columns_gives_the_labels_that_were_asked_for() -> None:
    styles = read_styles(
        b"file,type,fine colour,price\nA1.jpg,mug,red,3\nb.2.PNG,,blue,4\nA1.jpg,cup,red,3\n",
        "shop.csv",
        Columns(id="file", labels=("fine colour", "type")),
    )
    assert styles.table[["id", "fine colour", "type"]].to_numpy().tolist() == [["A1_jpg", "red", "mug"], ["b_2_PNG", "blue", ""]]
    assert [(r.id, r.line, r.reason) for r in styles.rejected] == [("A1.jpg", 4, "its id is already in line 2")]
    assert styles.labels == ("fine colour", "type")


@pytest.mark.parametrize("identity", ["file", "id"])
def test_in_a_table_of_ones_own_an_id_may_be_the_path_of_the_image(identity: str) -> None:
    data = f"{identity},colour\nphotos/a1.jpg,red\nold\\a1.jpg,blue\n../../b.TIF,red\nphotos/,red\n./photos\\a1.jpg,red\n".encode()
    styles = read_styles(data, "shop.csv", Columns(id=identity, labels=("colour",)))
    assert styles.table["id"].tolist() == ["photos_a1_jpg", "old_a1_jpg", "______b_TIF"]
    assert styles.table["path"].tolist() == ["photos/a1.jpg", "old\\a1.jpg", "../../b.TIF"]
    found = [(r.id, r.line, r.reason) for r in styles.rejected]
    assert found == [("photos/", 5, "no id"), ("./photos\\a1.jpg", 6, "its id is already in line 2")]


def test_a_column_that_was_asked_for_and_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"shop\.csv, line 1: column 'hue' is not there; expected once among file, colour"):
        read_styles(b"file,colour\n1,red\n", "shop.csv", Columns(id="file", labels=("colour", "hue")))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("colour,colour", "each once"),
        ("colour,", "1 to 64 characters"),
        ("file", "is the column of the ids"),
        ("width", "a packed set uses itself"),
        ("a.b", r"without \. ,"),
        ("a=b", r"without \. ,"),
        ("colour,colour_2", "'colour_2' is what answers or weights of 'colour' are called; rename"),
        ("colour_probability,colour", "'colour_probability' is what answers"),
        ("colour,colour_3_probability", "'colour_3_probability' is what answers"),
        ("type,type_", "'type_' is what answers"),
    ],
)
def test_names_that_cannot_be_labels_are_refused(labels: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"--label-columns: .*{said}"):
        Columns.parse("file", labels)


def test_names_that_only_begin_alike_are_labels() -> None:
    assert Columns.parse("file", "colour,colour2,colour_name").labels == ("colour", "colour2", "colour_name")


def test_a_column_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"my\.csv, line 1: column 'season' is there twice"):
        parse(HEADER + ",season", SHIRT + ",Fall")


def test_of_an_id_that_stands_twice_the_first_line_counts_and_the_later_ones_are_rejected() -> None:
    styles = parse(HEADER, SHIRT, WATCH, SHIRT.replace("Blue", "Red"), WATCH, SHIRT)
    assert styles.table[["id", "line", "baseColour"]].to_numpy().tolist() == [["1163", 2, "Blue"], ["59263", 3, "Silver"]]
    assert [(r.id, r.line, r.reason) for r in styles.rejected] == [
        ("1163", 4, "its id is already in line 2"),
        ("59263", 5, "its id is already in line 3"),
        ("1163", 6, "its id is already in line 2"),
    ]
    assert styles.num_rows == 5


def test_an_id_whose_first_line_is_unusable_is_taken_from_the_next() -> None:
    styles = parse(HEADER, "1163,Men", SHIRT)
    assert styles.table["line"].tolist() == [3]
    assert [(r.id, r.line) for r in styles.rejected] == [("1163", 2)]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b" \n"])
def test_an_empty_file_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"my\.csv: the file is empty; expected a header"):
        read_styles(data, "my.csv")


@pytest.mark.parametrize(("lines", "rejected"), [([], 0), (["1,Men"], 1), ([",Men,A,B,C,D,Fall,2011,Casual,Name"], 1)])
def test_a_file_without_a_usable_row_is_refused(lines: list[str], rejected: int) -> None:
    with pytest.raises(InputError, match=rf"my\.csv: no usable row under the header \({rejected} rejected\)"):
        parse(HEADER, *lines)


def test_bytes_that_are_no_utf8_are_refused_with_their_line() -> None:
    data = "\n".join([HEADER, SHIRT, WATCH.replace("Titan", "Café")]).encode("latin-1")
    with pytest.raises(InputError, match=r"my\.csv, line 3: expected UTF-8, found byte 0xe9"):
        read_styles(data, "my.csv")


def test_short_and_nameless_lines_are_rejected_with_line_and_reason_and_empty_lines_skipped() -> None:
    styles = parse(HEADER, SHIRT, "4,Men,Apparel", "", " ,Men,A,B,C,D,Fall,2011,Casual,Name", WATCH)
    assert styles.table["line"].tolist() == [2, 6]
    assert [(r.id, r.line, r.reason) for r in styles.rejected] == [("4", 3, "expected 10 fields, found 3"), ("", 5, "no id")]
    assert styles.num_rows == 4


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("2012", 2012),
        ("2012.0", 2012),
        (" 2012 ", 2012),
        ("abc", None),
        ("", None),
        ("2012.5", None),
        ("-5", None),
        ("99999", None),
        ("inf", None),
    ],
)
def test_a_year_is_a_whole_number_or_missing(text: str, year: int | None) -> None:
    years = parse(HEADER, SHIRT.replace("2011", text), WATCH).table["year"]
    assert years.dtype == "Int16"
    assert (years.iloc[0] is pd.NA) if year is None else (years.iloc[0] == year)
    assert years.iloc[1] == 2016


FIELD = st.sampled_from(["1", "2", "7", "x y", "", "NA", '"q"', '"a,b"', "é"])


@given(st.lists(st.lists(FIELD, min_size=1, max_size=14), min_size=1, max_size=12))
def test_every_line_is_kept_or_rejected(lines: list[list[str]]) -> None:
    lines = [[f"k{place}" if fields[0] else "", *fields[1:]] for place, fields in enumerate(lines)]
    texts = [",".join(fields) for fields in lines]
    expected = sum(any(field.strip(' "') for field in fields) for fields in lines)
    try:
        styles = parse(HEADER, *texts, "last" + SHIRT)
    except InputError as error:
        pytest.fail(str(error))
    assert styles.num_rows == len(styles.table) + len(styles.rejected) == expected + 1
    places = [*styles.table["line"], *(r.line for r in styles.rejected)]
    assert len(set(places)) == len(places)


def vocab_of(**columns: list[str]) -> tuple[pd.DataFrame, Vocab]:
    table = pd.DataFrame(columns)
    return table, Vocab.of_table(table, tuple(columns))


def test_class_names_are_sorted_by_code_point_without_missing_labels() -> None:
    _, vocab = vocab_of(season=["b", "Z", "NA", "a", "", "É", "b", "10", "9", "na"])
    assert vocab.classes == {"season": ("10", "9", "Z", "a", "b", "na", "É")}


def test_codes_are_places_in_the_vocabulary_and_minus_one_without_a_label() -> None:
    table, vocab = vocab_of(season=["Winter", "", "Fall", "NA"], usage=["NA", "Sports", "Casual", "Sports"])
    assert vocab.codes(table, ["season", "usage"]).tolist() == [[1, -1], [-1, 1], [0, 0], [-1, 1]]
    assert vocab.codes(table, ["usage", "season"])[:, 1].tolist() == [1, -1, 0, -1]
    assert vocab.codes(table, ["season"]).dtype == np.int64


def test_a_label_that_the_vocabulary_does_not_know_has_no_code() -> None:
    _, vocab = vocab_of(season=["Winter", "Fall"])
    assert vocab.codes(pd.DataFrame({"season": ["Spring", "Winter"]}), ["season"]).tolist() == [[-1], [1]]


@given(st.permutations(["Winter", "Fall", "Spring", "Summer", "NA", "Fall"]))
def test_the_vocabulary_does_not_depend_on_the_order_of_rows(season: list[str]) -> None:
    assert vocab_of(season=season)[1].classes == {"season": ("Fall", "Spring", "Summer", "Winter")}


def test_a_column_without_a_single_label_is_left_out_of_all_and_refused_by_name() -> None:
    _, vocab = vocab_of(season=["Fall", "NA"], hue=["", "NA"], size=["nan", "-"])
    assert vocab.chosen(("all",)) == ("season",)
    assert vocab.left_out(("all",)) == "left out of all, since they have no label in this set: hue, size"
    assert vocab.left_out(("season",)) == vocab_of(season=["Fall"])[1].left_out(("all",)) == ""
    with pytest.raises(ConfigError, match=r"'hue' has no label in this packed set.*choose among season"):
        vocab.chosen(("season", "hue"))
    with pytest.raises(ConfigError, match=r"'hue' has no label.*choose among none"):
        vocab_of(hue=["", "NA"])[1].chosen(("all",))


def test_an_unknown_task_is_refused_and_the_known_ones_named() -> None:
    table, vocab = vocab_of(season=["Fall"], usage=["Casual"])
    with pytest.raises(ConfigError, match=r"unknown task 'colour': .*season, usage"):
        vocab.codes(table, ["colour"])


def test_the_real_table_has_the_rows_that_were_counted(real_styles: Styles, real_source: Source) -> None:
    table = real_styles.table
    assert real_styles.num_rows == len(table) == 44_446
    assert table["recovered"].sum() == 22
    assert len(real_source.images) == 44_441
    assert set(table["id"]) - set(real_source.images) == {"12347", "39401", "39403", "39410", "39425"}
    assert set(real_source.images) <= set(table["id"])
    assert table["year"].isna().sum() == 1
    assert table["year"].nunique() == 13


def test_the_real_labels_are_those_that_were_counted(real_styles: Styles) -> None:
    table = real_styles.table
    vocab = Vocab.of_table(table)
    assert {task: len(names) for task, names in vocab.classes.items()} == {
        "masterCategory": 7,
        "subCategory": 45,
        "articleType": 143,
        "gender": 5,
        "baseColour": 46,
        "season": 4,
        "usage": 8,
    }
    without = dict(zip(LABEL_COLUMNS, (vocab.codes(table, LABEL_COLUMNS) == -1).sum(axis=0), strict=True))
    assert without == {"masterCategory": 0, "subCategory": 0, "articleType": 0, "gender": 0, "baseColour": 15, "season": 21, "usage": 317}
    rarest = table["subCategory"].value_counts()
    assert {
        name: int(rarest[name]) for name in ("Home Furnishing", "Vouchers", "Sports Accessories", "Beauty Accessories", "Wristbands")
    } == {
        "Home Furnishing": 1,
        "Vouchers": 1,
        "Sports Accessories": 3,
        "Beauty Accessories": 4,
        "Wristbands": 4,
    }


def test_the_real_table_equals_what_pandas_reads_but_for_the_recovered_rows(real_styles: Styles, real_source: Source) -> None:
    other = pd.read_csv(io.BytesIO(real_source.read_table()), on_bad_lines="skip", dtype=str, keep_default_na=False)
    ours = real_styles.table[~real_styles.table["recovered"]]
    assert len(other) == 44_424
    for name in ("id", *LABEL_COLUMNS):
        assert ours[name].tolist() == other[name].str.strip().tolist(), name
