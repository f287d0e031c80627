"""Strategies that correct the silos' gradients: FedProx and SCAFFOLD.

FedProx (Li et al. 2020) is FedAvg whose silos are pulled towards the global model. Flower's sends
mu and leaves the term to the silo's loss. Under DP-SGD that is the wrong place: it would be clipped
with each record's gradient. Here it joins the gradient after the noise.

With SCAFFOLD (Karimireddy et al. 2020, Algorithm 1, option II) silos correct each other's drift.
Every silo keeps a control variate c_i, its mean gradient in its last round; the server keeps c, the
mean of all c_i. A local step follows the gradient + c - c_i, so that silos with different data no
longer pull towards their own optima. Server and silo are both here, since c must stay the mean of
the c_i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from privet.strategies.averaging import FedAvg, Weighting
from privet.strategies.strategy import Local, Round, State, Strategy, Update, Vector, WeightedSum

if TYPE_CHECKING:
    from torch import Tensor, nn


class FlatTensor:
    """A flat vector, shape (d,), seen as one tensor for each parameter, in order.

    The vector is copied. What lies behind the parameters (averaged buffers) has no gradient and is
    left out.
    """

    def __init__(self, vector: Vector) -> None:
        import torch

        self._tensor = torch.from_numpy(np.array(vector, dtype=np.float32))

    def like(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Views shaped like `parameters`, on their device; ValueError when those hold more."""
        import torch

        sizes = [parameter.numel() for parameter in parameters]
        if sum(sizes) > self._tensor.numel():
            raise ValueError(f"{sum(sizes)} parameters, but {self._tensor.numel()} values for them")
        if parameters and self._tensor.device != parameters[0].device:
            self._tensor = self._tensor.to(parameters[0].device)
        parts: tuple[Tensor, ...] = torch.split(self._tensor[: sum(sizes)], sizes)
        return [part.view_as(like) for part, like in zip(parts, parameters, strict=True)]


class FedProx(FedAvg):
    """Local loss + proximal_mu / 2 * ||w - w_global||^2; the server's part is FedAvg's.

    The pull depends on public weights and on the noised local ones alone, so it costs no privacy.
    """

    def __init__(self, *, proximal_mu: float, weighting: Weighting = "examples") -> None:
        super().__init__(name="fedprox", weighting=weighting)
        self.proximal_mu = proximal_mu

    def local(
        self,
        *,
        weights: Vector,
        extras: Mapping[str, Vector],  # noqa: ARG002
        memory: dict[str, Vector],  # noqa: ARG002
        lr: float,  # noqa: ARG002
    ) -> Local:
        start = FlatTensor(weights)

        def pull(parameters: Sequence[nn.Parameter]) -> None:
            for parameter, origin in zip(parameters, start.like(parameters), strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - origin, alpha=self.proximal_mu)

        return Local(correction=pull)


_SERVER = "c"
_SILO = "c_i"
_CHANGE = "delta_c"


class Scaffold(Strategy):
    """Moves by server_lr times the plain mean of the updates, and c by the sum of changes / silos.

    Local steps have to be plain SGD: c_i is taken from the update as (w_global - w) / (steps * lr)
    + c_i - c, which momentum or Adam make wrong. Under DP-SGD the update holds only noised
    gradients, so c_i, its change and the correction are post-processing and cost no privacy. When a
    reply is lost on its way, c misses that silo's change.
    """

    name = "scaffold"
    linear: ClassVar[bool] = True
    plain_sgd: ClassVar[bool] = True
    extras: ClassVar[tuple[str, ...]] = (_CHANGE,)
    state_names = (_SERVER,)

    def __init__(self, *, server_lr: float) -> None:
        super().__init__()
        self.server_lr = server_lr

    def _round(self, weights: Vector, lr: float | None) -> Round:  # noqa: ARG002
        return _ScaffoldRound(self, weights)

    def broadcast(self) -> State:
        """c, once there is one; before that the silos take zero."""
        return self.state()

    def local(
        self,
        *,
        weights: Vector,
        extras: Mapping[str, Vector],
        memory: dict[str, Vector],
        lr: float,
    ) -> Local:
        zero = np.zeros_like(weights)
        c, c_i = extras.get(_SERVER, zero), memory.get(_SILO, zero)
        difference = FlatTensor(c - c_i)

        def correct(parameters: Sequence[nn.Parameter]) -> None:
            for parameter, drift in zip(parameters, difference.like(parameters), strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(drift)

        def finish(delta: Vector, steps: int) -> dict[str, Vector]:
            if steps == 0:
                return {_CHANGE: zero}
            change = -c - delta / (steps * lr)
            memory[_SILO] = c_i + change
            return {_CHANGE: change}

        return Local(correction=correct, finish=finish)


class _ScaffoldRound(Round):
    strategy: Scaffold

    def __init__(self, strategy: Scaffold, weights: Vector) -> None:
        super().__init__(strategy, weights)
        self._updates = WeightedSum(weights.size)
        self._changes = WeightedSum(weights.size)

    def _take(self, update: Update) -> None:
        self._updates.add(update.vector)
        self._changes.add(update.extras[_CHANGE])

    def _combine(self, silos: int) -> tuple[Vector, State]:
        state = self.strategy.state()
        move = self.strategy.server_lr * self._updates.over(self._updates.weight)
        # By all silos: those that were not asked keep their c_i, and c is the mean of everybody's.
        change = self._changes.over(silos)
        c = state[_SERVER] + change if state else change
        return self._moved(move), {_SERVER: c}
