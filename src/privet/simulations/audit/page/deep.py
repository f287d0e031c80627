"""The curves of a deep audit, as the page draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from privet.simulations.audit.deep.record import Deep
from privet.simulations.audit.page.roc import Roc
from privet.simulations.audit.report import Report

_OBSERVERS = {"updates": "the silo's updates", "model": "the last model alone"}


def rocs_of_deep(report: Report) -> Iterator[Roc]:
    """Of each run and observer, the attacks that its bounds are of."""
    for found in report.deep:
        yield from _of_run(found)


def _of_run(found: Deep) -> Iterator[Roc]:
    bounds = {(each.observer, each.canary, each.score): each for each in found.bounds}
    for curve in found.curves:
        bound = bounds.get((curve.observer, curve.canary, curve.score))
        if bound is None:
            continue
        yield Roc(
            f"{found.subject}, {found.silo}: {curve.score} of the {curve.canary} record in "
            f"{_OBSERVERS[curve.observer]}",
            curve.false_positive_rates,
            curve.true_positive_rates,
            members=bound.inside,
            others=bound.out,
            epsilon=math.inf if found.claimed is None else found.claimed,
            delta=found.delta,
            charged=(found.allowed.false_positive_rates, found.allowed.true_positive_rates),
        )
