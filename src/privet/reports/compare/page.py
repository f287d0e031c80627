"""A comparison as one HTML page, and as a table of plain numbers.

The two charts of a comparison: accuracy by round, and accuracy against epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from privet.charts.formatting import bound
from privet.charts.lines import SIDE, LineChart, Series, hover, line_chart, silo_style
from privet.charts.scales import Scale, Tick, finite, nice_ticks, ticks
from privet.errors import PrivetError
from privet.files import write_whole
from privet.reports.compare.comparison import Comparison
from privet.reports.compare.entries import ComparisonEntry
from privet.reports.compare.rows import figures, headings, legend, settings, to_csv
from privet.reports.page import CHARTS, Page

_LEFT, _RIGHT = 5.0, 95.0
_LANE = 92.0
"""Where entries without epsilon stand, beside those with one."""
_BEFORE_LANE = 78.0
_CLOSE = 1.5
"""Per cent: the width of a dot on a phone, nearly."""


@dataclass(frozen=True)
class Dot:
    """An entry as a point with its interval: paths in a square of SIDE units."""

    name: str
    style: str
    point: str
    interval: str


@dataclass(frozen=True)
class Points:
    """Accuracy upwards, epsilon to the right (logarithmic), none beyond it."""

    description: str
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lane: bool
    hover: str


def curves(entries: Sequence[ComparisonEntry]) -> LineChart | None:
    """Accuracy by round, a line for each entry; None where nobody measured it."""
    if not any(entry.curve for entry in entries):
        return None
    rounds = sorted({number for entry in entries for number in entry.curve})
    return line_chart(
        title="Accuracy by round",
        rounds=rounds,
        series=[
            Series(entry.name, [entry.curve.get(n) for n in rounds], silo_style(i), sparse=True)
            for i, entry in enumerate(entries)
        ],
    )


def points(entries: Sequence[ComparisonEntry]) -> Points | None:
    """Accuracy against epsilon; None where no entry has an epsilon that can be drawn."""
    styles = {entry.name: silo_style(index) for index, entry in enumerate(entries)}
    shown = [e for e in entries if e.accuracy is not None and (_drawn(e) or not e.private)]
    epsilons = sorted({entry.epsilon for entry in shown if entry.epsilon and _drawn(entry)})
    if not epsilons:
        return None
    lane = any(not entry.private for entry in shown)
    right = _BEFORE_LANE if lane else _RIGHT
    column = Scale(epsilons[0], epsilons[-1], _LEFT, right, logarithmic=True)
    places = [column(e.epsilon) if e.private and e.epsilon else _LANE for e in shown]
    levels = nice_ticks(finite(end for entry in shown for end in _interval(entry)))
    heights = Scale(levels[0], levels[-1], 0.0, 100.0)
    return Points(
        description=f"Accuracy against epsilon of {len(shown)} entries; the table has the figures.",
        dots=tuple(
            _dot(e, x, heights, styles[e.name]) for e, x in zip(shown, _apart(places), strict=True)
        ),
        x_ticks=(
            *_uncrowded([Tick(column(epsilon), bound(epsilon)) for epsilon in epsilons]),
            *([Tick(_LANE, "none")] if lane else []),
        ),
        y_ticks=ticks(levels, heights),
        lane=lane,
        hover=_hover(shown, places, styles),
    )


def _drawn(entry: ComparisonEntry) -> bool:
    return entry.epsilon is not None and 0 < entry.epsilon < math.inf


def _apart(places: Sequence[float]) -> list[float]:
    """Places beside each other where several would be one."""
    moved = []
    for index, place in enumerate(places):
        near = [i for i, other in enumerate(places) if abs(other - place) < _CLOSE]
        moved.append(place + _CLOSE * (near.index(index) - (len(near) - 1) / 2))
    return moved


def _uncrowded(ticks: Sequence[Tick]) -> list[Tick]:
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.at - kept[-1].at > 9:
            kept.append(tick)
    return kept


def _interval(entry: ComparisonEntry) -> tuple[float, float]:
    half = entry.half_width or 0.0
    mean = entry.accuracy or 0.0
    return max(mean - half, 0.0), min(mean + half, 1.0)


def _dot(entry: ComparisonEntry, place: float, heights: Scale, style: str) -> Dot:
    ends = (*_interval(entry), entry.accuracy or 0.0)
    low, high, middle = (f"{(1 - heights(end) / 100) * SIDE:.5g}" for end in ends)
    x = f"{place / 100 * SIDE:.5g}"
    interval = f"M{x} {low}V{high}" if entry.half_width else ""
    return Dot(entry.name, style, f"M{x} {middle}h0", interval)


def _hover(
    shown: Sequence[ComparisonEntry], places: Sequence[float], styles: dict[str, str]
) -> str:
    at = sorted(set(places))
    by_place = {x: [e for e, place in zip(shown, places, strict=True) if place == x] for x in at}
    heads = [
        f"epsilon {bound(of[0].epsilon)}" if of[0].private else "no differential privacy"
        for of in by_place.values()
    ]
    drawn = list(zip(shown, places, strict=True))
    texts = [[_told(entry) if place == x else None for x in at] for entry, place in drawn]
    return hover(
        at=at,
        heads=heads,
        names=[entry.name for entry in shown],
        styles=[styles[entry.name] for entry in shown],
        texts=texts,
    )


def _told(entry: ComparisonEntry) -> str:
    interval = f" ± {entry.half_width:.3f}" if entry.half_width else ""
    return f"{entry.accuracy:.3f}{interval}"


PAGE = "compare.html"
TABLE = "compare.csv"

_HERE = Path(__file__).parent
_PAGE = Page(_HERE / "compare.html.jinja", styles=(_HERE / "compare.css",), scripts=(CHARTS,))


def write(comparison: Comparison, folder: Path) -> Path:
    """Write compare.html and compare.csv into `folder`; return the path of the page."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TABLE, to_csv(comparison).encode())
        write_whole(folder / PAGE, render(comparison).encode())
    except OSError as error:
        raise PrivetError(f"--out {folder}: cannot be written: {error.strerror}") from None
    return folder / PAGE


def render(comparison: Comparison) -> str:
    """The whole page."""
    entries = comparison.entries
    return _PAGE.render(
        comparison=comparison,
        tasks=", ".join(dict.fromkeys(entry.task for entry in entries)),
        folders=len({entry.source for entry in entries}),
        headings=headings(comparison),
        rows=[
            (entry.name, silo_style(place), figures(comparison, entry))
            for place, entry in enumerate(entries)
        ],
        reading=tuple(legend(comparison)),
        settings=[(entry.name, settings(comparison, entry)) for entry in entries],
        curves=curves(entries),
        points=points(entries),
    )
