"""The plot of published results beside ours."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from fastfashion.evaluate.plots import FAINT, INK, LIGHT, MUTED, TASK_COLORS
from fastfashion.files import publish


def plot_cells(path: Path, rows: Sequence[Mapping[str, Any]], sources: Mapping[str, str], protocols: Mapping[str, str]) -> None:
    """Draw a line a cell, accuracy left and macro F1 right: published values, ours with interval by protocol, the ceiling.

    rows: those of `reproduce`, at least one; sources, protocols: the keys of published scores and of ours, with their names in the legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.6 + 0.42 * len(rows)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, score, title in zip(panels, ("accuracy", "macro_f1"), ("accuracy", "macro F1"), strict=True):
        for place, row in enumerate(rows):
            _draw_cell(axes, place, row, score, sources, protocols)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=9)
        axes.grid(axis="x", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(LIGHT)
        axes.tick_params(length=0)
    handles, labels = panels[1].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    publish(path, lambda beside: figure.savefig(beside, format="png", dpi=130, facecolor="white"))


def _name(row: Mapping[str, Any]) -> str:
    other = " (OTHER DATA)" if row["data"] == "other" else ""
    return f"{row['task']}, {row['images']}, {row['model']}{other}"


def _draw_cell(axes: Any, place: int, row: Mapping[str, Any], score: str, sources: Mapping[str, str], protocols: Mapping[str, str]) -> None:
    for (source, label), marker in zip(sources.items(), cycle("Dos^"), strict=False):
        if row[source][score] is not None:
            axes.plot(row[source][score], place, marker, color=MUTED, markerfacecolor="white", markersize=6, label=label, zorder=2)
    if row["ceiling"][score] is not None and row["ceiling"][score] < 1:
        axes.plot([row["ceiling"][score]] * 2, [place - 0.35, place + 0.35], color=INK, linewidth=2, label="ceiling of the split")
    for number, (protocol, name) in enumerate(protocols.items()):
        if row[protocol] is None:
            continue
        drop, color, label = 0.22 * number, TASK_COLORS[number], f"ours{name}, 95 % interval"
        low, high = row[protocol][score]["interval"]
        axes.plot([low, high], [place + drop] * 2, color=color, linewidth=1.6, alpha=0.6, zorder=3)
        axes.plot(statistics.fmean(row[protocol][score]["seeds"]), place + drop, "o", color=color, markersize=6, label=label, zorder=4)
