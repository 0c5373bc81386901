"""What the page shows, as HTML: bars, overlays, products, tables. All text from outside is escaped; images stand in the HTML itself."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from fastfashion.errors import InputError
from fastfashion.images import codec
from fastfashion.serve.products import Products
from fastfashion.serve.state import BatchLine, Look
from fastfashion.words import counted

LARGE_PX = 224  # height of an overlay
_SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy"}


def page_title(run: str, model: str, size: str, classes: Mapping[str, Sequence[str]]) -> str:
    heads = ", ".join(f"{escape(task)} ({len(names)})" for task, names in classes.items())
    return _wrap(
        f"<h1 style='font-size:1.35rem;font-weight:700;margin:.2rem 0'>What is in this image?</h1>"
        f"<p class=muted>{escape(run)}: {escape(model)} at {escape(size)}. It answers {heads}.</p>"
    )


def error(text: str) -> str:
    return _wrap(f"<div class=error role=alert><strong>Not answered.</strong> {escape(text)}</div>")


def note(text: str) -> str:
    return _wrap(f"<p class=note>{escape(text)}</p>")


def text(text: str) -> str:
    return _wrap(f"<p>{escape(text)}</p>")


def answers(look: Look) -> str:
    """All heads as bars, the most probable class first."""
    heads = "".join(f"<section class=head><h3>{escape(task)}</h3>{_bars(best)}</section>" for task, best in look.answers.items())
    return _wrap(
        f"<h2>Answers</h2><div class=heads>{heads}</div>"
        f"<p class=muted>Calibrated probabilities; {1000 * look.seconds:.0f} ms on the server.</p>",
        live=True,
    )


def _bars(best: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for one in best:
        percent = 100 * one["probability"]
        lines.append(
            f"<li><i class=bar style='width:{percent:.1f}%'></i><span>{escape(one['label'])}</span><span>{_percent(percent)}</span></li>"
        )
    return f"<ol class=bars>{''.join(lines)}</ol>"


def _percent(percent: float) -> str:
    return "&lt; 1 %" if percent < 1 else "&gt; 99 %" if percent >= 99.5 else f"{percent:.0f} %"


def overlays(look: Look) -> str:
    """Where the model looked, an image a head."""
    if look.no_overlay:
        return note(f"Where the model looked cannot be shown: {look.no_overlay}.")
    figures = "".join(
        f"<figure class=map><img src='{data_uri(_enlarged(pixels))}' alt='where the model looked for {escape(task, quote=True)}'>"
        f"<figcaption>{escape(task)}: {escape(look.answers[task][0]['label'])}</figcaption></figure>"
        for task, pixels in look.overlays.items()
    )
    return _wrap(
        f"<h2>Where the model looked</h2><p class=muted>Red speaks most for the answer, dark blue least (class activation map).</p>"
        f"<div class=images>{figures}</div>"
    )


def nearest(look: Look, products: Products | None, why_not: str) -> str:
    """The training set's products that are most like the image, or why they are not shown."""
    if products is None:
        return note(f"The nearest products cannot be shown: {why_not}")
    if products.problem:
        return note(f"The nearest products cannot be shown: {products.problem}")
    if not products.ready:
        share = 100 * products.done / max(1, len(products.rows))
        return note(f"The nearest products come later: the training set is being looked at, once, {share:.0f} % are done. Ask again then.")
    figures = "".join(_product(products, row, cosine) for row, cosine in look.nearest)
    return _wrap(f"<h2>Nearest products of the training set</h2><div class=images>{figures}</div>")


def _product(products: Products, row: int, cosine: float) -> str:
    identity, names = products.caption(row)
    try:
        image = f"<img src='{_jpeg_uri(products.jpeg(row))}' alt='product {escape(identity, quote=True)}'>"
    except (InputError, OSError):
        image = "<p class=muted>no image</p>"
    labels = " · ".join(dict.fromkeys(names[:4]))
    alike = f"{max(0.0, 100 * cosine):.0f} % alike"
    return f"<figure>{image}<figcaption>{escape(labels)}<br><span class=muted>{escape(identity)}, {alike}</span></figcaption></figure>"


def batch_table(lines: Sequence[BatchLine], tasks: Sequence[str], seconds: float) -> str:
    """A line an image: the best class of each head, or why there is none."""
    bad = sum(line.record["error"] is not None for line in lines)
    head = "".join(f"<th scope=col>{escape(task)}</th>" for task in tasks)
    rows = "".join(_batch_row(line, tasks) for line in lines)
    told = f"{counted(len(lines) - bad, 'image')} answered in {seconds:.1f} s"
    told += f", {counted(bad, 'other')} could not be read" if bad else ""
    return _wrap(
        f"<p role=status>{told}.</p><div class=scroll tabindex=0 role=region aria-label='Answers'>"
        f"<table><thead><tr><th scope=col></th><th scope=col>file</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _batch_row(line: BatchLine, tasks: Sequence[str]) -> str:
    name = escape(line.record["path"])
    if line.pixels is None:
        return f"<tr class=bad><td></td><td class=name>{name}</td><td colspan={len(tasks)}>{escape(line.record['error'])}</td></tr>"
    cells = "".join(
        f"<td>{escape(best['label'])} <span class=muted>{_percent(100 * best['probability'])}</span></td>"
        for best in (line.record["answers"][task][0] for task in tasks)
    )
    return f"<tr><td><img src='{data_uri(line.pixels)}' alt=''></td><td class=name>{name}</td>{cells}</tr>"


def results(report: Mapping[str, Any] | None, run: str, plots: Mapping[str, Sequence[str]]) -> str:
    """The run's test numbers, and its plots: group -> file names, which the server has under /run/plots/."""
    if report is None:
        return note(f"This run was not tested yet. Test it with: fastfashion evaluate {run}")
    split, rows = report["split"], []
    for task, values in report["tasks"].items():
        cells = "".join(_score(values, name) for name in _SCORES)
        rest = f"<td class=number>{values['top3_accuracy']:.3f}</td><td class=number>{values['calibration_error']:.3f}</td>"
        rest += f"<td class=number>{values['chance_accuracy']:.3f}</td><td class=number>{values['n']}</td>"
        rows.append(f"<tr><th scope=row>{escape(task)}</th>{cells}{rest}</tr>")
    names = [*_SCORES.values(), "top 3", "calibration error", "largest class", "images"]
    head = "".join(f"<th scope=col class=number>{name}</th>" for name in names)
    images = "".join(
        f"<details{' open' if number == 0 else ''}><summary>{escape(group)}</summary><div class=plots>"
        + "".join(f"<img loading=lazy src='run/plots/{escape(name, quote=True)}' alt='{escape(name, quote=True)}'>" for name in files)
        + "</div></details>"
        for number, (group, files) in enumerate(plots.items())
    )
    return _wrap(
        f"<p>{split['num_rows']} test images of the {escape(str(split['protocol']))} split, which the model never saw; "
        f"trained on {split['train_rows']}.</p>"
        f"<div class=scroll tabindex=0 role=region aria-label='Test numbers'><table><thead><tr><th scope=col>label</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f"<p class=muted>In brackets: 95 % interval of the choice of images. Largest class: what answering it always would score.</p>"
        f"<h2>Plots</h2>{images or '<p class=muted>none</p>'}"
    )


def _score(values: Mapping[str, Any], name: str) -> str:
    interval = values.get("intervals", {}).get(name)
    ends = f" <span class=muted>({interval[0]:.3f}–{interval[1]:.3f})</span>" if interval else ""
    return f"<td class=number>{values[name]:.3f}{ends}</td>"


def api_text(url: str, task: str, limits: str) -> str:
    """How to ask from a program."""
    answer = f'{{"answers": {{"{task}": [{{"label": "…", "probability": 0.93}}, …], …}}, "milliseconds": 21}}'
    curl = f"curl --data-binary @image.jpg '{url}api/answer?top=3'"
    python = (
        "import json, urllib.request\n"
        f"request = urllib.request.Request('{url}api/answer?top=3', open('image.jpg', 'rb').read())\n"
        "answers = json.load(urllib.request.urlopen(request))['answers']\n"
        f"print(answers['{task}'][0])"
    )
    return _wrap(
        "<h2>POST api/answer</h2><p>The body is one encoded image: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF; a form with one file, or JSON "
        '<code>{"image": "BASE64"}</code>. <code>top</code> is how many classes a label has in the answer (3).</p>'
        f"<pre tabindex=0>{escape(curl)}</pre><p>answers</p><pre tabindex=0>{escape(answer)}</pre>"
        f"<p>In Python, with nothing to install:</p><pre tabindex=0>{escape(python)}</pre>"
        '<p>Otherwise <code>{"error": "…"}</code> with the reason and status 400 (an image that cannot be answered), 413 (too large), '
        "415 (no image in the body) or 503 (too many wait: ask again after the seconds in <code>Retry-After</code>), among others.</p>"
        "<h2>GET api/model</h2><p>answers the run's name, its backbone, the size of its input, and the classes of each label.</p>"
        f"<h2>Limits</h2><p>{escape(limits)}</p>"
        "<p class=muted>Where the server asks for a password: <code>curl --user NAME:PASSWORD …</code></p>"
    )


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3) as an address that is the image itself."""
    return _jpeg_uri(codec.encode_jpeg(pixels, 88, "444"))


def _jpeg_uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    scale = max(1.0, LARGE_PX / pixels.shape[0])
    return codec.resize(pixels, round(pixels.shape[0] * scale), round(pixels.shape[1] * scale))


def _wrap(inner: str, *, live: bool = False) -> str:
    return f"<div class=ff{' aria-live=polite' if live else ''}>{inner}</div>"
