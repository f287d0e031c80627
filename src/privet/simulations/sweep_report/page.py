"""A sweep as one HTML page that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from privet.simulations import report
from privet.simulations.report.charts import Tick
from privet.simulations.report.formatting import counted, duration, scientific
from privet.simulations.sweep.results import Sweep
from privet.simulations.sweep.words import described, title
from privet.simulations.sweep_report.costs import costs
from privet.simulations.sweep_report.findings import (
    advice,
    alarms,
    compared,
    failures,
    headline,
    outcome,
    plus_minus,
    verdict,
)
from privet.simulations.sweep_report.heights import DEFAULT, SHARES, Quantity, quantities, targets
from privet.simulations.sweep_report.marks import Mark, asked_text, marks, settings, spent_text
from privet.simulations.sweep_report.places import View, views
from privet.simulations.sweep_report.spread import spread

_HERE = Path(__file__).parent
_SHARED = Path(report.__file__).parent
"""The style and the script of the report of a run."""


def render(sweep: Sweep, *, again: str | None, pictures: Sequence[str] = ()) -> str:
    """The whole page. Every text of the sweep is escaped; the only scripts are the page's own.

    `again`: the name of the file in the sweep's folder that repeats it. The content security policy
    names the scripts by their hash, so even markup that slipped through could not run.
    """
    script = _text(_SHARED / "report.js") + _text(_HERE / "sweep.js")
    found = settings(sweep)
    shown = marks(found)
    goals = targets(sweep)
    heights = quantities(shown, found, goals.levels if goals else ())
    across = views(sweep, shown) if shown else []
    return (
        _environment()
        .get_template("sweep.html.jinja")
        .render(
            sweep=sweep,
            style=Markup(_text(_SHARED / "report.css") + _text(_HERE / "sweep.css")),  # noqa: S704
            script=Markup(script),  # noqa: S704 - our own files
            policy=_policy(script),
            task=sweep.experiment.get("task", "unnamed task"),
            swept=tuple(_swept(sweep)),
            verdict=verdict(sweep),
            advice=advice(sweep),
            alarms=tuple(alarms(sweep)),
            headline=tuple(headline(sweep)),
            compared=compared(sweep),
            failures=failures(sweep),
            tests=tuple((plus_minus(c.words), c, outcome(c)) for c in sweep.comparisons),
            marks=shown,
            views=across,
            view=across[0] if across else None,
            heights=heights,
            height=heights[0],
            data=_data(shown, across, heights) if across else None,
            description=_description(shown, across, heights) if across else "",
            targets=goals,
            shares=SHARES,
            target=DEFAULT,
            costs=costs(found, [quantity for quantity in heights if _is_rounds(quantity)]),
            spread=spread(found),
            settings=found,
            again=again,
            options=tuple(_options(sweep)),
            pictures=pictures,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "asked": asked_text,
        "counted": counted,
        "described": described,
        "duration": duration,
        "name": title,
        "scientific": scientific,
        "spent": spent_text,
    }
    return environment


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _swept(sweep: Sweep) -> list[str]:
    """What was varied, an entry for each axis, then seeds and baselines."""
    found = [f"{axis.key}: {', '.join(map(_value, axis.values))}" for axis in sweep.axes]
    grid = {key for axis in sweep.axes for key in (axis.key,)}
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
    return [*engine, *law]


def _is_rounds(quantity: Quantity) -> bool:
    return quantity.label.startswith("Rounds")


def _description(shown: Sequence[Mark], across: Sequence[View], heights: Sequence[Quantity]) -> str:
    """For those who cannot see the chart."""
    points = [
        f"{mark.name} {point.text}"
        for mark, point in zip(shown, heights[0].points, strict=True)
        if not mark.cell
    ]
    return f"{heights[0].label} by {across[0].label or 'setting'}: {'; '.join(points[:30])}"


def _data(shown: Sequence[Mark], across: Sequence[View], heights: Sequence[Quantity]) -> Markup:
    """What the script draws and reads out, as JSON that no markup can end."""
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
                "ticks": _ticks(each.ticks),
                "lane": _ticks([each.lane] if each.lane else []),
            }
            for each in heights
        ],
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - nothing can end the script


def _view(view: View) -> Mapping[str, Any]:
    scales = {"linear": view.linear} | ({"log": view.log} if view.log else {})
    return {
        "label": view.label,
        "names": [[series.name, series.style] for series in view.names],
        "series": view.series,
        "joins": view.joins,
        "across": view.across,
        "log": view.starts_log,
        "lane": _ticks([view.lane] if view.lane else []),
        "scales": {
            name: {"at": scale.at, "ticks": _ticks(scale.ticks)} for name, scale in scales.items()
        },
    }


def _ticks(ticks: Sequence[Tick]) -> list[tuple[float, str]]:
    return [(tick.at, tick.text) for tick in ticks]
