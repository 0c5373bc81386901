"""The stand-in data set: product-like images drawn by program, in the layout, labels and quirks of the Kaggle set.

    seed ─► kinds ─► labels ─► quirks ─► styles.csv
                                 └─────► one Image a file ─► synth_draw ─► images/<id>.jpg

An image is a function of (seed, row, size), the table one of (seed, rows); the same versions of OpenCV and numpy give the same bytes.
"""

import shutil
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from fastfashion.disk import room_for
from fastfashion.errors import ConfigError, InputError
from fastfashion.fields import Result
from fastfashion.sources.synth_data import Product, read_kinds
from fastfashion.sources.synth_draw import Drawing, row_generator, write_image

Labels = dict[str, str]  # one line of styles.csv by column, in the order of the columns
Choice = TypeVar("Choice")

COLUMNS = ("id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage", "productDisplayName")
SEASONS = ("Summer", "Fall", "Winter", "Spring")
YEARS = ("2012",) * 16 + ("2011",) * 14 + ("2016",) * 6 + ("2017", "2015") * 3 + ("2013", "2010", "2018", "2014")
BRANDS = ("Northline", "Aurea", "Basecamp Co", "Lindell", "Marigold", "Otto & Vale", "Paragon", "Quill", "Rivera", "Tandem", "Umbra")
FIRST_ID = 1163  # as in the real set, ids are between 1,163 and 60,000, with gaps
NUM_IDS = 58_837
TABLE_ROW = 2**64 - 1  # the table's own random numbers: no image has this row

REAL_ROWS = 44_446
MIN_ROWS_FOR_QUIRKS = 100
REAL_QUIRKS = {  # how many rows of the real set have each
    "comma in name": 22,
    "no season": 21,
    "usage NA": 316,
    "colour NA": 15,
    "no year": 1,
    "no usage": 1,
    "no image": 5,
    "greyscale": 431,
    "odd size": 23,
    "twin": 780,  # shows the image of another row
    "original": 780,  # the other row
}
RANGES = {"rows": (1, 10**8), "seed": (0, 2**63 - 1), "workers": (1, 1024), "width_px": (16, 4096), "height_px": (16, 4096)}
MIN_TWINS = 2  # one that agrees with its original, one that does not
TWINS_PER_DISAGREEMENT = 100  # in the real set 9 of 653 groups of twins disagree in season, 6 in subCategory
ERASED = {  # quirk: column, its text instead of the label
    "no season": ("season", ""),
    "usage NA": ("usage", "NA"),
    "colour NA": ("baseColour", "NA"),
    "no year": ("year", ""),
    "no usage": ("usage", ""),
}


@dataclass(frozen=True, kw_only=True)
class SynthSummary(Result):
    """The result of `write_synth`: lines in styles.csv, files under images/, and the bytes of those files."""

    out: Path
    rows: int
    images: int
    num_bytes: int


def write_synth(
    out: Path,
    *,
    rows: int,
    width_px: int,
    height_px: int,
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[int], object] | None = None,
) -> SynthSummary:
    """Draw a stand-in data set into `out`: `styles.csv` with `rows` lines below its header, and `images/<id>.jpg`.

    The bytes depend on rows, size and seed, never on `workers`; with 100 rows or more, every articleType and quirk of the real set occurs.
    `on_progress` gets the number of images finished since its last call. On an exception nothing is left.
    Raises InputError if `out` exists and is not an empty folder, ConfigError if a number is out of range.
    """
    given = {"rows": rows, "seed": seed, "workers": workers, "width_px": width_px, "height_px": height_px}
    for name, (low, high) in RANGES.items():
        if not low <= given[name] <= high:
            raise ConfigError(f"synthetic data set: {name}: expected {low}..{high}, found {given[name]}")
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"synthetic data set: {out} already exists and is not an empty folder: remove it or name another")
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    sizes: list[int] = []
    try:
        (beside / "images").mkdir(parents=True)
        table, images = _make_table(rows, (width_px, height_px), seed)
        lines = [",".join(COLUMNS), *(",".join(labels.values()) for labels in table), ""]
        # closed before the folder is removed, so that no process is still writing then
        with room_for(out), closing(_draw_all(beside / "images", seed, images, workers)) as drawn:
            (beside / "styles.csv").write_text("\n".join(lines), encoding="utf-8", newline="\n")
            for written in drawn:
                sizes += written
                if on_progress is not None:
                    on_progress(len(written))
        beside.replace(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return SynthSummary(out=out, rows=rows, images=len(sizes), num_bytes=sum(sizes))


def _draw_all(folder: Path, seed: int, images: list[Drawing], workers: int) -> Generator[list[int], None, None]:
    """Write all images; yields the sizes in bytes of each one's files."""
    import cv2

    draw = partial(write_image, folder, seed)
    if workers == 1:
        yield from map(draw, images)
        return
    # OpenCV's own threads would compete with the processes
    with ProcessPoolExecutor(workers, get_context("spawn"), partial(cv2.setNumThreads, 1)) as pool:
        yield from pool.map(draw, images, chunksize=max(1, min(16, len(images) // (4 * workers))))


def _make_table(rows: int, size_px: tuple[int, int], seed: int) -> tuple[list[Labels], list[Drawing]]:
    """The lines of styles.csv, and the images to draw."""
    rng = row_generator(seed, TABLE_ROW)
    kind_of_row = _choose_kinds(rows, rng)
    ids = FIRST_ID + rng.permutation(max(NUM_IDS, 2 * rows))[:rows]
    kinds = [read_kinds()[code] for code in kind_of_row]
    truth = [_choose_labels(kind, str(number), rng) for kind, number in zip(kinds, ids, strict=True)]
    # only rows of common kinds have quirks, one at most, so that the single example of a rare kind keeps its labels
    common = np.flatnonzero(np.bincount(kind_of_row)[kind_of_row] >= 4)
    quirky = _spread_quirks(rows, rng.permutation(common).tolist())
    table = _with_quirks(truth, quirky, rng)
    return table, _list_images(truth, kinds, quirky, size_px)


def _choose_kinds(rows: int, rng: np.random.Generator) -> np.ndarray:
    """(rows,) int64: each row's place among the kinds, as frequent as in the real set."""
    real_counts = np.array([kind.real_count for kind in read_kinds()], float)
    # one of each first: rare kinds matter for splits and metrics, and a plain draw of a small set would miss them
    first = np.arange(len(real_counts) if rows >= MIN_ROWS_FOR_QUIRKS else 0)
    others = rng.choice(len(real_counts), rows - len(first), p=real_counts / real_counts.sum())
    return rng.permutation(np.concatenate([first, others]))


def _choose_labels(kind: Product, number: str, rng: np.random.Generator) -> Labels:
    gender, season, usage = (_one_of(names, rng) for names in (kind.genders, kind.seasons, kind.usages))
    colour, brand, year = (_one_of(names, rng) for names in (kind.colours, BRANDS, YEARS))
    name = f"{brand} {gender} {colour} {kind.categories['articleType']}"
    cells = [number, gender, *kind.categories.values(), colour, season, year, usage, name]
    return dict(zip(COLUMNS, cells, strict=True))


def _spread_quirks(rows: int, candidates: list[int]) -> dict[str, list[int]]:
    """The rows that have each quirk: its share of the real set, and with MIN_ROWS_FOR_QUIRKS rows or more at least one."""
    spare = iter(candidates)
    quirky: dict[str, list[int]] = {}
    for quirk, real_count in REAL_QUIRKS.items():
        count = round(real_count / REAL_ROWS * rows)
        if rows >= MIN_ROWS_FOR_QUIRKS:
            count = max(count, MIN_TWINS if quirk in ("twin", "original") else 1)
        quirky[quirk] = list(islice(spare, count))
    return quirky


def _with_quirks(truth: list[Labels], quirky: dict[str, list[int]], rng: np.random.Generator) -> list[Labels]:
    """The labels as written to styles.csv: erased, split by a comma, or copied from a twin."""
    table = [dict(labels) for labels in truth]
    for row in quirky["comma in name"]:
        noun = truth[row]["articleType"]
        table[row]["productDisplayName"] = truth[row]["productDisplayName"].removesuffix(f" {noun}") + f", {noun}"
    for quirk, (column, text) in ERASED.items():
        for row in quirky[quirk]:
            table[row][column] = text
    for nth, (twin, original) in enumerate(zip(quirky["twin"], quirky["original"], strict=False)):
        shown = truth[original]
        table[twin] = shown | {"id": truth[twin]["id"]}
        if nth % TWINS_PER_DISAGREEMENT == 0:
            others = [kind.categories for kind in read_kinds() if kind.categories["subCategory"] != shown["subCategory"]]
            table[twin] |= _one_of(others, rng)
            table[twin]["season"] = _one_of([season for season in SEASONS if season != shown["season"]], rng)
    return table


def _list_images(truth: list[Labels], kinds: list[Product], quirky: dict[str, list[int]], size_px: tuple[int, int]) -> list[Drawing]:
    """One image a row, except for rows without one and for twins, which share one."""
    width, height = size_px
    no_image, greyscale, odd = (set(quirky[quirk]) for quirk in ("no image", "greyscale", "odd size"))
    original_of = dict(zip(quirky["twin"], quirky["original"], strict=False))
    images: dict[int, Drawing] = {}
    for row, labels in enumerate(truth):
        if row in no_image:
            continue
        shown = original_of.get(row, row)
        if shown not in images:
            images[shown] = Drawing(
                row=shown,
                labels=truth[shown],
                drawings=kinds[shown].drawings,
                patterns=kinds[shown].patterns,
                size_px=(width, height * 3 // 4) if shown in odd else size_px,
                greyscale=shown in greyscale,
                files=[],
            )
        images[shown].files.append(f"{labels['id']}.jpg")
    return list(images.values())


def _one_of(options: Sequence[Choice], rng: np.random.Generator) -> Choice:
    return options[int(rng.random() * len(options))]
