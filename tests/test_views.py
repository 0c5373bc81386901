"""Views and splits that people name: conditions, classes, files and columns change labels and parts, and nothing else of a set."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PackedSmall
from test_faults import config_of

import fastfashion as ff
from fastfashion import dist
from fastfashion.catalog import Styles
from fastfashion.catalog.conditions import rows_where
from fastfashion.catalog.named_splits import read_split_file, split_of_column
from fastfashion.catalog.splits import Rule, joint_split, split_rows
from fastfashion.catalog.views import View, read_class_map, read_classes
from fastfashion.config import DataConfig
from fastfashion.errors import ConfigError, InputError
from fastfashion.shards import PackedSet, open_packed_set
from fastfashion.train.job import train

ALONE = dist.World(device=torch.device("cpu"))


@pytest.fixture(scope="module")
def packed(packed_small: PackedSmall) -> PackedSet:
    return open_packed_set(packed_small.out)


@pytest.mark.parametrize(
    "condition",
    [
        "gender == 'Women' and year >= 2012",
        "not (gender == 'Men' or subCategory in ['Shoes', 'Watches'])",
        "2010 < year <= 2012 and season != 'Summer'",
        "gender not in ('Men',)",
        "year == 2011 or height > width and recovered",
        "id >= '10000'",
        "2012 > year",
    ],
)
def test_a_condition_chooses_the_rows_that_pandas_chooses(condition: str, packed: PackedSet) -> None:
    table = packed.table
    expected = table.index.isin(table.query(condition, engine="python").index)
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(rows_where(packed.columns, condition), expected)
    np.testing.assert_array_equal(rows_where(table, condition), expected)


def test_a_missing_year_meets_no_comparison(packed: PackedSet) -> None:
    columns = packed.columns
    place = columns.schema.get_field_index("year")
    values = [None, *columns["year"].to_pylist()[1:]]
    import pyarrow as pa

    changed = columns.set_column(place, "year", pa.array(values, type=pa.int16()))
    for condition in ("year > 0", "year <= 3000", "year == 2010 or year != 2010 and year > 0"):
        assert not rows_where(changed, condition)[0] and rows_where(changed, condition)[1]
    assert rows_where(changed, "not year > 0")[0]


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("gendr == 'Men'", r"no column 'gendr'; did you mean gender\? There are "),
        ("year == '2012'", r"year holds numbers, found '2012'; write year >= 2012"),
        ("gender == 3", r"gender holds texts, found 3; write gender == '3'"),
        ("gender = 'Men'", "not readable"),
        ("gender == 'Men", "not readable"),
        ("__import__('os').system('true') == 0", "is not a comparison of a column"),
        ("gender.upper() == 'MEN'", "is not a comparison of a column"),
        ("gender == [c for c in 'ab']", "is not a comparison of a column"),
        ("(lambda: 1)() == 1", "is not a comparison of a column"),
        ("gender", "is not a comparison of a column"),
        ("gender is 'Men'", "is not a comparison of a column"),
        ("year + 1 == 2012", "is not a comparison of a column"),
        ("gender == year", "gender and year are a text and a number"),
        ("1 == 1", "is not a comparison of a column"),
        (f"year > {'9' * 400}", "too large"),
        ("not " * 3000 + "recovered", "expected at most 4000"),
        ("(" * 1500 + "recovered" + ")" * 1500, "not readable"),
        ("", "not readable"),
        ("fingerprint == 'a'", "no column 'fingerprint'"),
    ],
)
def test_what_is_no_condition_is_refused_and_runs_nothing(condition: str, reason: str, packed: PackedSet) -> None:
    with pytest.raises(ConfigError, match=reason):
        rows_where(packed.columns, condition)


def counts_of(packed: PackedSet, task: str) -> dict[str, int]:
    return {str(name): int(count) for name, count in packed.table[task].value_counts().items() if name}


def test_a_view_changes_labels_and_no_row(packed: PackedSet) -> None:
    table = packed.table
    view = View(
        where="gender != 'Boys'",
        class_map={"subCategory": {"Bottomwear": "Clothes", "Topwear": "Clothes", "Watches": ""}},
        min_class_size=9,
    )
    seen = packed.viewed(view)
    np.testing.assert_array_equal(seen.ids, packed.ids)
    left = table[table["gender"] != "Boys"]
    clothes = int(left["subCategory"].isin(["Bottomwear", "Topwear"]).sum())
    shoes = int((left["subCategory"] == "Shoes").sum())
    assert shoes < 9 <= clothes  # by the source: every fifth row is a shoe
    assert counts_of(seen, "subCategory") == {"Clothes": clothes} and seen.vocab.names("subCategory") == ("Clothes",)
    assert seen.vocab.names("gender") == ("Men", "Women")
    codes = seen.vocab.codes(seen.columns, ["subCategory", "gender"])
    assert (codes[table["gender"] == "Boys"] == -1).all()
    assert packed.vocab.names("gender") == ("Boys", "Men", "Women"), "the set itself stays"
    for row in range(len(packed)):
        if codes[row, 1] >= 0:
            assert seen.vocab.names("gender")[codes[row, 1]] == table["gender"].iloc[row]


def test_classes_name_the_only_ones_by_their_new_names(packed: PackedSet) -> None:
    view = View(class_map={"subCategory": {"Topwear": "Tops"}}, classes={"subCategory": ("Tops", "Shoes")})
    assert packed.viewed(view).vocab.names("subCategory") == ("Shoes", "Tops")
    assert packed.viewed(view).vocab.names("gender") == packed.vocab.names("gender")
    with pytest.raises(ConfigError, match=r"classes: subCategory has no class 'Topwear'; did you mean Bottomwear, Tops"):
        packed.viewed(View(class_map={"subCategory": {"Topwear": "Tops"}}, classes={"subCategory": ("Topwear",)}))


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View(class_map={"subCategory": {"Shoos": "Shoes"}}), r"class map: subCategory has no class 'Shoos'; did you mean Shoes\?"),
        (View(class_map={"colour": {"a": "b"}}), r"class map: no label 'colour' in this set; expected masterCategory, "),
        (View(classes={"colour": ("a",)}), r"classes: no label 'colour' in this set"),
        (View(where="year > 3000"), r"where 'year > 3000': no row of the set meets it"),
    ],
)
def test_a_view_of_what_the_set_does_not_have_is_refused(view: View, reason: str, packed: PackedSet) -> None:
    with pytest.raises(ConfigError, match=reason):
        packed.viewed(view)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_class_files_are_read_as_csv_and_as_json(tmp_path: Path) -> None:
    lines = ("Task;Class;To", "subCategory;Flip Flops;Shoes", "subCategory;Free Gifts;", "subCategory;Free Gifts;", "")
    semicolons = write(tmp_path / "map.csv", "\n".join(lines))
    as_json = write(tmp_path / "map.json", '{"subCategory": {"Flip Flops": "Shoes", "Free Gifts": null}}')
    assert read_class_map(semicolons) == read_class_map(as_json) == {"subCategory": {"Flip Flops": "Shoes", "Free Gifts": ""}}
    classes = write(tmp_path / "classes.csv", "task,class\nseason,Summer\nseason,Winter\n")
    assert (
        read_classes(classes)
        == {"season": ("Summer", "Winter")}
        == read_classes(write(tmp_path / "c.json", '{"season":["Summer","Winter"]}'))
    )


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "task,class,to\nx,a,b\nx,a,c\n", r"a\.csv, line 3: x 'a' becomes 'c' here and 'b' above"),
        ("a.csv", "task,class,to\n", "no line under the header"),
        ("a.csv", "label,class,to\nx,a,b\n", "task"),
        ("a.json", '{"x": ["a"]}', r"a\.json: not as expected"),
        ("a.csv", "task,class,to\nx,a,b,c,d\n", "line 2: expected 3 fields"),
    ],
)
def test_a_class_map_that_is_none_is_refused_with_its_line(name: str, text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        read_class_map(write(tmp_path / name, text))


SPELLED = ("Training", "valid", "TEST", "dev", "train", "")


def split_file(path: Path, lines: Iterable[tuple[str, str]]) -> Path:
    return write(path, "id,split\n" + "".join(f"{identity},{part}\n" for identity, part in lines))


def rule_of(path: Path, packed: PackedSet) -> Rule:
    return Rule.of(DataConfig(protocol="file", split_file=str(path)), lambda: packed.table)


def split_lines(packed: PackedSet) -> list[tuple[str, str]]:
    return [(identity, SPELLED[row % len(SPELLED)]) for row, identity in enumerate(packed.ids.tolist())]


def test_a_split_file_is_taken_as_people_write_it(packed: PackedSet, tmp_path: Path) -> None:
    lines = split_lines(packed)
    plain = split_file(tmp_path / "a.csv", lines)
    named = write(tmp_path / "b.tsv", "Set\tFilename\n" + "".join(f"{part}\timages/{identity}.jpg\n" for identity, part in lines[::-1]))
    pd.DataFrame(lines, columns=["image_id", "subset"]).to_parquet(tmp_path / "c.parquet")
    numbers = pd.DataFrame({"id": [int(identity) for identity, _ in lines], "split": [part for _, part in lines]})
    numbers.to_parquet(tmp_path / "d.parquet")
    found = [read_split_file(path, packed.table) for path in (plain, named, tmp_path / "c.parquet", tmp_path / "d.parquet")]
    expected = np.array([{"Training": 0, "train": 0, "valid": 1, "dev": 1, "TEST": 2, "": -1}[part] for _, part in lines])
    for one in found:
        np.testing.assert_array_equal(one.parts, expected)
        assert not one.unknown
    assert (
        f"train {(expected == 0).sum()}, val {(expected == 1).sum()}, test {(expected == 2).sum()}; 10 rows of the set in no part"
        in found[0].text
    )


def test_a_file_a_part_is_a_split_too(packed: PackedSet, tmp_path: Path) -> None:
    """As Condition-CNN's authors publish theirs: whole tables, each a part, with a column of numbers without a name."""
    for part, word in enumerate(("train", "validation", "test")):
        packed.table.iloc[part::4][["id", "gender", "season"]].to_csv(tmp_path / f"shop_{word}.csv")
    names = ",".join(str(tmp_path / f"shop_{word}.csv") for word in ("train", "validation", "test"))
    found = read_split_file(Path(names), packed.table)
    np.testing.assert_array_equal(found.parts, np.where(np.arange(len(packed)) % 4 < 3, np.arange(len(packed)) % 4, -1))
    with pytest.raises(InputError, match="split"):  # a name that says nothing
        read_split_file((tmp_path / "shop_test.csv").rename(tmp_path / "shop.csv"), packed.table)
    both = write(tmp_path / "shop_test.csv", f"id\n{packed.ids[0]}\n")
    with pytest.raises(
        InputError, match=r"shop_test\.csv, line 2: 10000 is in test here and in train in .*shop_train\.csv, line 2; keep one"
    ):
        read_split_file(Path(f"{tmp_path / 'shop_train.csv'},{both}"), packed.table)


def test_ids_that_the_set_does_not_have_are_counted(packed: PackedSet, tmp_path: Path) -> None:
    path = split_file(tmp_path / "a.csv", [(each, "train") for each in (*packed.ids[:5], "no-1", "no-2", "no-3", "no-4")])
    found = read_split_file(path, packed.table)
    assert found.unknown == ("no-1", "no-2", "no-3", "no-4")
    assert found.text.endswith("55 rows of the set in no part; 4 ids not in this set (no-1, no-2, no-3, …)")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "id,split\n10000,train\n996,test\n10000,test\n",
            r"a\.csv, line 4: 10000 is in test here and in train in line 2; keep one of them",
        ),
        ("id,split\n10000,train\nimages/10000.jpg,val\n", r"line 3: images/10000\.jpg is in val here and in train in line 2"),
        ("id,split\n10000,first\n", r"line 2: unknown part 'first'; expected train, val or test"),
        ("id,split\nx,train\ny,test\n", r"none of its 2 ids is in this set; expected ids such as 10000, 996"),
        ("name,colour\n10000,train\n", "split"),
        ("", "split"),
    ],
)
def test_a_split_file_that_contradicts_itself_is_refused_with_its_line(text: str, reason: str, packed: PackedSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        read_split_file(write(tmp_path / "a.csv", text), packed.table)


def test_the_rows_are_exactly_those_of_the_file_even_where_twins_are_parted(packed: PackedSet, tmp_path: Path) -> None:
    groups = packed.table["duplicate_group"].to_numpy()
    twins = np.flatnonzero(np.bincount(groups)[groups] > 1)
    assert len(twins) >= 2
    part = np.array(["train", "val", "test"])[np.arange(len(packed)) % 3]
    part[twins[0]], part[twins[1]] = "train", "test"
    path = split_file(tmp_path / "a.csv", zip(packed.ids, part, strict=True))
    rule = rule_of(path, packed)
    split = joint_split(packed.columns, packed.vocab, ["subCategory", "season"], ["subCategory"], rule)
    has = packed.vocab.codes(packed.columns, ["subCategory"])[:, 0] >= 0
    for name, rows in (("train", split.train), ("val", split.val["season"]), ("test", split.test["season"])):
        np.testing.assert_array_equal(rows, np.flatnonzero((part == name) & has))


def test_without_a_val_part_it_is_drawn_from_train_with_twins_together(packed: PackedSet, tmp_path: Path) -> None:
    test = set(packed.ids[::4])
    path = split_file(tmp_path / "a.csv", [(each, "test" if each in test else "train") for each in packed.ids])
    rule = rule_of(path, packed)
    split = split_rows(packed.columns, packed.vocab, "subCategory", rule)
    assert set(packed.ids[split.test]) == {identity for identity in test if packed.table.set_index("id")["subCategory"][identity]}
    assert 0.08 * len(split.train) < len(split.val) < 0.4 * len(split.train) and not set(split.val) & {*split.train, *split.test}
    groups = packed.table["duplicate_group"].to_numpy()
    assert not set(groups[split.val]) & set(groups[split.train])
    none = write(tmp_path / "b.csv", f"id,split\n{packed.ids[0]},train\n{packed.ids[1]},val\n")
    with pytest.raises(InputError, match="the test part of the file split of subCategory is empty: it names none of the"):
        split_rows(packed.columns, packed.vocab, "subCategory", rule_of(none, packed))


def test_a_column_names_parts_too(packed: PackedSet) -> None:
    table = packed.table.assign(official=[("train", "validation", "test")[row % 3] for row in range(len(packed))])
    np.testing.assert_array_equal(split_of_column(table, "official").parts, np.arange(len(packed)) % 3)
    with pytest.raises(InputError, match="column gender: unknown part"):
        split_of_column(packed.table, "gender")
    with pytest.raises(ConfigError, match=r"data\.split_column: no column 'split' in this set; there are row, id, "):
        split_of_column(packed.table, "split")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"protocol": "file"}, r"data\.split_file: expected a value with data\.protocol=file, found ''"),
        ({"split_file": "a.csv"}, r"data\.split_file: expected none without data\.protocol=file, found 'a\.csv'"),
        ({"protocol": "column", "split_file": "a.csv"}, r"data\.split_file: expected none"),
        ({"protocol": "column"}, r"data\.split_column: expected a value with data\.protocol=column"),
    ],
)
def test_a_protocol_has_what_it_needs_and_nothing_else(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        DataConfig(**settings)


@pytest.fixture(scope="module")
def viewed_run(packed_small: PackedSmall, packed: PackedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under a view and a split file, whose files are gone since."""
    home = tmp_path_factory.mktemp("viewed")
    parts = ["train", "train", "val", "test", "train"]
    split = split_file(home / "split.csv", [(identity, parts[row % 5]) for row, identity in enumerate(packed.ids)])
    mapped = write(home / "map.csv", "task,class,to\nsubCategory,Bottomwear,Clothes\nsubCategory,Topwear,Clothes\n")
    fixed = write(home / "fix.csv", f"id,task,label\n{packed.ids[0]},subCategory,Shoes\n")
    settings = {"data__protocol": "file", "data__split_file": str(split), "data__class_map": str(mapped), "data__where": "year < 2013"}
    train(config_of(packed_small, **settings, data__corrections=str(fixed), train__epochs=1), home / "run", ALONE)
    (home / "moved").mkdir()
    for path in (split, mapped):
        path.rename(home / "moved" / path.name)
    return home / "run"


def test_a_run_is_tested_under_its_own_view_when_its_files_are_gone(viewed_run: Path, packed: PackedSet) -> None:
    report = ff.evaluate_run(viewed_run).to_dict()
    assert [each["name"] for each in report["tasks"]["subCategory"]["classes"]] == ["Clothes", "Shoes", "Watches"]
    table = packed.table
    expected = (table.index % 5 == 3) & (table["year"] < 2013) & (table["subCategory"] != "")
    assert report["tasks"]["subCategory"]["n"] == int(expected.sum())
    opened = ff.open_run(viewed_run)
    assert opened.vocab.names("subCategory") == ("Clothes", "Shoes", "Watches")
    assert opened.vocab.names("subCategory")[opened.codes[0, 0]] == "Shoes", "a correction names classes as the set does"


def test_a_run_whose_class_files_changed_is_not_resumed(viewed_run: Path) -> None:
    from fastfashion.runs.files import read_config
    from fastfashion.train.data import prepare_data

    config = read_config(viewed_run)
    for path in (Path(config.data.split_file), Path(config.data.class_map)):
        path.write_bytes((path.parent / "moved" / path.name).read_bytes())
    try:
        prepare_data(config, ALONE, viewed_run)
        mapped = Path(config.data.class_map)
        mapped.write_text(mapped.read_text().replace("Topwear,Clothes", "Topwear,Shoes"))
        with pytest.raises(ConfigError, match=r"its classes were chosen by other files than .*map\.csv are now; put the old ones back"):
            prepare_data(config, ALONE, viewed_run)
    finally:
        for path in (Path(config.data.split_file), Path(config.data.class_map)):
            path.unlink()


def test_a_damaged_or_missing_view_is_refused(viewed_run: Path) -> None:
    view = viewed_run / "view.json"
    whole = view.read_bytes()
    try:
        view.write_bytes(whole.replace(b"year < 2013", b"year < 2012"))
        with pytest.raises(InputError, match=r"view\.json: damaged: its checksum"):
            ff.open_run(viewed_run)
        view.unlink()
        with pytest.raises(InputError, match=r"view\.json: missing, and the run's settings name a view"):
            ff.open_run(viewed_run)
    finally:
        view.write_bytes(whole)


def test_the_loader_splits_and_preview_see_the_same_view(packed_small: PackedSmall, packed: PackedSet, tmp_path: Path) -> None:
    mapped = write(tmp_path / "map.json", '{"subCategory": {"Bottomwear": "Clothes", "Topwear": "Clothes"}}')
    view = {"data.where": "gender != 'Men'", "data.class_map": str(mapped)}
    with ff.loader(packed_small.out, split="all", task="subCategory", size="32x32", batch_size=60, settings=view) as loader:
        assert loader.classes == {"subCategory": ("Clothes", "Shoes", "Watches")}
        batch = next(iter(loader))
    men = packed.table["gender"].to_numpy() == "Men"
    assert (batch.labels[:, 0].numpy()[men] == -1).all() and batch.rows.tolist() == list(range(60))
    done = ff.splits(packed_small.out, task="subCategory", where="gender != 'Men'", class_map=str(mapped), out=tmp_path / "s.csv")
    assert sum(part["num_rows"] for part in done.parts.values()) == int((~men & (packed.table["subCategory"] != "")).sum())
    with ff.loader(packed_small.out, split="val", task="subCategory", size="32x32", batch_size=60, settings=view) as loader:
        assert len(loader.rows) == done.parts["val"]["num_rows"]
    drawn = ff.preview(packed_small.out, task="subCategory", where="gender == 'Men'", rows=4, size="32x32", out=tmp_path / "p.png")
    assert men[list(drawn.rows)].all()
    audited = ff.audit(packed_small.out, where="gender == 'Men'")
    assert audited.labels["gender"]["images"] == {"Men": int(men.sum())}


REAL_SPLIT = Path(__file__).parents[2] / "shared/data/published-splits/condition-cnn-2021.csv"


def test_the_published_split_by_id_has_the_rows_that_its_authors_report(real_styles: Styles) -> None:
    if not REAL_SPLIT.is_file():
        pytest.skip("no published split in ../shared/data, which is not part of the project")
    named = read_split_file(REAL_SPLIT, real_styles.table)
    assert np.bincount(named.parts[named.parts >= 0]).tolist() == [26667, 4103, 10257] and not named.unknown
