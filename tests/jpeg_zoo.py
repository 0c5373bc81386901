"""A zoo of small JPEGs made by code: `zoo` is always the same, `jpegs` draws any. `python tests/jpeg_zoo.py FOLDER` writes `zoo` to files.

Pillow, simplejpeg and jpeg_writer.py write them. `damaged` makes files that end early or have wrong bits, for the same answer as ever.
"""

import io
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from hypothesis import strategies as st
from jpeg_writer import AC_VALUES, DC_VALUES, EOI, Form, Huffman, blocks_of, coefficients, comb, flat, usual_tables, write
from odd_writers import JFIF, adobe, jpeg_segment
from PIL import Image

SAMPLINGS = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}
SIZES = ((1, 1), (1, 40), (2, 3), (7, 9), (8, 8), (16, 16), (17, 33), (33, 17), (48, 36), (70, 69))
CONTENTS = ("smooth", "noise", "black and white", "flat", "edges")
# No code of all ones, nor one as short as most; values that no coefficient of 8 bits needs have codes, too.
LONG = {0x00: comb(DC_VALUES, 6), 0x10: comb(AC_VALUES, 7), 0x01: comb(DC_VALUES[::-1], 9), 0x11: comb(AC_VALUES[::-1], 8)}
EVEN = {0x00: flat(DC_VALUES), 0x10: flat(AC_VALUES), 0x01: flat(DC_VALUES), 0x11: flat(AC_VALUES)}
ALL_TAKEN = Huffman((0,) * 6 + (81, 94) + (0,) * 8, AC_VALUES + AC_VALUES[:13])  # the last code is all ones
FINE = ((1,) * 64, (1,) * 64)


class Jpeg(NamedTuple):
    """A JPEG, and what is known of it."""

    data: bytes
    height: int
    width: int
    plain: bool = True  # our own decoder must take it, and not leave it to libjpeg-turbo


def pixels(content: str, height: int, width: int, seed: int = 0, gray: bool = False) -> np.ndarray:
    """Uint8 (height, width, 3), or (height, width) if gray."""
    rng = np.random.default_rng([seed, height, width])
    if content == "smooth":
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        drawn = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    elif content == "flat":
        drawn = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3))
    elif content == "noise":
        drawn = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    elif content == "black and white":
        drawn = np.repeat(rng.integers(0, 2, (height, width, 1), dtype=np.uint8) * 255, 3, axis=2)
    else:  # saturated colours with sharp edges, on white as products are
        drawn = np.full((height, width, 3), 255, np.uint8)
        for _ in range(4):
            y, x = int(rng.integers(height)), int(rng.integers(width))
            drawn[y : y + height // 2 + 1, x : x + width // 3 + 1] = rng.integers(0, 2, 3, dtype=np.uint8) * 255
    return np.ascontiguousarray(drawn[..., 0] if gray else drawn)


def by_pillow(drawn: np.ndarray, **options: Any) -> Jpeg:
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "JPEG", **({"quality": 80} | options))
    return Jpeg(file.getvalue(), *drawn.shape[:2], plain=not options.get("progressive", False))


def by_simplejpeg(drawn: np.ndarray, quality: int, sampling: str) -> Jpeg:
    encode = simplejpeg.encode_jpeg
    if drawn.ndim == 2:
        return Jpeg(encode(drawn[..., None], quality, "GRAY", colorsubsampling="Gray"), *drawn.shape)
    return Jpeg(encode(drawn, quality, colorsubsampling=sampling), *drawn.shape[:2])


def by_us(drawn: np.ndarray, **options: Any) -> Jpeg:
    """With jpeg_writer.py; the form's numbers are those of the pixels."""
    form = Form(**({"numbers": (1, 2, 3) if drawn.ndim == 3 else (1,)} | options))
    height, width = drawn.shape[:2]
    return Jpeg(write(coefficients(drawn, form), height, width, form), height, width)


def wild(how: str, sampling: str, seed: int = 0, **options: Any) -> Jpeg:
    """Coefficients that no image has, but that baseline codes can say, in 3 x 2 MCUs; either decoder may take them."""
    form = Form(luma=SAMPLINGS[sampling], **options)
    height, width = 24 * form.luma[1], 16 * form.luma[0]
    rng = np.random.default_rng(seed)
    parts = []
    for rows, columns in blocks_of(form, height, width):
        part = np.zeros((rows, columns, 64), int)
        if how == "differences":  # of 2047, up and down
            part[..., 0] = np.where(np.arange(rows * columns) % 2, 1023, -1024).reshape(rows, columns)
        elif how == "runs":  # three runs of 16 zeros, and what is left, before the last
            part[..., 63] = rng.integers(-1023, 1024, (rows, columns))
        elif how == "all":
            part[...] = rng.integers(-1023, 1024, part.shape)
        elif how == "ones":  # ten bits that are one, and stuffing everywhere
            part[..., 1:] = 1023
        elif how == "any run":
            for block in part.reshape(-1, 64):
                at = np.cumsum(rng.integers(1, 40, 20))
                block[at[at < 64]] = rng.choice([-1, 1, 2, -3, 900], int((at < 64).sum()))
        parts.append(part)
    return Jpeg(write(parts, height, width, form), height, width, plain=False)


WILD = ("differences", "runs", "all", "ones", "any run")


@cache
def zoo() -> dict[str, Jpeg]:
    """Whole files by name: plain ones of all kinds, and valid ones that go to libjpeg-turbo or Pillow."""
    found: dict[str, Jpeg] = {}
    for height, width in SIZES:
        for i, content in enumerate(CONTENTS):
            drawn, gray = pixels(content, height, width), pixels(content, height, width, gray=True)
            quality = (90, 75, 100, 30, 1)[i]
            name = f"{content} {height}x{width} quality {quality}"
            for sampling in SAMPLINGS:
                found[f"{name} {sampling}"] = by_simplejpeg(drawn, quality, sampling)
            found[f"{name} gray"] = by_simplejpeg(gray, quality, "Gray")
    found |= {f"quality {q}": by_pillow(pixels("noise", 33, 41), quality=q) for q in range(1, 101, 11)}
    for number, (sampling, factors) in enumerate(SAMPLINGS.items()):
        drawn = pixels("smooth", 45, 52)
        forms = _forms(factors)
        found |= {f"{sampling} {name}": by_us(drawn, **form) for name, form in forms.items()}
        found |= {f"{sampling} {name}": by_pillow(drawn, subsampling=number, **options) for name, options in _OPTIONS.items()}
        found |= {f"{sampling} {how}": wild(how, sampling) for how in WILD}
        found |= {f"{sampling} {how}, long codes": wild(how, sampling, tables=LONG) for how in WILD}
        found |= {f"{sampling} {how}, even codes": wild(how, sampling, tables=EVEN) for how in WILD}
        found |= {f"{sampling} {how}, fine steps": wild(how, sampling, steps=FINE) for how in WILD}
    gray = pixels("smooth", 45, 52, gray=True)
    found |= {f"gray {name}": by_us(gray, **(form | {"numbers": form.get("numbers", (1,))[:1]})) for name, form in _forms((1, 1)).items()}
    found |= {f"gray {name}": by_pillow(gray, **options) for name, options in _OPTIONS.items()}
    return found | _others()


_OPTIONS: dict[str, dict[str, Any]] = {
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restart at each MCU": {"restart_marker_blocks": 1},
    "restart at 3 MCUs": {"restart_marker_blocks": 3},
    "restart at each row": {"restart_marker_rows": 1},
    "restart, optimised": {"restart_marker_blocks": 2, "optimize": True},
    "comment": {"comment": b"\xff\xd9 no end \xff\xda"},
}


def _forms(luma: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """Ways to write one image with jpeg_writer.py."""
    usual = {"luma": luma}
    return {
        "by us": usual,
        "numbers from 0": usual | {"numbers": (0, 1, 2)},
        "without JFIF": usual | {"before": b""},
        "Adobe's marker": usual | {"before": adobe(1)},
        "JFIF and Adobe's marker": usual | {"before": JFIF + adobe(1)},
        "segments": usual | {"before": JFIF + b"".join(jpeg_segment(0xE0 + i, bytes(i)) for i in range(3, 14)) + jpeg_segment(0xFE, b"")},
        "fill bytes": usual | {"fill": 3},
        "fill bytes, restart": usual | {"fill": 5, "restart": 2},
        "restart": usual | {"restart": 4},
        "tables together": usual | {"together": True},
        "tables twice": usual | {"twice": True},
        "tables twice, together": usual | {"twice": True, "together": True},
        "one table": usual | {"chroma_place": 0, "tables": {place: usual_tables()[place] for place in (0x00, 0x10)}},
        "long codes": usual | {"tables": LONG},
        "even codes": usual | {"tables": EVEN},
        "fine steps": usual | {"steps": FINE},
        "coarse steps": usual | {"steps": ((255,) * 64, (255,) * 64)},
        "an image after the end": usual | {"tail": EOI + by_pillow(pixels("flat", 8, 8)).data},
    }


def _others() -> dict[str, Jpeg]:
    """Valid, or nearly so, and not for our own decoder."""
    drawn = pixels("smooth", 45, 52)
    found = {
        "fill bytes in the header": by_us(drawn, fill_before=2),
        "JFIF of version 2": by_us(drawn, before=JFIF.replace(b"JFIF\0\1", b"JFIF\0\2")),
        "a code of ones alone": by_us(drawn, tables=usual_tables() | {0x10: ALL_TAKEN}),
        "hundreds of tables": by_us(drawn, before=JFIF + jpeg_segment(0xC4, usual_tables()[0].body(0)) * 300),
        "16-bit steps": by_us(drawn, wide_steps=True),
        "16-bit steps above 255": by_us(drawn, wide_steps=True, steps=((300,) * 64, (20,) * 64)),
        "extended": by_us(drawn, frame=0xC1),
        "tables at place 2": by_us(
            drawn, chroma_place=2, tables={place & 0x10 | 2 * (place & 1): t for place, t in usual_tables().items()}
        ),
        "bytes after the end": by_us(drawn, tail=EOI + bytes(50)),
        "without an end": by_us(drawn, tail=b""),
        "a part of a marker at the end": by_us(drawn, tail=b"\xff"),
        "numbers of others": by_us(drawn, numbers=(7, 8, 9)),
        "numbers RGB": by_us(drawn, numbers=(82, 71, 66)),
        "Adobe's marker, RGB": by_us(drawn, before=adobe(0)),
        "4:4:0": by_us(drawn, luma=(1, 2)),
        "4:1:1": by_us(drawn, luma=(4, 1)),
        "a lone 2x2": _lone(drawn[..., 0]),
    }
    for name, (how, new) in _ENDS.items():
        data = by_us(drawn, luma=(2, 2), restart=4).data
        at = data.index(how)
        found[name] = Jpeg(data[:at] + new + data[at + len(how) :], 45, 52)
    return {name: image._replace(plain=False) for name, image in found.items()}


# Restart markers that are missing, in the wrong order, or twice.
_ENDS = {
    "a restart marker is missing": (b"\xff\xd0", b""),
    "restart markers in another order": (b"\xff\xd1", b"\xff\xd3"),
    "a restart marker twice": (b"\xff\xd0", b"\xff\xd0\xff\xd0"),
    "an end in the middle": (b"\xff\xd0", EOI),
    "a frame in the middle": (b"\xff\xd1", b"\xff\xc0\0\x0b\x08\0\x10\0\x10\1\1\x11\0"),
}


def _lone(gray: np.ndarray) -> Jpeg:
    """One component that says 2x2, which means nothing for a lone one."""
    image = by_us(gray)
    at = image.data.index(b"\xff\xc0")
    return image._replace(data=image.data[: at + 11] + b"\x22" + image.data[at + 12 :])


def damaged(image: Jpeg, flips: int = 0, step: int = 1, seed: int = 0) -> Iterator[bytes]:
    """The file cut before each of its bytes (each `step`th), then `flips` copies with one to three wrong bits."""
    yield from (image.data[:length] for length in range(2, len(image.data), step))
    rng = np.random.default_rng(seed)
    for _ in range(flips):
        new = bytearray(image.data)
        for bit in rng.integers(16, 8 * len(new), int(rng.integers(1, 4))).tolist():
            new[bit // 8] ^= 1 << bit % 8
        yield bytes(new)


@st.composite
def jpegs(draw: st.DrawFn, most: int = 70) -> Jpeg:
    """Any whole JPEG of up to `most` pixels a side, by any of the writers."""
    height, width, seed = draw(st.integers(1, most)), draw(st.integers(1, most)), draw(st.integers(0, 9))
    sampling = draw(st.sampled_from(["gray", *SAMPLINGS]))
    drawn = pixels(draw(st.sampled_from(CONTENTS)), height, width, seed, gray=sampling == "gray")
    writer: Callable[..., Jpeg] = draw(st.sampled_from([by_pillow, by_simplejpeg, by_us]))
    if writer is by_simplejpeg:
        return by_simplejpeg(drawn, draw(st.integers(1, 100)), sampling)
    if writer is by_pillow:
        options: dict[str, Any] = {"quality": draw(st.integers(1, 100)), "optimize": draw(st.booleans())}
        options |= {} if sampling == "gray" else {"subsampling": list(SAMPLINGS).index(sampling)}
        options |= draw(st.sampled_from([{}, {}, {"restart_marker_blocks": draw(st.integers(1, 9))}, {"restart_marker_rows": 1}]))
        return by_pillow(drawn, **options, progressive=draw(st.integers(0, 9)) == 0)
    form = draw(st.sampled_from(list(_forms(SAMPLINGS.get(sampling, (1, 1))).values())))
    if sampling == "gray":
        form = form | {"numbers": form.get("numbers", (1,))[:1], "luma": (1, 1)}
    elif "numbers" not in form:
        form = form | {"numbers": (1, 2, 3)}
    return by_us(drawn, **(form | {"fill": draw(st.integers(0, 3)), "restart": draw(st.sampled_from([0, 0, 1, 2, 7]))}))


def main(folder: Path) -> None:
    """Write the zoo to files: seeds of the fuzzer."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(zoo().values()):
        (folder / f"{number:04}.jpg").write_bytes(image.data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
