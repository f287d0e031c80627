"""q-FedAvg (Li et al. 2020, "Fair Resource Allocation in Federated Learning", Algorithm 2).

Flower's QFedAvg computes the same from all replies at once, and divides by zero when every h is 0.
With the learning rate taken out of both sums, two numbers and one vector are enough.
"""

from __future__ import annotations

from typing import ClassVar

from privet.strategies.strategy import (
    Round,
    RoundSkipped,
    State,
    Strategy,
    Update,
    Vector,
    WeightedSum,
    blocks,
)

_TINY_LOSS = 1e-10
"""Keeps loss^(q - 1) finite for a silo without loss, as in the authors' code."""


class QFedAvg(Strategy):
    """Silos with a larger loss F_k count more: w moves by

        sum F_k^q u_k / sum (F_k^q + q F_k^(q-1) ||u_k||^2 / lr)

    with u_k the update and 1 / lr in the place of the Lipschitz constant. `q = 0` is the mean of
    the updates, each silo counting the same; numbers of records play no part. F_k should be the
    loss of the model that the silo received; it is a private statistic, sent in the clear.
    """

    name = "qfedavg"
    needs_loss: ClassVar[bool] = True

    def __init__(self, *, q: float) -> None:
        super().__init__()
        self.q = q

    def _round(self, weights: Vector, lr: float | None) -> Round:
        if lr is None or not lr > 0:
            raise ValueError(f"qfedavg needs the silos' learning rate, got {lr}")
        return _FairRound(self, weights, lr)


class _FairRound(Round):
    strategy: QFedAvg

    def __init__(self, strategy: QFedAvg, weights: Vector, lr: float) -> None:
        super().__init__(strategy, weights)
        self._lr = lr
        self._sum = WeightedSum(weights.size)
        self._curvature = 0.0

    def _take(self, update: Update) -> None:
        q, loss = self.strategy.q, (update.loss or 0.0) + _TINY_LOSS
        self._sum.add(update.vector, _power(loss, q))
        self._curvature += q * _power(loss, q - 1) * _squared_norm(update.vector)

    def _combine(self, silos: int) -> tuple[Vector, State]:  # noqa: ARG002
        divisor = self._sum.weight + self._curvature / self._lr
        if not 0 < divisor < float("inf"):
            raise RoundSkipped(f"qfedavg: the losses to the power of q sum to {divisor}")
        return self._moved(self._sum.over(divisor)), {}


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    # Python raises where C gives infinity; `_combine` then skips the round.
    except OverflowError:
        return float("inf")


def _squared_norm(vector: Vector) -> float:
    return sum(float((vector[block].astype("float64") ** 2).sum()) for block in blocks(vector.size))
