"""The stand-in data set: same bytes anywhere, the real set's layout and quirks, learnable images that weigh what photographs weigh."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastfashion.errors import ConfigError, InputError
from fastfashion.sources.synth import SynthSummary, write_synth
from fastfashion.sources.synth_data import read_colours, read_drawing, read_kinds
from fastfashion.sources.synth_draw import SATURATION_AND_BRIGHTNESS

COLUMNS = ["id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage", "productDisplayName"]
MASTERS = {"Apparel", "Accessories", "Footwear", "Personal Care", "Free Items", "Sporting Goods", "Home"}


def read_lines(out: Path) -> list[list[str]]:
    with (out / "styles.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def fingerprints(out: Path) -> dict[str, str]:
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in out.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SynthSummary:
    return write_synth(tmp_path_factory.mktemp("synth") / "small", rows=120, width_px=60, height_px=80, seed=3)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SynthSummary:
    return write_synth(tmp_path_factory.mktemp("synth") / "large", rows=600, width_px=60, height_px=80, seed=1)


def test_layout_and_columns(small: SynthSummary) -> None:
    assert {f.name for f in small.out.iterdir()} == {"styles.csv", "images"}
    text = (small.out / "styles.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0].split(",") == COLUMNS
    lines = read_lines(small.out)
    files = list((small.out / "images").iterdir())
    assert small.rows == len(lines) == 120
    assert small.images == len(files)
    assert small.num_bytes == sum(f.stat().st_size for f in files)
    ids = [line[0] for line in lines]
    assert len(set(ids)) == 120
    assert all(i.isdecimal() and 4 <= len(i) <= 5 for i in ids)
    assert {f.stem for f in files} <= set(ids)
    assert {line[2] for line in lines} == MASTERS
    for line in lines:
        assert line[1] in {"Men", "Women", "Unisex", "Boys", "Girls"}
        assert line[6] in {"Summer", "Fall", "Winter", "Spring", ""}
        assert line[7] == "" or 2007 <= int(line[7]) <= 2019


@pytest.mark.parametrize(("rows", "seed"), [(100, 0), (120, 3), (250, 7)])
def test_every_quirk_occurs(rows: int, seed: int, tmp_path: Path) -> None:
    out = write_synth(tmp_path / "set", rows=rows, width_px=24, height_px=32, seed=seed).out
    lines = read_lines(out)
    malformed = [line for line in lines if len(line) > len(COLUMNS)]
    assert len(malformed) >= 1
    assert all(line[-1].startswith(" ") for line in malformed), "the comma stands inside the last column"
    assert any(line[6] == "" for line in lines)
    assert any(line[8] == "NA" for line in lines)
    assert any(line[5] == "NA" for line in lines)

    images = {f.stem: f for f in (out / "images").iterdir()}
    missing = {line[0] for line in lines} - set(images)
    assert len(missing) == rows - len(images) >= 1
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for file in images.values():
        with Image.open(file) as image:
            image.load()
            assert image.format == "JPEG"
            modes[image.mode] += 1
            sizes[image.size] += 1
    assert set(modes) == {"L", "RGB"}
    assert sizes.most_common(1)[0][0] == (24, 32)
    assert len(sizes) >= 2

    labels = {line[0]: (line[3], line[6]) for line in lines}
    groups = defaultdict(list)
    for number, file in images.items():
        groups[file.read_bytes()].append(labels[number])
    twins = [group for group in groups.values() if len(group) > 1]
    assert any(len(set(group)) == 1 for group in twins), "twins that agree"
    assert any(len(set(group)) > 1 for group in twins), "twins that disagree"
    # quirks stay rare: most rows must be usable as they are
    assert len(malformed) + len(missing) + modes["L"] + len(twins) < rows / 8


def test_hierarchy_and_long_tail(large: SynthSummary) -> None:
    lines = read_lines(large.out)
    parents = defaultdict(set)
    for line in lines:
        parents[line[4]].add((line[2], line[3]))
    assert all(len(found) == 1 for found in parents.values())
    assert 25 <= len(parents) <= 45
    masters = defaultdict(set)
    for line in lines:
        masters[line[3]].add(line[2])
    assert all(len(found) == 1 for found in masters.values())
    # a few rows of the real file, by hand
    assert parents["Tshirts"] == {("Apparel", "Topwear")}
    assert parents["Watches"] == {("Accessories", "Watches")}
    assert parents["Flip Flops"] == {("Footwear", "Flip Flops")}
    counts = Counter(line[3] for line in lines).most_common()
    assert counts[0][0] == "Topwear"
    assert 0.25 < counts[0][1] / len(lines) < 0.5, "15,401 of 44,446 in the real set"
    assert counts[-1][1] <= 2
    assert counts[0][1] > 50 * counts[-1][1]


def test_workers_do_not_change_bytes(small: SynthSummary, tmp_path: Path) -> None:
    told: list[int] = []
    again = write_synth(tmp_path / "two", rows=120, width_px=60, height_px=80, seed=3, workers=2, on_progress=told.append)
    assert fingerprints(again.out) == fingerprints(small.out)
    assert sum(told) == again.images == small.images
    assert len(told) > 1


def test_seed_changes_everything_and_size_changes_no_label(small: SynthSummary, tmp_path: Path) -> None:
    other = write_synth(tmp_path / "other", rows=120, width_px=60, height_px=80, seed=4)
    assert (other.out / "styles.csv").read_bytes() != (small.out / "styles.csv").read_bytes()
    assert not set(fingerprints(other.out).values()) & set(fingerprints(small.out).values())
    resized = write_synth(tmp_path / "resized", rows=120, width_px=48, height_px=64, seed=3)
    assert (resized.out / "styles.csv").read_bytes() == (small.out / "styles.csv").read_bytes()


def test_large_images_weigh_what_photographs_weigh(tmp_path: Path) -> None:
    made = write_synth(tmp_path / "full", rows=4, width_px=1800, height_px=2400, seed=2)
    assert 0.10 < made.num_bytes / made.images / (1800 * 2400) < 0.25
    for file in (made.out / "images").iterdir():
        with Image.open(file) as image:
            assert image.size == (1800, 2400)
            corner = np.asarray(image.convert("L"))[:40, :40]
        assert corner.mean() > 225, "white ground"


def test_small_images_weigh_what_thumbnails_weigh(small: SynthSummary) -> None:
    assert 1000 < small.num_bytes / small.images < 2500


@pytest.mark.parametrize(("width", "height"), [(16, 16), (24, 32), (200, 64), (37, 150)])
def test_any_size(width: int, height: int, tmp_path: Path) -> None:
    made = write_synth(tmp_path / "set", rows=3, width_px=width, height_px=height)
    for file in (made.out / "images").iterdir():
        with Image.open(file) as image:
            assert image.size == (width, height)
            assert np.asarray(image.convert("L")).std() > 5


def test_images_can_be_learned(large: SynthSummary) -> None:
    thumbs, labels = [], []
    seen: set[bytes] = set()
    for line in read_lines(large.out):
        file = large.out / "images" / f"{line[0]}.jpg"
        if not file.exists() or file.read_bytes() in seen:
            continue  # a twin in both halves would be a leak
        seen.add(file.read_bytes())
        with Image.open(file) as image:
            thumbs.append(np.asarray(image.convert("RGB").resize((12, 16), Image.Resampling.BOX), np.float32).ravel() / 255)
        labels.append(line[3])
    x, y = np.stack(thumbs), np.array(labels)
    train = np.arange(len(y)) % 3 != 0
    majority = Counter(y[~train]).most_common(1)[0][1] / (~train).sum()
    # 25 principal components: a fit on all 576 values takes seconds and is no better
    model = make_pipeline(PCA(25, random_state=0), StandardScaler(), LogisticRegression(max_iter=500))
    accuracy = model.fit(x[train], y[train]).score(x[~train], y[~train])
    assert accuracy > majority + 0.25
    # a linear look at a thumbnail must not solve it: then training anything larger would show nothing
    assert accuracy < 0.98


def test_images_of_one_article_differ(large: SynthSummary) -> None:
    shirts = [line[0] for line in read_lines(large.out) if line[4] == "Tshirts" and len(line) == len(COLUMNS)]
    files = [f for f in (large.out / "images" / f"{number}.jpg" for number in shirts) if f.exists()]
    sizes = []
    for file in files[:40]:
        with Image.open(file) as image:
            dark = np.argwhere(np.asarray(image.convert("L")) < 200)
        if len(dark):
            sizes.append(np.ptp(dark, axis=0))
    assert np.std(sizes, axis=0).min() > 2, "pose and scale vary by pixels"


def test_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep.txt").write_text("keep")
    with pytest.raises(InputError, match=r"mine.*not an empty folder"):
        write_synth(tmp_path / "mine", rows=2, width_px=24, height_px=32)
    with pytest.raises(InputError, match="keep"):
        write_synth(tmp_path / "mine" / "keep.txt", rows=2, width_px=24, height_px=32)
    assert [f.name for f in tmp_path.rglob("*")] == ["mine", "keep.txt"]
    (tmp_path / "empty").mkdir()
    assert write_synth(tmp_path / "empty", rows=2, width_px=24, height_px=32).images == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_leaves_nothing_behind_on_an_error(workers: int, tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_synth(tmp_path / "set", rows=20, width_px=24, height_px=32, workers=workers, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_run_do_not_leak_in(tmp_path: Path) -> None:
    (tmp_path / ".set.partial" / "images").mkdir(parents=True)
    (tmp_path / ".set.partial" / "images" / "1.jpg").write_bytes(b"stale")
    made = write_synth(tmp_path / "set", rows=5, width_px=24, height_px=32)
    assert made.images == len(list((made.out / "images").iterdir()))
    assert [f.name for f in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    "wrong",
    [{"rows": 0}, {"width_px": 15}, {"height_px": 4097}, {"workers": 0}, {"seed": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_numbers_out_of_range(wrong: dict[str, int], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rows": 2, "width_px": 24, "height_px": 32} | wrong
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=rf"{name}: expected .* found {value}"):
        write_synth(tmp_path / "set", **settings)
    assert list(tmp_path.iterdir()) == []


def test_every_drawing_named_is_there() -> None:
    for kind in read_kinds():
        for name in kind.drawings:
            assert read_drawing(name), name


def test_every_colour_and_season_named_is_there() -> None:
    for kind in read_kinds():
        assert set(kind.colours) <= set(read_colours())
        assert set(kind.seasons) <= set(SATURATION_AND_BRIGHTNESS)
        assert set(kind.patterns) <= {"plain", "horizontal", "vertical", "checked", "dotted"}


def test_a_line_of_each_data_file() -> None:
    first = read_kinds()[0]
    assert first.categories == {"masterCategory": "Apparel", "subCategory": "Topwear", "articleType": "Tshirts"}
    assert (first.real_count, first.drawings) == (7066, ("tee", "longtee"))
    assert first.usages == ("Casual", "Casual", "Casual", "Sports")
    assert read_colours()["Navy Blue"].tolist() == [0x52, 0x2A, 0x1E], "blue, green, red"
    handbag = read_drawing("handbag")
    assert [stroke.tone for stroke in handbag] == ["deep", "main", "deep", "metal", "metal", "metal", "seam"], "a pair is two strokes"
    assert handbag[-1].line_width == pytest.approx(0.008)
    assert handbag[-1].outline == pytest.approx(np.array([[-0.62, 0.58], [0, 0.6], [0, 0.6], [0.62, 0.58]]))
    corner_cut = read_drawing("handbag")[3].outline
    assert corner_cut[:2] == pytest.approx(np.array([[-0.035, 0.1], [0.035, 0.1]])), "a quarter and three quarters along the first side"
