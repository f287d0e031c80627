"""What can be drawn upwards: accuracy, the worst silo, rounds to a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from privet.simulations.pages.formatting import NOTHING
from privet.simulations.pages.scales import Scale, Tick, finite, nice_ticks, ticks
from privet.simulations.sweep.results import Cell
from privet.simulations.sweep.statistics import half_width
from privet.simulations.sweep_report.marks import Mark, Setting

_BELOW_LANE = 86.0
_LANE = 95.0

_Combine = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Point:
    """A mark's height in the quantity's unit; None: unknown; infinite: never reached."""

    value: float | None
    half: float | None
    text: str


@dataclass(frozen=True)
class Quantity:
    """A quantity for every mark. `at`, `low` and `high` are in per cent from the bottom."""

    label: str
    points: tuple[Point, ...]
    at: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    ticks: tuple[Tick, ...]
    lane: Tick | None
    """Where marks stand that never reach the target, above a broken axis."""


def accuracies(marks: Sequence[Mark], settings: Sequence[Setting]) -> list[Quantity]:
    """Mean accuracy, and that of the worst silo where it is known."""
    found = [_quantity("Mean accuracy", [_accuracy(mark) for mark in marks])]
    worst = _points(marks, settings, _worst, min, _decimals)
    if any(point.value is not None for point in worst):
        found.append(_quantity("Accuracy of the worst silo", worst))
    return found


def rounds_to(level: float, marks: Sequence[Mark], settings: Sequence[Setting]) -> Quantity:
    """Rounds until the model was so accurate; of silos alone, the mean over them."""

    def rounds(cell: Cell) -> float | None:
        reached = cell.rounds_to(level)
        return math.inf if reached is None else float(reached)

    points = _points(marks, settings, rounds, _mean, _count)
    return _quantity(f"Rounds to accuracy {level:g}", points, counts=True)


def _accuracy(mark: Mark) -> Point:
    if isinstance(mark.of, Cell):
        return _point([_known(mark.of.accuracy)], _decimals)
    value = _known(mark.of.mean)
    half = _known(mark.of.half_width)
    if value is None:
        return Point(None, None, NOTHING)
    return Point(value, half, _with_half(value, half, _decimals))


def _points(
    marks: Sequence[Mark],
    settings: Sequence[Setting],
    measure: Callable[[Cell], float | None],
    combine: _Combine,
    write: Callable[[float], str],
) -> list[Point]:
    """Of a cell, its own; of an estimate, the mean over seeds of what its cells combine to."""
    found = []
    for mark in marks:
        if mark.cell:
            found.append(_point([measure(mark.cell)], write))
            continue
        seeds = settings[mark.setting].by_seed().values()
        values = [[measure(cell) for cell in cells] for cells in seeds if cells]
        whole = [None if None in each else combine(_given(each)) for each in values]
        found.append(_point(whole, write))
    return found


def _point(values: Sequence[float | None], write: Callable[[float], str]) -> Point:
    """The mean of `values` over seeds; never reached once one of them is infinite."""
    known = _given(values)
    if not known or len(known) < len(values):
        return Point(None, None, NOTHING)
    reached = finite(known)
    if len(reached) < len(known):
        seeds = f"with {len(reached)} of {len(known)} seeds" if len(known) > 1 else "not reached"
        return Point(math.inf, None, seeds if reached else "not reached")
    value, half = _mean(known), half_width(known)
    return Point(value, half, _with_half(value, half, write))


def _quantity(label: str, points: Sequence[Point], *, counts: bool = False) -> Quantity:
    """`counts` begin at nothing and may never come; other quantities lie between 0 and 1."""
    edges = [edge for point in points for edge in _ends(point) if edge is not None]
    levels = nice_ticks([0.0, *edges] if counts else [min(max(edge, 0.0), 1.0) for edge in edges])
    lane = any(point.value == math.inf for point in points)
    scale = Scale(levels[0], levels[-1], 0.0, _BELOW_LANE if lane else 100.0)
    ends = [_ends(point) if point.half else (None, None) for point in points]
    return Quantity(
        label,
        tuple(points),
        at=tuple(_at(scale, point.value) for point in points),
        low=tuple(_at(scale, low) for low, _ in ends),
        high=tuple(_at(scale, high) for _, high in ends),
        ticks=ticks(levels, scale),
        lane=Tick(_LANE, "never") if lane else None,
    )


def _at(scale: Scale, value: float | None) -> float | None:
    """In per cent; what lies outside stands at the edge."""
    if value is None:
        return None
    return _LANE if value == math.inf else round(scale(value), 3)


def _ends(point: Point) -> tuple[float | None, float | None]:
    """Of the interval; the value itself where there is none."""
    if point.value is None or not math.isfinite(point.value):
        return None, None
    return point.value - (point.half or 0.0), point.value + (point.half or 0.0)


def _worst(cell: Cell) -> float | None:
    if cell.kind == "alone":
        return _known(cell.accuracy)
    return min(finite((cell.accuracy_per_silo or {}).values()), default=None)


def _given(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _with_half(value: float, half: float | None, write: Callable[[float], str]) -> str:
    return write(value) if half is None else f"{write(value)} ± {write(half)}"


def _decimals(value: float) -> str:
    return f"{value:.4f}"


def _count(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
