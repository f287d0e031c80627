"""Models of every kind of layer that matters to per-example gradients."""

import pytest
import torch
from torch import nn


def mlp():
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def in_place():
    return nn.Sequential(
        nn.Linear(12, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ELU(0.5, True), nn.Linear(8, 3)
    )


def no_bias():
    return nn.Sequential(nn.Linear(12, 8, bias=False), nn.Tanh(), nn.Linear(8, 3))


def cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)),
        nn.Conv2d(1, 4, 2, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 3),
    )


def frozen_part():
    model = nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))
    model[0].bias.requires_grad_(False)
    model[3].weight.requires_grad_(False)
    return model


class Sequence(nn.Module):
    """A linear layer over three dimensions."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 6)
        self.outer = nn.Linear(6, 3)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x.view(-1, 3, 4))).mean(1))


class Twice(nn.Module):
    """One linear layer used two times in a pass."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 12)
        self.outer = nn.Linear(12, 3)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Scaled(nn.Module):
    """A bare parameter beside a layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.scale = nn.Parameter(torch.full((3,), 1.5))

    def forward(self, x):
        return self.layer(x) * self.scale


@pytest.fixture(scope="session")
def models():
    """How to build each model, by the name of what is special about it."""
    return {
        "mlp": mlp,
        "no bias": no_bias,
        "cnn": cnn,
        "frozen part": frozen_part,
        "sequence": Sequence,
        "twice": Twice,
        "bare parameter": Scaled,
        "in place": in_place,
    }
