"""Drawing one image of the stand-in data set.

    drawing ─► pose ─► colours, pattern ─► light, shadow ─► grain ─► JPEG

All random numbers come from the image's own generator, in a fixed order: one draw more, or elsewhere, changes all later ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfashion.sources.synth_data import CIRCLE, Points, Stroke, read_colour_shares, read_colours, read_drawing

Pixels = NDArray[Any]  # (H, W) or (H, W, 3) in OpenCV's order: blue, green, red

MIN_CANVAS_HEIGHT_PX = 320
JPEG_QUALITY = 90
SUBPIXEL_BITS = 4  # OpenCV takes coordinates as fixed-point numbers
RIM_WIDTH = 0.006  # drawing units
LIGHT_LINES = 160
BLACK, WHITE = np.full(3, 27.0), np.full(3, 244.0)
SATURATION_AND_BRIGHTNESS = {"Summer": (1.2, 1.04), "Spring": (1.0, 1.1), "Fall": (0.85, 0.92), "Winter": (0.7, 0.82)}


class Drawing(NamedTuple):
    """Everything that an image depends on, except the seed of the data set."""

    row: int
    labels: dict[str, str]  # before a quirk changed them
    drawings: tuple[str, str]  # for warm and for cold seasons
    patterns: tuple[str, ...]  # one of these
    size_px: tuple[int, int]  # width, height
    greyscale: bool
    files: list[str]  # several: twins


def row_generator(seed: int, row: int) -> np.random.Generator:
    """The random numbers of one row, independent of all other rows."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, row], np.uint64)))


def write_image(folder: Path, seed: int, drawing: Drawing) -> list[int]:
    """Write an image under each of its names; returns the size of each file in bytes."""
    import cv2

    rng = row_generator(seed, drawing.row)
    width, height = drawing.size_px
    # small images are drawn larger and averaged down, as a camera would
    enlarged = -(-MIN_CANVAS_HEIGHT_PX // height)
    image, mask = _paint(drawing, width * enlarged, height * enlarged, rng)
    image = cv2.resize(_light(image, mask, rng), (width, height), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    image = cv2.add(image, cv2.merge([_grain(mask, rng)] * 3), dtype=cv2.CV_8U)
    if drawing.greyscale:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return [(folder / name).write_bytes(data) for name in drawing.files]


def _paint(drawing: Drawing, width: int, height: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Flat colours (H, W, 3) on white, and the product's mask (H, W) 0..255, both uint8."""
    import cv2

    cold_share = 0.8 if drawing.labels["season"] in ("Fall", "Winter") else 0.15
    warm_drawing, cold_drawing = drawing.drawings
    strokes = read_drawing(cold_drawing if rng.random() < cold_share else warm_drawing)
    to_pixels, unit_px = _pose(drawing.labels, strokes, width, height, rng)
    tones = _tones(drawing.labels, rng)
    pattern = _pattern(str(rng.choice(drawing.patterns)), rng)

    image = np.full((height, width, 3), 255, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    cloth = np.full_like(image, tones["main"])
    for shape, tone in pattern:
        _fill(cloth, to_pixels(shape), tones[tone])
    for tone, line_width, outline in strokes:
        outline_px, colour, covered = to_pixels(outline), tones[tone], 0 if tone == "hole" else 255
        if line_width:
            _line(image, outline_px, colour, line_width * unit_px)
            _line(mask, outline_px, covered, line_width * unit_px)
            continue
        _fill(image, outline_px, colour)
        _fill(mask, outline_px, covered)
        if pattern and tone == "main":
            area = np.zeros_like(mask)
            _fill(area, outline_px, 255)
            cv2.copyTo(cloth, (area > 127).view(np.uint8), image)
        # a darker rim keeps neighbouring parts of one colour apart
        _line(image, outline_px, [0.78 * part for part in colour], RIM_WIDTH * unit_px, closed=True)
    return image, mask


def _fill(target: Pixels, outline_px: Points, colour: Any) -> None:
    """Fill an outline in place; `colour` is a number, or three."""
    import cv2

    cv2.fillPoly(target, [_fixed_point(outline_px)], colour, cv2.LINE_AA, SUBPIXEL_BITS)


def _line(target: Pixels, outline_px: Points, colour: Any, width_px: float, closed: bool = False) -> None:
    """Draw a line in place, at least one pixel wide; `colour` is a number, or three."""
    import cv2

    cv2.polylines(target, [_fixed_point(outline_px)], closed, colour, max(1, round(width_px)), cv2.LINE_AA, SUBPIXEL_BITS)


def _fixed_point(points_px: Points) -> NDArray[np.int32]:
    return np.round(points_px * 2**SUBPIXEL_BITS).astype(np.int32)


def _pose(
    labels: dict[str, str], strokes: tuple[Stroke, ...], width: int, height: int, rng: np.random.Generator
) -> tuple[Callable[[Points], Points], float]:
    """The map from drawing units to pixels, and a unit's length in pixels: stretched, bent, turned, fitted to the frame, moved."""
    stretch = rng.normal(1, 0.06) * (1.1 if labels["gender"] in ("Boys", "Girls") else 1.0)  # with the waist, a weak cue for gender
    waist = 0.12 if labels["gender"] == "Women" and labels["masterCategory"] == "Apparel" else 0.0
    taper, bend, skew, angle = rng.normal(0, [0.04, 0.04, 0.04, 0.07])
    flip = rng.choice([-1.0, 1.0])
    filled = rng.uniform(0.74, 0.95)  # of the frame, in its tighter direction
    position = rng.uniform(0.25, 0.75, 2)  # within the room that is left

    def posed(points: Points) -> Points:
        x, y = points.T
        x = flip * (x * (stretch + taper * y - waist * np.exp(-(((y - 0.05) / 0.25) ** 2))) + bend * y * y)
        return np.stack([x * np.cos(angle) - y * np.sin(angle), y * np.cos(angle) + x * (np.sin(angle) + skew)], 1)

    everything = np.concatenate([posed(stroke.outline) for stroke in strokes])
    frame, low, extent = np.array([width, height]), everything.min(axis=0), np.ptp(everything, axis=0)
    unit_px = filled * float((frame / extent).min())
    return lambda points: (posed(points) - low) * unit_px + (frame - extent * unit_px) * position, unit_px


def _tones(labels: dict[str, str], rng: np.random.Generator) -> dict[str, list[float]]:
    """The (blue, green, red) of each tone of a drawing or a pattern, 0..255."""
    colours = read_colours()
    main, third, gem = _product_colours(labels, rng)
    trim = (third, 0.3 * main + 0.7 * WHITE, 0.4 * main)[rng.integers(3)]
    if abs(trim.mean() - main.mean()) < 25:  # hardly to be seen
        trim = WHITE if main.mean() < 130 else BLACK
    dial, ink = (WHITE, BLACK) if rng.random() < 0.5 else (BLACK, WHITE)
    golden = labels["baseColour"] in ("Gold", "Copper") or rng.random() < 0.3
    tones = {
        "main": main,
        "trim": trim,
        "third": third,
        "gem": gem,
        "dial": dial,
        "ink": ink,
        "metal": colours["Gold"] if golden else colours["Silver"],
        "seam": 0.65 * main if main.mean() > 70 else 0.7 * main + 0.3 * WHITE,
        "lite": 0.5 * main + 0.5 * WHITE,
        "glint": 0.35 * main + 0.65 * WHITE,
        "glass": BLACK + rng.uniform(0, 40, 3),
        "deep": 0.6 * main,
        "dark": 1.4 * BLACK,
        "white": WHITE,
        "hole": np.full(3, 255.0),
    }
    return {tone: np.clip(colour, 0, 255).tolist() for tone, colour in tones.items()}


def _product_colours(labels: dict[str, str], rng: np.random.Generator) -> NDArray[np.float64]:
    """(3, 3): the product's own colour, any other colour, and a gem's, as blue, green, red; may leave 0..255 a little."""
    names = (labels["baseColour"], str(rng.choice(read_colour_shares())), str(rng.choice(["Red", "Green", "Blue", "White"])))
    colours = np.array([read_colours()[name] for name in names]) + rng.normal(0, 4, (3, 3))
    # a weak cue for season, as in the real set: summer is brighter and more saturated than winter
    saturation, brightness = SATURATION_AND_BRIGHTNESS[labels["season"]]
    grey = colours.mean(axis=1, keepdims=True)
    return (grey + (colours - grey) * saturation) * brightness


def _pattern(name: str, rng: np.random.Generator) -> list[tuple[Points, str]]:
    """Outlines in drawing units, and their tones, to draw over the main colour in turn; none for a plain product."""
    period, share = rng.uniform(0.07, 0.24), rng.uniform(0.25, 0.6)
    if name == "plain":
        return []
    if name == "dotted":
        return _dots(rng)
    shapes: list[tuple[Points, str]] = []
    across = np.linspace(-1.6, 1.6, 9)  # beyond every drawing; several points, so that the pose can bend a stripe
    for low in np.arange(-1.6, 1.6, period):
        stripe = np.stack([[*across, *across[::-1]], [low] * 9 + [low + share * period] * 9], 1)
        if name in ("horizontal", "checked"):
            shapes.append((stripe, "trim"))
        if name in ("vertical", "checked"):
            shapes.append((stripe[:, ::-1], "third" if name == "checked" else "trim"))
    return shapes


def _dots(rng: np.random.Generator) -> list[tuple[Points, str]]:
    """Ellipses in drawing units, scattered over the product, and their tones."""
    dots: list[tuple[Points, str]] = []
    for _ in range(int(rng.integers(60, 220))):
        outline = CIRCLE * rng.uniform(0.01, 0.05, 2) + rng.uniform(-1, 1, 2) * (0.8, 1.2)
        dots.append((outline, str(rng.choice(["trim", "third", "lite"]))))
    return dots


def _light(image: Pixels, mask: Pixels, rng: np.random.Generator) -> Pixels:
    """Multiply by volume, side light and folds on the product, and by a soft shadow on the ground around it; uint8 (H, W, 3)."""
    import cv2

    height, width = mask.shape
    # light is smooth, so this many lines are enough at any size
    small = (max(8, round(LIGHT_LINES * width / height)), LIGHT_LINES)
    body = cv2.resize(mask, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    volume = cv2.GaussianBlur(body, (0, 0), rng.uniform(4, 7))
    side = np.gradient(cv2.GaussianBlur(body, (0, 0), 9.0), axis=1) * rng.choice([-1, 1]) * rng.uniform(1.5, 4)
    folds = cv2.resize(rng.standard_normal((9, 16)).astype(np.float32), small, interpolation=cv2.INTER_CUBIC)
    on_product = np.minimum(0.72 + 0.3 * volume**1.5 + side + rng.uniform(0.02, 0.06) * folds, 1.12)

    shift = np.array([[1, 0, rng.uniform(-5, 5)], [0, 1, rng.uniform(1, 7)]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(body, shift, small), (0, 0), rng.uniform(3, 8)) * rng.uniform(0.08, 0.4)
    on_ground = min(1.0, rng.uniform(0.98, 1.01)) - shadow

    product, ground = (cv2.resize(part.astype(np.float32), (width, height)) for part in (on_product, on_ground))
    light = ground + (product - ground) * (mask * np.float32(1 / 255))
    return cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U)


def _grain(mask: Pixels, rng: np.random.Generator) -> Pixels:
    """Film grain and thread to add to an image, most of it on the product: float32 (H, W) around 0."""
    import cv2

    height, width = mask.shape
    side = min(512, 1 << (max(width, height) - 1).bit_length())  # one tile, repeated: noise is slow to draw
    noise = rng.standard_normal((side, side)).astype(np.float32)
    threads = cv2.GaussianBlur(noise, (1, 9), 0) + cv2.GaussianBlur(noise, (9, 1), 0)
    # so strong that a pixel takes as many bytes as in a photograph: 0.16 at 1800x2400
    tile = (height / 1000) ** 0.65 * (2.0 * noise + 4.0 * threads)
    grain = np.tile(tile, (-(-height // side), -(-width // side)))[:height, :width]
    return grain * (mask * np.float32(0.8 / 255) + np.float32(0.2))
