"""A sweep as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from privet.simulations.pages.page import CHARTS, Page
from privet.simulations.sweep.results import Sweep
from privet.simulations.sweep.words import title
from privet.simulations.sweep_report.comparisons import compared
from privet.simulations.sweep_report.costs import costs
from privet.simulations.sweep_report.data import data, description
from privet.simulations.sweep_report.findings import advice, verdict
from privet.simulations.sweep_report.heights import accuracies, rounds_to
from privet.simulations.sweep_report.marks import asked_text, marks, settings, spent_text
from privet.simulations.sweep_report.places import views
from privet.simulations.sweep_report.spread import spread
from privet.simulations.sweep_report.state import alarms, failures, headline
from privet.simulations.sweep_report.targets import DEFAULT, SHARES, targets

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
    rounds = [rounds_to(level, shown, found) for level in goals.levels] if goals else []
    heights = [*accuracies(shown, found), *rounds]
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
        marks=shown,
        views=across,
        view=across[0] if across else None,
        heights=heights,
        height=heights[0],
        data=data(shown, across, heights) if across else None,
        description=description(shown, across, heights) if across else "",
        targets=goals,
        shares=SHARES,
        target=DEFAULT,
        costs=costs(found, rounds),
        spread=spread(found),
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
    return [*engine, *law]
