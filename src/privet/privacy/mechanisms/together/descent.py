"""Optimizer steps on the weights of K silos, a row each, every row with its own learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_BETAS = 0.9, 0.999
_EPS = 1e-8


@dataclass(frozen=True)
class Descent:
    """SGD or Adam exactly as torch.optim has them, with their defaults for what is not named."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0

    def begin(self, weights: Tensor) -> Steps:
        """An optimizer of `weights`, shape (K, d), that has not stepped yet."""
        kept = {"adam": 2, "sgd": 1 if self.momentum else 0}[self.optimizer]
        return Steps(self, [torch.zeros_like(weights) for _ in range(kept)])


@dataclass
class Steps:
    """An optimizer with what it keeps from step to step."""

    descent: Descent
    kept: list[Tensor]
    taken: int = 0

    def step(self, weights: Tensor, slope: Tensor, rates: Tensor) -> None:
        """Move the first k silos' weights (k, d) against `slope`; `rates` has shape (k, 1).

        In place, and the slope is used up.
        """
        self.taken += 1
        if self.descent.weight_decay:
            slope.add_(weights, alpha=self.descent.weight_decay)
        move = self._adam if self.descent.optimizer == "adam" else self._sgd
        move(weights, slope, [each[: len(weights)] for each in self.kept], rates)

    def _sgd(self, weights: Tensor, slope: Tensor, kept: list[Tensor], rates: Tensor) -> None:
        for velocity in kept:
            slope = velocity.mul_(self.descent.momentum).add_(slope)
        weights.addcmul_(slope, rates, value=-1)

    def _adam(self, weights: Tensor, slope: Tensor, kept: list[Tensor], rates: Tensor) -> None:
        mean, square = kept
        mean.lerp_(slope, 1 - _BETAS[0])
        square.mul_(_BETAS[1]).addcmul_(slope, slope, value=1 - _BETAS[1])
        spread = (square.sqrt() / math.sqrt(1 - _BETAS[1] ** self.taken)).add_(_EPS)
        rates = rates / (1 - _BETAS[0] ** self.taken)
        weights.addcdiv_(mean * rates, spread, value=-1)
