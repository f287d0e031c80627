"""Tasks of people who mean well, with which one record would move more than it may."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privet import Examples
from toy_tasks import Tiny


class Unsound(Tiny):
    """`data.loss` and `data.net` choose what is wrong with it; both are fine as they come."""

    def __init__(self, *, loss: str = "mean", net: str = "linear", **others: Any) -> None:
        super().__init__(**others)
        self.how, self.net = loss, net

    def model(self) -> nn.Module:
        return NETS[self.net]()

    def test_data(self) -> Examples:  # type: ignore[override]
        return self.train_data()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return LOSSES[self.how](outputs, targets)


class _Centred(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        centred = inputs - inputs.mean(0, keepdim=True)
        return super().forward(F.dropout(centred, 0.1, self.training))


class _Keeps(nn.Linear):
    last: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        self.last = inputs.detach().mean(0)
        return super().forward(inputs)


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(2, 4, max_norm=9.0), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(self.embedding(inputs.long()).mean(1))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        return self.last(F.linear(hidden, self.first.weight))


NETS = {
    "linear": lambda: nn.Linear(2, 2),
    "centred": lambda: _Centred(2, 2),
    "keeps": lambda: _Keeps(2, 2),
    "tokens": _Tokens,
    "tied": _Tied,
}
_WEIGHTS = torch.tensor([1.0, 10.0])
LOSSES = {
    "mean": F.cross_entropy,
    "unreduced": lambda o, t: F.cross_entropy(o, t, reduction="none"),
    "weights": lambda o, t: F.cross_entropy(o, t, weight=_WEIGHTS),
    "sum": lambda o, t: F.cross_entropy(o, t, reduction="sum"),
    "pairs": lambda o, t: F.cross_entropy(o, t) + (o[:, None] - o[None]).square().mean(),
    "ignored": lambda o, t: F.cross_entropy(o, torch.where(t == 1, -100, t)),
}
