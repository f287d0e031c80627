"""The chart as accuracy.png and accuracy.svg, for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.charts.lines import STYLES
from privet.charts.pictures import COLOURS, INK, MUTED, drawing, in_legend, saved
from privet.files import write_whole
from privet.reports.sweep.axes import Point, View, accuracies, views
from privet.reports.sweep.marks import Mark, marks, settings
from privet.sweeps.results import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP"
_LONGEST_NAME = 40


def write_pictures(sweep: Sweep, folder: Path) -> tuple[str, ...]:
    """Write the page's chart as it is first shown; return the names, none without an accuracy."""
    found = settings(sweep)
    shown = marks(found)
    if not shown:
        return ()
    with drawing():
        figure = _figure(views(sweep, shown)[0], shown, accuracies(shown, found)[0].points)
        write_whole(folder / "accuracy.png", saved(figure, "png", dpi=200))
        write_whole(folder / "accuracy.svg", saved(figure, "svg", dpi=200))
    return "accuracy.png", "accuracy.svg"


def _figure(view: View, shown: Sequence[Mark], points: Sequence[Point]) -> Figure:
    """The places along the axis are those of the page, in per cent."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.grid(visible=False, axis="x")
    axis.set(xlim=(0, 100), xlabel=view.label or "setting", ylabel="accuracy")
    ticks = [*view.scale.ticks, *([view.lane] if view.lane else [])]
    axis.set_xticks([tick.at for tick in ticks], [tick.text for tick in ticks])
    for place in range(len(view.names)):
        _series(axis, view, place, shown, points)
    if view.lane:
        _break(axis)
    _legend(figure, axis, len(view.names))
    return figure


def _series(
    axis: Axes, view: View, series: int, shown: Sequence[Mark], points: Sequence[Point]
) -> None:
    """One series: its runs, its estimates with intervals, and what joins or extends them."""
    colour, marker = _look(view.names[series].style)
    mine = [i for i, of in enumerate(view.series) if of == series and points[i].value is not None]
    cells, means = ([i for i in mine if bool(shown[i].cell) is kind] for kind in (True, False))
    at, heights = view.scale.at, [point.value or 0.0 for point in points]
    x, y = ([[values[i] for i in places] for places in (cells, means)] for values in (at, heights))
    axis.scatter(x[0], y[0], s=20, color=colour, alpha=0.3, linewidth=0)
    halves = [points[i].half or 0.0 for i in means]
    look: dict[str, Any] = {"color": colour, "markersize": 5, "elinewidth": 1.4}
    axis.errorbar(
        x[1],
        y[1],
        yerr=halves,
        fmt=marker,
        label=in_legend(view.names[series].name, most=_LONGEST_NAME),
        **look,
    )
    for a, b in view.joins:
        if a in means and b in means:
            axis.plot([at[a], at[b]], [heights[a], heights[b]], color=colour, lw=1, alpha=0.6)
    for i in set(view.across) & set(means):
        dashes = ":" if shown[i].of.kind == "alone" else "--"
        axis.axhline(heights[i], color=colour, linewidth=1, linestyle=dashes)


def _look(style: str) -> tuple[str, str]:
    """Colour and marker for the classes of the style sheet."""
    words = style.split()
    shades = [int(word[1:]) for word in words if word[0] == "s" and word[1:].isdigit()]
    colour = COLOURS[shades[0] % STYLES] if shades else MUTED if "alone" in words else INK
    dash = next((int(word[4:]) for word in words if word.startswith("dash")), 0)
    marker = "_" if "alone" in words else "*" if "pooled" in words else _MARKERS[dash]
    return colour, marker


def _break(axis: Axes) -> None:
    """Two strokes across the axis before the lane."""
    for place in (86, 87):
        axis.plot(
            [place - 0.5, place + 0.5],
            [-0.02, 0.02],
            transform=axis.get_xaxis_transform(),
            color=INK,
            linewidth=1,
            clip_on=False,
        )


def _legend(figure: Figure, axis: Axes, count: int) -> None:
    if count > 1:
        columns = 2 if count > 3 else count
        figure.legend(
            *axis.get_legend_handles_labels(),
            loc="outside upper center",
            ncols=columns,
            fontsize="small",
        )
