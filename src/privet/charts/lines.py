"""Line charts as geometry: where ticks, curves and bands lie, and what a pointer reads there.

Curves are drawn in a square of `SIDE` units that the page stretches to any width; text stays
outside the square, placed by per cent, so that it keeps its size on a phone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from privet.charts.formatting import decimal
from privet.charts.scales import Scale, Tick, finite, nice_ticks, ticks

SIDE = 1000
STYLES = 6
"""Distinct line colours in the style sheet; beyond them, lines are dashed."""

Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """One named value for each round; None or NaN leaves a gap. `style` is a CSS class."""

    name: str
    values: Values
    style: str
    sparse: bool = False
    """Measured in some rounds only: the line goes on over the others."""


@dataclass(frozen=True)
class Curve:
    """A series as a path."""

    name: str
    path: str
    style: str


@dataclass(frozen=True)
class LineChart:
    """`description` is for those who cannot see it; `hover` is what the pointer script reads."""

    title: str
    description: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    band: str | None
    target: Tick | None
    hover: str

    def has(self, style: str) -> bool:
        """Whether any curve is drawn in this style."""
        return any(curve.style == style for curve in self.curves)


def silo_style(index: int) -> str:
    """A CSS class for the `index`-th silo: six colours, then the same six dashed, then dotted."""
    return f"s{index % STYLES} dash{index // STYLES % 3}"


def line_chart(
    *,
    title: str,
    rounds: Sequence[int],
    series: Sequence[Series],
    band: tuple[Values, Values] | None = None,
    target: float | None = None,
    zero: bool = False,
) -> LineChart:
    """Lay out `series` over `rounds`; the vertical axis begins at 0 if `zero`.

    `band` is a (lower, upper) pair that is filled; `target` is a level drawn as a dashed line.
    """
    edges = [*(band or ()), [target, 0.0 if zero else None]]
    values = [value for values in (*(line.values for line in series), *edges) for value in values]
    levels = nice_ticks(finite(values))
    scale, columns = Scale(levels[0], levels[-1], 0.0, 100.0), _spread(rounds)
    return LineChart(
        title=title,
        description=_description(title, rounds, series),
        x_ticks=_round_ticks(rounds),
        y_ticks=ticks(levels, scale),
        curves=tuple(
            Curve(
                line.name,
                _line(columns, _heights(line.values, scale), sparse=line.sparse),
                line.style,
            )
            for line in series
        ),
        band=_ribbon(columns, *(_heights(edge, scale) for edge in band)) if band else None,
        target=Tick(scale(target), f"{target:g}") if target else None,
        hover=hover(
            at=[column * 100 for column in columns],
            heads=[f"Round {number}" for number in rounds],
            names=[line.name for line in series],
            styles=[line.style for line in series],
            texts=[[_shown(v) for v in line.values] for line in series],
        ),
    )


def hover(
    *,
    at: Sequence[float],
    heads: Sequence[str],
    names: Sequence[str],
    styles: Sequence[str],
    texts: Sequence[Sequence[str | None]],
) -> str:
    """What a pointer reads, as JSON: for each column a head, and a text for each name or null."""
    content = {
        "at": [round(place, 3) for place in at],
        "heads": heads,
        "names": names,
        "styles": styles,
        "texts": texts,
    }
    return json.dumps(content, separators=(",", ":"))


def _spread(rounds: Sequence[int]) -> list[float]:
    """Where each round lies between the first (0) and the last (1)."""
    first, last = (rounds[0], rounds[-1]) if rounds else (0, 0)
    return [(number - first) / max(last - first, 1) for number in rounds]


def _heights(values: Values, scale: Scale) -> list[float | None]:
    """Between 0 and 1; None where there is nothing to draw."""
    known = (value is not None and math.isfinite(value) for value in values)
    return [
        scale(value or 0.0) / 100 if is_known else None
        for value, is_known in zip(values, known, strict=True)
    ]


def _round_ticks(rounds: Sequence[int]) -> tuple[Tick, ...]:
    if not rounds:
        return ()
    first, last = rounds[0], rounds[-1]
    steps = [round(level) for level in nice_ticks([float(first), float(last)])]
    inside = sorted({level for level in steps if first <= level <= last} | {first, last})
    crowded = (last - first) / 12
    kept = [n for n in inside if n in (first, last) or first + crowded < n < last - crowded]
    return tuple(Tick(100 * (n - first) / max(last - first, 1), str(n)) for n in kept)


def _line(columns: Sequence[float], heights: Sequence[float | None], *, sparse: bool) -> str:
    if not sparse:
        return _polyline(columns, heights)
    known = [(c, h) for c, h in zip(columns, heights, strict=True) if h is not None]
    return _polyline([column for column, _ in known], [height for _, height in known])


def _polyline(columns: Sequence[float], heights: Sequence[float | None]) -> str:
    """A path with a gap for every None; a lone point becomes a dot by its round line cap."""
    path = ""
    pen_down = False
    for column, height in zip(columns, heights, strict=True):
        if height is None:
            pen_down = False
            continue
        path += f"{'L' if pen_down else 'M'}{_point(column, height)}"
        path += "" if pen_down else "h0"
        pen_down = True
    return path


def _ribbon(
    columns: Sequence[float], lower: Sequence[float | None], upper: Sequence[float | None]
) -> str:
    """The closed area between two curves, over the rounds where both are known."""
    known = [
        (column, low, high)
        for column, low, high in zip(columns, lower, upper, strict=True)
        if low is not None and high is not None
    ]
    there = [_point(column, high) for column, _, high in known]
    back = [_point(column, low) for column, low, _ in reversed(known)]
    return f"M{'L'.join(there + back)}Z" if known else ""


def _point(column: float, height: float) -> str:
    return f"{column * SIDE:.5g} {(1 - height) * SIDE:.5g}"


def _shown(value: float | None) -> str | None:
    return None if value is None else decimal(value)


def _description(title: str, rounds: Sequence[int], series: Sequence[Series]) -> str:
    """A sentence with the last value of the first series."""
    if not rounds or not series:
        return f"{title}: no rounds."
    last = next((v for v in reversed(series[0].values) if v is not None), None)
    span = f"rounds {rounds[0]} to {rounds[-1]}"
    return f"{title}, {span}; at the end {series[0].name} {decimal(last)}."
