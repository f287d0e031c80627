"""FedAvg and its family: the mean of the updates, then a step of the server (McMahan et al. 2017).

Flower's classes of the same names take every reply of a round at once, as messages, so memory grows
with the number of silos; and `num-examples` of zero divides by zero. Here the sum is running.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from privet.strategies.server_steps import ServerStep, whole_mean
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
        move, state = self.strategy.step.move(self._sum.over(self._sum.weight), state)
        return self.weights + move, state
