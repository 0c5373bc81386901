"""The parts of the stand-in data set: kinds of product, colours and drawings, from the data files beside this one."""

import csv
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2): x and y

# colours of kinds that do not exist in every colour; one named twice is twice as frequent
PALETTES = {
    "denim": ("Blue", "Navy Blue", "Black", "Grey"),
    "leather": ("Black", "Black", "Brown", "Brown", "Tan", "Grey", "White", "Beige", "Navy Blue", "Red", "Khaki"),
    "metal": ("Silver", "Gold", "Steel", "Black", "White", "Brown", "Copper"),
}
MIRROR = np.array([-1.0, 1.0])
CIRCLE = np.stack([np.cos(np.arange(40) * np.pi / 20), np.sin(np.arange(40) * np.pi / 20)], 1)  # 40 points, radius 1


class Product(NamedTuple):
    """A kind of product; in the tuples of choices a name is repeated as often as its weight says."""

    categories: dict[str, str]  # masterCategory, subCategory, articleType
    real_count: int  # rows in the real set
    drawings: tuple[str, str]  # for warm and for cold seasons
    patterns: tuple[str, ...]
    colours: tuple[str, ...]
    genders: tuple[str, ...]
    seasons: tuple[str, ...]
    usages: tuple[str, ...]


class Stroke(NamedTuple):
    """One shape of a drawing."""

    tone: str
    line_width: float  # drawing units; 0: the outline is filled
    outline: Points  # drawing units, y down


@cache
def read_kinds() -> tuple[Product, ...]:
    """All kinds, in the order of synth_kinds.csv."""
    colours = PALETTES | {"any": read_colour_shares()}
    return tuple(
        Product(
            categories={column: line[column] for column in ("masterCategory", "subCategory", "articleType")},
            real_count=int(line["real_count"]),
            drawings=(line["warm_drawing"], line["cold_drawing"]),
            patterns=_expand(line["patterns"]),
            colours=colours[line["palette"]],
            genders=_expand(line["genders"]),
            seasons=_expand(line["seasons"]),
            usages=_expand(line["usages"]),
        )
        for line in csv.DictReader(_read_text("synth_kinds.csv").splitlines())
    )


@cache
def read_colours() -> dict[str, NDArray[np.float64]]:
    """The (blue, green, red) of each colour, 0..255: OpenCV's order."""
    lines = csv.DictReader(_read_text("synth_colours.csv").splitlines())
    return {line["name"]: np.array([*reversed(bytes.fromhex(line["rgb"]))], float) for line in lines}


@cache
def read_colour_shares() -> tuple[str, ...]:
    """Names of colours, each as often as its weight says: the hundreds of rows it has in the real set."""
    lines = csv.DictReader(_read_text("synth_colours.csv").splitlines())
    return tuple(line["name"] for line in lines for _ in range(int(line["weight"])))


@cache
def read_drawing(name: str) -> tuple[Stroke, ...]:
    """The strokes of a drawing from back to front; synth_drawings.txt explains its own notation."""
    strokes: list[Stroke] = []
    for line in _drawing_lines()[name]:
        if line.startswith("use "):
            strokes += read_drawing(line.removeprefix("use "))
        else:
            strokes += _parse_stroke(line)
    return tuple(strokes)


@cache
def _drawing_lines() -> dict[str, list[str]]:
    """The lines of each drawing, by its name."""
    lines = [line for line in _read_text("synth_drawings.txt").splitlines() if not line.startswith("#")]
    blocks = [block.splitlines() for block in "\n".join(lines).strip().split("\n\n")]
    return {name: strokes for name, *strokes in blocks}


def _parse_stroke(line: str) -> list[Stroke]:
    """One line of a drawing: several strokes if it describes circles or a pair."""
    tone, shape, *words = line.split()
    points = np.array([word.split(",") for word in words if "," in word], float) / 100
    settings = dict(word.split("=") for word in words if "=" in word)
    if shape == "circles":
        radius = float(settings["radius"]) / 100
        centres = np.linspace(points[0], points[-1], int(settings["count"]))
        return [Stroke(tone, 0.0, centre + CIRCLE * radius) for centre in centres]
    if shape == "ellipse":
        centre, radii = points
        points = centre + CIRCLE * radii
    if "half" in words:
        points = np.concatenate([points[::-1] * MIRROR, points])
    for _ in range(int(settings.get("smooth", 0))):
        points = _cut_corners(points, closed=shape != "line")
    line_width = float(settings.get("width", 0)) / 100
    outlines = [points, points * MIRROR] if "pair" in words else [points]
    return [Stroke(tone, line_width, outline) for outline in outlines]


def _cut_corners(points: Points, closed: bool) -> Points:
    """A rounder outline with about twice the points (Chaikin 1974); a line that is not closed keeps its ends."""
    following = np.roll(points, -1, axis=0)
    cut = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    # the ends replace the new points beside them; the last two new points are between the end and the start
    return cut if closed else np.concatenate([points[:1], cut[1:-3], points[-1:]])


def _expand(weights: str) -> tuple[str, ...]:
    """`"Men:2 Women:1"` to `("Men", "Men", "Women")`."""
    names: list[str] = []
    for entry in weights.split():
        name, weight = entry.split(":")
        names += [name] * int(weight)
    return tuple(names)


def _read_text(name: str) -> str:
    return (resources.files("fastfashion.sources") / name).read_text(encoding="utf-8")
