"""The stand-in data set: product-like pictures drawn by program, in the layout, labels and quirks of the Kaggle set.

    seed ─► table ─► styles.csv
              └────► one job a picture ─► drawing ─► pose ─► paint ─► light, shadow ─► grain ─► images/<id>.jpg

A picture is a function of (seed, row, size), the table of (seed, rows); the same OpenCV and numpy give the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfashion.errors import ConfigError, InputError

HEADER = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
MIN_ROWS_FOR_QUIRKS = 100

# masterCategory/subCategory/articleType, count in the real set, drawings for warm and cold seasons, patterns (p plain, h v stripes,
# c checks, d dots), palette, genders, seasons, usages; a letter's share is its frequency
_KINDS_TEXT = """Apparel/Topwear/Tshirts 7066 tee,longtee ppphhd * MMMMMMMWWB SSSSFFFP CCCS; Apparel/Topwear/Shirts 3217 shirt,longshirt
ppccv * MMMMMMMW SSSFFFFW CCF; Apparel/Topwear/Kurtas 1844 kurta ppddv * WWWWWWWM SSSFF E; Apparel/Topwear/Tops 1762 top pphdd * WWWWWWG
SSSFW CCCP; Apparel/Bottomwear/Jeans 609 jeans p denim MMMWWB SSSFF C; Apparel/Bottomwear/Shorts 545 shorts pppcv * MMMMMWBG SSSFF CCS;
Apparel/Bottomwear/Trousers 530 trousers pppv leather MMMMW SSFF CF; Apparel/Innerwear/Briefs 849 briefs ppphd * MMWW SSSSSW C;
Apparel/Dress/Dresses 462 dress pppddh * WWWWWG SSSFFW CCP; Apparel/Saree/Sarees 427 saree ppdv * W FFFSSW E; Accessories/Watches/Watches
2542 watch p metal MMMWW WWWWWWWWWS CCCF; Accessories/Bags/Handbags 1757 handbag pppd leather W SSSSSWWWF C; Accessories/Eyewear/Sunglasses
1073 sunglasses p leather MMWWU WWWWWWWWWS C; Accessories/Wallets/Wallets 933 wallet p leather MW SSSWWF CF; Accessories/Belts/Belts 810
belt p leather MMW SSSWF CF; Accessories/Socks/Socks 686 socks pphhh * MMMMWU SSSSSF CS; Accessories/Jewellery/Earrings 416 earrings p
metal W SSWF CE; Accessories/Jewellery/Ring 118 ring p metal WWWM SSSF C; Accessories/Headwear/Caps 283 cap pppc * UUMMW SSFF CCS;
Accessories/Ties/Ties 258 tie pvhdd * M SSSSSF F; Accessories/Scarves/Scarves 118 scarf phcd * WWM SSFFW C; Footwear/Shoes/Casual_Shoes
2845 casual p * MMMMMWU SSSFFW C; Footwear/Shoes/Sports_Shoes 2036 sports p * MMMMW SSSFFP S; Footwear/Shoes/Heels 1323 heels p * W WWWWWSF
CCP; Footwear/Flip_Flops/Flip_Flops 913 flipflops p * MMMWU SSSFFW C; Footwear/Sandal/Sandals 895 sandal p leather MMMMMUG SSSFFW C;
Personal_Care/Fragrance/Perfume_and_Body_Mist 607 perfume p * MW P C; Personal_Care/Nails/Nail_Polish 329 polish p * W P C;
Personal_Care/Lips/Lipstick 315 lipstick p * W PPPPPS C; Free_Items/Free_Gifts/Free_Gifts 91 gift ph * MWU WWSP C;
Sporting_Goods/Sports_Equipment/Basketballs 13 basketball p leather U S S; Home/Home_Furnishing/Cushion_Covers 1 cushion hcd * U S H"""
# name:RRGGBB:hundreds in the real set
_COLOURS_TEXT = """Black:1d1d20:97 White:f1f0ec:55 Blue:2f5fb3:49 Brown:6b4327:35 Grey:8b8d91:27 Red:c2202b:25 Green:2f8a45:21
Pink:ea7ba6:19 Navy_Blue:1e2a52:18 Purple:6a3793:16 Silver:bfc2c6:11 Yellow:f2cf2e:8 Beige:d8c3a0:7 Gold:c9a24a:6 Maroon:6a1626:6
Orange:ec7523:5 Olive:6b6b2e:4 Multi:b0508a:4 Cream:f0e6c8:4 Steel:9aa3ab:3 Charcoal:3d4146:2 Peach:f6b893:2 Lavender:b49ad6:2
Khaki:a89868:1 Magenta:c7267f:1 Teal:17797d:1 Tan:b98550:1 Mustard:d1a01f:1 Copper:b06a41:1 Turquoise_Blue:29b3c1:1"""
_KINDS = [[cell.replace("_", " ") for cell in entry.split()] for entry in _KINDS_TEXT.split(";")]
_FOUND = [entry.replace("_", " ").split(":") for entry in _COLOURS_TEXT.split()]
_COLOURS = {name: np.array([*bytes.fromhex(rgb)[::-1]], float) for name, rgb, _ in _FOUND}  # blue, green, red: OpenCV's order
_COLOUR_SHARES = [name for name, _, hundreds in _FOUND for _ in range(int(hundreds))]
_LEATHER = ("Black", "Black", "Brown", "Brown", "Tan", "Grey", "White", "Beige", "Navy Blue", "Red", "Khaki")
_METAL = ("Silver", "Gold", "Steel", "Black", "White", "Brown", "Copper")
_PALETTES = {"denim": ("Blue", "Navy Blue", "Black", "Grey"), "leather": _LEATHER, "metal": _METAL}
_GENDERS = {"M": "Men", "W": "Women", "U": "Unisex", "B": "Boys", "G": "Girls"}
_SEASONS = {"S": "Summer", "F": "Fall", "W": "Winter", "P": "Spring"}
_USAGES = {"C": "Casual", "S": "Sports", "E": "Ethnic", "F": "Formal", "P": "Party", "H": "Home"}
_YEARS = ["2012"] * 16 + ["2011"] * 14 + ["2016"] * 6 + ["2017", "2015"] * 3 + ["2013", "2010", "2018", "2014"]
_BRANDS = ("Northline", "Aurea", "Basecamp Co", "Lindell", "Marigold", "Otto & Vale", "Paragon", "Quill", "Rivera", "Tandem", "Umbra")
# how many of the real set's rows have each quirk; _ERASED holds (column, what stands there, count)
_REAL_ROWS, _MALFORMED, _NO_PICTURE, _GREYSCALE, _ODD_SIZE, _TWINS = 44446, 22, 5, 431, 23, 780
_ERASED = (("season", "", 21), ("usage", "NA", 316), ("baseColour", "NA", 15), ("year", "", 1), ("usage", "", 1))

# A drawing is a list of "tone op+number[:size] x,y x,y ..." in hundredths, y down, centred on x = 0; the pose fits it to the frame.
# op: p polygon, m polygon from its right half, t polygon and its mirror image; l line, b line from its right half, i line and its
# mirror image; e ellipse (centre, radii), d ellipse and its mirror image; o circles on a line. "=name" is that drawing.
# number: rounds of corner cutting, or how many circles; size: line width or circle radius. A "/" parts two drawings.
_DRAWINGS = """/ tee: deep e0 0,-66 14,6; main m1 0,-54 8,-57 14,-70 42,-62 66,-16 48,-8 40,-26 37,15 40,64 0,66; trim b1:3 0,-54 8,-57
14,-70; seam i1:0.8 40,-60 37,-40 40,-26 / longtee: deep e0 0,-66 14,6; main m1 0,-54 8,-57 14,-70 42,-62 56,-50 68,-10 66,44 50,44 46,0
41,-20 38,20 40,64 0,66; trim b1:3 0,-54 8,-57 14,-70; seam i1:0.8 40,-60 37,-40 41,-20 / shirt: =tee; =front / longshirt: =longtee; =front
/ front: lite t0 0,-52 2,-68 15,-74 19,-62 10,-46; seam l0:1.2 2,-52 3,65; white o7:1.4 0,-44 0,56; seam l0:0.8 12,-22 30,-22 30,-4 12,-4
12,-22 / kurta: deep e0 0,-66 14,6; main m1 0,-50 6,-54 14,-70 42,-62 56,-45 66,10 50,14 42,-20 37,10 46,98 0,100; trim m0 0,88 45,86 46,97
0,100; trim b0:5 0,-10 3,-10 3,-50 14,-70; seam i1:0.8 40,-60 37,-40 42,-20 / top: main m1 0,-42 20,-50 30,-68 38,-64 50,-34 38,-30 30,5
50,56 0,62; trim m1 0,0 30,-1 31,7 0,9; trim b1:2.5 0,-42 20,-50 30,-68; seam i1:0.8 10,10 15,30 20,55 / jeans: =trousers; lite t1 14,-10
22,-10 20,35 14,35; trim i1:1 12,-56 16,-42 30,-40 / trousers: main m0 0,-68 29,-68 35,-35 33,30 29,110 10,110 5,0 0,-22; deep m0 0,-69
29,-69 30,-61 0,-61; seam i0:0.8 18,-30 19,108; seam i0:1.2 24,-58 31,-42 / shorts: main m0 0,-68 30,-68 36,-40 42,12 6,16 0,-20; deep m0
0,-69 30,-69 31,-61 0,-61; seam l0:1 0,-60 0,-20; trim i0:3 42,10 7,14; white b0:1.2 3,-38 5,-64 / briefs: main m1 0,-30 56,-36 58,-10 40,4
20,30 12,42 0,44; trim m0 0,-36 57,-40 58,-26 0,-22; seam i1:1.6 57,-10 36,6 13,40 / dress: main m1 0,-46 12,-50 24,-70 34,-66 36,-36 27,0
50,95 20,100 0,100; trim m1 0,-4 27,-6 28,4 0,6; seam i1:1 15,6 24,50 34,97; trim b1:2 0,-46 12,-50 24,-70 / saree: trim m1 0,-50 20,-62
40,-60 52,-30 40,-22 32,5 0,5; main m1 0,-2 32,-2 42,50 56,125 0,128; seam i1:1.2 5,10 6,70 10,126; main p1 -36,10 -30,-10 10,-50 26,-66
42,-62 50,-20 62,90 42,95 34,0 10,0 -20,25; trim m0 0,120 54,117 56,125 0,128 / watch: main m1 0,-110 17,-110 22,-40 22,40 17,110 0,110;
seam o9:1.2 0,50 0,100; metal p1 30,-6 44,-6 44,6 30,6; metal e0 0,0 40,40; dial e0 0,0 32,32; ink o2:2 0,-26 0,26; ink d0 26,0 2,2; ink
l0:3 0,0 10,-16; ink l0:2 0,2 -16,-14 / handbag: deep b2:5 42,-10 34,-75 0,-80; main m1 0,-22 55,-22 72,55 60,66 0,66; deep m1 0,-24 57,-24
50,12 20,20 0,20; metal p1 -7,10 7,10 7,26 -7,26; metal d0 40,-12 4.5,4.5; seam b0:0.8 0,60 62,58 / sunglasses: main i1:5 66,-10 76,-30
50,-42 40,-40; main t2 8,-16 60,-20 70,-5 60,22 30,27 12,12; glass t2 12,-10 56,-14 63,-3 55,17 32,21 16,10; main b2:5 0,-10 12,-10; glint
i0:2 24,-8 20,5 / wallet: deep p1 -56,-36 58,-40 60,40 -56,40; main p0 -60,-32 54,-34 54,42 -60,44; seam l0:1 -55,-27 49,-29 49,37 -55,39
-55,-27; deep p0 12,16 40,16 40,30 12,30 / belt: deep l3:20 50,10 30,-35 -30,-35 -55,5 -30,40 20,35; main l3:20 -50,10 -35,45 25,50 60,15
95,10; seam l3:1.2 -50,17 -35,50 25,57 60,22 95,17; metal l0:5 -66,-6 -34,-6 -34,24 -66,24 -66,-6; dark o4:1.8 64,13 92,10 / socks: main t1
6,-80 36,-80 36,30 62,52 68,68 56,78 38,74 10,50; deep t0 5,-82 37,-82 37,-64 5,-64; trim t2 52,42 70,56 70,76 52,80 / earrings: metal i2:3
30,-30 30,-50 22,-68 32,-75 40,-62; main t2 30,-30 52,25 30,50 8,25; gem d0 30,18 10,13; metal i0:2 30,40 30,62; gem d0 30,64 5,5 / ring:
main e0 0,15 60,60; hole e0 2,18 48,48; metal m0 0,-34 22,-40 16,-50 0,-50; gem m0 0,-36 20,-58 12,-70 0,-70; glint m0 0,-58 10,-60 6,-68
0,-68 / cap: deep p2 20,10 70,12 98,30 96,42 60,30 0,32; main p2 -62,30 -66,-10 -40,-50 0,-56 40,-40 52,0 50,30 -5,24; seam l2:1.2 -5,-50
16,-20 20,26; seam l2:1.2 -5,-50 -36,-20 -34,26; trim l1:3 -60,25 -5,20 50,25 / tie: deep p0 2,-60 14,-50 30,95 10,100; main m0 0,-62 6,-62
19,84 0,108; deep m1 0,-86 14,-86 8,-58 0,-56 / scarf: main p1 -34,-30 -8,-30 -2,90 -32,94; main p1 0,-30 28,-34 38,72 8,80; deep m2 0,-70
40,-66 50,-34 30,-16 0,-14; main m2 0,-62 34,-60 40,-40 20,-30 0,-28 / sole: white p1 -80,16 86,20 90,30 84,40 -80,40 -86,30 / casual:
=sole; main p2 -80,24 -84,-30 -72,-40 -50,-30 -30,-22 -10,-34 0,-24 30,0 72,4 90,24 30,28; dark e0 -46,-30 27,6; white l0:3 -8,-26 2,-10;
white l0:3 3,-19 12,-3; white l0:3 15,-10 22,3; seam l2:1.4 30,22 34,0 50,-2 / sports: =sole; trim p1 -86,30 -80,22 60,24 90,30 86,42
-84,44; main p2 -80,20 -90,-40 -74,-46 -56,-28 -34,-24 -10,-40 2,-26 34,-4 74,6 90,26; dark e0 -48,-31 24,7; trim l0:6 -30,20 -10,-16; trim
l0:6 -12,20 6,-8; trim l0:6 6,20 20,0; trim p2 50,0 74,8 90,26 56,26 / heels: deep p1 -74,-50 -56,-40 -66,20 -70,66 -78,66 -78,10; dark p2
-70,-38 -30,-2 20,50 86,56 84,64 10,62 -36,22 -70,-20; main p2 -78,-60 -66,-66 -56,-36 -20,10 14,26 30,24 60,40 92,60 10,58 -36,16 -76,-18;
lite l2:2 -64,-62 -54,-36 -20,8 14,24 / flipflops: deep t2 16,-80 50,-78 58,-30 44,10 50,60 40,86 18,84 12,50 18,10 6,-40; main t2 17,-75
47,-73 53,-30 40,10 46,58 38,80 20,78 16,50 22,10 10,-40; trim i1:7 18,10 16,-26 29,-50 46,-26 42,10 / sandal: dark p1 -84,26 -20,30 84,26
90,36 80,46 -84,46; deep p1 -84,20 0,26 88,20 88,28 -84,30; main l2:13 30,24 34,-10 56,-4 72,22; main l2:12 -66,22 -84,-30 -66,-42 -50,-36;
main l2:11 -74,-30 -30,-30 -6,-10 2,24; main l2:10 -6,-12 16,-14 36,-2 / perfume: dark m1 0,-86 18,-86 18,-52 0,-52; metal m0 0,-56 10,-56
10,-36 0,-36; lite m1 0,-40 42,-40 46,70 40,76 0,76; main m1 0,-10 38,-12 41,62 36,70 0,70; white m0 0,12 22,12 22,42 0,42; ink b0:2 0,22
14,22 / polish: dark m1 0,-90 14,-90 18,-4 0,-2; lite m1 0,-4 20,-4 36,12 36,66 28,72 0,72; main m1 0,4 17,4 31,17 31,60 25,66 0,66; white
b0:2 0,34 14,34; glint l0:3 -25,22 -25,56 / lipstick: main p1 -12,-30 -12,-74 -2,-84 12,-62 12,-30; metal m0 0,-34 14,-34 14,10 0,10; dark
m1 0,6 19,6 19,84 0,84; glint l0:2.5 -13,12 -13,78; metal b0:3 0,10 19,10 / gift: main m0 0,-30 60,-30 58,70 0,70; deep m0 0,-40 66,-40
66,-16 0,-16; trim m0 0,-40 9,-40 9,70 0,70; trim t2 0,-40 10,-74 44,-74 36,-46 / basketball: main e0 0,0 70,70; ink l0:2.5 -70,0 70,0; ink
l0:2.5 0,-70 0,70; ink i3:2.5 50,-50 20,-30 20,30 50,50 / cushion: main m2 0,-60 50,-60 72,-74 62,-40 62,40 72,74 50,60 0,60 /"""
Points = NDArray[np.float64]  # (N, 2): x and y
_CIRCLE = np.stack([np.cos(np.arange(40) * np.pi / 20), np.sin(np.arange(40) * np.pi / 20)], 1)


class _Job(NamedTuple):
    row: int
    kind: list[str]
    labels: dict[str, str]  # as they were before a quirk changed them
    size_px: tuple[int, int]
    greyscale: bool
    files: list[str]  # more than one: twins


@dataclass(frozen=True, kw_only=True)
class SynthSummary:
    """What `write_synth` wrote: lines in styles.csv, files under images/, and the bytes of those files."""

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
    on_progress: Callable[[int], None] | None = None,
) -> SynthSummary:
    """Draw a stand-in data set into `out`: `styles.csv` with `rows` lines below its header, and `images/<id>.jpg`.

    The bytes depend on rows, size and seed, never on `workers`; from 100 rows on every articleType and every quirk of the real set occurs.
    `on_progress` is told the number of pictures finished since its last call. Nothing is left behind on an exception.
    Raises InputError if `out` exists and is not an empty folder, ConfigError if a number is out of range.
    """
    import cv2

    limits = {"rows": (rows, 1, 10**8), "seed": (seed, 0, 2**63 - 1), "workers": (workers, 1, 1024)}
    for name, (value, low, high) in (limits | {"width_px": (width_px, 16, 4096), "height_px": (height_px, 16, 4096)}).items():
        if not low <= value <= high:
            raise ConfigError(f"synthetic data set: {name}: expected {low}..{high}, found {value}")
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"synthetic data set: {out} already exists and is not an empty folder: remove it or name another")
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    sizes: list[int] = []
    try:
        (beside / "images").mkdir(parents=True)
        lines, jobs = _table(rows, (width_px, height_px), seed)
        (beside / "styles.csv").write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8", newline="\n")
        draw = partial(_draw, beside / "images", seed)
        with ProcessPoolExecutor(workers, get_context("spawn"), partial(cv2.setNumThreads, 1)) if workers > 1 else nullcontext() as pool:
            for written in pool.map(draw, jobs, chunksize=max(1, min(16, len(jobs) // (4 * workers)))) if pool else map(draw, jobs):
                sizes += written
                if on_progress is not None:
                    on_progress(len(written))
        beside.replace(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return SynthSummary(out=out, rows=rows, images=len(sizes), num_bytes=sum(sizes))


def _table(rows: int, size_px: tuple[int, int], seed: int) -> tuple[list[str], list[_Job]]:
    """The lines of styles.csv, and the pictures to draw."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 2**64 - 1], np.uint64)))
    share = np.array([int(num) for _, num, *_ in _KINDS], float)
    # one of each first: the rare classes are what breaks splits and metrics, and a plain draw of a small set would miss them
    first = np.arange(len(share) if rows >= MIN_ROWS_FOR_QUIRKS else 0)
    places = rng.permutation(np.concatenate([first, rng.choice(len(share), rows - len(first), p=share / share.sum())]))
    ids = (1163 + rng.permutation(max(58_837, 2 * rows))[:rows]).tolist()

    def one_of(options: Any) -> Any:
        return options[int(rng.random() * len(options))]

    true: list[dict[str, str]] = []
    for place, number in zip(places, ids, strict=True):
        path, _, _, _, palette, *letters = _KINDS[place]
        gender, season, usage = (names[one_of(share)] for names, share in zip((_GENDERS, _SEASONS, _USAGES), letters, strict=True))
        colour, brand = one_of(_PALETTES.get(palette, _COLOUR_SHARES)), one_of(_BRANDS)
        name = f"{brand} {gender} {colour} {path.split('/')[2]}"
        cells = [str(number), gender, *path.split("/"), colour, season, one_of(_YEARS), usage, name]
        true.append(dict(zip(HEADER.split(","), cells, strict=True)))
    table = [dict(labels) for labels in true]
    # quirks fall on common classes only, and never two on a row, so that a class's single example stays whole
    spare = iter(rng.permutation(np.flatnonzero(np.bincount(places)[places] >= 4)).tolist())

    def some(real_count: int, at_least: int = 1) -> list[int]:
        count = round(real_count / _REAL_ROWS * rows)
        return list(islice(spare, max(count, at_least) if rows >= MIN_ROWS_FOR_QUIRKS else count))

    for row in some(_MALFORMED):
        noun = true[row]["articleType"]
        table[row]["productDisplayName"] = true[row]["productDisplayName"].removesuffix(f" {noun}") + f", {noun}"
    for column, text, real_count in _ERASED:
        for row in some(real_count):
            table[row][column] = text
    no_picture, greyscale, odd = some(_NO_PICTURE), set(some(_GREYSCALE)), set(some(_ODD_SIZE))
    twins = dict(zip(some(_TWINS, 2), some(_TWINS, 2), strict=False))
    for nth, (row, source) in enumerate(twins.items()):
        table[row] = true[source] | {"id": true[row]["id"]}
        if nth % 100 == 0:  # in the real set twins disagree in 9 seasons and 6 subCategories of 653 groups
            paths = [kind[0].split("/") for kind in _KINDS if f"/{true[source]['subCategory']}/" not in kind[0]]
            table[row] |= dict(zip(("masterCategory", "subCategory", "articleType"), one_of(paths), strict=True))
            table[row]["season"] = one_of([season for season in _SEASONS.values() if season != true[source]["season"]])
    jobs: dict[int, _Job] = {}
    for row in sorted(set(range(rows)) - set(no_picture)):
        source, frame = twins.get(row, row), (size_px[0], size_px[1] * 3 // 4) if row in odd else size_px
        job = jobs.setdefault(source, _Job(source, _KINDS[places[source]], true[source], frame, row in greyscale, []))
        job.files.append(f"{ids[row]}.jpg")
    return [",".join(labels.values()) for labels in table], list(jobs.values())


def _draw(folder: Path, seed: int, job: _Job) -> list[int]:
    """Write one picture under each of its names; the bytes of each file."""
    import cv2

    rng, (width, height) = np.random.Generator(np.random.Philox(key=np.array([seed, job.row], np.uint64))), job.size_px
    over = -(-320 // height)  # small pictures are drawn larger and averaged down, as a camera would
    image, mask = _paint(job, width * over, height * over, rng)
    image, mask = (cv2.resize(a, (width, height), interpolation=cv2.INTER_AREA) for a in (_light(image, mask, rng), mask))
    side = min(512, 1 << (max(width, height) - 1).bit_length())
    noise = rng.standard_normal((side, side)).astype(np.float32)
    # thread and film grain, as strong as gives a pixel the bytes that it has in a photograph: 0.16 at 1800x2400
    weave = cv2.GaussianBlur(noise, (1, 9), 0) + cv2.GaussianBlur(noise, (9, 1), 0)
    tile = np.tile((height / 1000) ** 0.65 * (2.0 * noise + 4.0 * weave), (-(-height // side), -(-width // side)))
    grain = tile[:height, :width] * (mask * np.float32(0.8 / 255) + np.float32(0.2))
    image = cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
    if job.greyscale:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return [(folder / name).write_bytes(data) for name in job.files]


@cache
def _drawing(name: str) -> list[tuple[str, float, Points]]:
    """The layers from back to front: tone, line width (0: an area), outline."""
    layers: list[tuple[str, float, Points]] = []
    flip = np.array([-1.0, 1.0])
    for stroke in _DRAWINGS.replace("\n", " ").partition(f"/ {name}: ")[2].partition(" /")[0].split("; "):
        if stroke.startswith("="):
            layers += _drawing(stroke[1:])
            continue
        tone, code, *pairs = stroke.split()
        op, (number, _, size) = code[0], code[1:].partition(":")
        points, size_units = np.array([pair.split(",") for pair in pairs], float) / 100, float(size or 0) / 100
        if op == "o":
            layers += [(tone, 0.0, centre + _CIRCLE * size_units) for centre in np.linspace(points[0], points[-1], int(number))]
            continue
        if op in "ed":
            points = points[0] + _CIRCLE * points[1]
        elif op in "mb":
            points = np.concatenate([points[::-1] * flip, points])
        for _ in range(int(number)):  # Chaikin's corner cutting
            after = np.roll(points, -1, axis=0)
            cut = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], 1).reshape(-1, 2)
            points = np.concatenate([points[:1], cut[1:-3], points[-1:]]) if op in "lib" else cut
        layers += [(tone, size_units, outline) for outline in ([points, points * flip] if op in "dti" else [points])]
    return layers


def _paint(job: _Job, width: int, height: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Flat colours (H, W, 3) on white, and the product's mask (H, W), both uint8."""
    import cv2

    cold = rng.random() < (0.8 if job.labels["season"] in ("Fall", "Winter") else 0.15)
    layers = _drawing(job.kind[2].split(",")[-1 if cold else 0])
    place, scale_px = _pose(job, layers, width, height, rng)
    tones, pattern = _tones(job, rng), _pattern(str(rng.choice(list(job.kind[3]))), rng)
    image, mask = np.full((height, width, 3), 255, np.uint8), np.zeros((height, width), np.uint8)

    def draw(target: NDArray[Any], outline: Points, colour: Any, line_width: float, closed: bool = False) -> None:
        fixed = [np.round(place(outline) * 16).astype(np.int32)]
        if line_width:
            cv2.polylines(target, fixed, closed, colour, max(1, round(line_width * scale_px)), cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(target, fixed, colour, cv2.LINE_AA, 4)

    printed = np.full_like(image, tones["main"])
    for shape, tone in pattern:
        draw(printed, shape, tones[tone], 0.0)
    for tone, line_width, outline in layers:
        draw(image, outline, tones[tone], line_width)
        draw(mask, outline, 0 if tone == "hole" else 255, line_width)
        if pattern and tone == "main" and not line_width:
            inside = np.zeros_like(mask)
            draw(inside, outline, 255, 0.0)
            cv2.copyTo(printed, (inside > 127).view(np.uint8), image)
        if not line_width:  # a darker rim keeps neighbouring parts of one colour apart
            draw(image, outline, [0.78 * c for c in tones[tone]], 0.006, closed=True)
    return image, mask


def _pose(job: _Job, layers: list[Any], width: int, height: int, rng: np.random.Generator) -> tuple[Callable[[Points], Points], float]:
    """The map from drawing units to pixels, and a unit in pixels: stretched, bent, turned, fitted to the frame, moved."""
    stretch = rng.normal(1, 0.06) * (1.1 if job.labels["gender"] in ("Boys", "Girls") else 1.0)
    waist = 0.12 if job.labels["gender"] == "Women" and job.kind[0].startswith("Apparel") else 0.0
    taper, bend, skew, angle = rng.normal(0, [0.04, 0.04, 0.04, 0.07])
    flip, fill, move = rng.choice([-1.0, 1.0]), rng.uniform(0.74, 0.95), rng.uniform(0.25, 0.75, 2)

    def bent(points: Points) -> Points:
        x, y = points.T
        x = flip * (x * (stretch + taper * y - waist * np.exp(-(((y - 0.05) / 0.25) ** 2))) + bend * y * y)
        return np.stack([x * np.cos(angle) - y * np.sin(angle), y * np.cos(angle) + x * (np.sin(angle) + skew)], 1)

    everything = np.concatenate([bent(outline) for _, _, outline in layers])
    frame, low, extent = np.array([width, height]), everything.min(axis=0), np.ptp(everything, axis=0)
    scale_px = fill * float((frame / extent).min())
    return lambda points: (bent(points) - low) * scale_px + (frame - extent * scale_px) * move, scale_px


def _tones(job: _Job, rng: np.random.Generator) -> dict[str, list[float]]:
    """The (blue, green, red) of each tone, 0..255."""
    # a weak cue for season, as in the real set: summer is brighter and more saturated than winter
    saturation, value = {"Summer": (1.2, 1.04), "Spring": (1.0, 1.1), "Fall": (0.85, 0.92), "Winter": (0.7, 0.82)}[job.labels["season"]]
    shown = (job.labels["baseColour"], str(rng.choice(_COLOUR_SHARES)), str(rng.choice(["Red", "Green", "Blue", "White"])))
    colours = np.array([_COLOURS[name] for name in shown]) + rng.normal(0, 4, (3, 3))
    grey = colours.mean(axis=1, keepdims=True)
    main, third, gem = (grey + (colours - grey) * saturation) * value
    black, white, gold, steel = np.full(3, 27.0), np.full(3, 244.0), _COLOURS["Gold"], _COLOURS["Silver"]
    trim = (third, 0.3 * main + 0.7 * white, 0.4 * main)[rng.integers(3)]
    if abs(trim.mean() - main.mean()) < 25:
        trim = white if main.mean() < 130 else black
    dial, ink = (white, black) if rng.random() < 0.5 else (black, white)
    metal = gold if job.labels["baseColour"] in ("Gold", "Copper") or rng.random() < 0.3 else steel
    seam = 0.65 * main if main.mean() > 70 else 0.7 * main + 0.3 * white
    lite, glint, glass = 0.5 * main + 0.5 * white, 0.35 * main + 0.65 * white, black + rng.uniform(0, 40, 3)
    tones = {"main": main, "trim": trim, "third": third, "gem": gem, "dial": dial, "ink": ink, "metal": metal, "seam": seam, "lite": lite}
    tones |= {"glint": glint, "glass": glass, "deep": 0.6 * main, "dark": 1.4 * black, "white": white, "hole": np.full(3, 255.0)}
    return {tone: np.clip(colour, 0, 255).tolist() for tone, colour in tones.items()}


def _pattern(letter: str, rng: np.random.Generator) -> list[tuple[Points, str]]:
    """Outlines and tones to lay over the main colour."""
    period, share, across = rng.uniform(0.07, 0.24), rng.uniform(0.25, 0.6), np.linspace(-1.6, 1.6, 9)
    shapes: list[tuple[Points, str]] = []
    for low in np.arange(-1.6, 1.6, period) if letter in "hvc" else ():
        band = np.stack([[*across, *across[::-1]], [low] * 9 + [low + share * period] * 9], 1)
        shapes += [(band, "trim")] * (letter in "hc") + [(band[:, ::-1], "third" if letter == "c" else "trim")] * (letter in "vc")
    for _ in range(int(rng.integers(60, 220)) if letter == "d" else 0):
        blob = _CIRCLE * rng.uniform(0.01, 0.05, 2) + rng.uniform(-1, 1, 2) * (0.8, 1.2)
        shapes.append((blob, str(rng.choice(["trim", "third", "lite"]))))
    return shapes


def _light(image: NDArray[Any], mask: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Multiply by volume, side light and folds on the product, and by a soft shadow on the ground around it."""
    import cv2

    height, width = mask.shape
    small = (max(8, round(160 * width / height)), 160)  # light is smooth: 160 lines carry it at any size
    body = cv2.resize(mask, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    volume = cv2.GaussianBlur(body, (0, 0), rng.uniform(4, 7))
    side = np.gradient(cv2.GaussianBlur(body, (0, 0), 9.0), axis=1) * rng.choice([-1, 1]) * rng.uniform(1.5, 4)
    folds = cv2.resize(rng.standard_normal((9, 16)).astype(np.float32), small, interpolation=cv2.INTER_CUBIC)
    shade = np.minimum(0.72 + 0.3 * volume**1.5 + side + rng.uniform(0.02, 0.06) * folds, 1.12)
    shift = np.array([[1, 0, rng.uniform(-5, 5)], [0, 1, rng.uniform(1, 7)]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(body, shift, small), (0, 0), rng.uniform(3, 8)) * rng.uniform(0.08, 0.4)
    ground = min(1.0, rng.uniform(0.98, 1.01)) - shadow
    on, off = (cv2.resize(part.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) for part in (shade, ground))
    return cv2.multiply(image, cv2.merge([off + (on - off) * (mask * np.float32(1 / 255))] * 3), dtype=cv2.CV_8U)
