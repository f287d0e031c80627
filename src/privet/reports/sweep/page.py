"""A sweep as one HTML page.

How far the sweep has got, and what went wrong.

What the script of the page draws and reads out.

Who pays: the metric of every silo, setting by setting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from privet.charts.chart import Chart, ChartRow, Shape, hover
from privet.charts.formatting import counted, duration, listed
from privet.charts.page import CHARTS, Page
from privet.charts.scales import Scale, Tick, nice_ticks, ticks
from privet.charts.svg import axis, legend
from privet.devices import options
from privet.metrics import Metric
from privet.reports.sweep.axes import (
    BROKEN,
    DEFAULT,
    SHARES,
    UP_BROKEN,
    Quantity,
    View,
    rounds_to,
    targets,
    values,
    views,
)
from privet.reports.sweep.chart import along, chart, keys, upwards
from privet.reports.sweep.findings import advice, compared, costs, verdict
from privet.reports.sweep.marks import Mark, Setting, asked_text, marks, settings, spent_text
from privet.sweeps.results import Cell, Sweep, title


@dataclass(frozen=True)
class Failures:
    """A reason and the cells that failed for it."""

    reason: str
    times: int
    where: str


def headline(sweep: Sweep) -> Iterator[tuple[str, str, str]]:
    """Figures: name, value, note."""
    done = sum(cell.status == "done" for cell in sweep.cells)
    yield "Cells done", f"{done:,}", f"of {len(sweep.cells):,}"
    yield "Settings tried", f"{len(sweep.tried):,}", "on these data, in this folder"
    yield "Seeds", f"{len(sweep.seeds):,}", "" if len(sweep.seeds) > 1 else "no intervals"
    elsewhere = " ".join(options(sweep.device, sweep.precision))
    how = f"{counted(sweep.workers, 'cell')} at a time{f', {elsewhere}' if elsewhere else ''}"
    yield "Time", duration(sweep.seconds), how


def alarms(sweep: Sweep) -> Iterator[tuple[str, bool]]:
    """What spoils the picture, and whether that is grave."""
    waiting = sum(cell.status == "waiting" for cell in sweep.cells)
    if waiting:
        yield (
            f"Not finished: {counted(waiting, 'cell')} of {len(sweep.cells):,} "
            f"{'waits' if waiting == 1 else 'wait'}. Settings without a whole seed are left out.",
            False,
        )
    if sweep.failed:
        yield f"{counted(len(sweep.failed), 'cell')} of {len(sweep.cells):,} failed.", True
    if sweep.selection:
        yield "This page tells the other results too: it is not for release.", False
    if {len(each.seeds) for each in sweep.estimates} == {1} and sweep.selection is None:
        yield "One seed: no intervals, and differences between settings show nothing.", False


def failures(sweep: Sweep) -> tuple[Failures, ...]:
    """By reason, in the order in which they come first."""
    found: dict[str, list[str]] = {}
    for cell in sweep.failed:
        where = f"{title(cell)}, seed {cell.seed}"
        found.setdefault(cell.reason or "unknown", []).append(where)
    return tuple(
        Failures(reason, len(where), listed(where, most=8)) for reason, where in found.items()
    )


def data(shown: Sequence[Mark], across: Sequence[View], heights: Sequence[Quantity]) -> Markup:
    """As JSON that no markup can end."""
    content = {
        "marks": [
            {"setting": mark.setting, "name": mark.name, "rows": mark.rows()} for mark in shown
        ],
        "views": [_view(view) for view in across],
        "heights": [
            {
                "label": each.label,
                "at": each.at,
                "low": each.low,
                "high": each.high,
                "texts": [point.text for point in each.points],
                "axis": axis("y", upwards(each), broken=UP_BROKEN if each.lane else None),
                "never": each.lane and each.lane.at,
            }
            for each in heights
        ],
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - nothing can end the script


def _view(view: View) -> Mapping[str, Any]:
    scales = {"linear": view.linear} | ({"log": view.log} if view.log else {})
    broken = BROKEN if view.lane else None
    return {
        "label": view.label,
        "names": [[series.name, series.style] for series in view.names],
        "legend": legend(keys(view)),
        "series": view.series,
        "joins": view.joins,
        "across": view.across,
        "log": view.starts_log,
        "scales": {
            name: {"at": scale.at, "axis": axis("x", along(view, scale), broken=broken)}
            for name, scale in scales.items()
        },
    }


@dataclass(frozen=True)
class Spread:
    """A row for each setting; `text` says where the worst silo stands best and worst."""

    rows: tuple[ChartRow, ...]
    ticks: tuple[Tick, ...]
    text: str
    left_out: int
    """Settings of which the metric by silo is not known."""


def spread(settings: Sequence[Setting], metric: Metric) -> Spread | None:
    """None where no setting tells the metric by silo."""
    found = [(title(each.estimate), _by_silo(each, metric)) for each in settings]
    known = [(name, silos) for name, silos in found if silos]
    if not known:
        return None
    levels = nice_ticks([value for _, silos in known for _, value in silos])
    scale = Scale(levels[0], levels[-1], 0.0, 100.0)
    return Spread(
        tuple(_row(name, silos, scale, metric) for name, silos in known),
        ticks(levels, scale),
        _told(known, metric),
        len(found) - len(known),
    )


_Known = list[tuple[str, float]]


def _by_silo(setting: Setting, metric: Metric) -> _Known:
    """Mean over seeds, worst silo first."""
    values: dict[str, list[float]] = {}
    for cell in setting.cells:
        for silo, value in _of(cell):
            values.setdefault(silo, []).append(value)
    # Exact sums: the same results give the same bytes, in whatever order cells were done.
    means = ((silo, math.fsum(each) / len(each)) for silo, each in values.items())
    return sorted(means, key=lambda each: metric.worth(each[1]))


def _of(cell: Cell) -> Iterator[tuple[str, float]]:
    found = {cell.silo: cell.value} if cell.kind == "alone" else cell.value_per_silo
    for silo, value in found.items():
        if silo is not None and value is not None and math.isfinite(value):
            yield silo, value


def _mean(silos: _Known) -> float:
    return math.fsum(value for _, value in silos) / len(silos)


def _row(name: str, silos: _Known, scale: Scale, metric: Metric) -> ChartRow:
    """A dot for each silo, worst first, and their mean."""
    at, mean = [scale(value) for _, value in silos], _mean(silos)
    (worst, low), (best, high) = silos[0], silos[-1]
    of = partial(metric.number, digits=3)
    drawn = Chart(
        name,
        f"{name}: {counted(len(silos), 'silo')} from {of(low)} ({worst}) to {of(high)} ({best}), "
        f"mean {of(mean)}",
        (
            Shape("rule", "span", [[(at[0], 50), (at[-1], 50)]]),
            Shape("dot", "silo", [[(x, 50) for x in at[1:-1]]]),
            Shape("dot", "silo end", [[(x, 50) for x in dict.fromkeys((at[0], at[-1]))]]),
            Shape("rule", "mean", [[(scale(mean), 15), (scale(mean), 85)]]),
        ),
        hover=hover(
            at=at,
            heads=[silo for silo, _ in silos],
            names=[metric.label, "worst", "mean", "best"],
            styles=["silo"] * 4,
            texts=[[metric.number(value) for _, value in silos]]
            + [[metric.number(value)] * len(silos) for value in (low, mean, high)],
        ),
        height=26,
    )
    return ChartRow(name, drawn, f"{of(low)} · {of(mean)} · {of(high)}")


def _told(known: Sequence[tuple[str, _Known]], metric: Metric) -> str:
    of = partial(metric.number, digits=3)
    if len(known) == 1:
        name, silos = known[0]
        return f"{name}: the worst silo is {silos[0][0]} with {of(silos[0][1])}."
    ordered = sorted(known, key=lambda each: metric.worth(each[1][0][1]))
    ends = (
        f"{of(silos[0][1])} ({silos[0][0]}) with {name}"
        for name, silos in (ordered[0], ordered[-1])
    )
    return "The worst silo has " + " and ".join(ends) + "; all other settings lie between."


_HERE = Path(__file__).parent
_PAGE = Page(
    _HERE / "sweep.html.jinja",
    styles=(_HERE / "sweep.css",),
    scripts=(CHARTS, _HERE / "sweep.js"),
    filters={"asked": asked_text, "name": title, "spent": spent_text},
)


def render(sweep: Sweep, *, again: str | None, pictures: Sequence[str] = ()) -> str:
    """The whole page; `again` is the file in the sweep's folder that repeats it."""
    found = settings(sweep)
    shown = marks(found)
    goals = targets(sweep)
    rounds = (
        [rounds_to(level, shown, found, sweep.metric) for level in goals.levels] if goals else []
    )
    heights = [*values(shown, found, sweep.metric), *rounds]
    across = views(sweep, shown) if shown else []
    return _PAGE.render(
        sweep=sweep,
        task=sweep.experiment.get("task", "unnamed task"),
        swept=tuple(_swept(sweep)),
        verdict=verdict(sweep),
        advice=advice(sweep),
        alarms=tuple(alarms(sweep)),
        figures=tuple(headline(sweep)),
        compared=compared(sweep),
        failures=failures(sweep),
        views=across,
        view=across[0] if across else None,
        heights=heights,
        chart=chart(across[0], heights[0], shown) if across else None,
        data=data(shown, across, heights) if across else None,
        targets=goals,
        shares=SHARES,
        target=DEFAULT,
        costs=costs(found, rounds),
        spread=spread(found, sweep.metric),
        metric=sweep.metric,
        others=[name for name in sweep.metrics if name != sweep.metric.name],
        settings=found,
        again=again,
        options=tuple(_options(sweep)),
        pictures=pictures,
    )


def _swept(sweep: Sweep) -> list[str]:
    """What was varied, an entry for each axis, then seeds and baselines."""
    found = [f"{axis.key}: {', '.join(map(_value, axis.values))}" for axis in sweep.axes]
    grid = {axis.key for axis in sweep.axes}
    listed = {key for cell in sweep.cells if not cell.baseline for key in cell.settings} - grid
    found += [f"{key}: in listed cells" for key in sorted(listed)]
    found.append(
        f"{'seeds' if len(sweep.seeds) > 1 else 'seed'} {', '.join(map(str, sweep.seeds))}"
    )
    return found + ([f"beside it {', '.join(sweep.baselines)}"] if sweep.baselines else [])


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _options(sweep: Sweep) -> list[str]:
    """Of the command that repeats it, beside its file."""
    engine = [] if sweep.engine == "auto" else [f"--engine {sweep.engine}"]
    chosen = sweep.selection
    law = [f"--private-tuning {chosen.law}:{chosen.expected_runs!r}"] if chosen else []
    return [*engine, *options(sweep.device, sweep.precision), *law]
