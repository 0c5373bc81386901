"""What the page shows, as HTML: bars, overlays, products, tables, filled into the parts of the template page.jinja."""

import base64
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from fastfashion.errors import InputError
from fastfashion.images import codec
from fastfashion.serve.products import Products
from fastfashion.serve.state import BatchLine, Look
from fastfashion.words import counted

LARGE_PX = 224  # height of an overlay


def html(part: str, /, **values: Any) -> str:
    """A part of the page, by the name of its macro; all text in the values is escaped."""
    live = " aria-live=polite" if part == "answers" else ""
    return f"<div class=ff{live}>{getattr(_template().module, part)(**values)}</div>"


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "enlarged": _enlarged, "image": data_uri, "jpeg": _jpeg_uri}
    return environment.get_template("page.jinja")


def error(text: str) -> str:
    return html("error", text=text)


def note(text: str) -> str:
    return html("note", text=text)


def overlays(look: Look) -> str:
    """Where the model looked, an image a head, or why that is not shown."""
    return note(f"Cannot show where the model looked: {look.no_overlay}.") if look.no_overlay else html("overlays", look=look)


def nearest(look: Look, products: Products | None, why_not: str) -> str:
    """The training set's products that are most like the image, or why they are not shown."""
    if products is None or products.problem:
        return note(f"Cannot show the nearest products: {why_not if products is None else products.problem}")
    if not products.ready:
        share = 100 * products.done / max(1, len(products.rows))
        return note(f"The nearest products are not ready: reading the training set, once, {share:.0f} % done. Try again later.")
    return html("nearest", products=[_product(products, row, cosine) for row, cosine in look.nearest])


def _product(products: Products, row: int, cosine: float) -> dict[str, Any]:
    identity, names = products.caption(row)
    try:
        jpeg = products.jpeg(row)
    except (InputError, OSError):
        jpeg = b""
    return {"identity": identity, "labels": " · ".join(dict.fromkeys(names[:4])), "jpeg": jpeg, "percent": max(0.0, 100 * cosine)}


def batch_table(lines: Sequence[BatchLine], tasks: Sequence[str], seconds: float) -> str:
    """A line an image: the best class of each head, or why there is none."""
    bad = sum(line.record["error"] is not None for line in lines)
    said = f"{counted(len(lines) - bad, 'image')} answered in {seconds:.1f} s"
    said += f", {counted(bad, 'other')} could not be read" if bad else ""
    return html("batch_table", lines=lines, tasks=tasks, said=said)


def results(report: Mapping[str, Any] | None, run: str, plots: Mapping[str, Sequence[str]]) -> str:
    """The run's test numbers, and its plots: group -> file names, which the server has under /run/plots/."""
    if report is None:
        return note(f"This run has not been tested yet. Test it with: fastfashion evaluate {run}")
    return html("results", report=report, plots=plots)


def _percent(percent: float) -> str:
    return "< 1 %" if percent < 1 else "> 99 %" if percent >= 99.5 else f"{percent:.0f} %"


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3) as an address that is the image itself."""
    return _jpeg_uri(codec.encode_jpeg(pixels, 88, "444"))


def _jpeg_uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    scale = max(1.0, LARGE_PX / pixels.shape[0])
    return codec.resize(pixels, round(pixels.shape[0] * scale), round(pixels.shape[1] * scale))
