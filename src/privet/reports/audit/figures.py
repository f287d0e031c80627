"""What canaries show: lower bounds beside claims, the tests of the law, and attacks.

An attack's ROC stands in log-log scale, beside what (epsilon, delta) leaves to any attack. Low
false-positive rates are where an attack does harm and where a promise binds (Carlini et al. 2022,
arXiv 2112.03570), so both axes are logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from privet.audits.laws import Check, Conformance
from privet.charts.chart import Chart, ChartRow, Key, Point, Shape, stacked
from privet.charts.formatting import bound, decimal, scientific
from privet.charts.scales import Scale, Tick, decades, nice_ticks
from privet.privacy.mechanisms.canaries import Floats

_MOST_ROWS = 24
# Below it a p-value is rounding, and its logarithm may not exist.
_LEAST_P = 1e-16


@dataclass(frozen=True)
class ClaimedBound:
    """Epsilon of `name` is claimed to be at most `claim`, and an attack shows at least `shown`."""

    name: str
    claim: float
    shown: float
    correct: int
    guesses: int
    canaries: int


def bounds_chart(bounds: Sequence[ClaimedBound]) -> Chart:
    """A row for each silo, with the last for all; of many, those nearest to their claims."""
    *silos, together = bounds
    nearest = sorted(silos, key=lambda each: each.claim - each.shown)[:_MOST_ROWS]
    rows = [*(each for each in silos if each in nearest), together]
    known = [each.claim for each in rows if math.isfinite(each.claim)]
    levels = nice_ticks([0.0, *known, *(each.shown for each in rows)])
    across = Scale(0.0, levels[-1], 0.0, 100.0)
    refuted = sum(each.shown > each.claim for each in rows)
    return _rows(
        [(each.name, _bound(each, across)) for each in rows],
        title="Lower bound against claim",
        description=f"Of {len(rows)} rows, {refuted} show more than is claimed. {_worst(together)}",
        ticks=_ticks(levels, across),
        axis="epsilon",
        legend=(Key("at least, 95 % confidence", "good", "dot"), Key("claimed", "claim", "rule")),
    )


def tests_chart(found: Conformance) -> Chart:
    """A row for each test of the claimed law; what lies beyond the line refutes it."""
    checks = sorted(found.checks, key=lambda check: check.p_value)
    # Holm's first step: the smallest p-value must lie below this for anything to be refuted.
    first = found.level / len(checks)
    least = min(first, max(checks[0].p_value, _LEAST_P))
    levels = decades(least, 1.0)
    # The smaller a p-value the further right: further means more evidence, as in the chart beside
    # it.
    across = Scale(min(least, levels[0]), 1.0, 98.0, 2.0, logarithmic=True)
    return _rows(
        [(check.name, _test(check, found, across)) for check in checks],
        title="Tests of the mechanism's law",
        description=f"{len(found.failed)} of {len(checks)} tests refute the claimed mechanism.",
        ticks=_ticks(levels, across),
        axis="p-value",
        legend=(
            Key("a test", "good", "dot"),
            Key("refutes the claim", "bad", "dot"),
            Key(f"line at {first:.1g}", "limit"),
        ),
        beside=(Shape("rule", "limit", [[(across(first), 0), (across(first), 100)]]),),
    )


def _rows(
    rows: Sequence[tuple[str, tuple[Shape, ...]]],
    *,
    title: str,
    description: str,
    ticks: tuple[Tick, ...],
    axis: str,
    legend: tuple[Key, ...],
    beside: tuple[Shape, ...] = (),
) -> Chart:
    whole = Chart(title, description, beside, ticks, x_name=axis, named=True, legend=legend)
    return stacked([ChartRow(name, Chart(name, "", shapes), "") for name, shapes in rows], whole)


def _bound(each: ClaimedBound, across: Scale) -> tuple[Shape, ...]:
    at, claim = across(each.shown), across(each.claim)
    text = f"{each.name}: at least {decimal(each.shown, digits=2)}, claimed {bound(each.claim)}"
    claimed = Shape("rule", "claim", [[(claim, 20), (claim, 80)]], text)
    return (
        Shape("rule", "link", [[(across(0.0), 50), (at, 50)]]),
        *([claimed] if math.isfinite(each.claim) else []),
        Shape("dot", "bad" if each.shown > each.claim else "good", [[(at, 50)]], text),
    )


def _test(check: Check, found: Conformance, across: Scale) -> tuple[Shape, ...]:
    at, style = across(max(check.p_value, _LEAST_P)), "bad" if check in found.failed else "good"
    return (
        Shape("rule", "link", [[(across(1.0), 50), (at, 50)]]),
        Shape("dot", style, [[(at, 50)]], f"{check.name}: p = {check.p_value:.2g}"),
    )


def _worst(each: ClaimedBound) -> str:
    return (
        f"{each.name}: at least {decimal(each.shown, digits=2)}, claimed {bound(each.claim)}: "
        f"{each.correct} of {each.guesses} guesses right, {each.canaries:,} canaries."
    )


def _ticks(levels: Sequence[float], along: Scale) -> tuple[Tick, ...]:
    return tuple(Tick(along(level), scientific(level)) for level in levels)


@dataclass(frozen=True)
class Roc:
    """An attack: at each of its thresholds, how often it was right and wrong.

    `fpr` and `tpr` are shares of `others` records that were not used, and of `members` that were,
    both rising. (`epsilon`, `delta`) is the claim that the attack is held against.
    """

    title: str
    fpr: ArrayLike
    tpr: ArrayLike
    members: int
    others: int
    epsilon: float
    delta: float
    charged: tuple[ArrayLike, ArrayLike] | None = None
    """The largest rates, false and true, that the mechanism itself leaves possible; they say more
    than its (epsilon, delta) at one delta."""
    confidence: float = 0.95


def roc_chart(roc: Roc) -> Chart:
    """The ROC with its band and the curve that no attack on the claimed mechanism can pass.

    A threshold's band is the rectangle of both its Clopper-Pearson intervals, each at half of the
    error; it is of that threshold by itself, chosen beforehand. An attack whose lower right edge of
    the band lies above the claim's curve refutes it.
    """
    # Half of one record: a rate below that was never observed.
    floor = 0.5 / max(roc.members, roc.others, 1)
    low = 10.0 ** math.floor(math.log10(floor))
    along = Scale(low, 1.0, 0.0, 100.0, logarithmic=True)
    rates = np.geomspace(low, 1.0, 80)
    held = most_true(rates, epsilon=roc.epsilon, delta=roc.delta)
    curves = {
        "chance": (rates, rates, "guessing"),
        "limit": (rates, held, f"most that epsilon {roc.epsilon:.3g} allows"),
        **({"charged": (*roc.charged, "most that the mechanism allows")} if roc.charged else {}),
        "attack": (roc.fpr, roc.tpr, "the attack"),
    }
    band = Shape("area", "band", [_band(roc, along)])
    lines = [
        Shape("line", f"curve {style}", [_points(x, y, along)])
        for style, (x, y, _) in curves.items()
    ]
    ticks = _ticks(decades(low, 1.0), along)
    return Chart(
        roc.title,
        _description(roc),
        (band, *lines),
        ticks,
        ticks,
        unit="true-positive rate",
        x_name="false-positive rate",
        named=True,
        legend=(
            *(Key(name, style) for style, (_, _, name) in reversed(curves.items())),
            Key(f"{roc.confidence:.0%} band", "band", "area"),
        ),
        height=300,
        grid="xy",
    )


def most_true(fpr: Floats, *, epsilon: float, delta: float) -> Floats:
    """The largest true-positive rate that (epsilon, delta)-DP allows (Kairouz et al. 2015)."""
    # A float ends at e to the 709; such a claim allows everything anyway.
    factor = math.exp(min(epsilon, 700.0))
    return np.clip(np.minimum(factor * fpr + delta, 1 - (1 - delta - fpr) / factor), 0.0, 1.0)


def interval(rates: Floats, total: int, confidence: float) -> tuple[Floats, Floats]:
    """Clopper & Pearson (1934): bounds on the probabilities behind observed shares of `total`."""
    counts, tail = np.rint(rates * total), (1 - confidence) / 2
    # At 0 and at all of them a quantile has no value; both are put in below.
    with np.errstate(invalid="ignore"):
        lower = beta.ppf(tail, counts, total - counts + 1)
        upper = beta.isf(tail, counts + 1, total - counts)
    return np.where(counts <= 0, 0.0, lower), np.where(counts >= total, 1.0, upper)


def _band(roc: Roc, along: Scale) -> list[Point]:
    """Upper left corners of the rectangles, back along the lower right ones, to where it began."""
    # Two intervals, each missed with half of the error: together they hold as the band promises.
    each = (1 + roc.confidence) / 2
    left, right = interval(np.asarray(roc.fpr, dtype=np.float64), roc.others, each)
    below, above = interval(np.asarray(roc.tpr, dtype=np.float64), roc.members, each)
    upper, lower = _points(left, above, along), _points(right, below, along)
    return upper + lower[::-1] + _points(left[:1], below[:1], along)


def _points(x: ArrayLike, y: ArrayLike, along: Scale) -> list[Point]:
    """Of those that lie further left than the axis goes, the last stands at its end."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    first = max(int(np.searchsorted(x, along.low)) - 1, 0)
    both = zip(x[first:].tolist(), y[first:].tolist(), strict=True)
    return list(dict.fromkeys((round(along(a), 3), round(along(b), 3)) for a, b in both))


def _description(roc: Roc) -> str:
    """At the lowest rate of false positives that was seen, what the attack found."""
    fpr, tpr = np.asarray(roc.fpr), np.asarray(roc.tpr)
    clean = float(tpr[fpr <= 0].max(initial=0.0))
    return (
        f"{roc.title}: without a false positive among {roc.others:,} the attack finds "
        f"{clean:.1%} of {roc.members:,}."
    )
