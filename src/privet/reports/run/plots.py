"""The charts as PNG files, for papers and slides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from privet.charts.chart import Chart
from privet.charts.formatting import scientific
from privet.charts.pictures import picture
from privet.files import write_whole
from privet.record.run import Run
from privet.reports.run.curves import epsilon_chart, loss_chart, metric_chart
from privet.reports.run.distribution import distribution
from privet.reports.run.verdict import finite_guarantee


def write_plots(run: Run, folder: Path) -> tuple[Path, ...]:
    """Write epsilon.png, silos.png and one of the metric's name, such as accuracy.png.

    Those with nothing to show are left out.
    """
    folder.mkdir(exist_ok=True)
    held = distribution(run)
    shown = {
        run.metric.filename: [chart for chart in (metric_chart(run), loss_chart(run)) if chart],
        "epsilon": _epsilon(run),
        "silos": [held.chart] if held else [],
    }
    written = []
    for name, charts in shown.items():
        if charts:
            written.append(folder / f"{name}.png")
            write_whole(written[-1], picture(charts, "png", dpi=110))
    return tuple(written)


def _epsilon(run: Run) -> list[Chart]:
    promise = finite_guarantee(run)
    # Without the promise there is no delta, and an epsilon without one says nothing.
    chart = epsilon_chart(run) if promise else None
    if promise is None or chart is None:
        return []
    return [replace(chart, title=f"{chart.title}, delta {scientific(promise.delta)}")]
