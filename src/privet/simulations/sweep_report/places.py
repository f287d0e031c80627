"""What can be drawn along: epsilon by the ledger, epsilon asked, or any key that was swept.

What has no number there (no differential privacy; a baseline to which the key does not matter)
stands in a lane of its own on the right, beyond a broken axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from privet.simulations.pages.charts import silo_style
from privet.simulations.pages.scales import Scale, Tick, nice_ticks
from privet.simulations.sweep.results import Cell, Estimate, Settings, Sweep, Value
from privet.simulations.sweep.words import described, title
from privet.simulations.sweep_report.marks import Mark

EPSILON = "privacy.epsilon"
_BUDGET = (EPSILON, "privacy.noise_multiplier")
_LEFT, _RIGHT = 4.0, 96.0
_BEFORE_LANE, _LANE, _LANE_WIDTH = 82.0, 93.0, 9.0
_CROWDED = 9.0
"""Per cent between ticks that can be read on a phone."""
_APART = 1.25


@dataclass(frozen=True)
class Series:
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
    names: tuple[Series, ...]
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


def _series(marks: Sequence[Mark], key: str) -> tuple[tuple[Series, ...], tuple[int, ...]]:
    """Series by what the settings say beside `key`, federations first; and each mark's place."""
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
    names = tuple(Series(each[1], styles[each]) for each in order)
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
        edges = [finite[0] / _APART, finite[-1] * _APART] if self.exact and _near(finite) else []
        reach = [*finite, *levels, *edges] or [0.0]
        right = _BEFORE_LANE if math.inf in self.numbers else _RIGHT
        axis = Scale(min(reach), max(reach), _LEFT, right, logarithmic=log)
        names = self.texts or [f"{level:.4g}" for level in levels]
        ticks = (Tick(round(axis(v), 3), text) for v, text in zip(levels, names, strict=True))
        return Places(tuple(self._spread(axis)), tuple(_apart(ticks)))

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
    return [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]


def _apart(ticks: Iterable[Tick]) -> Iterator[Tick]:
    last = -math.inf
    for tick in ticks:
        if tick.at >= last + _CROWDED:
            last = tick.at
            yield tick
