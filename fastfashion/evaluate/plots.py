"""Plots of a run as PNG files; matplotlib is imported when a plot is drawn, and its global state (pyplot) is never used."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastfashion.files import publish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# The first six are Okabe and Ito 2008, told apart with every common colour blindness; their yellow is too pale for lines on white, so
# the seventh is the wine red of Tol 2021.
TASK_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#882255")
INK, MUTED, LIGHT, FAINT = "#222222", "#777777", "#BBBBBB", "#ECECEC"
DPI = 160
# A count of five digits at 5 points still fits its cell up to here; with more classes such cells would make the image too large.
MAX_CLASSES_WITH_COUNTS = 60
MIN_TITLE_IN = 3.6  # names of classes and the scale beside a small panel are as wide together
LETTER_WIDTH = 0.6  # of a letter of the title, as a share of its height; few are wider in the mean


def plot_confusion(path: Path, confusion: np.ndarray, class_names: Sequence[str], *, title: str) -> Path:
    """Draw a confusion matrix, each row coloured by its shares and, up to 60 classes, each cell with its count.

    confusion: int (C, C), rows true, columns predicted; class_names: C names. Classes in neither rows nor columns are left out; the
    row of a class that was only predicted is grey. Returns `path`, whose folder is made if it is missing.
    Raises ValueError if names and matrix do not match, or the matrix is empty or holds no counts.
    """
    confusion = np.asarray(confusion)
    _expect("confusion", confusion.shape, (len(class_names), len(class_names)))
    if confusion.dtype.kind not in "iu":
        raise ValueError(f"confusion: expected integer counts, found dtype {confusion.dtype}")
    seen = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    if not seen.size:
        raise ValueError("confusion: expected at least 1 sample, found 0")
    counts, names, n = confusion[np.ix_(seen, seen)], [class_names[int(i)] for i in seen], len(seen)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=counts > 0)

    with_counts = n <= MAX_CLASSES_WITH_COUNTS
    cell_in = min(0.9, 0.2 + 4 / n) if with_counts else 0.135
    font = float(np.clip(cell_in * 28, 6, 10))
    label_font = 10 if n <= 20 else 13 if with_counts else 18
    names_fit = max(map(len, names)) * font * 0.65 < cell_in * 72
    from matplotlib.colors import PowerNorm

    figure, axes = _axes(n * cell_in, n * cell_in)
    # A linear scale leaves confusions of a few percent white.
    norm = PowerNorm(0.4, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    for row in np.flatnonzero(totals == 0):
        axes.axhspan(row - 0.5, row + 0.5, color=FAINT, linewidth=0)
    if with_counts:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if norm(shares[row, column]) > 0.65 else INK
            size = float(np.clip(cell_in * 20, 5, 10))
            axes.text(column, row, str(counts[row, column]), color=color, fontsize=size, ha="center", va="center")
    axes.set_xticks(range(n), names, rotation=0 if names_fit else 90, fontsize=font, parse_math=False)
    axes.set_yticks(range(n), names, fontsize=font, parse_math=False)
    edges = np.arange(n + 1) - 0.5
    axes.hlines(edges, edges[0], edges[-1], color="#E4E4E4", linewidth=0.4)
    axes.vlines(edges, edges[0], edges[-1], color="#E4E4E4", linewidth=0.4)
    axes.tick_params(length=0)
    axes.spines[:].set_color(LIGHT)
    axes.set_xlabel("predicted", fontsize=label_font)
    axes.set_ylabel("true", fontsize=label_font)
    axes.set_title(_wrapped(title, n * cell_in, label_font + 1), loc="left", fontsize=label_font + 1, parse_math=False)
    _share_bar(figure, axes, image, side_in=n * cell_in, font=label_font - 2)
    return _save(figure, path)


def plot_training(path: Path, history: Sequence[Mapping[str, Any]], *, title: str) -> Path:
    """Draw a run: left the losses over steps, right validation accuracy and macro F1 of each task over epochs.

    history: the lines of metrics.jsonl, "step" lines with step and loss, "epoch" lines with epoch, step and val. Values that are
    missing or not finite leave gaps; of lines with the same step or epoch the last counts. Returns `path`.
    """
    # A resumed run repeats the steps between its checkpoint and its end.
    steps = {line["step"]: line for line in history if line["kind"] == "step"}
    epochs = {line["epoch"]: line for line in history if line["kind"] == "epoch"}
    step_axis, epoch_axis = sorted(steps), sorted(epochs)
    tasks = list(dict.fromkeys(task for line in epochs.values() for task in line["val"]))

    def val(task: str, key: str) -> np.ndarray:
        return np.array([epochs[epoch]["val"].get(task, {}).get(key) for epoch in epoch_axis], dtype=float)

    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 3.8))
    figure.set_layout_engine("constrained", wspace=0.06)
    figure.suptitle(_wrapped(title, 9.6, 11), x=0.01, ha="left", fontsize=11, parse_math=False)
    left, right = figure.subplots(1, 2)
    score = f"validation score, {_plain(tasks[0])}" if len(tasks) == 1 else "validation score"
    for axes, xlabel, ylabel in ((left, "step", "loss"), (right, "epoch", score)):
        axes.set(xlabel=xlabel, ylabel=ylabel, axisbelow=True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        _style(axes)

    loss = np.array([steps[step].get("loss") for step in step_axis], dtype=float)
    left.plot(step_axis, loss, color=LIGHT, linewidth=0.6)
    left.plot(step_axis, _smooth(loss), color=INK, linewidth=1.5, marker="." if len(step_axis) == 1 else "")
    val_steps = [epochs[epoch]["step"] for epoch in epoch_axis]
    hollow = {"linestyle": "--", "marker": "s", "markersize": 4, "markerfacecolor": "white"}
    for i, task in enumerate(tasks):
        color = TASK_COLORS[i % len(TASK_COLORS)]
        left.plot(val_steps, val(task, "loss"), "o", color=color, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
        right.plot(epoch_axis, val(task, "accuracy"), "-o", color=color, linewidth=1.5, markersize=4)
        right.plot(epoch_axis, val(task, "macro_f1"), color=color, linewidth=1.5, **hollow)
    if not tasks:
        right.text(0.5, 0.5, "no validation yet", color=MUTED, ha="center", va="center", transform=right.transAxes)
        right.set(xticks=[], yticks=[])
    elif len(epoch_axis) == 1:
        right.set_xlim(epoch_axis[0] - 0.5, epoch_axis[0] + 0.5)
    _training_legends(figure, left, right, tasks, hollow)
    return _save(figure, path)


def plot_per_class(path: Path, f1: np.ndarray, support: np.ndarray, class_names: Sequence[str], *, title: str) -> Path:
    """Draw the F1 of each class as a bar, most frequent class on top, with its support beside it.

    f1: float (C,) in [0, 1]; support: int (C,), classes with 0 are left out; class_names: C names. Returns `path`.
    Raises ValueError if the lengths differ or no class has support.
    """
    f1, support = np.asarray(f1), np.asarray(support)
    _expect("f1", f1.shape, (len(class_names),))
    _expect("support", support.shape, (len(class_names),))
    order = np.argsort(-support, kind="stable")
    order = order[support[order] > 0]
    if not order.size:
        raise ValueError("support: expected at least 1 class with samples, found 0")
    n = len(order)
    bar_in, font = (0.26, 9) if n <= 20 else (0.19, 8) if n <= 60 else (0.15, 7)

    figure, axes = _axes(4.5, n * bar_in)
    # The pale track leads the eye from the name to the support even where F1 is 0.
    axes.barh(range(n), 1, height=0.72, color=FAINT)
    axes.barh(range(n), f1[order], height=0.72, color=TASK_COLORS[0])
    axes.set_yticks(range(n), [class_names[int(i)] for i in order], fontsize=font, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(n - 0.5, -0.5), xlabel="F1")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    texts = [f"{support[i]:,}" for i in order]
    right_in = (10 + 0.64 * font * max(len(text) for text in [*texts, "support"])) / 72
    x = 1 + right_in / 4.5
    for place, text in enumerate(texts):
        axes.text(x, place, text, fontsize=font, color=INK, ha="right", va="center_baseline")
    axes.text(x, -0.6, "support", fontsize=font, color=MUTED, ha="right", va="bottom")
    axes.set_title(_wrapped(title, 4.5, 11), loc="left", fontsize=11, pad=16, parse_math=False)
    return _save(figure, path)


def plot_reliability(path: Path, counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray, *, title: str) -> Path:
    """Draw accuracy over confidence, a bar a bin against the diagonal, and under it how many rows each bin holds.

    counts: int (B,); confidence, accuracy: float (B,) in [0, 1], means over each bin of equal parts of (0, 1]; at least one
    row. Returns `path`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5.4))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    figure.subplots_adjust(hspace=0.08)
    width, full = 1 / len(counts), counts > 0
    centres = (np.arange(len(counts)) + 0.5) * width
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    upper.bar(centres[full], accuracy[full], width=width * 0.92, color=TASK_COLORS[4])
    upper.plot(confidence[full], accuracy[full], "o", color=INK, markersize=4)
    error = float(counts @ np.abs(accuracy - confidence) / counts.sum())
    upper.text(0.04, 0.93, f"calibration error {error:.3f}", color=INK, fontsize=10, transform=upper.transAxes, va="top")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    lower.bar(centres, counts, width=width * 0.92, color=LIGHT)
    lower.set(yscale="symlog", ylim=(0, None), xlabel="confidence", ylabel="rows")
    for axes in (upper, lower):
        _style(axes)
    upper.set_title(_wrapped(title, 3.6, 11), loc="left", fontsize=11, parse_math=False)
    return _save(figure, path)


def _style(axes: "Axes") -> None:
    """Pale lines left and below, none elsewhere."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT)
    axes.tick_params(color=LIGHT, labelsize=9)


def _axes(width_in: float, height_in: float) -> "tuple[Figure, Axes]":
    """One pair of axes of exactly this size; names and titles are outside of it, and the saved image grows by what they need."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in))
    return figure, figure.add_axes((0, 0, 1, 1))


def _share_bar(figure: "Figure", axes: "Axes", image: "AxesImage", *, side_in: float, font: float) -> None:
    width_in, height_in = max(0.12, 0.012 * side_in), max(3.0, 0.3 * side_in)
    bar = axes.inset_axes((1 + width_in / side_in, 0, width_in / side_in, min(1.0, height_in / side_in)))
    figure.colorbar(image, cax=bar, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1], format="{x:.0%}")
    bar.set_ylabel("share of the true class", fontsize=font)
    bar.tick_params(labelsize=font, length=2)
    bar.spines[:].set_visible(False)


def _training_legends(figure: "Figure", left: "Axes", right: "Axes", tasks: Sequence[str], hollow: dict[str, Any]) -> None:
    """The legend of line styles is in the panels, that of colours, once for both, beside them."""
    from matplotlib.lines import Line2D

    color = TASK_COLORS[0] if len(tasks) == 1 else MUTED
    losses = [Line2D([], [], color=LIGHT, linewidth=0.6, label="training"), Line2D([], [], color=INK, label="training, smoothed")]
    if tasks:
        losses.append(Line2D([], [], color=color, linestyle="", marker="o", markersize=4.5, label="validation"))
        scores = [
            Line2D([], [], color=color, marker="o", markersize=4, label="accuracy"),
            Line2D([], [], color=color, label="macro F1", **hollow),
        ]
        right.legend(handles=scores, frameon=False, fontsize=9)
    left.legend(handles=losses, frameon=False, fontsize=9)
    if len(tasks) > 1:
        colors = [Line2D([], [], color=TASK_COLORS[i % len(TASK_COLORS)], linewidth=3, label=_plain(task)) for i, task in enumerate(tasks)]
        figure.legend(handles=colors, loc="outside right center", frameon=False, fontsize=9, handlelength=1)


def _wrapped(title: str, width_in: float, font: float) -> str:
    """A title in lines no wider than the panel below it, or than MIN_TITLE_IN: a longer one would widen the whole image.

    Names of runs have hyphens but no spaces, and break there.
    """
    letters = max(width_in, MIN_TITLE_IN) * 72 / (font * LETTER_WIDTH)
    return "\n".join(textwrap.wrap(title, int(letters))) or title


def _plain(text: str) -> str:
    """A dollar sign would start mathematics in labels that take no `parse_math`."""
    return text.replace("$", r"\$")


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving mean over about a fiftieth of the run, over finite values only; at the ends the window shrinks, so nothing lags."""
    if not len(values):
        return values
    half = len(values) // 100
    finite = np.isfinite(values)
    kernel = np.ones(2 * half + 1)
    inside = slice(half, half + len(values))
    sums = np.convolve(np.where(finite, values, 0.0), kernel)[inside]
    counts = np.convolve(finite.astype(float), kernel)[inside]
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=finite)


def _expect(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise ValueError(f"{name}: expected shape {expected} to match {expected[0]} class names, found {found}")


def _save(figure: "Figure", path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15, facecolor="white")

    publish(path, write)
    return path
