"""What the server does with the mean update: pure functions from (mean, state) to (move, state).

Momentum is Hsu et al. 2019; adaptive steps are Algorithm 2 of Reddi et al. 2021, to the letter: the
second moment starts at tau^2 and there is no bias correction. Flower 1.41 departs from it: its
second moments start at zero, and its FedAdam corrects Adam's bias with the exponent round + 1 where
Kingma and Ba have the number of steps, so that its first step is 0.74 of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from privet.strategies.strategy import State, Vector

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
