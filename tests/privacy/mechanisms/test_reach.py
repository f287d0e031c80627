"""Which parameters a loss reaches, by made-up examples alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privet.base import Base
from privet.privacy.mechanisms import ExampleLoss, ExampleType, unreached
from privet.tasks.task import linear

LIKE = ExampleType((6,))
LOSS = ExampleLoss(F.cross_entropy)


class Beside(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.head, self.beside, self.weight = nn.Linear(6, 3), nn.Linear(6, 3), weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs) + self.weight * self.beside(inputs)


class Unused(Beside):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs)


def zero_behind() -> nn.Module:
    """As LoRA begins: behind a layer of zeros no gradient reaches what lies before it."""
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    nn.init.zeros_(model[1].weight)
    return model


@pytest.mark.parametrize(
    "model",
    [
        linear(6, 3),
        zero_behind(),
        nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)),
        Beside(1.0),
        nn.Sequential(nn.Linear(6, 4).requires_grad_(False), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)),
    ],
    ids=["zeros", "zeros behind", "relu", "two", "frozen", "normalised"],
)
def test_what_trains_is_reached(model: nn.Module) -> None:
    before = {name: each.clone() for name, each in model.state_dict().items()}
    state = torch.get_rng_state()
    assert unreached(Base.of(model), LOSS, LIKE) == ()
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("model", [Beside(0.0), Unused(1.0)])
def test_what_nothing_reaches_is_named(model: nn.Module) -> None:
    assert unreached(Base.of(model), LOSS, LIKE) == ("beside.weight", "beside.bias")


def test_a_loss_without_gradients_reaches_nothing() -> None:
    loss = ExampleLoss(lambda outputs, targets: F.cross_entropy(outputs.detach(), targets))
    assert unreached(Base.of(nn.Linear(6, 3)), loss, LIKE) == ("weight", "bias")


def test_nothing_is_said_of_a_model_that_takes_no_such_examples() -> None:
    assert unreached(Base.of(nn.Linear(7, 3)), LOSS, LIKE) == ()
