"""What can be drawn along: epsilon by the ledger, epsilon asked, or any key that was swept.

What has no number there (no differential privacy; a baseline to which the key does not matter)
stands in a lane of its own on the right, beyond a broken axis.

What can be drawn upwards: the metric, the worst silo, rounds to a target.

Values that a reader may ask the rounds to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from privet.charts.chart import apart, silo_style
from privet.charts.formatting import NOTHING
from privet.charts.scales import Scale, Tick, finite, nice_ticks, ticks
from privet.metrics import Metric
from privet.reports.sweep.marks import Mark, Setting
from privet.sweeps.results import Cell, Estimate, Settings, Sweep, Value, described, title
from privet.sweeps.statistics import half_width

EPSILON = "privacy.epsilon"
_BUDGET = (EPSILON, "privacy.noise_multiplier")
_LEFT, _RIGHT = 4.0, 96.0
BROKEN = 86.5
"""Where an axis is broken before its lane."""
_BEFORE_LANE, _LANE, _LANE_WIDTH = 82.0, 93.0, 9.0
_CROWDED = 9.0
"""Per cent between ticks that can be read on a phone."""
_APART = 1.25


@dataclass(frozen=True)
class SweepSeries:
    """What differs in nothing but the place along the axis."""

    name: str
    style: str


@dataclass(frozen=True)
class Places:
    """`at`: of each mark, in per cent from the left."""

    at: tuple[float, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class View:
    """The chart along one axis; `series` says of each mark which of `names` it belongs to."""

    key: str
    label: str
    names: tuple[SweepSeries, ...]
    series: tuple[int, ...]
    joins: tuple[tuple[int, int], ...]
    """Pairs of estimates that a line joins: neighbours of one series along a numeric axis."""
    across: tuple[int, ...]
    """Estimates of baselines in the lane: drawn as a level from side to side as well."""
    linear: Places
    log: Places | None
    """None where it makes no sense: texts, a single value, values that are not positive."""
    starts_log: bool
    lane: Tick | None

    @property
    def scale(self) -> Places:
        """The one that is shown first."""
        return self.log if self.log and self.starts_log else self.linear


def views(sweep: Sweep, marks: Sequence[Mark]) -> list[View]:
    """Epsilon first where there is any, then every key with more than one value."""
    spent = any(mark.of.epsilon is not None for mark in marks)
    asked = any(mark.of.asked_epsilon is not None for mark in marks)
    found = []
    if spent:
        found.append(_view(sweep, marks, "epsilon", "Epsilon by the ledger"))
    if asked:
        found.append(_view(sweep, marks, "asked", "Epsilon asked"))
    keys = [key for key in _keys(sweep) if not (asked and key == EPSILON)]
    found += [_view(sweep, marks, key, key) for key in keys]
    return found or [_view(sweep, marks, "", "")]


def _keys(sweep: Sweep) -> list[str]:
    listed = (key for each in sweep.estimates for key in each.settings)
    return list(dict.fromkeys([*(axis.key for axis in sweep.axes), *listed]))


def _view(sweep: Sweep, marks: Sequence[Mark], key: str, label: str) -> View:
    values = [_value(sweep, mark.of, key) for mark in marks]
    numeric = all(_is_number(value) for value in values if value is not None)
    texts = None if numeric else _texts(sweep, key, values)
    numbers = [_number(value, texts) for value in values]
    names, series = _series(marks, key)
    asked = sorted({mark.of.asked_epsilon for mark in marks if mark.of.asked_epsilon})
    layout = _Layout(numbers, series, exact=key == "epsilon", texts=texts, asked=asked)
    finite = layout.finite
    can_log = numeric and len(finite) > 1 and finite[0] > 0
    return View(
        key,
        label,
        names,
        series,
        joins=tuple(_joins(marks, numbers, series)) if numeric else (),
        across=tuple(
            place
            for place, mark in enumerate(marks)
            if not mark.cell and mark.of.kind != "federated" and numbers[place] == math.inf
        ),
        linear=layout.scale(log=False),
        log=layout.scale(log=True) if can_log else None,
        # Below that factor both scales look alike, and a linear one is easier to read.
        starts_log=can_log and finite[-1] >= 3 * finite[0],
        lane=_lane(marks, numbers, key),
    )


def _value(sweep: Sweep, of: Estimate | Cell, key: str) -> Value | None:
    """None: no place on the axis."""
    if key == "epsilon":
        return of.epsilon
    if key == "asked":
        return of.asked_epsilon
    if key == "":
        return "the experiment" if of.kind == "federated" else None
    if key in of.settings:
        return of.settings[key]
    # The same tables that the plan leaves out of a baseline's settings.
    free = ("privacy.",) if of.kind == "federated" else ("privacy.", "strategy.", "encryption.")
    if of.baseline and key.startswith(free):
        return None
    return _looked_up(sweep.experiment, key)


def _looked_up(table: Mapping[str, Any], key: str) -> Value | None:
    found: Any = table
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, bool | int | float | str) else None


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Value | None, texts: Sequence[str] | None) -> float:
    """Of texts, the place among them; what is not finite has its place in the lane."""
    if value is None:
        return math.inf
    number = float(value) if texts is None else float(texts.index(str(value)))
    return number if math.isfinite(number) else math.inf


def _texts(sweep: Sweep, key: str, values: Iterable[Value | None]) -> list[str]:
    """As on the axis that was asked for, then as they come."""
    asked = (value for axis in sweep.axes if axis.key == key for value in axis.values)
    return list(dict.fromkeys(str(value) for value in (*asked, *values) if value is not None))


def _series(marks: Sequence[Mark], key: str) -> tuple[tuple[SweepSeries, ...], tuple[int, ...]]:
    """Series by what the settings say beside `key`, federations first; and each mark's place."""
    # Along the epsilon that was spent, noise is no setting of its own: it is what spent it.
    dropped = _BUDGET if key in ("epsilon", "asked") else (key,)
    rests = [
        replace(mark.of, settings=_without(mark.of.settings, dropped))
        for mark in marks
        if isinstance(mark.of, Estimate)
    ]
    shades: dict[str, str] = {}
    for of in rests:
        if of.kind == "federated":
            shades.setdefault(described(of.settings), silo_style(len(shades)))
    styles = {(of.kind != "federated", title(of)): _style(of, shades) for of in rests}
    order = sorted(styles, key=lambda each: each[0])
    places = [order.index((of.kind != "federated", title(of))) for of in rests]
    names = tuple(SweepSeries(each[1], styles[each]) for each in order)
    return names, tuple(places[mark.setting] for mark in marks)


def _style(of: Estimate, shades: Mapping[str, str]) -> str:
    """Pooled data and silos alone have the colour of the federation with the same settings."""
    shade = shades.get(described(of.settings), "plain") if of.settings else "plain"
    return shades[described(of.settings)] if of.kind == "federated" else f"{of.kind} {shade}"


def _without(settings: Settings, keys: Sequence[str]) -> Settings:
    return {key: value for key, value in settings.items() if key not in keys}


def _joins(
    marks: Sequence[Mark], numbers: Sequence[float], series: Sequence[int]
) -> Iterator[tuple[int, int]]:
    by_series: dict[int, list[int]] = {}
    for place, mark in enumerate(marks):
        if not mark.cell and math.isfinite(numbers[place]):
            by_series.setdefault(series[place], []).append(place)
    for places in by_series.values():
        yield from pairwise(sorted(places, key=lambda place: numbers[place]))


def _lane(marks: Sequence[Mark], numbers: Sequence[float], key: str) -> Tick | None:
    there = [mark.of for mark, number in zip(marks, numbers, strict=True) if number == math.inf]
    if not there:
        return None
    if all(of.epsilon is None and of.asked_epsilon is None for of in there) and (
        key in ("epsilon", "asked", *_BUDGET)
    ):
        return Tick(_LANE, "no DP")
    return Tick(_LANE, "any" if all(of.baseline for of in there) else "none")


@dataclass(frozen=True)
class _Layout:
    """Marks along an axis; infinite ones in the lane."""

    numbers: Sequence[float]
    series: Sequence[int]
    exact: bool
    """Numbers are as they come, not chosen: ticks are at round ones."""
    texts: Sequence[str] | None
    asked: Sequence[float]
    """Round numbers near which exact ones lie."""

    @property
    def finite(self) -> list[float]:
        """The numbers that have a place on the axis, by size."""
        return sorted({number for number in self.numbers if math.isfinite(number)})

    def scale(self, *, log: bool) -> Places:
        finite = self.finite
        levels = _levels(finite, self.asked, log=log) if self.exact else finite
        if self.texts is not None:
            levels = [float(place) for place in range(len(self.texts))]
        # Budgets of one target differ in the third digit: an axis from the least to the largest
        # would make that a trend.
        edges = [finite[0] / _APART, finite[-1] * _APART] if self.exact and _near(finite) else []
        reach = [*finite, *levels, *edges] or [0.0]
        right = _BEFORE_LANE if math.inf in self.numbers else _RIGHT
        axis = Scale(min(reach), max(reach), _LEFT, right, logarithmic=log)
        names = self.texts or [f"{level:.4g}" for level in levels]
        ticks = (Tick(round(axis(v), 3), text) for v, text in zip(levels, names, strict=True))
        return Places(tuple(self._spread(axis)), tuple(apart(ticks, _CROWDED)))

    def _spread(self, axis: Scale) -> Iterator[float]:
        beside = {lane: self._beside(lane=lane) for lane in (False, True)}
        for number, series in zip(self.numbers, self.series, strict=True):
            lane = number == math.inf
            yield round((_LANE if lane else axis(number)) + beside[lane][series], 3)

    def _beside(self, *, lane: bool) -> dict[int, float]:
        """By series, how far beside its number it stands."""
        there = {
            s for n, s in zip(self.numbers, self.series, strict=True) if (n == math.inf) is lane
        }
        most, width = (3.0, _LANE_WIDTH) if lane else (1.0, 6.0)
        step = min(most, width / max(len(there), 1))
        return {
            series: (rank - (len(there) - 1) / 2) * step
            for rank, series in enumerate(sorted(there))
        }


def _levels(values: Sequence[float], asked: Sequence[float], *, log: bool) -> list[float]:
    """Round numbers about as far as the values go: those `asked` for, where they are enough."""
    if not values:
        return []
    wanted = 1 if _near(values) else 2
    for found in (asked, _steps(values[0], values[-1]) if log else nice_ticks(values)):
        inside = [level for level in found if values[0] / 1.1 <= level <= values[-1] * 1.1]
        if len(inside) >= wanted:
            return inside
    return list(values)


def _near(values: Sequence[float]) -> bool:
    """Whether these positive numbers differ by so little that an axis must not magnify it."""
    return bool(values) and values[-1] < _APART * values[0]


def _steps(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around two positive numbers."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
    # By their texts: 5 * 10.0 ** -6 is not the float that is written 5e-6.
    return [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]


_BELOW_LANE, UP_BROKEN = 86.0, 90.5
_NEVER_LANE = 95.0

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


def values(marks: Sequence[Mark], settings: Sequence[Setting], metric: Metric) -> list[Quantity]:
    """The mean of the metric, and that of the worst silo where it is known."""
    share = metric.share
    unit = f" ({metric.unit})" if metric.unit else ""
    means = [_mean_of(mark, metric) for mark in marks]
    found = [_quantity(f"Mean {metric.label}{unit}", means, share=share)]
    poorest = min if metric.higher_is_better else max
    worst = _points(marks, settings, partial(_worst, metric), poorest, metric.number)
    if any(point.value is not None for point in worst):
        label = f"{metric.title} of the worst silo{unit}"
        found.append(_quantity(label, worst, share=share))
    return found


def rounds_to(
    level: float, marks: Sequence[Mark], settings: Sequence[Setting], metric: Metric
) -> Quantity:
    """Rounds until the model was so good; of silos alone, the mean over them."""

    def rounds(cell: Cell) -> float | None:
        reached = cell.rounds_to(level)
        return math.inf if reached is None else float(reached)

    points = _points(marks, settings, rounds, _mean, _count)
    return _quantity(f"Rounds to {metric.label} {level:g}", points, counts=True)


def _mean_of(mark: Mark, metric: Metric) -> Point:
    if isinstance(mark.of, Cell):
        return _point([_known(mark.of.value)], metric.number)
    value = _known(mark.of.mean)
    half = _known(mark.of.half_width)
    if value is None:
        return Point(None, None, NOTHING)
    return Point(value, half, _with_half(value, half, metric.number))


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
        # A seed counts whole or not at all: a mean over the silos that happen to be done compares
        # with nothing.
        whole = [None if None in each else combine(_given(each)) for each in values]
        found.append(_point(whole, write))
    return found


def _point(values: Sequence[float | None], write: Callable[[float], str]) -> Point:
    """The mean of `values` over seeds; never reached once one of them is infinite."""
    known = _given(values)
    if not known or len(known) < len(values):
        return Point(None, None, NOTHING)
    # A mean over the seeds that got there would reward a setting for the seeds that never do.
    reached = finite(known)
    if len(reached) < len(known):
        seeds = f"with {len(reached)} of {len(known)} seeds" if len(known) > 1 else "not reached"
        return Point(math.inf, None, seeds if reached else "not reached")
    value, half = _mean(known), half_width(known)
    return Point(value, half, _with_half(value, half, write))


def _quantity(
    label: str, points: Sequence[Point], *, counts: bool = False, share: bool = False
) -> Quantity:
    """`counts` begin at nothing and may never come; a `share` lies between 0 and 1."""
    edges = [edge for point in points for edge in _ends(point) if edge is not None]
    if share:
        edges = [min(max(edge, 0.0), 1.0) for edge in edges]
    levels = nice_ticks([0.0, *edges] if counts else edges)
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
        lane=Tick(_NEVER_LANE, "never") if lane else None,
    )


def _at(scale: Scale, value: float | None) -> float | None:
    """In per cent; what lies outside stands at the edge."""
    if value is None:
        return None
    return _NEVER_LANE if value == math.inf else round(scale(value), 3)


def _ends(point: Point) -> tuple[float | None, float | None]:
    """Of the interval; the value itself where there is none."""
    if point.value is None or not math.isfinite(point.value):
        return None, None
    return point.value - (point.half or 0.0), point.value + (point.half or 0.0)


def _worst(metric: Metric, cell: Cell) -> float | None:
    if cell.kind == "alone":
        return _known(cell.value)
    return min(finite(cell.value_per_silo.values()), key=metric.worth, default=None)


def _given(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _with_half(value: float, half: float | None, write: Callable[[float], str]) -> str:
    return write(value) if half is None else f"{write(value)} ± {write(half)}"


def _count(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


SHARES = (0.5, 0.8, 0.9, 0.95, 0.98, 1.0)
"""Targets that can be chosen, of the best mean."""
DEFAULT = SHARES.index(0.95)


@dataclass(frozen=True)
class Targets:
    """Values, each a share of the best mean, rounded so that they can be said.

    Where smaller is better each is the best mean divided by the share.
    """

    best: float
    private: bool
    """Whether `best` is the best with privacy, or of all there is."""
    levels: tuple[float, ...]


def targets(sweep: Sweep) -> Targets | None:
    """From the best mean of a federation with privacy, else of any estimate; None without any.

    None also where the best one is not above zero, of which a share means nothing.
    """
    # A target that only training without privacy reaches would be "never" for everything else.
    private = [each.mean for each in sweep.estimates if each.epsilon is not None]
    means = finite(private) or finite(each.mean for each in sweep.estimates)
    if not means:
        return None
    metric = sweep.metric
    best = max(means, key=metric.worth)
    if best <= 0 and not metric.share:
        return None
    levels = (best * share if metric.higher_is_better else best / share for share in SHARES)
    return Targets(best, bool(finite(private)), tuple(metric.rounded(level) for level in levels))
