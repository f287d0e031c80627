"""Records as bad as they come, to be hidden among a silo's own: an audit asks whether they show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from privet.errors import DataError
from privet.tasks import Examples
from privet.vectors import FlatModel

Loss = Callable[[Tensor, Tensor], Tensor]

LOUDNESS = 3.0
"""The outlier's gradient at the start, in clip norms: clipping then leaves it at the bound, also
when the model has begun to learn it."""

_DOUBLINGS = 12


@dataclass(frozen=True)
class Canary:
    """A record that belongs to nobody: input (1, ...), target (1,)."""

    name: str
    inputs: Tensor
    targets: Tensor


def worst_case(
    records: Examples, targets: Tensor, flat: FlatModel, loss: Loss, *, clip: float
) -> tuple[Canary, ...]:
    """A mislabelled record of the silo's and one that lies where no record does.

    `targets` are all there are, in any silo; `flat` holds the weights that training starts from.
    DataError when all records have one target, so that none can be wrong.
    """
    known = torch.unique(targets)
    if len(known) < 2:
        raise DataError("all records have the same target: none can be mislabelled")
    first = records.take([0])
    wrong = known[known != first.targets[0]]
    mislabelled = _least_expected(first.inputs, wrong, flat, loss)
    far = _axis(records.inputs)
    outlier = _least_expected(far, known, flat, loss)
    loud = _loud(far, outlier, flat, loss, LOUDNESS * clip)
    return (
        Canary("mislabelled", first.inputs, mislabelled),
        Canary("outlier", loud, outlier),
    )


def _least_expected(inputs: Tensor, targets: Tensor, flat: FlatModel, loss: Loss) -> Tensor:
    """Of `targets` the one with the largest loss on the input, shape (1,)."""
    with torch.no_grad():
        outputs = flat.module(inputs)
        losses = [float(loss(outputs, target[None])) for target in targets]
    return targets[losses.index(max(losses))][None]


def _axis(inputs: Tensor) -> Tensor:
    """An input of length one along the number that is smallest in the records, shape (1, ...)."""
    flat = inputs.flatten(1)
    axis = torch.zeros_like(flat[:1])
    axis[0, int(flat.square().sum(0).argmin())] = 1.0
    return axis.view_as(inputs[:1])


def _loud(inputs: Tensor, targets: Tensor, flat: FlatModel, loss: Loss, least: float) -> Tensor:
    """The input, doubled until its gradient has at least that norm, or else at its loudest."""
    tried = [inputs * 2.0**power for power in range(_DOUBLINGS)]
    norms = [_norm(each, targets, flat, loss) for each in tried]
    loudest = max(range(_DOUBLINGS), key=norms.__getitem__)
    return tried[next((place for place, norm in enumerate(norms) if norm >= least), loudest)]


def _norm(inputs: Tensor, targets: Tensor, flat: FlatModel, loss: Loss) -> float:
    parameters = list(flat.module.parameters())
    with torch.enable_grad():
        slopes = torch.autograd.grad(loss(flat.module(inputs), targets), parameters)
    return float(torch.cat([slope.flatten() for slope in slopes]).norm())
