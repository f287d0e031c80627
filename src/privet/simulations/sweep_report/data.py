"""What the script of the page draws and reads out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from privet.simulations.pages.scales import Tick
from privet.simulations.sweep_report.heights import Quantity
from privet.simulations.sweep_report.marks import Mark
from privet.simulations.sweep_report.places import View


def description(shown: Sequence[Mark], across: Sequence[View], heights: Sequence[Quantity]) -> str:
    """For those who cannot see the chart."""
    points = [
        f"{mark.name} {point.text}"
        for mark, point in zip(shown, heights[0].points, strict=True)
        if not mark.cell
    ]
    return f"{heights[0].label} by {across[0].label or 'setting'}: {'; '.join(points[:30])}"


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
