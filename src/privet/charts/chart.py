"""What a chart shows, once for every page and every picture.

A chart is shapes in per cent of its frame, ticks, a legend and what a pointer reads. `svg` draws it
into a page, `pictures` into a file. A style is one or more words of `looks`, or a colour.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from privet.charts.formatting import decimal
from privet.charts.scales import Scale, Tick, finite, nice_ticks, ticks

STYLES = 6
"""Distinct line colours; beyond them, lines are dashed."""

ROW_HEIGHT = 20
"""Pixels of a row."""

Values = Sequence[float | None]
Point = tuple[float, float]
Kind = Literal["line", "rule", "area", "dot"]


@dataclass(frozen=True)
class Shape:
    """`parts` are open lines, closed areas, rules of two points each, or dots.

    Places are in per cent from the left and from the bottom.
    """

    kind: Kind
    style: str
    parts: Sequence[Sequence[Point]]
    name: str = ""
    mark: int | None = None
    """A number by which a script finds what it moves; such a shape has one part."""
    hidden: bool = False


@dataclass(frozen=True)
class Key:
    """An entry of a legend; pointing at it brings out the shapes of the same name."""

    name: str
    style: str
    kind: Kind = "line"
    reach: tuple[float, float] = (0.0, 100.0)
    """Of an area, bottom and top of the sample."""


@dataclass(frozen=True)
class Chart:
    """`description` is for those who cannot see it; `hover` is what the pointer script reads."""

    title: str
    description: str
    shapes: tuple[Shape, ...]
    """The first lies lowest."""
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    unit: str = ""
    x_name: str = ""
    named: bool = False
    """Whether a page says `x_name` below the ticks, as a picture always does."""
    legend: tuple[Key, ...] = ()
    hover: str = ""
    height: int = 240
    """Of the frame, in pixels."""
    grid: str = "y"
    """The axes whose ticks have a line across the frame."""
    breaks: tuple[float | None, float | None] = (None, None)
    """Where the lower and the left axis are broken, in per cent."""

    def has(self, style: str) -> bool:
        """Whether anything is drawn in this style."""
        return any(style in shape.style.split() for shape in self.shapes)


@dataclass(frozen=True)
class ChartRow:
    """A chart of one line with a name before it and a figure behind it."""

    name: str
    chart: Chart
    note: str


@dataclass(frozen=True)
class Series:
    """One named value for each round; None or NaN leaves a gap."""

    name: str
    values: Values
    style: str
    sparse: bool = False
    """Measured in some rounds only: the line goes on over the others."""


def silo_style(index: int) -> str:
    """The style of the `index`-th silo: six colours, then the same six dashed, then dotted."""
    dash = index // STYLES % 3
    return f"s{index % STYLES}" + (f" dash{dash}" if dash else "")


def line_chart(
    *,
    title: str,
    rounds: Sequence[int],
    series: Sequence[Series],
    unit: str = "by round",
    band: tuple[Values, Values] | None = None,
    target: float | None = None,
    zero: bool = False,
    height: int = 240,
    planned: int = 0,
) -> Chart:
    """Lay out `series` over `rounds`; the vertical axis begins at 0 if `zero`.

    The lower axis ends with the last round, or with the last that is `planned`. `band` is a
    (lower, upper) pair that is filled; `target` is a level drawn as a dashed line. The first series
    lies on top.
    """
    edges = [*(band or ()), [target, 0.0 if zero else None]]
    values = [value for values in (*(line.values for line in series), *edges) for value in values]
    levels = nice_ticks(finite(values))
    up = Scale(levels[0], levels[-1], 0.0, 100.0)
    first, last = (rounds[0], max(rounds[-1], planned)) if rounds else (0, 0)
    across = [100 * (number - first) / max(last - first, 1) for number in rounds]
    shapes = [_ribbon(across, *(heights(edge, up) for edge in band))] if band else []
    # The last that is drawn lies on top.
    for line in reversed(series):
        parts = unbroken(across, heights(line.values, up), sparse=line.sparse)
        shapes.append(Shape("line", f"curve {line.style}", parts, line.name))
    if target:
        name = f"target {target:g}"
        shapes.append(Shape("rule", "target", [[(0, up(target)), (100, up(target))]], name))
    keys = [Key(line.name, line.style) for line in series]
    keys += [Key(f"target {target:g}", "target")] if target else []
    return Chart(
        title=title,
        description=_description(title, rounds, series),
        shapes=tuple(shapes),
        x_ticks=_round_ticks(first, last) if rounds else (),
        y_ticks=ticks(levels, up),
        unit=unit,
        x_name="round",
        legend=tuple(keys) if len(keys) > 1 else (),
        hover=hover(
            at=across,
            heads=[f"Round {number}" for number in rounds],
            names=[line.name for line in series],
            styles=[line.style for line in series],
            texts=[[None if v is None else decimal(v) for v in line.values] for line in series],
        ),
        height=height,
    )


def stacked(rows: Sequence[ChartRow], of: Chart) -> Chart:
    """The rows as one chart, the first on top, named beside; all else is as in `of`."""
    slot = 100 / max(len(rows), 1)

    def lowered(part: Sequence[Point], number: int) -> list[Point]:
        return [(x, 100 - (number + 1 - y / 100) * slot) for x, y in part]

    return replace(
        of,
        shapes=tuple(
            replace(shape, parts=[lowered(part, number) for part in shape.parts])
            for number, row in enumerate(rows)
            for shape in row.chart.shapes
        )
        + of.shapes,
        y_ticks=tuple(Tick(100 - (n + 0.5) * slot, row.name) for n, row in enumerate(rows)),
        height=ROW_HEIGHT * max(len(rows), 1),
        grid="x",
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
        # A thousandth of a per cent is less than a pixel; all digits would be most of the page.
        "at": [round(place, 3) for place in at],
        "heads": heads,
        "names": names,
        "styles": styles,
        "texts": texts,
    }
    return json.dumps(content, separators=(",", ":"))


def heights(values: Values, scale: Scale) -> list[float | None]:
    """Places on an axis; None where there is nothing to draw."""
    return [None if v is None or not math.isfinite(v) else scale(v) for v in values]


def unbroken(across: Sequence[float], up: Values, *, sparse: bool = False) -> list[list[Point]]:
    """A line as the parts between its gaps; `sparse` joins them."""
    parts: list[list[Point]] = [[]]
    for x, y in zip(across, up, strict=True):
        if y is not None:
            parts[-1].append((x, y))
        elif not sparse:
            parts.append([])
    return [part for part in parts if part]


def box(left: float, bottom: float, width: float, height: float) -> list[Point]:
    """The corners of a rectangle."""
    right, top = left + width, bottom + height
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def axis_break(way: str, at: float) -> Shape:
    """Two strokes across the lower ("x") or the left axis, beyond which it goes on otherwise."""
    strokes = [((-0.5 + step, -1.5), (0.5 + step, 1.5)) for step in (-0.5, 0.5)]
    if way == "x":
        return Shape("rule", "break", [[(at + a, b), (at + c, d)] for (a, b), (c, d) in strokes])
    turned = [[(b / 2, at + 2 * a), (d / 2, at + 2 * c)] for (a, b), (c, d) in strokes]
    return Shape("rule", "break", turned)


def apart(found: Iterable[Tick], least: float) -> list[Tick]:
    """The ticks that stand at least so many per cent from the one before."""
    kept: list[Tick] = []
    for tick in found:
        if not kept or tick.at >= kept[-1].at + least:
            kept.append(tick)
    return kept


def _round_ticks(first: int, last: int) -> tuple[Tick, ...]:
    # There is no half round.
    steps = [round(level) for level in nice_ticks([float(first), float(last)])]
    inside = sorted({level for level in steps if first <= level <= last} | {first, last})
    # First and last are always told, so others keep away from them.
    crowded = (last - first) / 12
    kept = [n for n in inside if n in (first, last) or first + crowded < n < last - crowded]
    return tuple(Tick(100 * (n - first) / max(last - first, 1), str(n)) for n in kept)


def _ribbon(across: Sequence[float], lower: Values, upper: Values) -> Shape:
    """The area between two curves, over the rounds where both are known."""
    known = [
        (x, low, high)
        for x, low, high in zip(across, lower, upper, strict=True)
        if low is not None and high is not None
    ]
    ring = [(x, high) for x, _, high in known] + [(x, low) for x, low, _ in reversed(known)]
    return Shape("area", "band", [ring] if ring else [])


def _description(title: str, rounds: Sequence[int], series: Sequence[Series]) -> str:
    """A sentence with the last value of the first series."""
    if not rounds or not series:
        return f"{title}: no rounds."
    last = next((v for v in reversed(series[0].values) if v is not None), None)
    span = f"rounds {rounds[0]} to {rounds[-1]}"
    return f"{title}, {span}; at the end {series[0].name} {decimal(last)}."
