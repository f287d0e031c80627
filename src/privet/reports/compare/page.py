"""A comparison as one HTML page, and as a table of plain numbers.

The two charts of a comparison: the metric by round, and the metric against epsilon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from privet.charts.chart import Chart, Key, Series, Shape, apart, hover, line_chart, silo_style
from privet.charts.formatting import bound
from privet.charts.page import CHARTS, Page
from privet.charts.scales import Scale, Tick, finite, nice_ticks, ticks
from privet.errors import PrivetError
from privet.files import write_whole
from privet.reports.compare.comparison import Comparison
from privet.reports.compare.entries import ComparisonEntry
from privet.reports.compare.rows import figures, headings, legend, settings, to_csv

_LEFT, _RIGHT = 5.0, 95.0
_LANE = 92.0
"""Where entries without epsilon stand, beside those with one."""
_BEFORE_LANE = 78.0
_BREAK = 85.0
_NO_DP = "no differential privacy"
_CLOSE = 1.5
"""Per cent: the width of a dot on a phone, nearly."""


def curves(entries: Sequence[ComparisonEntry]) -> Chart | None:
    """The metric by round, a line for each entry; None where nobody measured it."""
    if not any(entry.curve for entry in entries):
        return None
    rounds = sorted({number for entry in entries for number in entry.curve})
    return line_chart(
        title=f"{entries[0].metric.titled_unit} by round",
        rounds=rounds,
        series=[
            Series(entry.name, [entry.curve.get(n) for n in rounds], silo_style(i), sparse=True)
            for i, entry in enumerate(entries)
        ],
        unit="of sweeps: mean over the seeds",
        height=304,
    )


def points(entries: Sequence[ComparisonEntry]) -> Chart | None:
    """The metric upwards, epsilon to the right (logarithmic), none beyond it.

    None where no entry has an epsilon that can be drawn.
    """
    shown = [e for e in entries if e.value is not None and (_drawn(e) or not e.private)]
    epsilons = sorted({entry.epsilon for entry in shown if entry.epsilon and _drawn(entry)})
    if not epsilons:
        return None
    lane = any(not entry.private for entry in shown)
    right = _BEFORE_LANE if lane else _RIGHT
    column = Scale(epsilons[0], epsilons[-1], _LEFT, right, logarithmic=True)
    places = [column(e.epsilon) if e.private and e.epsilon else _LANE for e in shown]
    levels = nice_ticks(finite(end for entry in shown for end in _interval(entry)))
    up = Scale(levels[0], levels[-1], 0.0, 100.0)
    styles = {entry.name: silo_style(index) for index, entry in enumerate(entries)}
    looks = [styles[entry.name] for entry in shown]
    # Only dots are moved: a pointer reads the true places.
    beside = zip(shown, _apart(places), looks, strict=True)
    # The first entry is drawn last, so it lies on top of the others.
    drawn = [shape for each in [*beside][::-1] for shape in _dot(*each, up)]
    x_ticks = [Tick(column(epsilon), bound(epsilon)) for epsilon in epsilons]
    return Chart(
        title="Against epsilon",
        description=f"{shown[0].metric.title} against epsilon of {len(shown)} entries; "
        "the table has the figures.",
        shapes=tuple(drawn),
        x_ticks=(*apart(x_ticks, 9), *([Tick(_LANE, "none")] if lane else [])),
        y_ticks=ticks(levels, up),
        unit="what the ledgers say; logarithmic; bars are 95 % intervals over seeds",
        x_name="epsilon",
        legend=tuple(Key(e.name, f"point {s}", "dot") for e, s in zip(shown, looks, strict=True)),
        hover=_hover(shown, places, looks),
        height=304,
        breaks=(_BREAK if lane else None, None),
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


def _interval(entry: ComparisonEntry) -> tuple[float, float]:
    half = entry.half_width or 0.0
    low, high = (entry.value or 0.0) - half, (entry.value or 0.0) + half
    return (max(low, 0.0), min(high, 1.0)) if entry.metric.share else (low, high)


def _dot(entry: ComparisonEntry, x: float, style: str, up: Scale) -> Iterator[Shape]:
    low, high = map(up, _interval(entry))
    if entry.half_width:
        yield Shape("rule", f"interval {style}", [[(x, low), (x, high)]], entry.name)
    yield Shape("dot", f"point {style}", [[(x, up(entry.value or 0.0))]], entry.name)


def _hover(shown: Sequence[ComparisonEntry], places: Sequence[float], styles: Sequence[str]) -> str:
    """A column for each epsilon."""
    at = sorted(set(places))
    first = [shown[places.index(x)] for x in at]
    return hover(
        at=at,
        heads=[f"epsilon {bound(e.epsilon)}" if e.private else _NO_DP for e in first],
        names=[entry.name for entry in shown],
        styles=[f"point {style}" for style in styles],
        texts=[
            [_mean(entry) if place == x else None for x in at]
            for entry, place in zip(shown, places, strict=True)
        ],
    )


def _mean(entry: ComparisonEntry) -> str:
    of = partial(entry.metric.number, digits=3)
    return of(entry.value or 0.0) + (f" ± {of(entry.half_width)}" if entry.half_width else "")


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
            (entry.name, Key("", silo_style(place)), figures(comparison, entry))
            for place, entry in enumerate(entries)
        ],
        reading=tuple(legend(comparison)),
        settings=[(entry.name, settings(comparison, entry)) for entry in entries],
        curves=curves(entries),
        points=points(entries),
    )
