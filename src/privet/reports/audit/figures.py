"""What canaries show, as pictures: lower bounds beside claims, and the tests of the law.

An attack's ROC in log-log scale, beside what (epsilon, delta) leaves to any attack.

Low false-positive rates are where an attack does harm and where a promise binds (Carlini et al.
2022, arXiv 2112.03570), so both axes are logarithmic.

Figures as geometry. Every mark names a style, which the template draws with a light colour.

A PDF is made without the page's style sheet inside of figures; on a screen that sheet has its own
colours for the same names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from privet.audits.mechanism import Check, Conformance
from privet.charts.formatting import bound, decimal, scientific, shortened
from privet.charts.scales import Scale, decades, nice_ticks
from privet.privacy.mechanisms.canaries import Floats

WIDTH = 420.0

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class StyledPath:
    """A path; `style` is one of those that the template knows."""

    path: str
    style: str
    title: str = ""


@dataclass(frozen=True)
class Label:
    """A text beside `x` at `y`."""

    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    style: str = "label"


@dataclass(frozen=True)
class Picture:
    """WIDTH units wide; `description` is for those who cannot see it."""

    title: str
    description: str
    height: float
    marks: tuple[StyledPath, ...]
    labels: tuple[Label, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """Styles, and what they stand for."""


def dot(x: float, y: float, style: str, title: str = "", *, radius: float = 4.0) -> StyledPath:
    """A filled circle."""
    r = f"{radius:g}"
    arcs = f"a{r} {r} 0 1 0 {2 * radius:g} 0a{r} {r} 0 1 0 {-2 * radius:g} 0"
    return StyledPath(f"M{x - radius:.2f} {y:.2f}{arcs}Z", style, title)


def line(points: Sequence[tuple[float, float]], style: str, title: str = "") -> StyledPath:
    """Straight from point to point."""
    return StyledPath("M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points), style, title)


def area(points: Sequence[tuple[float, float]], style: str) -> StyledPath:
    """What the points enclose."""
    return StyledPath(f"{line(points, style).path}Z", style)


def grid(
    scale: Scale, ticks: Sequence[float], *, top: float, bottom: float
) -> Iterator[StyledPath]:
    """Upright lines at the ticks of a horizontal scale."""
    for tick in ticks:
        yield line([(scale(tick), top), (scale(tick), bottom)], "grid")


_NAMES, _RIGHT, _TOP, _ROW = 148.0, WIDTH - 14, 6.0, 19.0
_MOST_ROWS = 24
_LETTERS = 23
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


def bounds_picture(bounds: Sequence[ClaimedBound]) -> Picture:
    """A row for each silo, with the last for all; of many, those nearest to their claims."""
    *silos, together = bounds
    nearest = sorted(silos, key=lambda each: each.claim - each.shown)[:_MOST_ROWS]
    rows = [*(each for each in silos if each in nearest), together]
    finite = [each.claim for each in rows if math.isfinite(each.claim)]
    ticks = nice_ticks([0.0, *finite, *(each.shown for each in rows)])
    scale = Scale(0.0, ticks[-1], _NAMES, _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    marks = [*grid(scale, ticks, top=_TOP, bottom=bottom)]
    for number, each in enumerate(rows):
        marks += _bound_marks(each, scale, _TOP + _ROW * (number + 0.5))
    refuted = sum(each.shown > each.claim for each in rows)
    return Picture(
        "Lower bound against claim",
        f"Of {len(rows)} rows, {refuted} show more than is claimed. {_worst(together)}",
        bottom + 34,
        tuple(marks),
        (*_names([each.name for each in rows]), *_axis(scale, ticks, bottom, "epsilon")),
        (("dot", "at least, 95 % confidence"), ("claim", "claimed")),
    )


def tests_picture(found: Conformance) -> Picture:
    """A row for each test of the claimed law; what lies beyond the line refutes it."""
    checks = sorted(found.checks, key=lambda check: check.p_value)
    first = found.level / len(checks)
    least = min(first, max(checks[0].p_value, _LEAST_P))
    ticks = decades(least, 1.0)
    scale = Scale(min(least, ticks[0]), 1.0, _RIGHT - 6, _NAMES + 6, logarithmic=True)
    bottom = _TOP + _ROW * len(checks)
    marks = [
        *grid(scale, ticks, top=_TOP, bottom=bottom),
        line([(scale(first), _TOP), (scale(first), bottom)], "limit"),
        *_test_marks(checks, found, scale),
    ]
    axis = _axis(scale, ticks, bottom, "p-value")
    return Picture(
        "Tests of the mechanism's law",
        f"{len(found.failed)} of {len(checks)} tests refute the claimed mechanism.",
        bottom + 34,
        tuple(marks),
        (*_names([check.name for check in checks]), *axis),
        (("dot", "a test"), ("bad", "refutes the claim"), ("limit", f"line at {first:.1g}")),
    )


def _bound_marks(each: ClaimedBound, scale: Scale, y: float) -> Iterator[StyledPath]:
    x, claim = scale(each.shown), scale(each.claim)
    yield line([(scale(0.0), y), (x, y)], "link")
    told = f"{each.name}: at least {decimal(each.shown, digits=2)}, claimed {bound(each.claim)}"
    if math.isfinite(each.claim):
        yield line([(claim, y - 6), (claim, y + 6)], "claim", told)
    yield dot(x, y, "bad" if each.shown > each.claim else "dot", told)


def _test_marks(checks: Sequence[Check], found: Conformance, scale: Scale) -> Iterator[StyledPath]:
    for number, check in enumerate(checks):
        y = _TOP + _ROW * (number + 0.5)
        x = scale(max(check.p_value, _LEAST_P))
        yield line([(scale(1.0), y), (x, y)], "link")
        told = f"{check.name}: p = {check.p_value:.2g}"
        yield dot(x, y, "bad" if check in found.failed else "dot", told)


def _names(names: Sequence[str]) -> Iterator[Label]:
    for number, name in enumerate(names):
        y = _TOP + _ROW * (number + 0.5) + 4
        yield Label(_NAMES - 8, y, shortened(name, _LETTERS), "end", "name")


def _axis(scale: Scale, ticks: Sequence[float], bottom: float, name: str) -> Iterator[Label]:
    for tick in ticks:
        yield Label(scale(tick), bottom + 15, scientific(tick), "middle")
    yield Label((_NAMES + _RIGHT) / 2, bottom + 31, name, "middle")


def _worst(each: ClaimedBound) -> str:
    return (
        f"{each.name}: at least {decimal(each.shown, digits=2)}, claimed {bound(each.claim)}: "
        f"{each.correct} of {each.guesses} guesses right, {each.canaries:,} canaries."
    )


_LEFT, _ROC_RIGHT, _ROC_TOP, _BOTTOM = 52.0, WIDTH - 12, 10.0, 300.0


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


def roc_picture(roc: Roc) -> Picture:
    """The ROC with its band and the curve that no attack on the claimed mechanism can pass.

    A threshold's band is the rectangle of both its Clopper-Pearson intervals, each at half of the
    error; it is of that threshold by itself, chosen beforehand. An attack whose lower right edge of
    the band lies above the claim's curve refutes it.
    """
    floor = 0.5 / max(roc.members, roc.others, 1)
    low = 10.0 ** math.floor(math.log10(floor))
    across = Scale(low, 1.0, _LEFT, _ROC_RIGHT, logarithmic=True)
    up = Scale(low, 1.0, _BOTTOM, _ROC_TOP, logarithmic=True)
    rates = np.geomspace(low, 1.0, 80)
    held = most_true(rates, epsilon=roc.epsilon, delta=roc.delta)
    curves = {
        "chance": (rates, rates, "guessing"),
        "limit": (rates, held, f"most that epsilon {roc.epsilon:.3g} allows"),
        **({"charged": (*roc.charged, "most that the mechanism allows")} if roc.charged else {}),
        "curve": (roc.fpr, roc.tpr, "the attack"),
    }
    ticks = decades(low, 1.0)
    return Picture(
        roc.title,
        _description(roc),
        _BOTTOM + 38,
        (
            *_grid(ticks, across, up),
            area(_band(roc, across, up), "band"),
            *(line(_points(x, y, across, up), style) for style, (x, y, _) in curves.items()),
        ),
        _labels(ticks, across, up),
        (
            *((style, name) for style, (_, _, name) in reversed(curves.items())),
            ("band", f"{roc.confidence:.0%} band"),
        ),
    )


def most_true(fpr: Floats, *, epsilon: float, delta: float) -> Floats:
    """The largest true-positive rate that (epsilon, delta)-DP allows (Kairouz et al. 2015)."""
    factor = math.exp(min(epsilon, 700.0))
    return np.clip(np.minimum(factor * fpr + delta, 1 - (1 - delta - fpr) / factor), 0.0, 1.0)


def interval(rates: Floats, total: int, confidence: float) -> tuple[Floats, Floats]:
    """Clopper & Pearson (1934): bounds on the probabilities behind observed shares of `total`."""
    counts, tail = np.rint(rates * total), (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        lower = beta.ppf(tail, counts, total - counts + 1)
        upper = beta.isf(tail, counts + 1, total - counts)
    return np.where(counts <= 0, 0.0, lower), np.where(counts >= total, 1.0, upper)


def _band(roc: Roc, across: Scale, up: Scale) -> list[tuple[float, float]]:
    """Upper left corners of the rectangles, back along the lower right ones, to where it began."""
    each = (1 + roc.confidence) / 2
    left, right = interval(np.asarray(roc.fpr, dtype=np.float64), roc.others, each)
    below, above = interval(np.asarray(roc.tpr, dtype=np.float64), roc.members, each)
    upper, lower = _points(left, above, across, up), _points(right, below, across, up)
    return upper + lower[::-1] + _points(left[:1], below[:1], across, up)


def _points(x: ArrayLike, y: ArrayLike, across: Scale, up: Scale) -> list[tuple[float, float]]:
    """Of those that lie further left than the axis goes, the last stands at its end."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    first = max(int(np.searchsorted(x, across.low)) - 1, 0)
    both = zip(x[first:].tolist(), y[first:].tolist(), strict=True)
    return list(dict.fromkeys((round(across(a), 2), round(up(b), 2)) for a, b in both))


def _grid(ticks: Sequence[float], across: Scale, up: Scale) -> list[StyledPath]:
    upright = [line([(across(t), _ROC_TOP), (across(t), _BOTTOM)], "grid") for t in ticks]
    return upright + [line([(_LEFT, up(t)), (_ROC_RIGHT, up(t))], "grid") for t in ticks]


def _labels(ticks: Sequence[float], across: Scale, up: Scale) -> tuple[Label, ...]:
    below = [Label(across(t), _BOTTOM + 15, scientific(t), "middle") for t in ticks]
    beside = [Label(_LEFT - 6, up(t) + 4, scientific(t), "end") for t in ticks]
    name = Label((_LEFT + _ROC_RIGHT) / 2, _BOTTOM + 32, "false-positive rate", "middle")
    other = Label(_LEFT + 6, _ROC_TOP + 14, "true-positive rate")
    return (*below, *beside, name, other)


def _description(roc: Roc) -> str:
    """At the lowest rate of false positives that was seen, what the attack found."""
    fpr, tpr = np.asarray(roc.fpr), np.asarray(roc.tpr)
    clean = float(tpr[fpr <= 0].max(initial=0.0))
    return (
        f"{roc.title}: without a false positive among {roc.others:,} the attack finds "
        f"{clean:.1%} of {roc.members:,}."
    )
