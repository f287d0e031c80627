"""An attack's ROC in log-log scale, beside what (epsilon, delta) leaves to any attack.

Low false-positive rates are where an attack does harm and where a promise binds (Carlini et al.
2022, arXiv 2112.03570), so both axes are logarithmic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from privet.privacy.audit.sightings import Floats
from privet.simulations.audit.page.drawing import WIDTH, Label, Mark, Picture, area, line
from privet.simulations.pages.formatting import scientific
from privet.simulations.pages.scales import Scale, decades

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, WIDTH - 12, 10.0, 300.0


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
    across = Scale(low, 1.0, _LEFT, _RIGHT, logarithmic=True)
    up = Scale(low, 1.0, _BOTTOM, _TOP, logarithmic=True)
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


def _grid(ticks: Sequence[float], across: Scale, up: Scale) -> list[Mark]:
    upright = [line([(across(t), _TOP), (across(t), _BOTTOM)], "grid") for t in ticks]
    return upright + [line([(_LEFT, up(t)), (_RIGHT, up(t))], "grid") for t in ticks]


def _labels(ticks: Sequence[float], across: Scale, up: Scale) -> tuple[Label, ...]:
    below = [Label(across(t), _BOTTOM + 15, scientific(t), "middle") for t in ticks]
    beside = [Label(_LEFT - 6, up(t) + 4, scientific(t), "end") for t in ticks]
    name = Label((_LEFT + _RIGHT) / 2, _BOTTOM + 32, "false-positive rate", "middle")
    other = Label(_LEFT + 6, _TOP + 14, "true-positive rate")
    return (*below, *beside, name, other)


def _description(roc: Roc) -> str:
    """At the lowest rate of false positives that was seen, what the attack found."""
    fpr, tpr = np.asarray(roc.fpr), np.asarray(roc.tpr)
    clean = float(tpr[fpr <= 0].max(initial=0.0))
    return (
        f"{roc.title}: without a false positive among {roc.others:,} the attack finds "
        f"{clean:.1%} of {roc.members:,}."
    )
