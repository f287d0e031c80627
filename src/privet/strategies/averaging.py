"""FedAvg and its family: the mean of the updates, then a step of the server (McMahan et al. 2017).

Flower's classes of the same names take every reply of a round at once, as messages, so memory grows
with the number of silos; and `num-examples` of zero divides by zero. Here the sum is running.

The server's step is a pure function from (mean, state) to (move, state). Momentum is Hsu et al.
2019; adaptive steps are Algorithm 2 of Reddi et al. 2021, to the letter: the second moment starts
at tau^2 and there is no bias correction. Flower 1.41 departs from it: its second moments start at
zero, and its FedAdam corrects Adam's bias with the exponent round + 1 where Kingma and Ba have the
number of steps, so that its first step is 0.74 of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from privet.strategies.strategy import Round, State, Strategy, Update, Vector, WeightedSum

SecondMoment = Callable[[Vector, Vector], Vector]
"""(v, squared mean) -> new v."""


@dataclass(frozen=True)
class ServerStep:
    """How the mean update, shape (d,), becomes the move of the global weights."""

    move: Callable[[Vector, State], tuple[Vector, State]]
    """Never writes into its arguments; an empty state is the one before the first round."""
    state_names: tuple[str, ...] = ()
    affine: Affine | None = None
    """The same step as an affine map, if it is one."""


@dataclass(frozen=True)
class Affine:
    """x_next = x + momentum * (x - x_before) + lr * mean, x being the last models."""

    lr: float = 1.0
    momentum: float = 0.0


def whole_mean() -> ServerStep:
    """FedAvg: move by the mean itself."""
    return ServerStep(lambda mean, state: (mean, state), affine=Affine())


def momentum(*, server_lr: float, server_momentum: float) -> ServerStep:
    """FedAvgM: momentum = server_momentum * momentum + mean; move by server_lr * momentum."""

    def move(mean: Vector, state: State) -> tuple[Vector, State]:
        velocity = server_momentum * state["momentum"] + mean if state else mean
        return server_lr * velocity, {"momentum": velocity}

    return ServerStep(move, ("momentum",), Affine(server_lr, server_momentum))


def adaptive(
    second_moment: SecondMoment, *, server_lr: float, beta_1: float, tau: float
) -> ServerStep:
    """FedOpt: m = beta_1 m + (1 - beta_1) mean; move by server_lr * m / (sqrt(v) + tau)."""

    def move(mean: Vector, state: State) -> tuple[Vector, State]:
        m = beta_1 * state["m"] + (1 - beta_1) * mean if state else (1 - beta_1) * mean
        v = second_moment(state["v"] if state else np.full_like(mean, tau**2), np.square(mean))
        root: Vector = np.sqrt(v)
        return server_lr * m / (root + tau), {"m": m, "v": v}

    return ServerStep(move, ("m", "v"))


def adagrad() -> SecondMoment:
    """v + g^2."""
    return lambda v, squared: v + squared


def adam(*, beta_2: float) -> SecondMoment:
    """beta_2 v + (1 - beta_2) g^2."""
    return lambda v, squared: beta_2 * v + (1 - beta_2) * squared


def yogi(*, beta_2: float) -> SecondMoment:
    """v - (1 - beta_2) g^2 sign(v - g^2)."""
    return lambda v, squared: v - (1 - beta_2) * squared * np.sign(v - squared)


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
        # To the bit, which adding and taking away `now` would not be.
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
