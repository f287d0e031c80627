"""Charts as pictures, for papers and slides: what a page shows, drawn by matplotlib.

Matplotlib is imported where something is drawn, and not before.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from privet.charts.chart import Chart, Key, Shape, axis_break
from privet.charts.looks import Look, colour, light, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 40
_STYLE: Mapping[Any, Any] = {
    "text.parse_math": False,  # names may hold $ signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "privet",  # the same results give the same bytes
}


def picture(charts: Sequence[Chart], kind: str, *, dpi: int, down: bool = False) -> bytes:
    """The charts as a file, side by side or, `down`, below each other.

    The same charts give the same bytes as png and as svg. `kind` is a file type of matplotlib.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = (len(charts), 1) if down else (1, len(charts))
    wide = 7.2 if columns == 1 else 4.8 * columns
    tall = rows * (max([2.4, *(chart.height / 100 for chart in charts)]) + 1.2)
    into = io.BytesIO()
    with mpl.rc_context(dict(_STYLE)), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks
        # Not by pyplot, which keeps every figure and belongs to one thread.
        figure = Figure(figsize=(wide, tall), layout="constrained")
        for axes, chart in zip(
            figure.subplots(rows, columns, squeeze=False).flat, charts, strict=True
        ):
            _draw(axes, chart)
        keys = {key.name: _key(key) for chart in charts for key in chart.legend}
        names = [f" {_cut(name)}" for name in keys]  # matplotlib leaves out one like "_a"
        if keys:
            how = {"fontsize": "small", "ncols": 6 if max(map(len, names)) < 14 else 3}
            figure.legend([*keys.values()], names, loc="outside lower center", **how)
        FigureCanvasAgg(figure)
        # Neither the day nor matplotlib's version is in the file: the same charts give the same
        # bytes.
        told = {"svg": {"Date": None}, "png": {"Software": None}}.get(kind)
        figure.savefig(into, format=kind, dpi=dpi, metadata=told)
    return into.getvalue()


def _draw(axes: Axes, chart: Chart) -> None:
    """In per cent of the frame, as on a page."""
    axes.set(xlim=(0, 100), ylim=(0, 100), title=chart.title, xlabel=chart.x_name)
    axes.set_xticks([t.at for t in chart.x_ticks], [t.text for t in chart.x_ticks])
    axes.set_yticks([t.at for t in chart.y_ticks], [_cut(t.text) for t in chart.y_ticks])
    for way in chart.grid:
        axes.grid(axis="x" if way == "x" else "y", color=light()["grid"])
    breaks = [axis_break(way, at) for way, at in zip("xy", chart.breaks, strict=True) if at]
    for layer, shape in enumerate((*chart.shapes, *breaks)):
        if not shape.hidden:
            _shape(axes, shape, layer)


def _shape(axes: Axes, shape: Shape, layer: int) -> None:
    from matplotlib.collections import LineCollection, PolyCollection

    of = look(shape.style)
    # Out of the layout: it would measure every shape, and there may be thousands.
    how: dict[str, Any] = {"zorder": 2 + layer / 1000, "clip_on": False, "in_layout": False}
    parts: list[Any] = list(shape.parts)
    if shape.kind == "area":
        filled = {"facecolor": "none", "edgecolor": colour(of)} if of.hollow else _filled(of)
        axes.add_collection(PolyCollection(parts, **filled, **how))
    elif shape.kind == "dot":
        for part in parts:
            axes.plot(*zip(*part, strict=True), **_dot(of), **how)
    else:
        # A line of one point draws nothing in matplotlib; on a page its round cap is a dot.
        lone = [part[0] for part in parts if len(part) == 1]
        axes.plot([x for x, _ in lone], [y for _, y in lone], **_dot(of), **how)
        axes.add_collection(LineCollection(parts, **_stroke(of), capstyle="round", **how))


def _key(key: Key) -> Any:
    """A sample for the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    of = look(key.style)
    if key.kind == "area":
        return Patch(
            **({"facecolor": "none", "edgecolor": colour(of)} if of.hollow else _filled(of))
        )
    return Line2D([], [], **(_dot(of) if key.kind == "dot" else _stroke(of)))


def _filled(of: Look) -> dict[str, Any]:
    return {"facecolor": colour(of), "alpha": of.opacity, "linewidth": 0}


def _stroke(of: Look) -> dict[str, Any]:
    dash = [float(length) for length in (of.dash or "none").split() if length != "none"]
    # Matplotlib measures dashes in line widths, a style sheet in pixels.
    style: Any = (0, [length / (of.width or 1) for length in dash]) if dash else "-"
    return {"color": colour(of), "linewidth": of.width, "alpha": of.opacity, "linestyle": style}


def _dot(of: Look) -> dict[str, Any]:
    face = "white" if of.hollow else colour(of)
    size, edge = 1.3 * (of.radius or 1), 1.2 if of.hollow else 0
    ink = {
        "markeredgewidth": edge,
        "markerfacecolor": face,
        "markeredgecolor": colour(of),
        "markersize": size,
    }
    return {"linestyle": "", "marker": "o", "alpha": of.opacity, **ink}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"
