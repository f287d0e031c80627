"""The chart of a sweep, and the same as a PNG and an SVG of the metric's name, for papers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from privet.charts.chart import Chart, Key, Shape
from privet.charts.pictures import picture
from privet.charts.scales import Tick
from privet.files import write_whole
from privet.reports.sweep.axes import (
    BROKEN,
    UP_BROKEN,
    Places,
    Quantity,
    View,
    values,
    views,
)
from privet.reports.sweep.marks import Mark, marks, settings
from privet.sweeps.results import Sweep

_KINDS = ("png", "svg")


def chart(view: View, height: Quantity, shown: Sequence[Mark]) -> Chart:
    """Every estimate with its interval and every run, along one axis as it is first shown."""
    return Chart(
        height.label,
        _description(view, height, shown),
        (
            *_joins(view, height),
            *(s for n, m in enumerate(shown) for s in _mark(view, height, n, m)),
        ),
        along(view, view.scale),
        upwards(height),
        x_name=view.label or "setting",
        legend=keys(view),
        height=368,
        breaks=(BROKEN if view.lane else None, UP_BROKEN if height.lane else None),
    )


def along(view: View, scale: Places) -> tuple[Tick, ...]:
    """The ticks of the lower axis, its lane among them."""
    return (*scale.ticks, *([view.lane] if view.lane else []))


def upwards(height: Quantity) -> tuple[Tick, ...]:
    """The ticks of the axis at the left, its lane among them."""
    return (*height.ticks, *([height.lane] if height.lane else []))


def keys(view: View) -> tuple[Key, ...]:
    """The series, each with its style."""
    return tuple(Key(each.name, each.style) for each in view.names)


def write_pictures(sweep: Sweep, folder: Path) -> tuple[str, ...]:
    """Write the page's chart as it is first shown; return the names, none without a value."""
    found = settings(sweep)
    shown = marks(found)
    if not shown:
        return ()
    drawn = chart(views(sweep, shown)[0], values(shown, found, sweep.metric)[0], shown)
    names = {kind: f"{sweep.metric.filename}.{kind}" for kind in _KINDS}
    for kind, name in names.items():
        write_whole(folder / name, picture([drawn], kind, dpi=200))
    return tuple(names.values())


def _joins(view: View, height: Quantity) -> Iterator[Shape]:
    x, y = view.scale.at, height.at
    for a, b in view.joins:
        low, high = y[a], y[b]
        if low is not None and high is not None:
            style = view.names[view.series[a]].style
            yield Shape("rule", f"join {style}", [[(x[a], low), (x[b], high)]])


def _mark(view: View, height: Quantity, place: int, mark: Mark) -> Iterator[Shape]:
    """What is not seen along this axis is hidden, as a script may show it along another."""
    x, y, style = view.scale.at[place], height.at[place], view.names[view.series[place]].style
    at, unknown = (x, y or 0.0), y is None
    if mark.cell:
        yield Shape("dot", f"cell {style}", [[at]], mark=place, hidden=unknown)
        return
    low, high = height.low[place], height.high[place]
    level, far = [(0.0, at[1]), (100.0, at[1])], unknown or place not in view.across
    ends = [(x, low or 0.0), (x, high or 0.0)]
    yield Shape("rule", f"across {style}", [level], mark=place, hidden=far)
    yield Shape("rule", f"interval {style}", [ends], mark=place, hidden=low is None)
    yield Shape("dot", f"point {style}", [[at]], mark=place, hidden=unknown)


def _description(view: View, height: Quantity, shown: Sequence[Mark]) -> str:
    points = [
        f"{mark.name} {point.text}"
        for mark, point in zip(shown, height.points, strict=True)
        if not mark.cell
    ]
    # A screen reader reads all of it aloud; the table below has every figure.
    return f"{height.label} by {view.label or 'setting'}: {'; '.join(points[:30])}"
