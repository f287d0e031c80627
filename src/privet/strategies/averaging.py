"""FedAvg and its family: the mean of the updates, then a step of the server (McMahan et al. 2017).

Flower's classes of the same names take every reply of a round at once, as messages, so memory grows
with the number of silos; and `num-examples` of zero divides by zero. Here the sum is running.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from privet.strategies.server_steps import Affine, ServerStep, whole_mean
from privet.strategies.strategy import Round, State, Strategy, Update, Vector
from privet.strategies.sums import WeightedSum

Weighting = Literal["examples", "uniform"]


class FedAvg(Strategy):
    """The model moves by a server step of the mean update.

    `weighting`: silos count by their training records, or each counts the same. When all weights
    are zero the round changes nothing.
    """

    linear: ClassVar[bool] = True

    def __init__(
        self,
        *,
        name: str = "fedavg",
        weighting: Weighting = "examples",
        step: ServerStep | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.weighting = weighting
        self.counts_records = weighting == "examples"
        self.step = step or whole_mean()
        self.state_names = self.step.state_names

    @property
    def proposes(self) -> bool:
        """A step that is an affine map of the mean can be taken by every silo beforehand."""
        return self.step.affine is not None

    @property
    def has_momentum(self) -> bool:
        """Whether the server's step remembers the one before."""
        return self.step.affine is not None and self.step.affine.momentum > 0

    def proposal(self, trained: Vector, *, now: Vector, before: Vector) -> Vector:
        """The server's step for an update of this silo's alone; the mean commutes with it."""
        step = self.step.affine
        if step is None:
            return super().proposal(trained, now=now, before=before)
        if step == Affine():
            return trained
        next_: Vector = now + np.float32(step.momentum) * (now - before)
        next_ += np.float32(step.lr) * (trained - now)
        return next_

    def _round(self, weights: Vector, lr: float | None) -> Round:  # noqa: ARG002
        return _MeanRound(self, weights)


class _MeanRound(Round):
    strategy: FedAvg

    def __init__(self, strategy: FedAvg, weights: Vector) -> None:
        super().__init__(strategy, weights)
        self._sum = WeightedSum(weights.size)

    def _take(self, update: Update) -> None:
        self._sum.add(update.vector, update.weight if self.strategy.weighting == "examples" else 1)

    def _combine(self, silos: int) -> tuple[Vector, State]:  # noqa: ARG002
        state = self.strategy.state()
        if self._sum.weight == 0:
            return self.weights, state
        mean = self._sum.over(self._sum.weight)
        del self._sum  # it takes as much room as two models
        move, state = self.strategy.step.move(mean, state)
        return self._moved(move), state
