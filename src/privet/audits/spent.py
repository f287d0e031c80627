"""What was spent: by each silo, at other deltas, and for persons who are more than one record.

The figure of a run is about one record of one silo. Somebody who is a record of g silos is covered
by the composition of what these spent. Somebody who is g records of one silo is covered by the
mixture of Gaussians with sensitivities Binomial(g, q): of g records each drawn by its own coin, so
many are in a step, and together they move the sum by at most as many clip norms (Choquette-Choo,
Ganesh, Steinke & Thakurta 2023, arXiv 2310.15526). Where dp-accounting cannot compose these, the
bound is a mechanism that dominates them: all g records at once, whenever at least one is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import DpEvent, MixtureOfGaussiansDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, MixtureGaussianPrivacyLoss
from scipy.stats import binom

from privet.audits.epsilon import parts_of_charges, segments_of, snippet
from privet.audits.evidence import Evidence
from privet.audits.ledgers import Account
from privet.audits.report import Person, Persons, Sum
from privet.privacy.accounting.events import Segment
from privet.privacy.ledger import Charge
from privet.privacy.ledger.costs import epsilon_of
from privet.privacy.library_logging import no_absl_warnings
from privet.privacy.mechanisms.canaries import Floats

DELTAS = tuple(10.0**-power for power in range(3, 11))
TIMES = (2, 3, 5)

_MOST_MECHANISMS = 4
_MOST_STEPS = 100_000
_GRIDS = (1e-4, 1e-2)
"""The finest and the coarsest grid of privacy losses; coarser is faster, and never too low."""

_MOST_HALVINGS = 200

_MOST_EXACT = 3
"""Runs up to which a person with several records is computed exactly, which takes longer."""


def sums_of_runs(runs: Sequence[Evidence], delta: float) -> Iterator[Sum]:
    """What each silo's ledger charges for each run; `delta` is for runs that claim at none."""
    for run in runs:
        for silo, ledger in (run.ledgers or {}).items():
            yield _sum(
                run.subject,
                silo,
                ledger.account.subject,
                ledger.job,
                ledger.charges,
                delta=run.delta or delta,
            )


def sums_of_accounts(accounts: Sequence[Account], delta: float) -> Iterator[Sum]:
    """What each data set was charged over the life of its ledger; unsound ledgers say nothing."""
    for account in accounts:
        for dataset in account.history.datasets if account.sound else ():
            charges = tuple(account.history.charged(dataset))
            yield _sum(account.subject, dataset, account.subject, None, charges, delta=delta)


def _sum(
    subject: str,
    silo: str,
    ledger: str,
    job: str | None,
    charges: Sequence[Charge],
    *,
    delta: float,
) -> Sum:
    parts = segments_of(part for charge in charges for part in charge.parts)
    return Sum(
        subject=subject,
        silo=silo,
        ledger=ledger,
        job=job,
        epsilon=epsilon_of(parts, delta=delta),
        delta=delta,
        interrupted=sum(charge.open for charge in charges),
        by_delta=by_delta(parts),
        segments=tuple((p.noise_multiplier, p.sampling_rate, p.steps) for p in parts),
        by_hand=snippet(parts, delta=delta),
    )


def persons_of(runs: Sequence[Evidence], delta: float) -> Iterator[Persons]:
    """Of runs with differential privacy: without, one record alone has no bound."""
    private = [run for run in runs if run.delta is not None and run.ledgers]
    for run in private:
        at = run.delta or delta
        spent = {silo: parts_of_charges(b.charges) for silo, b in (run.ledgers or {}).items()}
        most = max(spent, key=lambda silo: epsilon_of(spent[silo], delta=at))
        exact = len(private) <= _MOST_EXACT
        yield Persons(
            subject=run.subject,
            delta=at,
            in_silos=tuple(in_silos(spent, delta=at)),
            silo=most,
            in_one_silo=tuple(in_one_silo(spent[most], delta=at, exact=exact)),
        )


def by_delta(parts: Sequence[Segment]) -> dict[str, float]:
    """Epsilon for each of DELTAS, of one record."""
    return {f"{delta:.0e}": epsilon_of(parts, delta=delta) for delta in DELTAS}


def in_silos(spent: Mapping[str, Sequence[Segment]], *, delta: float) -> list[Person]:
    """For somebody who is one record in each of the g silos that spent most, g up to TIMES."""
    alone = {silo: epsilon_of(parts, delta=delta) for silo, parts in spent.items()}
    by_cost = sorted(spent, key=lambda silo: alone[silo], reverse=True)
    found = []
    for times in TIMES:
        if times <= len(by_cost):
            together = [part for silo in by_cost[:times] for part in spent[silo]]
            found.append(Person(times, epsilon_of(together, delta=delta), "composition"))
    return found


def in_one_silo(parts: Iterable[Segment], *, delta: float, exact: bool = True) -> list[Person]:
    """For somebody who is g records of one silo, each of them charged for everything.

    Without `exact`, which takes a tenth of a second for each g and mechanism, by domination.
    """
    together = segments_of(parts)
    return [_times(together, times, delta, exact) for times in TIMES] if together else []


def _times(parts: tuple[Segment, ...], times: int, delta: float, exact: bool) -> Person:
    few = (
        exact
        and len(parts) <= _MOST_MECHANISMS
        and sum(part.steps for part in parts) <= _MOST_STEPS
    )
    mixture = _mixture(parts, times, delta) if few else math.inf
    if math.isfinite(mixture):
        return Person(times, mixture, "mixture")
    dominating = [_dominating(part, times) for part in parts]
    return Person(times, epsilon_of(dominating, delta=delta), "domination")


def _dominating(part: Segment, times: int) -> Segment:
    """All g records at once, whenever one of them is drawn."""
    rate = -math.expm1(times * math.log1p(-part.sampling_rate)) if part.sampling_rate < 1 else 1.0
    return Segment(part.noise_multiplier / times, rate, part.steps)


@lru_cache(maxsize=256)
def _mixture(parts: tuple[Segment, ...], times: int, delta: float) -> float:
    """Infinity where the numerics of dp-accounting fail."""
    if any(part.noise_multiplier <= 0 for part in parts):
        return math.inf
    accountant = PLDAccountant(value_discretization_interval=_grid(parts))
    try:
        with no_absl_warnings(), _bisected_at_once():
            for part in parts:
                accountant.compose(SelfComposedDpEvent(_event(part, times), part.steps))
            return float(accountant.get_epsilon(delta))
    except (ArithmeticError, ValueError, MemoryError):
        return math.inf


@contextmanager
def _bisected_at_once() -> Iterator[None]:
    """dp-accounting inverts the loss of a mixture by one search, as it says its main bottleneck.

    It goes by one point at a time: here by all points of a depth, to the same numbers.
    """
    theirs = MixtureGaussianPrivacyLoss._inverse_privacy_losses_with_range
    MixtureGaussianPrivacyLoss._inverse_privacy_losses_with_range = _inverses
    try:
        yield
    finally:
        MixtureGaussianPrivacyLoss._inverse_privacy_losses_with_range = theirs


def _inverses(
    mixture: Any, losses: Floats, bounds: tuple[float, float], precision: float = 1e-6
) -> Floats:
    """For each loss the smallest multiple of `precision` in `bounds` where it is not exceeded."""
    low, high = (np.full(losses.shape, bound) for bound in bounds)
    for _ in range(_MOST_HALVINGS):
        left = high - low > precision
        if not left.any():
            return np.asarray(np.floor(high / precision) * precision)
        middle = (low[left] + high[left]) / 2
        exceeded = losses[left] < _losses_at(mixture, middle)
        low[left] = np.where(exceeded, middle, low[left])
        high[left] = np.where(exceeded, high[left], middle)
    raise ArithmeticError("bounds too large for the precision")


def _losses_at(mixture: Any, points: Floats) -> Floats:
    """`mixture.privacy_loss` of each of the points, shape (n,)."""
    parts = mixture.sensitivities[:, None] * points / mixture._variance
    constants = mixture._precompute_privacy_loss_constants[:, None]
    if mixture.adjacency_type == AdjacencyType.ADD:
        return np.asarray(-np.logaddexp.reduce(constants + parts))
    return np.asarray(np.logaddexp.reduce(constants - parts))


def _event(part: Segment, times: int) -> DpEvent:
    if part.sampling_rate == 1:
        return GaussianDpEvent(part.noise_multiplier / times)
    counts = range(times + 1)
    chances = [float(binom.pmf(count, times, part.sampling_rate)) for count in counts]
    return MixtureOfGaussiansDpEvent(part.noise_multiplier, list(counts), chances)


def _grid(parts: Sequence[Segment]) -> float:
    """A twelfth of the spread of one step's loss, as in privet's own accounting."""
    spreads = [
        part.sampling_rate * math.sqrt(math.expm1(min(part.noise_multiplier**-2, 50.0)))
        for part in parts
    ]
    return min(max(min(spreads) / 12, _GRIDS[0]), _GRIDS[1])
