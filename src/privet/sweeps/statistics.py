"""What the cells show: intervals over seeds, and which settings differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from privet.metrics import ACCURACY, Metric
from privet.sweeps.results import (
    Axis,
    Cell,
    Estimate,
    Kind,
    PairedComparison,
    Settings,
    Sweep,
    Value,
    described,
)

CONFIDENCE = 0.95
LEVEL = 0.05
_ROUNDING = 1e-9
"""Smaller than any difference of accuracies, larger than rounding."""


@dataclass(frozen=True)
class _Group:
    """The values of one setting by seed; of silos alone, of each silo."""

    kind: Kind
    settings: Settings
    cells: tuple[Cell, ...]

    def by_seed(self) -> dict[int, list[float]]:
        """Whole seeds only: every cell of the seed is done and has a value."""
        found: dict[int, list[float | None]] = {}
        for cell in self.cells:
            value = cell.value if cell.status == "done" else None
            found.setdefault(cell.seed, []).append(value)
        return {
            seed: [value for value in values if value is not None]
            for seed, values in found.items()
            if None not in values
        }

    def means(self) -> dict[int, float]:
        return {seed: float(np.mean(values)) for seed, values in self.by_seed().items()}


def estimate(cells: Iterable[Cell]) -> list[Estimate]:
    """The mean value of each setting with its 95 % interval (Student t over the seeds).

    Settings of which no seed is whole are left out.
    """
    return [_estimated(group) for group in _groups(cells) if group.by_seed()]


def compare(
    cells: Sequence[Cell],
    estimates: Sequence[Estimate],
    axes: Sequence[Axis],
    metric: Metric = ACCURACY,
) -> list[PairedComparison]:
    """Neighbours along each axis, and each setting that is no baseline with the silos alone.

    Differences are paired by seed: settings share its partition and its initial model, so what
    these do to both falls out of a difference. Two-sided paired t tests, since either setting may
    be the better one; p values are corrected by Holm's method over all
    comparisons together, since the largest of many differences is large by chance.
    """
    means = {_key(group.kind, group.settings): group.means() for group in _groups(cells)}
    pairs = [*_neighbours(estimates, axes), *_with_alone(estimates)]
    tests = [
        paired(means[_key_of(estimates[first])], means[_key_of(estimates[second])])
        for first, second, _ in pairs
    ]
    corrected = holm([test.p for test in tests])
    family = sum(p is not None for p in corrected)
    return [
        _comparison(pair, test, p, estimates, family, metric)
        for pair, test, p in zip(pairs, tests, corrected, strict=True)
    ]


def with_estimates(sweep: Sweep) -> Sweep:
    """The sweep with what follows from its cells, of the metric that they show."""
    # An axis may vary what is predicted: figures of another kind stand in no comparison.
    cells = [c for c in sweep.cells if c.status != "done" or c.metric == sweep.metric]
    found = estimate(cells)
    differences = compare(cells, found, sweep.axes, sweep.metric)
    return replace(sweep, estimates=tuple(found), comparisons=tuple(differences))


def half_width(values: Sequence[float]) -> float | None:
    """Of the 95 % interval for their mean by Student's t; None for fewer than two."""
    if len(values) < 2:
        return None
    # Student's t, as the spread is estimated from the same few seeds.
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))


@dataclass(frozen=True)
class Paired:
    """A paired t test."""

    seeds: int
    difference: float | None
    half_width: float | None
    p: float | None


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired:
    """Second minus first over the seeds that both have.

    With one seed there is no p, nor where every seed has the same difference: t is not defined.
    Without any difference p is 1.
    """
    differences = [second[seed] - first[seed] for seed in first if seed in second]
    if not differences:
        return Paired(0, None, None, None)
    mean, width = float(np.mean(differences)), half_width(differences)
    if width is None:
        return Paired(1, mean, None, None)
    # Without any spread t would divide by zero: nothing can be tested, unless nothing differs.
    if np.ptp(differences) < _ROUNDING:
        return Paired(len(differences), mean, 0.0, None if abs(mean) > _ROUNDING else 1.0)
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Paired(len(differences), mean, width, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values corrected by Holm (1979); None stays None and does not count.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        # No smaller than one before: correcting may not change the order.
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[place] = highest
    return corrected


def outcome_of(
    first: str, second: str, test: Paired, p_holm: float, *, family: int, metric: Metric
) -> str:
    """A test, one of `family`, as a sentence: below LEVEL a difference is claimed."""
    tests = f"{family} comparison{'s' if family > 1 else ''}"
    how = f"over {test.seeds} seeds (paired t, p = {p_holm:.2g}, Holm over {tests})"
    if p_holm >= LEVEL:
        return f"{first} against {second}: no difference shown {how}"
    gained = metric.worth(test.difference or 0) > 0
    better, worse = (second, first) if gained else (first, second)
    size = f"{metric.number(abs(test.difference or 0))} +- {metric.number(test.half_width or 0)}"
    size += f" {metric.unit}" if metric.unit else ""
    return f"{better} is better than {worse} by {size} {how}"


def _groups(cells: Iterable[Cell]) -> list[_Group]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(_key(cell.kind, cell.settings), []).append(cell)
    return [_Group(each[0].kind, each[0].settings, tuple(each)) for each in found.values()]


def _key(kind: Kind, settings: Settings) -> str:
    return repr((kind, sorted(settings.items())))


def _key_of(estimated: Estimate) -> str:
    return _key(estimated.kind, estimated.settings)


def _estimated(group: _Group) -> Estimate:
    by_seed, means = group.by_seed(), list(group.means().values())
    done = [cell for cell in group.cells if cell.seed in by_seed]
    alone = group.kind == "alone"
    spent = [cell.epsilon for cell in done if cell.epsilon is not None]
    return Estimate(
        group.kind,
        group.cells[0].baseline,
        group.settings,
        tuple(by_seed),
        mean=float(np.mean(means)),
        half_width=half_width(means),
        # The worst of each seed, whichever silo that is: the worst of the means would hide it.
        lowest=float(np.mean([min(v) for v in by_seed.values()])) if alone else None,
        highest=float(np.mean([max(v) for v in by_seed.values()])) if alone else None,
        asked_epsilon=done[0].asked_epsilon,
        epsilon=max(spent) if spent else None,
    )


_Pair = tuple[int, int, str | None]
"""Places of two estimates and the axis in which they differ."""


def _neighbours(estimates: Sequence[Estimate], axes: Sequence[Axis]) -> Iterator[_Pair]:
    places = {_key_of(each): place for place, each in enumerate(estimates)}
    for axis in axes:
        values = _in_order(axis, estimates)
        for place, each in enumerate(estimates):
            value = each.settings.get(axis.key)
            if each.kind != "federated" or value not in values or value == values[-1]:
                continue
            following = values[values.index(value) + 1]
            other = places.get(_key("federated", {**each.settings, axis.key: following}))
            if other is not None:
                yield place, other, axis.key


def _in_order(axis: Axis, estimates: Sequence[Estimate]) -> list[Value]:
    """The axis' values, those of baselines among them; numbers by size."""
    found = [*axis.values, *(e.settings[axis.key] for e in estimates if axis.key in e.settings)]
    values = list(dict.fromkeys(found))
    numbers = all(isinstance(value, int | float) for value in values)
    return sorted(values) if numbers else values


def _with_alone(estimates: Sequence[Estimate]) -> Iterator[_Pair]:
    alone = {_key_of(each): place for place, each in enumerate(estimates) if each.kind == "alone"}
    for place, each in enumerate(estimates):
        if each.kind == "federated" and not each.baseline:
            for other in alone.values():
                if each.settings.items() >= estimates[other].settings.items():
                    yield other, place, None


def _comparison(
    pair: _Pair,
    test: Paired,
    p_holm: float | None,
    estimates: Sequence[Estimate],
    family: int,
    metric: Metric,
) -> PairedComparison:
    first, second, key = pair
    one, two = _names(estimates[first], estimates[second], key)
    return PairedComparison(
        first,
        second,
        key,
        test.seeds,
        test.difference,
        test.half_width,
        test.p,
        p_holm,
        words=_sentence(one, two, test, p_holm, family, metric),
    )


def _names(first: Estimate, second: Estimate, key: str | None) -> tuple[str, str]:
    if key is None:
        return "silos alone", described(second.settings) or "the federation"
    others = {k: v for k, v in first.settings.items() if k != key}
    beside = f" ({described(others)})" if others else ""
    one, two = (described({key: each.settings[key]}) + beside for each in (first, second))
    return one, two


def _sentence(
    first: str, second: str, test: Paired, p_holm: float | None, family: int, metric: Metric
) -> str:
    if test.difference is None:
        return f"{first} against {second}: no seed in common"
    if p_holm is None:
        seeds = "one seed" if test.seeds == 1 else f"each of {test.seeds} seeds, without spread"
        change = metric.change(test.difference)
        return f"{first} against {second}: {change} with {seeds}: no test is possible"
    return outcome_of(first, second, test, p_holm, family=family, metric=metric)
