"""FedProx (Li et al. 2020): FedAvg whose silos are pulled towards the global model.

Flower's FedProx sends mu and leaves the term to the silo's loss. Under DP-SGD that is the wrong
place: it would be clipped with each record's gradient. Here it joins the gradient after the noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from privet.strategies.averaging import FedAvg, Weighting
from privet.strategies.corrections import FlatTensor
from privet.strategies.strategy import Local, Vector

if TYPE_CHECKING:
    from torch import nn


class FedProx(FedAvg):
    """Local loss + proximal_mu / 2 * ||w - w_global||^2; the server's half is FedAvg's.

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
