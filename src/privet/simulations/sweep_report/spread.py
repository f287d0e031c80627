"""Who pays: accuracy of every silo, setting by setting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from privet.simulations.pages.charts import hover
from privet.simulations.pages.formatting import counted
from privet.simulations.pages.scales import Scale, Tick, nice_ticks, ticks
from privet.simulations.sweep.results import Cell
from privet.simulations.sweep.words import title
from privet.simulations.sweep_report.marks import Setting


@dataclass(frozen=True)
class Silos:
    """A row: the silos of one setting, worst first; `at` in per cent from the left."""

    name: str
    at: tuple[float, ...]
    mean_at: float
    worst: str
    mean: str
    best: str
    description: str
    hover: str


@dataclass(frozen=True)
class Spread:
    """The rows over one axis; `text` says where the worst silo stands best and worst."""

    rows: tuple[Silos, ...]
    ticks: tuple[Tick, ...]
    text: str
    left_out: int
    """Settings of which accuracy by silo is not known."""


def spread(settings: Sequence[Setting]) -> Spread | None:
    """None where no setting tells accuracy by silo."""
    found = [(title(each.estimate), _by_silo(each)) for each in settings]
    known = [(name, silos) for name, silos in found if silos]
    if not known:
        return None
    levels = nice_ticks([value for _, silos in known for _, value in silos])
    scale = Scale(levels[0], levels[-1], 0.0, 100.0)
    return Spread(
        tuple(_row(name, silos, scale) for name, silos in known),
        ticks(levels, scale),
        _told(known),
        len(found) - len(known),
    )


_Known = list[tuple[str, float]]


def _by_silo(setting: Setting) -> _Known:
    """Mean over seeds, worst silo first."""
    values: dict[str, list[float]] = {}
    for cell in setting.cells:
        for silo, value in _of(cell):
            values.setdefault(silo, []).append(value)
    means = ((silo, math.fsum(each) / len(each)) for silo, each in values.items())
    return sorted(means, key=lambda each: each[1])


def _of(cell: Cell) -> Iterator[tuple[str, float]]:
    found = {cell.silo: cell.accuracy} if cell.kind == "alone" else cell.accuracy_per_silo or {}
    for silo, value in found.items():
        if silo is not None and value is not None and math.isfinite(value):
            yield silo, value


def _mean(silos: _Known) -> float:
    return math.fsum(value for _, value in silos) / len(silos)


def _row(name: str, silos: _Known, scale: Scale) -> Silos:
    worst, best = silos[0], silos[-1]
    at = tuple(round(scale(value), 3) for _, value in silos)
    return Silos(
        name,
        at,
        round(scale(_mean(silos)), 3),
        worst=f"{worst[1]:.3f}",
        mean=f"{_mean(silos):.3f}",
        best=f"{best[1]:.3f}",
        description=(
            f"{name}: {counted(len(silos), 'silo')} from {worst[1]:.3f} ({worst[0]}) "
            f"to {best[1]:.3f} ({best[0]}), mean {_mean(silos):.3f}"
        ),
        hover=hover(
            at=at,
            heads=[silo for silo, _ in silos],
            names=["accuracy", "worst", "mean", "best"],
            styles=["block silo", "block silo", "block mean", "block silo"],
            texts=[[f"{value:.4f}" for _, value in silos]]
            + [[f"{value:.4f}"] * len(silos) for value in (worst[1], _mean(silos), best[1])],
        ),
    )


def _told(known: Sequence[tuple[str, _Known]]) -> str:
    if len(known) == 1:
        name, silos = known[0]
        return f"{name}: the worst silo is {silos[0][0]} with {silos[0][1]:.3f}."
    ordered = sorted(known, key=lambda each: each[1][0][1])
    ends = (
        f"{silos[0][1]:.3f} ({silos[0][0]}) with {name}"
        for name, silos in (ordered[0], ordered[-1])
    )
    return "The worst silo has " + " and ".join(ends) + "; all other settings lie between."
