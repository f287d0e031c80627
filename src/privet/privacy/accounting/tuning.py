"""What it costs to release the best of several runs: Papernot and Steinke 2022.

The number of runs K is random, every run draws its settings anew and independently, and only the
best run is released, by a score that is itself private or rests on public records. Then the release
costs little more than one run (arXiv 2110.03620): Theorem 2 for a negative binomial number of runs
that is at least one, Theorem 6 for a Poisson number. Both bound Renyi divergences; K itself must
not be released, nor any other run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from dp_accounting import DpEvent
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp import rdp_privacy_accountant as renyi
from scipy.optimize import brentq

from privet.errors import PrivacyError
from privet.privacy.accounting.spending import check_delta
from privet.privacy.library_logging import no_absl_warnings

Law = Literal["geometric", "logarithmic", "poisson"]
Curve = npt.NDArray[np.float64]
"""Renyi DP at each of ORDERS, add-or-remove adjacency; infinity without noise."""

# Close together below 3, where the best order of a large epsilon lies.
ORDERS = np.array(
    [*np.arange(1.1, 3, 0.1), *range(3, 65), *(80, 96, 128, 192, 256, 384, 512, 768, 1024)]
)

_ETA = {"geometric": 1.0, "logarithmic": 0.0}


@dataclass(frozen=True)
class RandomRuns:
    """The law of the number of runs: its kind and its mean.

    The geometric and the logarithmic law give one run or more; they are the truncated negative
    binomial with eta = 1 and eta = 0. The Poisson law can give none, and then nothing is released.

    Raises PrivacyError for an unknown law, and for a mean that is not above 1 (not below, for
    Poisson).
    """

    law: Law
    mean: float

    def __post_init__(self) -> None:
        if self.law not in (*_ETA, "poisson"):
            known = ", ".join((*_ETA, "poisson"))
            raise PrivacyError(f"private tuning: {self.law!r} is none of {known}")
        if not (1 <= self.mean < math.inf) or (self.law != "poisson" and self.mean == 1):
            raise PrivacyError(f"private tuning: a mean of {self.mean:g} runs is not more than 1")

    @property
    def gamma(self) -> float:
        """The parameter of the negative binomial law with this mean."""
        if self.law == "geometric":
            return 1 / self.mean
        return float(
            brentq(lambda gamma: (1 / gamma - 1) / -math.log(gamma) - self.mean, 1e-15, 1 - 1e-12)
        )

    def draw(self, rng: np.random.Generator) -> int:
        """A number of runs."""
        if self.law == "poisson":
            return int(rng.poisson(self.mean))
        if self.law == "geometric":
            return int(rng.geometric(self.gamma))
        return int(rng.logseries(1 - self.gamma))


def run_rdp(event: DpEvent) -> Curve:
    """One run, by dp-accounting, which interpolates between whole orders on the safe side."""
    # dp-accounting's default adjacency is add-or-remove, as everywhere here.
    accountant = RdpAccountant(ORDERS)
    with no_absl_warnings():
        accountant.compose(event)
    return np.array(accountant.rdp, dtype=np.float64)


def selection_rdp(run: Curve, runs: RandomRuns, *, orders: Curve = ORDERS) -> Curve:
    """The best of a random number of runs, each of which costs at most `run`, shape (orders,).

    Where runs have different settings, `run` is the largest of their curves at each order: a run
    that first draws its settings from a fixed list is a mixture, and costs no more.
    """
    cost: Curve = run + math.log(runs.mean) / (orders - 1)
    if runs.law == "poisson":
        return cost + runs.mean * _delta_hat(run, orders)
    hats = (1 - 1 / orders) * run - math.log(runs.gamma) / orders
    return cost + (1 + _ETA[runs.law]) * float(np.min(hats))


def rdp_epsilon(curve: Curve, *, delta: float) -> float:
    """Epsilon at `delta` of a Renyi curve; PrivacyError for a delta outside [1e-12, 1)."""
    check_delta(delta)
    with no_absl_warnings():
        return float(renyi.compute_epsilon(ORDERS, curve, delta)[0])


def _delta_hat(run: Curve, orders: Curve) -> Curve:
    """Delta of one run at the largest epsilon that Theorem 6 allows for each order."""
    allowed = np.log1p(1 / (orders - 1))
    run = np.maximum(run, 1e-15)  # dp-accounting raises where exp(-run) rounds to 1
    with no_absl_warnings():
        found = [float(renyi.compute_delta(orders, run, epsilon)[0]) for epsilon in allowed]
    return np.array(found)
